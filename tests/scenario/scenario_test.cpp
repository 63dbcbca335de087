// SPDX-License-Identifier: Apache-2.0
//
// Runs the scenarios: small texts, one for each behaviour of a thin pool, each over a matrix of chunk sizes, devices (memory with a
// volatile cache, or files) and reopening (the pool is closed and opened again after every line, or only where the text says so).
//
// A line is a command; '#' begins a comment. SIZE is a number with K or M, or with c for chunks; sums are written 1c+4K. CONTENT is a
// letter that every byte shall be, or "zeros"; alternatives in a read: a|zeros.
//
//   data CHUNKS                  (before all others) how large the data device is; 24
//   option error-if-no-space | no-passdown | ignore-discard | dirty (the data device is full of old bytes)
//   without reopening            (before all others) not for the half of the matrix that reopens after every line
//   create NAME SIZE             a thin volume
//   snapshot NAME ORIGIN [NAME ORIGIN]...    all of one moment
//   remove NAME...
//   resize NAME SIZE
//   write NAME OFFSET LENGTH LETTER [durable]
//   zero NAME OFFSET LENGTH [keep] [fast] [durable]
//   discard NAME OFFSET LENGTH
//   flush NAME
//   read NAME OFFSET LENGTH CONTENT
//   begin LABEL write|...        the request is started; "pending LABEL": it isn't done; "done LABEL [ERRNO]": it is, and how it ended
//   advance SECONDS              the clock
//   used CHUNKS                  data chunks in use
//   mapped NAME CHUNKS
//   status TEXT                  the pool's status line contains this
//   grow CHUNKS                  the data device and the pool, by so many
//   message TEXT                 to the pool
//   reopen                       close and open the pool
//   crash                        the power goes; what was not flushed may be lost
//   check                        close; structure and thin_check; open
//   expect-error WORD command... the command fails: WORD is an errno's name or an ErrorKind
//
// --gtest_filter='snapshot.*' runs one scenario.
#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

#include "crash/structure.h"
#include "device/crash_device.h"
#include "device/fault_device.h"
#include "device/file_device.h"
#include "device/test_support.h"
#include "thin/pool.h"
#include "thin/volume.h"

namespace lamella {
namespace {

using Words = std::vector<std::string>;

struct Shape {
    std::uint32_t chunk_sectors;
    bool files;
    bool reopening;
};

struct Line {
    unsigned number;
    Words words;
};

class Scenario {
  public:
    Scenario(const Shape& shape, std::uint64_t seed) : shape_(shape), seed_(seed) { options_.data_block_sectors = shape.chunk_sectors; }
    ~Scenario() { take_down(); }

    // Empty: done. Else what went wrong.
    std::string run(const Line& line) {
        Words words = line.words;
        if (words[0] == "data") {
            data_chunks_ = std::stoull(words.at(1));
            return {};
        }
        if (words[0] == "option")
            return set_option(words.at(1));
        if (pool_ == nullptr)
            if (std::string wrong = build(); !wrong.empty())
                return wrong;
        std::string expected;
        if (words[0] == "expect-error") {
            expected = words.at(1);
            words.erase(words.begin(), words.begin() + 2);
        }
        std::string wrong = command(words);
        if (!expected.empty()) {
            if (wrong.empty())
                return "it succeeded";
            wrong = wrong.find(expected) == std::string::npos ? "expected " + expected + ", got: " + wrong : "";
        }
        if (wrong.empty() && shape_.reopening && begun_.empty())
            wrong = reopen();
        return wrong;
    }

  private:
    struct Begun {
        std::vector<std::byte> memory;
        std::unique_ptr<test::Request> request;
    };
    struct Volume {
        std::uint32_t id;
        std::uint64_t size;
        std::shared_ptr<thin::ThinVolume> device;
    };

    static std::string errno_word(int error) {
        switch (error) {
        case ENOSPC: return "ENOSPC";
        case EIO: return "EIO";
        case EINVAL: return "EINVAL";
        case EOPNOTSUPP: return "EOPNOTSUPP";
        case EROFS: return "EROFS";
        default: return std::to_string(error);
        }
    }
    template <typename T>
    static std::string wrong_of(const Result<T>& result) {
        return result ? "" : fmt::format("{}: {}", to_string(result.error().kind()), result.error().message());
    }

