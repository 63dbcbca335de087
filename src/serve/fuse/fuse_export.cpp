// SPDX-License-Identifier: Apache-2.0
//
// The kernel's requests are read from the session's descriptor by a reactor as they come, and each becomes one IoRequest, so that
// as many are in flight as the kernel sends, on one thread.
//
// A BlockDevice takes whole units of its alignment only. A read of another shape is widened and answered with its part. A write of
// another shape reads and rewrites the units at its ends, which no other write may touch meanwhile: it waits until no change
// is in flight, holds back later ones, and is done by write_now() in place. Files systems on the volume, and the loop device, send
// whole units; only tools that write to the file by hand do otherwise.
#define FUSE_USE_VERSION 314
#include "serve/fuse/fuse_export.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <future>
#include <vector>

#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fuse_lowlevel.h>

#include "serve/reactor.h"

extern char** environ;

namespace lamella::fuse {

namespace {

constexpr fuse_ino_t root_inode = FUSE_ROOT_ID;
constexpr fuse_ino_t file_inode = 2;
constexpr double attribute_seconds = 1.0;  // how soon the kernel sees that a volume has grown
constexpr unsigned max_background = 64;    // requests that the kernel sends without waiting for earlier ones
constexpr std::size_t max_idle_requests = 16;
constexpr std::size_t status_extents = 256;

// `dead`: its process is gone, and whoever has it open doesn't matter. Whatever fusermount3 says goes to this process's standard error,
// as libfuse's own use of it does.
Result<void> unmount_at(const std::string& mount_point, bool dead) {
    if (::geteuid() == 0) {
        if (::umount2(mount_point.c_str(), UMOUNT_NOFOLLOW | (dead ? MNT_DETACH : 0)) != 0)
            return fail_errno(mount_point);
        return {};
    }
    std::vector<std::string> words{"fusermount3", "-u"};
    if (dead)
        words.push_back("-z");
    words.insert(words.end(), {"--", mount_point});
    std::vector<char*> arguments;
    for (std::string& word : words)
        arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t child;
    if (int error = ::posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ); error != 0)
        return fail_errno("fusermount3", error);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return fail_errno("fusermount3");
    if (status == 0)
        return {};
    return dead ? fail(ErrorKind::failed, "{}: fusermount3 could not unmount it", mount_point) : fail_errno(mount_point, EBUSY);
}

}  // namespace

class FuseExport::Implementation {
  public:
    Implementation(BlockDevice& device, const MountOptions& options)
        : device_(device), options_(options), alignment_(device.traits().alignment) {}
    ~Implementation();

    Result<void> mount(Clock& clock);
    Result<void> unmount();
    bool mounted() const { return mounted_; }
    std::string path() const { return options_.mount_point + "/" + options_.file_name; }

  private:
    // One request of the kernel in flight. Kept and used again, with its buffer.
    struct Request {
        Implementation* owner = nullptr;
        fuse_req_t fuse = nullptr;
        IoRequest io;
        iovec vector{};
        AlignedBuffer buffer;
        void* message = nullptr;   // a write's data lies in the message that brought it
        std::uint64_t offset = 0;  // as the kernel asked
        std::uint64_t length = 0;
        bool is_change = false;
        StatusRequest status;  // of a seek
        bool seek_hole = false;
    };

    struct SessionWatcher : Watcher {
        Implementation* owner = nullptr;
    };

    static Implementation& of(fuse_req_t request) { return *static_cast<Implementation*>(fuse_req_userdata(request)); }
    static const fuse_lowlevel_ops operations;

    void receive();
    std::uint64_t size() const { return device_.size() / alignment_ * alignment_; }
    struct stat attributes(fuse_ino_t inode) const;
    bool is_aligned(std::uint64_t offset, std::uint64_t length) const { return offset % alignment_ == 0 && length % alignment_ == 0; }

    Request& take(fuse_req_t fuse);
    void give_back(Request& request);
    void submit(Request& request);
    void finish(Request& request, int error);
    // Changes: held back while one that isn't aligned waits for those before it.
    void start_change(Request& request);
    void start_held_back();
    int perform_unaligned(Request& request);

    void read(fuse_req_t fuse, std::size_t length, std::uint64_t offset);
    void write(fuse_req_t fuse, const char* bytes, std::size_t length, std::uint64_t offset);
    void zero(fuse_req_t fuse, int mode, std::uint64_t offset, std::uint64_t length);
    void flush(fuse_req_t fuse);
    void seek(fuse_req_t fuse, std::uint64_t offset, int whence);
    void seek_on(Request& request);

