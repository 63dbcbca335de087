// SPDX-License-Identifier: Apache-2.0
#include "device/file_device.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/strong.h"
#include "device/vectors.h"

namespace lamella {

namespace {

constexpr std::uint64_t max_bounce = 1024 * 1024;

// A request that goes through a buffer of its own, piece by piece.
struct Bounce {
    IoQueue& queue;
    IoRequest& parent;
    int fd;
    bool is_block_device;
    std::uint64_t alignment;
    std::uint64_t end;        // of the device
    std::uint64_t done = 0;   // bytes of the parent
    std::uint64_t piece = 0;  // bytes of the parent in the current child
    std::uint64_t skipped = 0;
    AlignedBuffer buffer{};
    iovec vector{};
    IoRequest child{};

    void start_piece() {
        const std::uint64_t offset = parent.offset + done;
        skipped = offset % alignment;
        piece = std::min(parent.length - done, buffer.size() - skipped);
        std::uint64_t length = (skipped + piece + alignment - 1) / alignment * alignment;
        // The last unit of a device may be cut short.
        length = std::min(length, end - (offset - skipped));
        if (parent.operation == IoOperation::write)
            copy_from_vectors(parent.vectors, done, buffer.bytes().first(piece));
        vector = {buffer.data(), length};
        child = {.operation = parent.operation,
                 .durable = parent.durable,
                 .offset = offset - skipped,
                 .length = length,
                 .vectors = {&vector, 1}};
        child.context = this;
        child.completed = [](IoRequest& finished, int error) { static_cast<Bounce*>(finished.context)->piece_completed(error); };
        queue.submit_file(fd, is_block_device, child);
    }

    void piece_completed(int error) {
        if (error == 0) {
            if (parent.operation == IoOperation::read)
                copy_to_vectors(parent.vectors, done, buffer.bytes().subspan(skipped, piece));
            done += piece;
            if (done < parent.length) {
                start_piece();
                return;
            }
        }
        IoRequest& request = parent;
        delete this;
        request.completed(request, error);
    }
};

// A discard cut down to whole units.
struct Trimmed {
    IoRequest& parent;
    IoRequest child{};

    static void submit(IoQueue& queue, int fd, bool is_block_device, IoRequest& parent, std::uint64_t start, std::uint64_t end) {
        auto* trimmed = new Trimmed{.parent = parent};
        trimmed->child = {.operation = IoOperation::discard, .offset = start, .length = end - start};
        trimmed->child.context = trimmed;
        trimmed->child.completed = [](IoRequest& finished, int error) {
            auto* self = static_cast<Trimmed*>(finished.context);
            IoRequest& request = self->parent;
            delete self;
            request.completed(request, error);
        };
        queue.submit_file(fd, is_block_device, trimmed->child);
    }
};

std::string sysfs_folder(dev_t device) { return fmt::format("/sys/dev/block/{}:{}", major(device), minor(device)); }

// An attribute of the disk that holds a device or a partition; empty where there is none, as for a network file system.
std::string queue_attribute(dev_t device, std::string_view attribute) {
    const std::string folder = sysfs_folder(device);
    for (const std::string_view between : {"/queue/", "/../queue/"}) {
        std::ifstream file(fmt::format("{}{}{}", folder, between, attribute));
        std::string value;
        if (file >> value)
            return value;
    }
    return {};
}

std::uint64_t queue_number(dev_t device, std::string_view attribute, std::uint64_t otherwise) {
    const std::string text = queue_attribute(device, attribute);
    return text.empty() ? otherwise : std::strtoull(text.c_str(), nullptr, 10);
}

// What no crash tears on a disk or a partition of one (DeviceTraits::physical_block): 512 to 4096 bytes. Where a partition begins within a
// block, alignment_offset isn't 0. Of anything that stands on other devices no more is known than a sector, whatever it says: the kernel
// takes the largest block of the disks in a stack, doesn't look where in the whole a table's target begins, and some targets split what
// they are given; a loop device and one of nbd say what they were told; persistent memory keeps less than a sector whole.
std::uint64_t physical_block_of(dev_t device) {
    namespace fs = std::filesystem;
    constexpr unsigned nbd_major = 43;
    const fs::path folder = sysfs_folder(device);
    std::error_code error;
    const fs::path disk = fs::exists(folder / "partition", error) ? fs::canonical(folder, error).parent_path() : folder;
    const bool stands_on_others = !fs::is_empty(disk / "slaves", error) || error;
    const bool says_what_it_was_told = major(device) == nbd_major || fs::exists(disk / "loop", error);
    const bool is_memory = queue_number(device, "dax", 0) != 0;
    const std::uint64_t block = queue_number(device, "physical_block_size", 0);
    std::int64_t misaligned = 0;
    if (std::ifstream file(folder / "alignment_offset");
        !(file >> misaligned) || misaligned != 0 || stands_on_others || says_what_it_was_told || is_memory || !std::has_single_bit(block))
        return sector_bytes;
    return std::clamp<std::uint64_t>(block, sector_bytes, 4096);
}

// Makes the entry of a new file durable.
Result<void> sync_folder_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool synced = fd >= 0 && ::fsync(fd) == 0;
    const int error = errno;
    if (fd >= 0)
        ::close(fd);
    if (!synced)
        return fail_errno(folder, error);
    return {};
}

// Can `fd`, opened with O_DIRECT, read units of `alignment` bytes? An empty file answers yes to all that its system takes.
bool reads_directly(int fd, std::size_t alignment) {
    AlignedBuffer buffer(2 * alignment);
    const ssize_t got = ::pread(fd, buffer.data() + alignment, alignment, static_cast<off_t>(alignment));
    return got >= 0;
}

}  // namespace