    std::uint64_t chunk() const { return shape_.chunk_sectors * sector_bytes; }
    std::uint64_t size_of(const std::string& text) const {
        std::uint64_t total = 0;
        std::istringstream parts(text);
        for (std::string part; std::getline(parts, part, '+');) {
            const char unit = part.back();
            const std::uint64_t number = std::stoull(part);
            total += number * (unit == 'c' ? chunk() : unit == 'M' ? 1 << 20 : unit == 'K' ? 1 << 10 : 1);
        }
        return total;
    }

    std::string set_option(const std::string& word) {
        if (word == "error-if-no-space")
            options_.error_if_no_space = true;
        else if (word == "no-passdown")
            options_.discards = thin::DiscardPolicy::no_passdown;
        else if (word == "ignore-discard")
            options_.discards = thin::DiscardPolicy::ignore;
        else if (word == "dirty")
            dirty_ = true;
        else
            return "no such option";
        return {};
    }

    // --- Devices and the pool ---

    std::string build() {
        constexpr std::uint64_t metadata_bytes = 1 << 20;
        if (shape_.files) {
            FileOptions make;
            make.create = metadata_bytes;
            names_ = {folder_.file("metadata"), folder_.file("data")};
            if (auto made = FileDevice::open(names_[0], make); !made)
                return wrong_of(made);
            make.create = data_chunks_ * chunk();
            if (auto made = FileDevice::open(names_[1], make); !made)
                return wrong_of(made);
        }
        content_.resize(2);
        sizes_ = {metadata_bytes, data_chunks_ * chunk()};
        if (std::string wrong = open_devices(); !wrong.empty())
            return wrong;
        if (dirty_)
            if (auto done = write_now(*data_, 0, std::vector<std::byte>(data_->size(), std::byte{'?'})); !done)
                return wrong_of(done);
        if (auto done = flush_now(*data_); !done)
            return wrong_of(done);
        if (auto formatted = thin::ThinPool::format(*metadata_, data_->size(), shape_.chunk_sectors); !formatted)
            return wrong_of(formatted);
        return open_pool();
    }

    std::string open_devices() {
        power_ = std::make_unique<PowerSwitch>();
        for (unsigned number = 0; number < 2; ++number) {
            if (shape_.files) {
                auto opened = FileDevice::open(names_[number]);
                if (!opened)
                    return wrong_of(opened);
                lower_[number] = *std::move(opened);
            } else {
                lower_[number] =
                    std::make_unique<CrashDevice>(sizes_[number], number == 0 ? "metadata" : "data", *power_, std::move(content_[number]));
            }
            faults_[number] = std::make_unique<FaultDevice>(*lower_[number]);
        }
        metadata_ = faults_[0].get();
        data_ = faults_[1].get();
        return {};
    }

    std::string open_pool() {
        queue_ = *make_plain_queue(clock_);
        auto opened = thin::ThinPool::open(*metadata_, *data_, options_, queue_.get());
        if (!opened)
            return wrong_of(opened);
        pool_ = *std::move(opened);
        return {};
    }

    std::string close_pool() {
        for (auto& [name, volume] : volumes_)
            volume.device.reset();
        if (pool_ == nullptr)
            return {};
        const auto closed = pool_->close();
        pool_.reset();
        return wrong_of(closed);
    }

    std::string reopen() {
        std::string wrong = close_pool();
        return wrong.empty() ? open_pool() : wrong;
    }

