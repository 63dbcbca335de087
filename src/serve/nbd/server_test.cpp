// SPDX-License-Identifier: Apache-2.0
//
// The server in this process, and real clients as programs of their own against it: libnbd's (nbdinfo, nbdcopy, the Python module),
// qemu's (qemu-img, qemu-io), fio's, and raw_client.py for what none of them does.
#include "serve/nbd/server.h"

#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device/fault_device.h"
#include "device/file_device.h"
#include "device/memory_device.h"

extern char** environ;

namespace lamella::nbd {
namespace {

using testing::HasSubstr;
using testing::Not;

// ---- Programs -------------------------------------------------------------------------------------------------------------------

struct Outcome {
    int status = -1;     // exit status, 128 + signal, or -1: not started, or stopped after two minutes
    std::string output;  // standard output and error
};

// Runs a program with an argument vector; there is no shell in between.
Outcome run(std::vector<std::string> command) {
    std::vector<char*> arguments;
    for (std::string& argument : command)
        arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    int pipe_ends[2];
    if (::pipe2(pipe_ends, O_CLOEXEC) != 0)
        return {};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], 1);
    posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], 2);
    pid_t child = 0;
    const int error = ::posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    ::close(pipe_ends[1]);
    Outcome outcome;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    bool late = false;
    while (error == 0) {
        pollfd waiting{pipe_ends[0], POLLIN, 0};
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
        if (left <= 0 || ::poll(&waiting, 1, static_cast<int>(left)) == 0) {
            late = true;
            ::kill(child, SIGKILL);
            break;
        }
        char buffer[4096];
        const ssize_t got = ::read(pipe_ends[0], buffer, sizeof buffer);
        if (got <= 0)
            break;
        outcome.output.append(buffer, static_cast<std::size_t>(got));
    }
    ::close(pipe_ends[0]);
    if (error != 0) {
        outcome.output = std::strerror(error);
        return outcome;
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (!late)
        outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return outcome;
}

#define EXPECT_RUNS(...)                                  \
    do {                                                  \
        const Outcome outcome_ = run({__VA_ARGS__});      \
        EXPECT_EQ(outcome_.status, 0) << outcome_.output; \
    } while (false)

// ---- A server under test --------------------------------------------------------------------------------------------------------

class TemporaryFolder {
  public:
    TemporaryFolder() {
        char name[] = "/tmp/lamella-serve-XXXXXX";
        path_ = ::mkdtemp(name);
    }
    ~TemporaryFolder() { run({"rm", "-rf", path_}); }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

// Devices by name, which come and go.
class TestSource final : public ExportSource {
  public:
    void add(const std::string& name, BlockDevice& device, const std::string& description = {}) {
        std::lock_guard lock(mutex_);
        devices_[name] = {&device, description};
    }
    void remove(const std::string& name) {
        std::lock_guard lock(mutex_);
        devices_.erase(name);
    }
    int open_now() const { return open_; }

    std::vector<ExportInfo> list() override {
        std::lock_guard lock(mutex_);
        std::vector<ExportInfo> all;
        for (const auto& [name, offered] : devices_)
            all.push_back({name, offered.description, offered.device->size()});
        return all;
    }
    Result<std::unique_ptr<Export>> open(std::string_view name, bool read_only) override {
        std::lock_guard lock(mutex_);
        const auto found = devices_.find(name);
        if (found == devices_.end())
            return fail(ErrorKind::not_found, "no export of that name");
        return std::make_unique<Opened>(*this, found->second, read_only);
    }

  private:
    struct Offered {
        BlockDevice* device = nullptr;
        std::string description;
    };
    struct Opened final : Export {
        Opened(TestSource& owner, const Offered& what, bool for_reading) : source(owner), offered(what), for_reading_only(for_reading) {
            ++source.open_;
        }
        ~Opened() override { --source.open_; }
        BlockDevice& device() override { return *offered.device; }
        bool read_only() const override { return for_reading_only; }
        std::string description() const override { return offered.description; }
        std::uint32_t preferred_block_size() const override { return 65536; }
        TestSource& source;
        Offered offered;
        bool for_reading_only;
    };

    std::mutex mutex_;
    std::map<std::string, Offered, std::less<>> devices_;
    std::atomic<int> open_{0};
};

class NbdServer : public testing::Test {
  protected:
    static constexpr std::uint64_t mebibyte = 1 << 20;

    NbdServer() { source_.add("disk", disk_, "a disk"); }

    void start(ServerOptions options = {}, unsigned reactors = 2) {
        reactors_.emplace(ReactorGroup::start(reactors).value());
        if (options.tcp_addresses.empty())
            options.unix_sockets.push_back(socket());
        auto server = Server::start(*reactors_, source_, options);
        ASSERT_TRUE(server) << server.error().message();
        server_ = std::move(*server);
    }