    BlockDevice& device_;
    const MountOptions options_;
    const std::uint64_t alignment_;
    fuse_session* session_ = nullptr;
    std::atomic<bool> mounted_{false};
    std::unique_ptr<Reactor> reactor_;

    // On the reactor's thread.
    SessionWatcher watcher_;
    bool watching_ = false;
    fuse_buf message_{};                // its memory is libfuse's choice, and malloc's
    std::vector<void*> idle_messages_;  // memory of messages whose writes are done
    std::vector<std::unique_ptr<Request>> requests_;
    std::vector<Request*> idle_;
    std::size_t in_flight_ = 0;
    std::size_t changes_in_flight_ = 0;
    std::deque<Request*> held_back_;
    std::promise<void>* drained_ = nullptr;
};

const fuse_lowlevel_ops FuseExport::Implementation::operations = {
    .init =
        [](void*, fuse_conn_info* connection) {
            connection->want &= ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
            connection->want |= connection->capable & (FUSE_CAP_ASYNC_DIO | FUSE_CAP_ASYNC_READ);
            connection->max_background = max_background;
            connection->congestion_threshold = max_background * 3 / 4;
        },
    .lookup =
        [](fuse_req_t request, fuse_ino_t parent, const char* name) {
            Implementation& self = of(request);
            if (parent != root_inode || self.options_.file_name != name) {
                fuse_reply_err(request, ENOENT);
                return;
            }
            fuse_entry_param entry{};
            entry.ino = file_inode;
            entry.attr = self.attributes(file_inode);
            entry.attr_timeout = attribute_seconds;
            entry.entry_timeout = attribute_seconds;
            fuse_reply_entry(request, &entry);
        },
    .getattr =
        [](fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
            struct stat attributes = of(request).attributes(inode);
            fuse_reply_attr(request, &attributes, attribute_seconds);
        },
    .setattr =
        [](fuse_req_t request, fuse_ino_t inode, struct stat* wanted, int what, fuse_file_info*) {
            struct stat attributes = of(request).attributes(inode);
            constexpr int times =
                FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_CTIME;
            bool same_size = !(what & FUSE_SET_ATTR_SIZE) || wanted->st_size == attributes.st_size;
            if (!same_size || (what & ~(times | FUSE_SET_ATTR_SIZE)))
                fuse_reply_err(request, EOPNOTSUPP);
            else
                fuse_reply_attr(request, &attributes, attribute_seconds);
        },
    .open =
        [](fuse_req_t request, fuse_ino_t inode, fuse_file_info* file) {
            if (inode != file_inode) {
                fuse_reply_err(request, EISDIR);
            } else if (of(request).options_.read_only && (file->flags & O_ACCMODE) != O_RDONLY) {
                fuse_reply_err(request, EROFS);
            } else {
                file->direct_io = 1;
                fuse_reply_open(request, file);
            }
        },
    .read = [](fuse_req_t request, fuse_ino_t, std::size_t length, off_t offset,
               fuse_file_info*) { of(request).read(request, length, static_cast<std::uint64_t>(offset)); },
    .write = [](fuse_req_t request, fuse_ino_t, const char* bytes, std::size_t length, off_t offset,
                fuse_file_info*) { of(request).write(request, bytes, length, static_cast<std::uint64_t>(offset)); },
    .fsync = [](fuse_req_t request, fuse_ino_t, int, fuse_file_info*) { of(request).flush(request); },
    .readdir =
        [](fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset, fuse_file_info*) {
            Implementation& self = of(request);
            const std::pair<const char*, fuse_ino_t> entries[] = {
                {".", root_inode}, {"..", root_inode}, {self.options_.file_name.c_str(), file_inode}};
            std::vector<char> buffer(std::min<std::size_t>(size, 64 * 1024));
            std::size_t used = 0;
            for (off_t at = offset; inode == root_inode && at < static_cast<off_t>(std::size(entries)); ++at) {
                struct stat attributes = self.attributes(entries[at].second);
                std::size_t length =
                    fuse_add_direntry(request, buffer.data() + used, buffer.size() - used, entries[at].first, &attributes, at + 1);
                if (length > buffer.size() - used)
                    break;
                used += length;
            }
            fuse_reply_buf(request, buffer.data(), used);
        },
    .statfs =
        [](fuse_req_t request, fuse_ino_t) {
            struct statvfs status {};
            status.f_bsize = status.f_frsize = 4096;
            status.f_blocks = of(request).size() / 4096;
            status.f_files = 1;
            status.f_namemax = 255;
            fuse_reply_statfs(request, &status);
        },
    .fallocate =
        [](fuse_req_t request, fuse_ino_t, int mode, off_t offset, off_t length, fuse_file_info*) {
            of(request).zero(request, mode, static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(length));
        },
    .lseek = [](fuse_req_t request, fuse_ino_t, off_t offset, int whence,
                fuse_file_info*) { of(request).seek(request, static_cast<std::uint64_t>(offset), whence); },
};