    std::string crash() {
        if (shape_.files) {
            // As after kill -9: whatever was handed to the kernel is there.
            for (auto& device : faults_)
                device->add({});
        } else {
            power_->cut_now();
        }
        for (auto& [label, begun] : begun_)
            queue_->run_until([&] { return begun.request->done; });
        begun_.clear();
        (void)close_pool();
        for (unsigned number = 0; number < 2; ++number)
            if (!shape_.files) {
                content_[number] = static_cast<CrashDevice&>(*lower_[number]).remains(++seed_);
                sizes_[number] = lower_[number]->size();
            }
        for (unsigned number = 0; number < 2; ++number) {
            faults_[number].reset();
            lower_[number].reset();
        }
        if (std::string wrong = open_devices(); !wrong.empty())
            return wrong;
        if (const auto sound = crash::check_structure(*metadata_); !sound)
            return wrong_of(sound);
        return open_pool();
    }

    void take_down() {
        for (auto& [label, begun] : begun_) {
            for (auto& device : faults_)
                device->add({});
            clock_.advance(std::chrono::minutes(10));
            queue_->run_until([&] { return begun.request->done; });
        }
        (void)close_pool();
    }

    Volume* find(const std::string& name) {
        const auto found = volumes_.find(name);
        if (found == volumes_.end())
            return nullptr;
        Volume& volume = found->second;
        if (volume.device == nullptr)
            if (auto opened = pool_->open_volume(ThinId(volume.id), volume.size, name))
                volume.device = *std::move(opened);
        return volume.device != nullptr ? &volume : nullptr;
    }

    // --- Commands ---

    std::string command(const Words& words) {
        const std::string& verb = words[0];
        if (verb == "create" || verb == "snapshot" || verb == "remove")
            return change(words);
        if (verb == "begin") {
            Begun begun;
            if (std::string wrong = start(Words(words.begin() + 2, words.end()), begun); !wrong.empty())
                return wrong;
            begun_.emplace(words.at(1), std::move(begun));
            settle();
            return {};
        }
        if (verb == "pending")
            return begun_.at(words.at(1)).request->done ? "it is done" : "";
        if (verb == "done") {
            settle();
            const Begun begun = std::move(begun_.at(words.at(1)));
            begun_.erase(words.at(1));
            if (!begun.request->done) {
                begun_.clear();
                return "it isn't done";
            }
            const std::string expected = words.size() > 2 ? words[2] : "0";
            const std::string ended = errno_word(begun.request->error);
            return ended == expected ? "" : "it ended with " + ended;
        }
        if (verb == "advance") {
            clock_.advance(std::chrono::seconds(std::stoull(words.at(1))));
            settle();
            return {};
        }
        if (verb == "used") {
            // What was freed counts once it is committed.
            if (auto done = pool_->commit(); !done)
                return wrong_of(done);
            const auto status = pool_->status();
            if (!status)
                return wrong_of(status);
            return status->used_data_blocks == std::stoull(words.at(1)) ? "" : fmt::format("{} are used", status->used_data_blocks);
        }
        if (verb == "mapped") {
            const auto details = pool_->details(ThinId(volumes_.at(words.at(1)).id));
            if (!details)
                return wrong_of(details);
            return details->mapped_blocks == std::stoull(words.at(2)) ? "" : fmt::format("{} are mapped", details->mapped_blocks);
        }
        if (verb == "status") {
            std::string text = words.at(1);
            for (std::size_t index = 2; index < words.size(); ++index)
                text += " " + words[index];
            const auto line = pool_->status_line();
            if (!line)
                return wrong_of(line);
            return (" " + *line + " ").find(" " + text + " ") != std::string::npos ? "" : "it is: " + *line;
        }
        if (verb == "grow") {
            const std::uint64_t size = data_->size() + std::stoull(words.at(1)) * chunk();
            if (shape_.files) {
                if (auto grown = static_cast<FileDevice&>(*lower_[1]).grow(size); !grown)
                    return wrong_of(grown);
            } else {
                static_cast<CrashDevice&>(*lower_[1]).grow(size);
            }
            const std::string wrong = wrong_of(pool_->grow_data());
            settle();
            return wrong;
        }
        if (verb == "message") {
            std::string text = words.at(1);
            for (std::size_t index = 2; index < words.size(); ++index)
                text += " " + words[index];
            return wrong_of(pool_->message(text));
        }
        if (verb == "reopen")
            return reopen();
        if (verb == "crash")
            return crash();
        if (verb == "check") {
            if (std::string wrong = close_pool(); !wrong.empty())
                return wrong;
            if (auto sound = crash::check_structure(*metadata_); !sound)
                return wrong_of(sound);
            // An outside witness, once for each scenario and devices.
            if (!shape_.reopening)
                if (auto checked = crash::run_thin_check(*metadata_); !checked)
                    return wrong_of(checked);
            return open_pool();
        }
        if (verb == "resize") {
            Volume* volume = find(words.at(1));
            if (volume == nullptr)
                return "not found";
            volume->size = size_of(words.at(2));
            volume->device->resize(volume->size);
            return {};
        }
        if (verb == "read")
            return read(words);
        Begun begun;
        if (std::string wrong = start(words, begun); !wrong.empty())
            return wrong;
        settle();
        if (!begun.request->done) {
            begun_.emplace("left behind", std::move(begun));
            return "the request doesn't complete";
        }
        return begun.request->error == 0 ? "" : errno_word(begun.request->error);
    }