    std::string socket() const { return folder_ / "socket"; }
    std::string uri(const std::string& name = "") const { return "nbd+unix:///" + name + "?socket=" + socket(); }

    // Runs lines of Python with `h`, a libnbd handle that has asked for both contexts and is connected.
    Outcome python(const std::string& script, const std::string& name = "") {
        return run({"/usr/bin/python3", "-c",  // Debian's own, which has libnbd's module

                    "import errno, nbd, random\n"
                    "def handle():\n"
                    "    h = nbd.NBD()\n"
                    "    h.set_strict_mode(0)\n"
                    "    h.add_meta_context('base:allocation')\n"
                    "    h.add_meta_context('qemu:allocation-depth')\n"
                    "    h.connect_uri('" +
                        uri(name) +
                        "')\n"
                        "    return h\n"
                        "def refused(number, call, *arguments, **named):\n"
                        "    try:\n"
                        "        call(*arguments, **named)\n"
                        "    except nbd.Error as error:\n"
                        "        assert error.errno == errno.errorcode[number], (error.errno, errno.errorcode[number])\n"
                        "    else:\n"
                        "        assert False, 'not refused'\n"
                        "h = handle()\n" +
                        script});
    }

    std::string pattern_file(std::uint64_t size) {
        const std::string path = folder_ / "pattern";
        std::mt19937_64 random(7);
        std::ofstream file(path, std::ios::binary);
        std::vector<std::uint64_t> words(8192);
        for (std::uint64_t done = 0; done < size; done += words.size() * 8) {
            for (std::uint64_t& word : words)
                word = random();
            // Zeros in between, for those who look for holes.
            if (done / (words.size() * 8) % 3 == 1)
                std::fill(words.begin(), words.end(), 0);
            file.write(reinterpret_cast<const char*>(words.data()), static_cast<std::streamsize>(words.size() * 8));
        }
        return path;
    }

    int connect_raw() {
        const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strncpy(address.sun_path, socket().c_str(), sizeof address.sun_path - 1);
        EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        return fd;
    }

    ExportStatistics statistics_of(const std::string& name) {
        for (const ExportStatistics& one : server_->statistics())
            if (one.name == name)
                return one;
        return {};
    }

    // Does something once a condition holds while the test runs a client.
    class While {
      public:
        While(std::function<bool()> condition, std::function<void()> action)
            : thread_([this, condition = std::move(condition), action = std::move(action)] {
                  while (!finishing_) {
                      if (condition()) {
                          acted_ = true;
                          return action();
                      }
                      std::this_thread::yield();
                  }
              }) {}
        // Whether it came to that.
        bool finish() {
            finishing_ = true;
            thread_.join();
            return acted_;
        }

      private:
        std::atomic<bool> finishing_{false};
        bool acted_ = false;
        std::thread thread_;
    };

    // A device that lives as long as the server.
    template <typename Device, typename... Arguments>
    Device& make(Arguments&&... arguments) {
        devices_.push_back(std::make_unique<Device>(std::forward<Arguments>(arguments)...));
        return static_cast<Device&>(*devices_.back());
    }