FuseExport::Implementation::~Implementation() {
    if (reactor_) {
        // Detached first, so that no new request comes; those that the kernel has sent are answered.
        std::promise<void> drained;
        reactor_->run([this, &drained] {
            if (watching_)
                reactor_->queue().unwatch(watcher_);
            watching_ = false;
            drained_ = &drained;
            if (in_flight_ == 0)
                drained.set_value();
        });
        drained.get_future().wait();
        reactor_.reset();
    }
    std::free(message_.mem);
    for (void* memory : idle_messages_)
        std::free(memory);
    if (session_) {
        fuse_session_unmount(session_);  // nothing happens when it isn't mounted, or no longer
        fuse_session_destroy(session_);
    }
}

Result<void> FuseExport::Implementation::mount(Clock& clock) {
    std::string source = "lamella";
    std::string settings = fmt::format("fsname={},subtype=lamella,default_permissions{}", source, options_.read_only ? ",ro" : "");
    char* words[] = {source.data(), const_cast<char*>("-o"), settings.data()};
    fuse_args arguments = FUSE_ARGS_INIT(3, words);
    session_ = fuse_session_new(&arguments, &operations, sizeof operations, this);
    fuse_opt_free_args(&arguments);
    if (!session_)
        return fail(ErrorKind::failed, "{}: FUSE cannot be set up", options_.mount_point);
    if (fuse_session_mount(session_, options_.mount_point.c_str()) != 0)
        return fail(ErrorKind::failed, "{}: cannot be mounted; FUSE needs /dev/fuse, and fusermount3 for users other than root",
                    options_.mount_point);
    mounted_ = true;
    int fd = fuse_session_fd(session_);
    if (::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) != 0)
        return fail_errno("FUSE");
    reactor_ = TRY(Reactor::start(0, clock));
    Result<void> watched;
    reactor_->run_and_wait([&] {
        watcher_.owner = this;
        watcher_.fd = fd;
        watcher_.events = EPOLLIN;
        watcher_.ready = [](Watcher& watcher, std::uint32_t) { static_cast<SessionWatcher&>(watcher).owner->receive(); };
        watched = reactor_->queue().watch(watcher_);
        watching_ = watched.has_value();
    });
    return watched;
}

Result<void> FuseExport::Implementation::unmount() {
    if (!mounted_)
        return {};
    if (!options_.read_only)
        TRY_WITHIN(path(), flush_now(device_));
    TRY(unmount_at(options_.mount_point, false));
    mounted_ = false;
    return {};
}

void FuseExport::Implementation::receive() {
    // As many as there are, but other work gets its turn.
    for (int count = 0; count < 32; ++count) {
        if (!message_.mem && !idle_messages_.empty()) {
            message_.mem = idle_messages_.back();
            idle_messages_.pop_back();
        }
        int result = fuse_session_receive_buf(session_, &message_);
        if (result == -EAGAIN || result == -EINTR)
            return;
        if (result <= 0) {
            // Unmounted, or the connection was aborted.
            mounted_ = false;
            if (watching_)
                reactor_->queue().unwatch(watcher_);
            watching_ = false;
            return;
        }
        fuse_session_process_buf(session_, &message_);
    }
}