    std::string change(const Words& words) {
        std::vector<thin::PoolChange> changes;
        std::map<std::string, Volume> made;
        std::uint32_t next = next_id_;
        if (words[0] == "create") {
            made[words.at(1)] = {next, size_of(words.at(2)), nullptr};
            changes.push_back({thin::PoolChange::Kind::create_thin, ThinId(next++)});
        } else if (words[0] == "snapshot") {
            for (std::size_t index = 1; index < words.size(); index += 2) {
                const auto origin = volumes_.find(words.at(index + 1));
                const std::uint32_t origin_id = origin != volumes_.end() ? origin->second.id : 9999;
                made[words[index]] = {next, origin != volumes_.end() ? origin->second.size : 0, nullptr};
                changes.push_back({thin::PoolChange::Kind::create_snapshot, ThinId(next++), ThinId(origin_id)});
            }
        } else {
            for (std::size_t index = 1; index < words.size(); ++index) {
                const auto found = volumes_.find(words[index]);
                if (found != volumes_.end())
                    found->second.device.reset();
                changes.push_back({thin::PoolChange::Kind::remove, ThinId(found != volumes_.end() ? found->second.id : 9999)});
            }
        }
        const auto status = pool_->status();
        if (!status)
            return wrong_of(status);
        if (auto done = pool_->transact(changes, status->transaction_id, status->transaction_id + 1); !done)
            return wrong_of(done);
        next_id_ = next;
        for (auto& [name, volume] : made)
            volumes_[name] = std::move(volume);
        if (words[0] == "remove")
            for (std::size_t index = 1; index < words.size(); ++index)
                volumes_.erase(words[index]);
        settle();
        return {};
    }

    std::string start(const Words& words, Begun& begun) {
        static const std::map<std::string, IoOperation> operations{{"write", IoOperation::write},
                                                                   {"zero", IoOperation::write_zeroes},
                                                                   {"discard", IoOperation::discard},
                                                                   {"flush", IoOperation::flush}};
        const auto operation = operations.find(words.at(0));
        if (operation == operations.end())
            return "no such command";
        Volume* volume = find(words.at(1));
        if (volume == nullptr)
            return "not found";
        const bool ranged = operation->second != IoOperation::flush;
        const std::uint64_t offset = ranged ? size_of(words.at(2)) : 0;
        const std::uint64_t length = ranged ? size_of(words.at(3)) : 0;
        if (operation->second == IoOperation::write)
            begun.memory.assign(length, static_cast<std::byte>(words.at(4)[0]));
        begun.request = std::make_unique<test::Request>(operation->second, offset, length, begun.memory.data());
        const auto said = [&](const char* word) { return std::find(words.begin() + 2, words.end(), word) != words.end(); };
        begun.request->durable = said("durable");
        begun.request->keep_allocated = said("keep");
        begun.request->fast_only = said("fast");
        volume->device->submit(*queue_, *begun.request);
        return {};
    }