    TemporaryFolder folder_;
    MemoryDevice disk_{64 * mebibyte};
    std::vector<std::unique_ptr<BlockDevice>> devices_;
    TestSource source_;
    std::optional<ReactorGroup> reactors_;
    std::unique_ptr<Server> server_;
};

// ---- libnbd ---------------------------------------------------------------------------------------------------------------------

TEST_F(NbdServer, ShowsItsExports) {
    auto& other = make<MemoryDevice>(mebibyte);
    source_.add("other", other, "a second one");
    start();
    const Outcome list = run({"nbdinfo", "--list", "--json", uri()});
    EXPECT_EQ(list.status, 0) << list.output;
    EXPECT_THAT(list.output, HasSubstr("\"export-name\": \"disk\""));
    EXPECT_THAT(list.output, HasSubstr("\"description\": \"a second one\""));
    EXPECT_THAT(list.output, HasSubstr("\"export-size\": 67108864"));
    const Outcome info = run({"nbdinfo", "--json", uri("other")});
    EXPECT_EQ(info.status, 0) << info.output;
    for (const char* line :
         {"\"export-name\": \"other\"", "\"structured\": true", "\"can_fua\": true", "\"can_multi_conn\": true", "\"can_fast_zero\": true",
          "\"can_df\": true", "\"can_cache\": true", "\"can_trim\": true", "\"is_read_only\": false", "\"block_size_minimum\": 1",
          "\"block_size_preferred\": 65536", "\"block_size_maximum\": 33554432", "\"base:allocation\"", "\"qemu:allocation-depth\""})
        EXPECT_THAT(info.output, HasSubstr(line));
    EXPECT_RUNS("qemu-nbd", "--list", "-k", socket());
}

TEST_F(NbdServer, TheDefaultExportIsTheOnlyOne) {
    start();
    const Outcome only = run({"nbdinfo", "--json", uri()});
    EXPECT_EQ(only.status, 0) << only.output;
    EXPECT_THAT(only.output, HasSubstr("\"export-name\": \"disk\""));
    auto& other = make<MemoryDevice>(mebibyte);
    source_.add("other", other);
    EXPECT_NE(run({"nbdinfo", uri()}).status, 0);
    EXPECT_NE(run({"nbdinfo", uri("nothing")}).status, 0);
    EXPECT_EQ(run({"nbdinfo", uri("other")}).status, 0);
}

TEST_F(NbdServer, MapsAllocation) {
    start();
    EXPECT_RUNS("qemu-io", "-f", "raw", "-c", "write -P 1 1M 3M", uri());
    const Outcome map = run({"nbdinfo", "--map", uri()});
    EXPECT_THAT(map.output, HasSubstr("1048576     3145728    0  data"));
    EXPECT_THAT(map.output, HasSubstr("4194304    62914560    3  hole,zero"));
    const Outcome depth = run({"nbdinfo", "--map=qemu:allocation-depth", uri()});
    EXPECT_THAT(depth.output, HasSubstr("1048576     3145728    1  local"));
    const Outcome qemu = run({"qemu-img", "map", "--output=json", "--image-opts", "driver=nbd,server.type=unix,server.path=" + socket()});
    EXPECT_THAT(qemu.output,
                HasSubstr("\"start\": 1048576, \"length\": 3145728, \"depth\": 0, \"present\": true, \"zero\": false, \"data\": true"));
}

TEST_F(NbdServer, CopiesBothWays) {
    start();
    const std::string from = pattern_file(disk_.size());
    const std::string to = folder_ / "copy";
    EXPECT_RUNS("nbdcopy", "--flush", from, uri());
    EXPECT_RUNS("nbdcopy", uri(), to);
    EXPECT_RUNS("cmp", from, to);
    // A third of the pattern is zeros, which nbdcopy writes as holes.
    EXPECT_LT(disk_.allocated_pages(), disk_.size() / 4096 * 3 / 4);
    EXPECT_GE(statistics_of("disk").flushes, 1u);
}

TEST_F(NbdServer, CommandsAndTheirFlags) {
    start();
    const Outcome outcome = python(R"(
size = h.get_size()
data = random.Random(1).randbytes(100000)
h.pwrite(data, 4096, nbd.CMD_FLAG_FUA)
assert h.pread(len(data), 4096) == data
assert h.pread(len(data), 4096, nbd.CMD_FLAG_DF) == data
h.flush(); h.flush(nbd.CMD_FLAG_FUA)
h.cache(1 << 20, 0); h.cache(size, 0, nbd.CMD_FLAG_FUA)
h.zero(8192, 8192, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
assert h.pread(16384, 4096) == data[:4096] + bytes(8192) + data[12288:16384]
h.zero(4096, 4096, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(4096, 4096) == bytes(4096)
refused(errno.ENOTSUP, h.zero, 4000, 4097, nbd.CMD_FLAG_FAST_ZERO)
h.trim(40960, 20480, nbd.CMD_FLAG_FUA)
assert h.pread(40960, 20480) == bytes(40960)
h.pwrite(b'', 0); assert h.pread(0, 0) == b''; h.trim(0, 0); h.zero(0, 0)

extents = {}
def extent(name, offset, entries, error):
    extents[name] = entries
    return 0
h.zero(65536, 0); h.pwrite(data[:4096], 4096)
h.block_status(65536, 0, extent)
assert extents['base:allocation'] == [4096, 3, 4096, 0, 57344, 3], extents
assert extents['qemu:allocation-depth'] == [4096, 0, 4096, 1, 57344, 0], extents
h.block_status(65536, 0, extent, nbd.CMD_FLAG_REQ_ONE)
assert extents['base:allocation'] == [4096, 3], extents
h.block_status(10, 8190, extent)
assert extents['base:allocation'] == [2, 0, 8, 3], extents

chunks = []
def chunk(part, offset, status, error):
    chunks.append((len(part), offset, status))
    return 0
buffer = nbd.Buffer(16384)
h.aio_pread_structured(buffer, 0, chunk)
while h.aio_in_flight() > 0:
    h.poll(-1)
assert sorted(chunks, key=lambda c: c[1]) == [(4096, 0, nbd.READ_HOLE), (4096, 4096, nbd.READ_DATA), (8192, 8192, nbd.READ_HOLE)], chunks
h.shutdown()
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
}

TEST_F(NbdServer, RefusesBadRequestsAndGoesOn) {
    start();
    const Outcome outcome = python(R"(
size = h.get_size()
def extent(*arguments): return 0
for _ in range(2):
    refused(errno.EINVAL, h.pread, 512, size)
    refused(errno.EINVAL, h.pread, 1024, size - 512)
    refused(errno.ENOSPC, h.pwrite, bytes(1024), size - 512)
    refused(errno.ENOSPC, h.zero, 1024, size - 512)
    refused(errno.EINVAL, h.trim, 1024, size - 512)
    refused(errno.EINVAL, h.cache, 1024, size - 512)
    refused(errno.EINVAL, h.block_status, 1024, size - 512, extent)
    refused(errno.EINVAL, h.block_status, 0, 0, extent)
    refused(errno.EINVAL, h.pread, 512, 0, nbd.CMD_FLAG_NO_HOLE)
    refused(errno.EINVAL, h.pwrite, bytes(512), 0, nbd.CMD_FLAG_DF)
    refused(errno.EINVAL, h.flush, 1 << 10)
    refused(errno.EINVAL, h.trim, 512, 0, 1 << 2)
h.pwrite(b'x' * 512, 0)
assert h.pread(512, 0) == b'x' * 512
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    EXPECT_EQ(statistics_of("disk").errors, 24u);
}

TEST_F(NbdServer, LongestRequests) {
    start();
    const Outcome outcome = python(R"(
longest = 32 << 20
data = random.Random(2).randbytes(longest)
h.pwrite(data, 4096)
assert h.pread(longest, 4096) == data
h.pwrite(data, 1)                # unaligned: wider than the longest by a unit at each end
assert h.pread(longest, 1) == data
assert h.pread(1, 0) == bytes(1)
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
}

TEST_F(NbdServer, AnyByteRange) {
    start();
    const Outcome outcome = python(R"(
seed = 20261120
print('seed', seed)
random = random.Random(seed)
size = 1 << 20
model = bytearray(size)
for step in range(3000):
    offset = random.randrange(size)
    length = min(random.choice((1, 3, 511, 512, 513, 4096, 10000, 70000)), size - offset)
    if random.random() < 0.3:
        offset, length = offset & ~511, (length + 511) & ~511
        length = min(length, size - offset)
    what = random.random()
    if what < 0.4:
        data = random.randbytes(length)
        h.pwrite(data, offset, random.choice((0, nbd.CMD_FLAG_FUA)))
        model[offset:offset + length] = data
    elif what < 0.6:
        h.zero(length, offset, random.choice((0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA)))
        model[offset:offset + length] = bytes(length)
    else:
        assert h.pread(length, offset, random.choice((0, nbd.CMD_FLAG_DF))) == model[offset:offset + length], step
assert h.pread(size, 0) == model
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
}

// Neighbours in the same units, written from four connections at once: each read-modify-write must keep the others' bytes.
TEST_F(NbdServer, UnalignedWritersLoseNothing) {
    start();
    const Outcome outcome = python(R"(
handles = [handle() for _ in range(4)]
buffers = []
pieces, step = 6000, 100
for piece in range(pieces):
    client = handles[piece % 4]
    buffer = nbd.Buffer.from_bytearray(bytearray([piece % 251 + 1]) * step)
    buffers.append(buffer)
    client.aio_pwrite(buffer, piece * step)
    if piece % 16 == 0:      # aligned ones in between, elsewhere
        aligned = nbd.Buffer.from_bytearray(bytearray(512))
        buffers.append(aligned)
        client.aio_pwrite(aligned, (8 << 20) + piece * 512)
    while client.aio_in_flight() > 60:
        client.poll(-1)
for client in handles:
    while client.aio_in_flight() > 0:
        client.poll(-1)
got = h.pread(pieces * step, 0)
for piece in range(pieces):
    assert got[piece * step:(piece + 1) * step] == bytes([piece % 251 + 1]) * step, piece
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
}

TEST_F(NbdServer, AFlushOnOneConnectionCoversAll) {
    auto& watched = make<FaultDevice>(disk_);
    source_.add("disk", watched);
    start();
    const Outcome outcome = python(R"(
handles = [handle() for _ in range(4)]
assert all(client.can_multi_conn() for client in handles)
for turn in range(100):
    writer, flusher, reader = random.sample(handles, 3)
    data = random.randbytes(4096)
    writer.pwrite(data, turn * 4096)
    flusher.flush()
    assert reader.pread(4096, turn * 4096) == data
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    EXPECT_GE(watched.count(IoOperation::flush), 100u);
}

// ---- qemu and fio ---------------------------------------------------------------------------------------------------------------

TEST_F(NbdServer, QemuConvertsAndCompares) {
    start();
    const std::string from = pattern_file(disk_.size());
    EXPECT_RUNS("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", from, uri());
    EXPECT_RUNS("qemu-img", "compare", "-f", "raw", "-F", "raw", from, uri());
    EXPECT_RUNS("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri(), folder_ / "copy.qcow2");
    EXPECT_RUNS("qemu-img", "compare", "-f", "raw", "-F", "qcow2", from, folder_ / "copy.qcow2");
}

TEST_F(NbdServer, QemuWritesPatterns) {
    start();
    const Outcome outcome = run({"qemu-io",
                                 "-f",
                                 "raw",
                                 "-c",
                                 "write -P 1 0 1M",
                                 "-c",
                                 "write -P 2 512 512",
                                 "-c",
                                 "write -P 3 1000 77",
                                 "-c",
                                 "write -z 128k 64k",
                                 "-c",
                                 "write -z -u 256k 64k",
                                 "-c",
                                 "discard 512k 64k",
                                 "-c",
                                 "flush",
                                 "-c",
                                 "read -P 1 0 512",
                                 "-c",
                                 "read -P 2 512 488",
                                 "-c",
                                 "read -P 3 1000 77",
                                 "-c",
                                 "read -P 1 1077 1k",
                                 "-c",
                                 "read -P 0 128k 64k",
                                 "-c",
                                 "read -P 0 256k 64k",
                                 "-c",
                                 "aio_write -P 9 2M 4M",
                                 "-c",
                                 "aio_write -P 8 8M 4M",
                                 "-c",
                                 "aio_flush",
                                 "-c",
                                 "read -P 9 2M 4M",
                                 "-c",
                                 "read -P 8 8M 4M",
                                 uri()});
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    EXPECT_THAT(outcome.output, Not(HasSubstr("verification failed")));
}

TEST_F(NbdServer, FioVerifiesWhatItWrote) {
    start();
    EXPECT_RUNS("fio", "--name=verify", "--ioengine=nbd", "--uri=" + uri(), "--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=0",
                "--iodepth=32", "--size=48M", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--fsync=64", "--randseed=5");
}

TEST_F(NbdServer, AFile) {
    auto file = FileDevice::open(folder_ / "image", {.create = 64 * mebibyte});
    ASSERT_TRUE(file) << file.error().message();
    devices_.push_back(std::move(*file));
    source_.add("disk", *devices_.back());
    start();
    const std::string from = pattern_file(64 * mebibyte);
    EXPECT_RUNS("nbdcopy", "--flush", from, uri());
    EXPECT_RUNS("qemu-img", "compare", "-f", "raw", "-F", "raw", from, uri());
    const Outcome outcome = python(R"(
h.pwrite(b'abc', 5000); h.zero(1000, 70000); h.trim(1 << 20, 1 << 20); h.flush()
assert h.pread(3, 5000) == b'abc'
assert h.pread(1000, 70000) == bytes(1000)
assert h.pread(1 << 20, 1 << 20) == bytes(1 << 20)
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    EXPECT_RUNS("fio", "--name=verify", "--ioengine=nbd", "--uri=" + uri(), "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=16M",
                "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0");
}

// ---- Other clients --------------------------------------------------------------------------------------------------------------

TEST_F(NbdServer, ExtendedHeaders) {
    auto& large = make<MemoryDevice>(std::uint64_t{8} << 30);
    source_.add("disk", large);
    start();
    EXPECT_EQ(run({"python3", LAMELLA_SERVE_SOURCES "/nbd/testing/raw_client.py", "extended", socket()}).output, "ok\n");
}

TEST_F(NbdServer, HalfClosedAndBytewise) {
    start();
    for (const char* scenario : {"half_closed", "bytewise"})
        EXPECT_EQ(run({"python3", LAMELLA_SERVE_SOURCES "/nbd/testing/raw_client.py", scenario, socket()}).output, "ok\n") << scenario;
}

TEST_F(NbdServer, HostileClientsHarmNobody) {
    rlimit limit;
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 8192);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    ServerOptions options;
    options.limits.handshake = std::chrono::seconds(2);
    options.limits.stall = std::chrono::seconds(2);
    options.limits.drain = std::chrono::milliseconds(200);
    start(options);
    EXPECT_EQ(run({"python3", LAMELLA_SERVE_SOURCES "/nbd/testing/raw_client.py", "hostile", socket()}).output, "ok\n");
}

TEST_F(NbdServer, KeepsToItsNumberOfConnections) {
    ServerOptions options;
    options.limits.connections = 2;
    start(options);
    const int first = connect_raw(), second = connect_raw(), third = connect_raw();
    char greeting[18];
    EXPECT_EQ(::recv(first, greeting, sizeof greeting, MSG_WAITALL), 18);
    EXPECT_EQ(::recv(second, greeting, sizeof greeting, MSG_WAITALL), 18);
    EXPECT_EQ(::recv(third, greeting, sizeof greeting, MSG_WAITALL), 0);
    for (const int fd : {first, second, third})
        ::close(fd);
}

// ---- Life and death -------------------------------------------------------------------------------------------------------------

TEST_F(NbdServer, ExportsComeAndGo) {
    auto& other = make<MemoryDevice>(mebibyte);
    start();
    EXPECT_NE(run({"nbdinfo", uri("other")}).status, 0);
    source_.add("other", other);
    EXPECT_EQ(run({"nbdinfo", uri("other")}).status, 0);

    // A client that stays until it is put out.
    While client([&] { return statistics_of("other").writes > 0; },
                 [&] {
                     source_.remove("other");
                     EXPECT_TRUE(server_->disconnect("other"));
                     EXPECT_EQ(statistics_of("other").connections, 0u);
                 });
    const Outcome outcome = python(R"(
try:
    while True:
        h.pwrite(bytes(512), 0)
except nbd.Error:
    pass
)",
                                   "other");
    EXPECT_TRUE(client.finish());
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    EXPECT_EQ(source_.open_now(), 0);
    EXPECT_NE(run({"nbdinfo", uri("other")}).status, 0);
    EXPECT_EQ(run({"nbdinfo", uri("disk")}).status, 0);
    EXPECT_TRUE(server_->disconnect("never"));
}

TEST_F(NbdServer, ServesWhatHasGrown) {
    start();
    While client([&] { return statistics_of("disk").writes > 0; }, [&] { disk_.grow(128 * mebibyte); });
    const Outcome outcome = python(R"(
h.pwrite(b'x', 0)
import time
while True:
    try:
        h.pwrite(b'grown', 100 << 20)
        break
    except nbd.Error as error:
        assert error.errno == 'ENOSPC'
        time.sleep(0.01)
assert handle().get_size() == 128 << 20
)");
    EXPECT_TRUE(client.finish());
    EXPECT_EQ(outcome.status, 0) << outcome.output;
}

TEST_F(NbdServer, StopLetsRequestsFinish) {
    auto& slow = make<FaultDevice>(disk_);
    slow.add({.operation = IoOperation::write, .hold = true});
    source_.add("disk", slow);
    start();
    While client([&] { return slow.held() == 5; },
                 [&] {
                     std::thread releaser([&] {
                         while (::access(socket().c_str(), F_OK) == 0)
                             std::this_thread::yield();
                         slow.release();
                     });
                     EXPECT_TRUE(server_->stop());
                     releaser.join();
                 });
    const Outcome outcome = python(R"(
results = []
def done(error):
    results.append(error.value if hasattr(error, 'value') else error)
    return 1
for i in range(5):
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b'z' * 512)), i * 512, done)
try:
    while len(results) < 5:
        h.poll(-1)
except nbd.Error:
    pass
assert results == [0] * 5, results
)");
    EXPECT_TRUE(client.finish());
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    EXPECT_GE(slow.count(IoOperation::flush), 1u);
    EXPECT_EQ(source_.open_now(), 0);
    EXPECT_NE(::access(socket().c_str(), F_OK), 0);
}

TEST_F(NbdServer, StopTellsOfAFailedFlush) {
    auto& broken = make<FaultDevice>(disk_);
    source_.add("disk", broken);
    start();
    const int client = connect_raw();
    EXPECT_RUNS("nbdinfo", uri());
    broken.add({.operation = IoOperation::flush});
    EXPECT_RUNS("nbdinfo", uri());
    const auto stopped = server_->stop();
    ASSERT_FALSE(stopped);
    EXPECT_THAT(stopped.error().message(), HasSubstr("disk"));
    ::close(client);
}

TEST_F(NbdServer, PassesErrorsOn) {
    auto& broken = make<FaultDevice>(disk_);
    broken.add({.operation = IoOperation::read, .offset = 0, .length = 4096});
    broken.add({.operation = IoOperation::write, .offset = 4096, .length = 4096, .error = ENOSPC});
    broken.add({.operation = IoOperation::flush});
    broken.add({.operation = IoOperation::write_zeroes, .error = EOPNOTSUPP});
    broken.add({.operation = IoOperation::discard, .error = EOPNOTSUPP});
    source_.add("disk", broken);
    start();
    const Outcome outcome = python(R"(
refused(errno.EIO, h.pread, 4096, 0)
refused(errno.EIO, h.pread, 4096, 0, nbd.CMD_FLAG_DF)
refused(errno.ENOSPC, h.pwrite, bytes(4096), 4096)
refused(errno.EIO, h.pwrite, b'x', 10)     # its unit can't be read
refused(errno.EIO, h.flush)
refused(errno.ENOTSUP, h.zero, 4096, 8192, nbd.CMD_FLAG_FAST_ZERO)
refused(errno.EIO, h.zero, 4096, 8192)
h.trim(4096, 8192)
h.pwrite(b'y' * 4096, 8192)
assert h.pread(4096, 8192) == b'y' * 4096
h.pwrite(b'x', 8200)                       # the gate is open again
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
}

TEST_F(NbdServer, ReadOnly) {
    ServerOptions options;
    options.read_only = true;
    start(options);
    const Outcome outcome = python(R"(
assert h.is_read_only() and not h.can_trim() and not h.can_zero()
refused(errno.EPERM, h.pwrite, bytes(512), 0)
refused(errno.EPERM, h.zero, 512, 0)
refused(errno.EPERM, h.trim, 512, 0)
assert h.pread(512, 0) == bytes(512)
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
}

TEST_F(NbdServer, CountsWhatItDoes) {
    start();
    const Outcome outcome = python(R"(
h.pwrite(bytes(1000), 0); h.pread(3000, 0); h.zero(5000, 0); h.trim(4096, 0); h.flush(); h.cache(1, 0)
refused(errno.EINVAL, h.pread, 1, 1 << 40)
)");
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    const ExportStatistics sum = statistics_of("disk");
    EXPECT_EQ(sum.writes, 2u);
    EXPECT_EQ(sum.written_bytes, 6000u);
    EXPECT_EQ(sum.reads, 1u);
    EXPECT_EQ(sum.read_bytes, 3000u);
    EXPECT_EQ(sum.trimmed_bytes, 4096u);
    EXPECT_EQ(sum.flushes, 1u);
    EXPECT_EQ(sum.others, 1u);
    EXPECT_EQ(sum.errors, 1u);
}

// ---- Sockets --------------------------------------------------------------------------------------------------------------------

TEST_F(NbdServer, UnixSocketsArePrivateAndNeverStolen) {
    start();
    struct stat status;
    ASSERT_EQ(::stat(socket().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);

    ServerOptions options;
    options.unix_sockets = {socket()};
    const auto second = Server::start(*reactors_, source_, options);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().kind(), ErrorKind::refused);
    EXPECT_EQ(run({"nbdinfo", uri()}).status, 0);

    const std::string file = folder_ / "file";
    std::ofstream(file) << "precious";
    options.unix_sockets = {file};
    const auto third = Server::start(*reactors_, source_, options);
    ASSERT_FALSE(third);
    EXPECT_EQ(third.error().kind(), ErrorKind::exists);
    EXPECT_EQ(::access(file.c_str(), F_OK), 0);
}

TEST_F(NbdServer, ReplacesASocketThatNobodyAnswersOn) {
    const int dead = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket().c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(dead, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ::close(dead);
    start();
    EXPECT_EQ(run({"nbdinfo", uri()}).status, 0);
}

TEST_F(NbdServer, Tcp) {
    ServerOptions options;
    options.tcp_addresses = {"127.0.0.1:0"};
    start(options);
    ASSERT_EQ(server_->uris().size(), 1u);
    EXPECT_EQ(run({"nbdinfo", server_->uris().front()}).status, 0);
    EXPECT_RUNS("qemu-io", "-f", "raw", "-c", "write -P 1 0 8M", "-c", "read -P 1 0 8M", server_->uris().front());

    options.tcp_addresses = {"0.0.0.0:0"};
    const auto open = Server::start(*reactors_, source_, options);
    ASSERT_FALSE(open);
    EXPECT_EQ(open.error().kind(), ErrorKind::refused);
    options.allow_insecure_tcp = true;
    EXPECT_TRUE(Server::start(*reactors_, source_, options));
    for (const char* bad : {"nonsense", ":1", "::1:1", "127.0.0.1:x", "127.0.0.1:70000"}) {
        options.tcp_addresses = {bad};
        EXPECT_FALSE(Server::start(*reactors_, source_, options)) << bad;
    }
}

TEST_F(NbdServer, SocketActivation) {
    const Outcome outcome = run({"nbdinfo", "--size", "--", "[", LAMELLA_NBD_TEST_SERVER, "memory", "12345856", "]"});
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("12345856"));
}

// ---- TLS ------------------------------------------------------------------------------------------------------------------------

class NbdTls : public NbdServer {
  protected:
    std::string make_certificates(const std::string& name) {
        const std::string folder = folder_ / name;
        EXPECT_RUNS("mkdir", folder);
        const auto key = [&](const std::string& file) {
            EXPECT_RUNS("certtool", "--generate-privkey", "--ecc", "--outfile", folder + "/" + file);
            ::chmod((folder + "/" + file).c_str(), 0600);
        };
        const auto write = [&](const std::string& file, const std::string& text) { std::ofstream(folder + "/" + file) << text; };
        key("ca-key.pem");
        key("server-key.pem");
        key("client-key.pem");
        write("ca.info", "cn = Test\nca\ncert_signing_key\n");
        write("server.info", "cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\nsigning_key\nencryption_key\n");
        write("client.info", "cn = client\ntls_www_client\nsigning_key\nencryption_key\n");
        EXPECT_RUNS("certtool", "--generate-self-signed", "--load-privkey", folder + "/ca-key.pem", "--template", folder + "/ca.info",
                    "--outfile", folder + "/ca-cert.pem");
        for (const std::string who : {"server", "client"})
            EXPECT_RUNS("certtool", "--generate-certificate", "--load-ca-certificate", folder + "/ca-cert.pem", "--load-ca-privkey",
                        folder + "/ca-key.pem", "--load-privkey", folder + "/" + who + "-key.pem", "--template",
                        folder + "/" + who + ".info", "--outfile", folder + "/" + who + "-cert.pem");
        return folder;
    }

    std::string port() const {
        const std::string& address = server_->uris().front();
        return address.substr(address.rfind(':') + 1);
    }
};

TEST_F(NbdTls, Certificates) {
    const std::string folder = make_certificates("pki");
    const std::string strangers = make_certificates("strangers");
    // A stranger that trusts the server, but whom the server doesn't know.
    EXPECT_RUNS("cp", folder + "/ca-cert.pem", strangers + "/ca-cert.pem");
    ServerOptions options;
    options.tcp_addresses = {"127.0.0.1:0"};
    options.tls = {.mode = TlsMode::forced, .certificates = folder};
    start(options);
    const std::string address = "127.0.0.1:" + port();
    const Outcome known = run({"nbdinfo", "--json", "nbds://" + address + "/?tls-certificates=" + folder});
    EXPECT_EQ(known.status, 0) << known.output;
    EXPECT_THAT(known.output, HasSubstr("\"TLS\": true"));
    EXPECT_NE(run({"nbdinfo", "nbds://" + address + "/?tls-certificates=" + strangers}).status, 0);
    EXPECT_NE(run({"nbdinfo", "nbd://" + address}).status, 0);

    const std::string from = pattern_file(disk_.size());
    EXPECT_RUNS("nbdcopy", "--flush", from, "nbds://" + address + "/?tls-certificates=" + folder);
    const Outcome compared =
        run({"qemu-img", "compare", "--object", "tls-creds-x509,id=tls0,endpoint=client,dir=" + folder, "--image-opts",
             "driver=raw,file.driver=file,file.filename=" + from, "driver=nbd,host=127.0.0.1,port=" + port() + ",tls-creds=tls0"});
    EXPECT_EQ(compared.status, 0) << compared.output;
}

TEST_F(NbdTls, CertificatesOfTheServerAlone) {
    const std::string folder = make_certificates("pki");
    const std::string client = folder_ / "client";
    EXPECT_RUNS("mkdir", client);
    EXPECT_RUNS("cp", folder + "/ca-cert.pem", client);
    ServerOptions options;
    options.tcp_addresses = {"127.0.0.1:0"};
    options.tls = {.mode = TlsMode::forced, .certificates = folder, .verify_clients = false};
    start(options);
    const Outcome outcome = run({"nbdinfo", "nbds://127.0.0.1:" + port() + "/?tls-certificates=" + client});
    EXPECT_EQ(outcome.status, 0) << outcome.output;
}

TEST_F(NbdTls, PreSharedKeys) {
    const std::string keys = folder_ / "keys.psk";
    EXPECT_RUNS("psktool", "-u", "alice", "-p", keys);
    ::chmod(keys.c_str(), 0600);
    const std::string wrong = folder_ / "wrong.psk";
    EXPECT_RUNS("psktool", "-u", "alice", "-p", wrong);
    for (const TlsMode mode : {TlsMode::selective, TlsMode::forced}) {
        ServerOptions options;
        options.tls = {.mode = mode, .psk_file = keys};
        start(options);
        const std::string nbds = "nbds+unix://alice@/?socket=" + socket() + "&tls-psk-file=";
        const Outcome known = run({"nbdinfo", "--json", nbds + keys});
        EXPECT_EQ(known.status, 0) << known.output;
        EXPECT_THAT(known.output, HasSubstr("\"TLS\": true"));
        EXPECT_NE(run({"nbdinfo", nbds + wrong}).status, 0);
        EXPECT_EQ(run({"nbdinfo", uri()}).status == 0, mode == TlsMode::selective);
        const std::string from = pattern_file(disk_.size());
        EXPECT_RUNS("nbdcopy", "--flush", from, nbds + keys);
        EXPECT_RUNS("nbdcopy", nbds + keys, folder_ / "copy");
        EXPECT_RUNS("cmp", from, folder_ / "copy");
        EXPECT_TRUE(server_->stop());
        server_.reset();
    }
}

TEST_F(NbdTls, RefusesKeysThatOthersMayRead) {
    const std::string keys = folder_ / "keys.psk";
    EXPECT_RUNS("psktool", "-u", "alice", "-p", keys);
    ::chmod(keys.c_str(), 0644);
    const auto loaded = TlsCredentials::load({.mode = TlsMode::forced, .psk_file = keys});
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().kind(), ErrorKind::refused);
    EXPECT_THAT(loaded.error().message(), HasSubstr(keys));
    EXPECT_FALSE(TlsCredentials::load({.mode = TlsMode::forced}));
    EXPECT_FALSE(TlsCredentials::load({.mode = TlsMode::forced, .certificates = folder_ / "nothing"}));
}

}  // namespace
}  // namespace lamella::nbd