Result<std::unique_ptr<FileDevice>> FileDevice::open(const std::string& path, const FileOptions& options) {
    std::unique_ptr<FileDevice> device(new FileDevice);
    device->path_ = path;
    if (options.create) {
        if (*options.create > static_cast<std::uint64_t>(INT64_MAX))
            return fail(ErrorKind::usage, "{}: {} bytes are more than a file can have", path, *options.create);
        device->fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (device->fd_ < 0)
            return fail_errno(path);
        if (::ftruncate(device->fd_, static_cast<off_t>(*options.create)) != 0 || ::fsync(device->fd_) != 0) {
            auto error = fail_errno(fmt::format("{}: setting its size to {} bytes", path, *options.create));
            ::unlink(path.c_str());
            return error;
        }
        TRY(sync_folder_of(path));
    } else {
        // O_EXCL without O_CREAT claims a block device, and nothing else. It must not be asked of a file before it is known to be one.
        struct stat status {};
        if (::stat(path.c_str(), &status) != 0)
            return fail_errno(path);
        if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
            return fail(ErrorKind::usage, "{} is neither a file nor a block device", path);
        const int claim = S_ISBLK(status.st_mode) && (!options.read_only || options.claim_read_only) ? O_EXCL : 0;
        device->fd_ = ::open(path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | claim);
        if (device->fd_ < 0) {
            const int error = errno;
            const std::string users = error == EBUSY ? users_of_block_device(status.st_rdev) : "";
            if (error == EBUSY)
                return fail(ErrorKind::refused, "{} is in use: {}", path, users.empty() ? "another program has claimed it" : users);
            return fail_errno(path, error);
        }
        // It was for the open alone. io_uring would answer EAGAIN for it where a file system can't work without blocking.
        if (::fcntl(device->fd_, F_SETFL, ::fcntl(device->fd_, F_GETFL) & ~O_NONBLOCK) != 0)
            return fail_errno(path);
    }
    TRY(device->discover(options));
    return device;
}

FileDevice::~FileDevice() {
    if (fd_ >= 0)
        ::close(fd_);
}

Result<void> FileDevice::discover(const FileOptions& options) {
    struct stat status {};
    if (::fstat(fd_, &status) != 0)
        return fail_errno(path_);
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return fail(ErrorKind::usage, "{} is neither a file nor a block device", path_);
    is_block_device_ = S_ISBLK(status.st_mode);
    lock_ = TRY(FileLock::take(fd_, path_, options.read_only ? FileLock::Mode::shared : FileLock::Mode::exclusive));
    if (!is_block_device_ && !options.read_only)
        TRY(refuse_if_loop_in_use(fd_, path_));

    traits_.read_only = options.read_only;
    traits_.preferred_io = std::max<std::uint64_t>(4096, static_cast<std::uint64_t>(status.st_blksize));
    const dev_t disk = is_block_device_ ? status.st_rdev : status.st_dev;
    traits_.rotational = queue_number(disk, "rotational", 0) != 0;
    TRY(discover_alignment(options));
    discover_physical_block(disk);
    size_ = TRY(measure());

    if (is_block_device_) {
        traits_.discards = !options.read_only && queue_number(disk, "discard_max_bytes", 0) > 0;
        traits_.discard_zeroes = false;  // BLKDISCARD promises nothing
        traits_.discard_granularity = std::max<std::uint64_t>(traits_.alignment, queue_number(disk, "discard_granularity", 4096));
    } else {
        // A hole beyond the end changes nothing, and tells whether the file system makes holes.
        const auto beyond = static_cast<off_t>((static_cast<std::uint64_t>(status.st_size) / 4096 + 1) * 4096);
        traits_.discards = !options.read_only && ::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, beyond, 4096) == 0;
        traits_.discard_zeroes = traits_.discards;
        traits_.discard_granularity = traits_.preferred_io;
    }
    return {};
}