    std::string read(const Words& words) {
        Volume* volume = find(words.at(1));
        if (volume == nullptr)
            return "not found";
        const std::uint64_t offset = size_of(words.at(2));
        std::vector<std::byte> bytes(size_of(words.at(3)), std::byte{0xee});
        test::Request request(IoOperation::read, offset, bytes.size(), bytes.data());
        if (const int error = request.run(*volume->device, *queue_); error != 0)
            return errno_word(error);
        // Alternatives hold for each sector.
        std::set<std::byte> allowed;
        std::istringstream alternatives(words.at(4));
        for (std::string one; std::getline(alternatives, one, '|');)
            allowed.insert(one == "zeros" ? std::byte{0} : static_cast<std::byte>(one[0]));
        for (std::size_t at = 0; at < bytes.size(); ++at)
            if (!allowed.contains(bytes[at]) || bytes[at] != bytes[at - at % sector_bytes])
                return fmt::format("byte {} is {:#x}", offset + at, static_cast<unsigned>(bytes[at]));
        return {};
    }

    void settle() {
        while (queue_->run_once(false)) {}
    }

    const Shape shape_;
    std::uint64_t seed_;
    thin::ThinPoolOptions options_;
    std::uint64_t data_chunks_ = 24;
    bool dirty_ = false;
    test::TemporaryFolder folder_;
    std::vector<std::string> names_;
    std::vector<SparseBytes> content_;
    std::vector<std::uint64_t> sizes_;
    ManualClock clock_;
    std::unique_ptr<PowerSwitch> power_;
    std::array<std::unique_ptr<BlockDevice>, 2> lower_;
    std::array<std::unique_ptr<FaultDevice>, 2> faults_;
    FaultDevice* metadata_ = nullptr;
    FaultDevice* data_ = nullptr;
    std::unique_ptr<IoQueue> queue_;
    std::unique_ptr<thin::ThinPool> pool_;
    std::map<std::string, Volume> volumes_;
    std::map<std::string, Begun> begun_;
    std::uint32_t next_id_ = 1;
};

class ScenarioTest : public testing::Test {
  public:
    ScenarioTest(std::string path, const Shape& shape) : path_(std::move(path)), shape_(shape) {}

    void TestBody() override {
        std::ifstream file(path_);
        ASSERT_TRUE(file) << path_;
        std::vector<Line> lines;
        std::string text;
        for (unsigned number = 1; std::getline(file, text); ++number) {
            std::istringstream words(text.substr(0, text.find('#')));
            Line line{number, {}};
            for (std::string word; words >> word;)
                line.words.push_back(word);
            if (line.words == Words{"without", "reopening"}) {
                if (shape_.reopening)
                    GTEST_SKIP();
            } else if (!line.words.empty()) {
                lines.push_back(std::move(line));
            }
        }
        ASSERT_FALSE(lines.empty());
        Scenario scenario(shape_, 1);
        for (const Line& line : lines) {
            const std::string wrong = scenario.run(line);
            std::string spelled;
            for (const std::string& word : line.words)
                spelled += word + " ";
            ASSERT_EQ(wrong, "") << path_ << ":" << line.number << ": " << spelled;
        }
    }

  private:
    const std::string path_;
    const Shape shape_;
};

void register_scenarios() {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(SCENARIOS))
        if (entry.path().extension() == ".scenario")
            paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    for (const auto& path : paths)
        for (const std::uint32_t chunk_sectors : {128u, 384u, 2048u})
            for (const bool files : {false, true})
                for (const bool reopening : {false, true}) {
                    const Shape shape{chunk_sectors, files, reopening};
                    const std::string name =
                        fmt::format("{}K_{}{}", chunk_sectors / 2, files ? "files" : "memory", reopening ? "_reopening" : "");
                    testing::RegisterTest(path.stem().c_str(), name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                                          [path, shape]() -> testing::Test* { return new ScenarioTest(path.string(), shape); });
                }
}

}  // namespace
}  // namespace lamella

int main(int count, char** arguments) {
    testing::InitGoogleTest(&count, arguments);
    lamella::register_scenarios();
    return RUN_ALL_TESTS();
}