struct stat FuseExport::Implementation::attributes(fuse_ino_t inode) const {
    struct stat attributes {};
    attributes.st_ino = inode;
    attributes.st_uid = ::geteuid();
    attributes.st_gid = ::getegid();
    if (inode == root_inode) {
        attributes.st_mode = S_IFDIR | 0500;
        attributes.st_nlink = 2;
        return attributes;
    }
    attributes.st_mode = S_IFREG | (options_.read_only ? 0400 : 0600);
    attributes.st_nlink = 1;
    attributes.st_size = static_cast<off_t>(size());
    attributes.st_blocks = attributes.st_size / 512;
    attributes.st_blksize = static_cast<blksize_t>(std::clamp<std::uint64_t>(device_.traits().preferred_io, 4096, 1 << 20));
    return attributes;
}

FuseExport::Implementation::Request& FuseExport::Implementation::take(fuse_req_t fuse) {
    if (idle_.empty()) {
        requests_.push_back(std::make_unique<Request>());
        idle_.push_back(requests_.back().get());
    }
    Request& request = *idle_.back();
    idle_.pop_back();
    request.owner = this;
    request.fuse = fuse;
    request.io = {};
    request.io.context = &request;
    request.io.completed = [](IoRequest& io, int error) {
        auto& done = *static_cast<Request*>(io.context);
        done.owner->finish(done, error);
    };
    request.is_change = false;
    ++in_flight_;
    return request;
}

void FuseExport::Implementation::give_back(Request& request) {
    if (void* memory = std::exchange(request.message, nullptr)) {
        if (idle_messages_.size() < max_idle_requests)
            idle_messages_.push_back(memory);
        else
            std::free(memory);
    }
    if (idle_.size() < max_idle_requests)
        idle_.push_back(&request);
    else
        std::erase_if(requests_, [&](const auto& owned) { return owned.get() == &request; });
    if (--in_flight_ == 0 && drained_)
        drained_->set_value();
}

void FuseExport::Implementation::submit(Request& request) {
    if (request.io.operation == IoOperation::read || request.io.operation == IoOperation::write)
        request.io.vectors = {&request.vector, 1};
    device_.submit(reactor_->queue(), request.io);
}

void FuseExport::Implementation::finish(Request& request, int error) {
    if (error != 0)
        fuse_reply_err(request.fuse, error);
    else if (request.io.operation == IoOperation::read)
        fuse_reply_buf(request.fuse, reinterpret_cast<char*>(request.buffer.data()) + request.offset % alignment_, request.length);
    else if (request.io.operation == IoOperation::write)
        fuse_reply_write(request.fuse, request.length);
    else
        fuse_reply_err(request.fuse, 0);
    bool was_change = request.is_change;
    if (was_change)
        --changes_in_flight_;
    give_back(request);
    if (was_change)
        start_held_back();
}

void FuseExport::Implementation::start_change(Request& request) {
    request.is_change = true;
    held_back_.push_back(&request);
    if (held_back_.size() == 1)
        start_held_back();
}

void FuseExport::Implementation::start_held_back() {
    while (!held_back_.empty()) {
        Request& request = *held_back_.front();
        bool aligned = is_aligned(request.offset, request.length);
        if (!aligned && changes_in_flight_ > 0)
            return;
        held_back_.pop_front();
        ++changes_in_flight_;
        if (aligned) {
            submit(request);
            continue;
        }
        int error = perform_unaligned(request);
        request.is_change = false;
        --changes_in_flight_;
        finish(request, error);
    }
}

int FuseExport::Implementation::perform_unaligned(Request& request) {
    Result<void> result;
    if (request.io.operation == IoOperation::write)
        result = write_now(device_, request.offset, {static_cast<const std::byte*>(request.vector.iov_base), request.length});
    else
        result = write_zeroes_now(device_, request.offset, request.length);
    return result ? 0 : result.error().error_number();
}

void FuseExport::Implementation::read(fuse_req_t fuse, std::size_t length, std::uint64_t offset) {
    std::uint64_t end = size();
    if (offset >= end || length == 0) {
        fuse_reply_buf(fuse, nullptr, 0);
        return;
    }
    Request& request = take(fuse);
    request.offset = offset;
    request.length = std::min<std::uint64_t>(length, end - offset);
    request.io.operation = IoOperation::read;
    request.io.offset = offset / alignment_ * alignment_;
    request.io.length = (offset + request.length + alignment_ - 1) / alignment_ * alignment_ - request.io.offset;
    if (request.buffer.size() < request.io.length)
        request.buffer = AlignedBuffer(request.io.length);
    request.vector = {request.buffer.data(), request.io.length};
    submit(request);
}