Result<void> FileDevice::discover_alignment(const FileOptions& options) {
    traits_.alignment = 512;
    const int flags = ::fcntl(fd_, F_GETFL);
    if (flags < 0)
        return fail_errno(path_);
    if (is_block_device_) {
        int sector = 512;
        if (::ioctl(fd_, BLKSSZGET, &sector) != 0)
            return fail_errno(fmt::format("{}: asking for its sector size", path_));
        if (sector > 4096)
            return fail(ErrorKind::unsupported, "{} has sectors of {} bytes", path_, sector);
        traits_.alignment = static_cast<std::uint32_t>(sector);
    }
    if (options.direct == FileOptions::Direct::never || ::fcntl(fd_, F_SETFL, flags | O_DIRECT) != 0)
        return {};

    std::uint32_t alignment = 0;
    std::uint32_t memory = 0;
    struct statx extended {};
    if (::statx(fd_, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 && (extended.stx_mask & STATX_DIOALIGN) != 0) {
        alignment = extended.stx_dio_offset_align;
        memory = extended.stx_dio_mem_align;
        const bool usable = std::has_single_bit(alignment) && std::has_single_bit(memory) && alignment <= 4096 && memory <= 4096;
        if (!usable)
            alignment = 0;
        else
            alignment = std::max({alignment, traits_.alignment});
    } else {
        for (const std::uint32_t candidate : {512U, 4096U}) {
            if (candidate >= traits_.alignment && reads_directly(fd_, candidate)) {
                alignment = memory = candidate;
                break;
            }
        }
    }
    // Some file systems accept the flag and refuse the transfer.
    if (alignment == 0 || !reads_directly(fd_, alignment)) {
        if (::fcntl(fd_, F_SETFL, flags) != 0)
            return fail_errno(path_);
        return {};
    }
    direct_ = true;
    traits_.alignment = alignment;
    memory_alignment_ = memory;
    return {};
}

// Of files only where the file system's blocks are known to be whole blocks of its disk's.
void FileDevice::discover_physical_block(dev_t disk) {
    traits_.physical_block = sector_bytes;
    std::uint64_t most = 4096;
    if (!is_block_device_) {
        struct statfs system {};
        struct fsxattr attributes {};
        if (::fstatfs(fd_, &system) != 0)
            return;
        const bool on_disk =
            system.f_type == EXT4_SUPER_MAGIC || (system.f_type == XFS_SUPER_MAGIC && ::ioctl(fd_, FS_IOC_FSGETXATTR, &attributes) == 0 &&
                                                  (attributes.fsx_xflags & FS_XFLAG_REALTIME) == 0);
        if (!on_disk || !std::has_single_bit(static_cast<std::uint64_t>(system.f_bsize)))
            return;
        most = static_cast<std::uint64_t>(system.f_bsize);
    }
    traits_.physical_block =
        static_cast<std::uint32_t>(std::clamp(std::min(most, physical_block_of(disk)), sector_bytes, std::uint64_t{4096}));
}

Result<std::uint64_t> FileDevice::measure() const {
    if (is_block_device_) {
        std::uint64_t bytes = 0;
        if (::ioctl(fd_, BLKGETSIZE64, &bytes) != 0)
            return fail_errno(fmt::format("{}: asking for its size", path_));
        return bytes;
    }
    struct stat status {};
    if (::fstat(fd_, &status) != 0)
        return fail_errno(path_);
    const auto bytes = static_cast<std::uint64_t>(status.st_size);
    return bytes - bytes % traits_.alignment;
}

Result<void> FileDevice::grow(std::uint64_t new_size) {
    if (is_block_device_)
        return fail(ErrorKind::unsupported, "{} is a block device: it can't be grown from here", path_);
    if (new_size < size() || new_size > static_cast<std::uint64_t>(INT64_MAX))
        return fail(ErrorKind::usage, "{} can't be set to {} bytes; it has {}", path_, new_size, size());
    if (::ftruncate(fd_, static_cast<off_t>(new_size)) != 0 || ::fsync(fd_) != 0)
        return fail_errno(fmt::format("{}: growing it to {} bytes", path_, new_size));
    return refresh_size();
}

Result<void> FileDevice::refresh_size() {
    size_ = TRY(measure());
    return {};
}

bool FileDevice::suits(const IoRequest& request) const {
    if (!direct_)
        return true;
    if (((request.offset | request.length) & (traits_.alignment - 1)) != 0)
        return false;
    for (const iovec& vector : request.vectors) {
        if ((reinterpret_cast<std::uintptr_t>(vector.iov_base) & (memory_alignment_ - 1)) != 0 ||
            (vector.iov_len & (traits_.alignment - 1)) != 0)
            return false;
    }
    return true;
}

void FileDevice::submit(IoQueue& queue, IoRequest& request) {
    const std::uint32_t alignment = request.operation == IoOperation::read ? 1 : traits_.alignment;
    int error = check_request(request, size(), alignment);
    if (error == 0 && traits_.read_only && request.operation != IoOperation::read && request.operation != IoOperation::flush)
        error = EROFS;
    if (error != 0) {
        queue.complete_later(request, error);
        return;
    }
    switch (request.operation) {
    case IoOperation::read:
    case IoOperation::write:
        if (request.length == 0) {
            queue.complete_later(request, 0);
            return;
        }
        if (!suits(request)) {
            const std::uint64_t unit = traits_.alignment;
            const std::uint64_t room = std::min(max_bounce, (request.length + unit - 1) / unit * unit + unit);
            auto* bounce = new Bounce{.queue = queue,
                                      .parent = request,
                                      .fd = fd_,
                                      .is_block_device = is_block_device_,
                                      .alignment = unit,
                                      .end = size(),
                                      .buffer = AlignedBuffer(room)};
            bounce->start_piece();
            return;
        }
        break;
    case IoOperation::discard: {
        // Whole units only.
        const std::uint64_t unit = traits_.alignment;
        const std::uint64_t start = (request.offset + unit - 1) / unit * unit;
        const std::uint64_t end = (request.offset + request.length) / unit * unit;
        if (start >= end) {
            queue.complete_later(request, 0);
            return;
        }
        if (start != request.offset || end != request.offset + request.length) {
            Trimmed::submit(queue, fd_, is_block_device_, request, start, end);
            return;
        }
        break;
    }
    case IoOperation::write_zeroes:
        if (((request.offset | request.length) & (traits_.alignment - 1)) != 0) {
            queue.complete_later(request, EINVAL);
            return;
        }
        if (request.length == 0) {
            queue.complete_later(request, 0);
            return;
        }
        // A disk's command for zeros may unmap, and the one that keeps the range allocated may be slow.
        if (is_block_device_ && request.fast_only && request.keep_allocated) {
            queue.complete_later(request, EOPNOTSUPP);
            return;
        }
        break;
    case IoOperation::flush: break;
    }
    queue.submit_file(fd_, is_block_device_, request);
}

void FileDevice::status(IoQueue& queue, StatusRequest& request) {
    if (is_block_device_) {
        BlockDevice::status(queue, request);
        return;
    }
    const std::uint64_t end_of_device = size();
    if (request.offset >= end_of_device) {
        queue.complete_later(request, EINVAL);
        return;
    }
    request.extents.clear();
    const std::uint64_t end = request.offset + std::min(request.length, end_of_device - request.offset);
    for (std::uint64_t place = request.offset; place < end;) {
        const std::uint64_t zeros = known_zero(place, end - place);
        std::uint64_t length = zeros;
        if (zeros == 0) {
            const off_t hole = ::lseek(fd_, static_cast<off_t>(place), SEEK_HOLE);
            const bool known = hole >= 0 && static_cast<std::uint64_t>(hole) > place;
            length = (known ? std::min(end, static_cast<std::uint64_t>(hole)) : end) - place;
        }
        const bool data = zeros == 0;
        if (!request.add({.length = length, .allocated = data, .zero = !data, .depth = static_cast<std::uint8_t>(data ? 1 : 0)}))
            break;
        place += length;
    }
    queue.complete_later(request, 0);
}

std::uint64_t FileDevice::known_zero(std::uint64_t offset, std::uint64_t limit) {
    const std::uint64_t end_of_device = size();
    if (is_block_device_ || offset >= end_of_device)
        return 0;
    limit = std::min(limit, end_of_device - offset);
    const off_t data = ::lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? limit : 0;  // ENXIO: no data from here to the end
    return std::min(limit, static_cast<std::uint64_t>(data) - offset);
}

}  // namespace lamella