void FuseExport::Implementation::write(fuse_req_t fuse, const char* bytes, std::size_t length, std::uint64_t offset) {
    std::uint64_t end = size();
    if (options_.read_only || offset >= end || length == 0) {
        if (length == 0)
            fuse_reply_write(fuse, 0);
        else
            fuse_reply_err(fuse, options_.read_only ? EROFS : ENOSPC);
        return;
    }
    Request& request = take(fuse);
    request.offset = offset;
    request.length = std::min<std::uint64_t>(length, end - offset);
    request.io.operation = IoOperation::write;
    request.io.offset = offset;
    request.io.length = request.length;
    request.message = std::exchange(message_.mem, nullptr);
    request.vector = {const_cast<char*>(bytes), request.length};
    start_change(request);
}

void FuseExport::Implementation::zero(fuse_req_t fuse, int mode, std::uint64_t offset, std::uint64_t length) {
    std::uint64_t end = size();
    bool punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    bool zero_range = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
    if (!punch && !zero_range) {
        fuse_reply_err(fuse, EOPNOTSUPP);
        return;
    }
    if (options_.read_only || offset >= end) {
        fuse_reply_err(fuse, options_.read_only ? EROFS : punch ? 0 : ENOSPC);
        return;
    }
    Request& request = take(fuse);
    request.offset = offset;
    request.length = std::min(length, end - offset);
    // Not a discard: what was punched has to read as zeros.
    request.io.operation = IoOperation::write_zeroes;
    request.io.keep_allocated = zero_range;
    request.io.offset = request.offset;
    request.io.length = request.length;
    start_change(request);
}

void FuseExport::Implementation::flush(fuse_req_t fuse) {
    Request& request = take(fuse);
    request.io.operation = IoOperation::flush;
    submit(request);
}

void FuseExport::Implementation::seek(fuse_req_t fuse, std::uint64_t offset, int whence) {
    if (whence != SEEK_HOLE && whence != SEEK_DATA) {
        fuse_reply_err(fuse, EINVAL);
        return;
    }
    if (offset >= size()) {
        fuse_reply_err(fuse, ENXIO);
        return;
    }
    Request& request = take(fuse);
    request.offset = offset;
    request.seek_hole = whence == SEEK_HOLE;
    request.status.context = &request;
    request.status.max_extents = status_extents;
    request.status.completed = [](StatusRequest& status, int error) {
        auto& done = *static_cast<Request*>(status.context);
        if (error != 0) {
            done.io.operation = IoOperation::flush;
            done.owner->finish(done, error);
            return;
        }
        std::uint64_t at = status.offset;
        for (const StatusExtent& extent : status.extents) {
            at += extent.length;
            // What lies before the offset asked for, in the same unit, doesn't count.
            if (extent.zero == done.seek_hole && at > done.offset) {
                fuse_reply_lseek(done.fuse, static_cast<off_t>(std::max(at - extent.length, done.offset)));
                done.owner->give_back(done);
                return;
            }
        }
        status.offset = at;
        done.owner->seek_on(done);
    };
    request.status.offset = offset / alignment_ * alignment_;
    seek_on(request);
}

void FuseExport::Implementation::seek_on(Request& request) {
    std::uint64_t end = size();
    if (request.status.offset >= end) {
        // The end of a file counts as a hole.
        if (request.seek_hole)
            fuse_reply_lseek(request.fuse, static_cast<off_t>(end));
        else
            fuse_reply_err(request.fuse, ENXIO);
        give_back(request);
        return;
    }
    request.status.length = end - request.status.offset;
    request.status.extents.clear();
    device_.status(reactor_->queue(), request.status);
}

FuseExport::FuseExport(std::unique_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}
FuseExport::~FuseExport() = default;

Result<std::unique_ptr<FuseExport>> FuseExport::mount(BlockDevice& device, const MountOptions& options, Clock& clock) {
    auto implementation = std::make_unique<Implementation>(device, options);
    TRY(implementation->mount(clock));
    return std::unique_ptr<FuseExport>(new FuseExport(std::move(implementation)));
}

Result<void> FuseExport::unmount() { return implementation_->unmount(); }

Result<void> unmount_dead(const std::string& mount_point) { return unmount_at(mount_point, true); }

bool FuseExport::mounted() const { return implementation_->mounted(); }

std::string FuseExport::path() const { return implementation_->path(); }

}  // namespace lamella::fuse
