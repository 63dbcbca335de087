// SPDX-License-Identifier: Apache-2.0
#include "cli/attachment.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <linux/loop.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/file_descriptor.h"
#include "base/files.h"
#include "host/device_users.h"
#include "serve/fuse/fuse_export.h"
#include "serve/nbd/kernel_client.h"
#include "volumes/control.h"

namespace lamella::cli {

namespace {

constexpr int loop_attempts = 64;

std::string first_line(const std::filesystem::path& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

FileDescriptor open_file(const std::string& path, int flags) { return FileDescriptor(::open(path.c_str(), flags | O_CLOEXEC)); }

}  // namespace

std::string mount_point_of(const std::string& group, const std::string& volume) {
    return fmt::format("{}/mnt/{}/{}", runtime_directory(), group, volume);
}

Result<std::string> make_mount_point(const std::string& group, const std::string& volume) {
    TRY(make_runtime_directory());
    std::string path = mount_point_of(group, volume);
    MountState state = mount_state(path);
    if (state == MountState::live)
        return fail(ErrorKind::refused, "{}: a volume of that name is attached there, of another group named {}", path, group);
    if (state == MountState::dead) {
        for (const std::string& device : loop_devices_of(path + "/" + volume))
            TRY(remove_loop_device(device));
        TRY(fuse::unmount_dead(path));
    }
    TRY(make_directories(path));
    return path;
}

void remove_mount_point(const std::string& mount_point) {
    if (::rmdir(mount_point.c_str()) == 0)
        ::rmdir(mount_point.substr(0, mount_point.rfind('/')).c_str());
}

MountState mount_state(const std::string& mount_point) {
    if (std::ranges::none_of(host::mounts(), [&](const host::Mount& mount) { return mount.point == mount_point; }))
        return MountState::none;
    // Asks the file system's process, where stat() may be answered from what the kernel remembers.
    struct statfs status;
    return ::statfs(mount_point.c_str(), &status) != 0 && errno == ENOTCONN ? MountState::dead : MountState::live;
}

Result<std::string> nbd_identifier(const std::string& physical_volume, const std::string& volume) {
    std::string name = TRY(control_socket_name(physical_volume));
    return fmt::format("lamella/{}/{}", name.substr(0, name.rfind('.')), volume);
}

Result<std::vector<std::string>> nbd_devices_of(const std::vector<std::string>& physical_volumes, const std::string& volume) {
    std::vector<std::string> devices;
    for (const std::string& path : physical_volumes)
        for (std::string& device : nbd::kernel_devices(TRY(nbd_identifier(path, volume))))
            devices.push_back(std::move(device));
    return devices;
}

Result<void> remove_nbd_device(const std::string& device) {
    TRY(refuse_if_used(device));
    return nbd::disconnect_kernel_device(device);
}

std::vector<std::string> loop_devices_of(const std::string& file) {
    std::vector<std::string> devices;
    std::error_code error;
    for (const auto& device : std::filesystem::directory_iterator("/sys/block", error)) {
        std::string name = device.path().filename();
        if (name.starts_with("loop") && first_line(device.path() / "loop/backing_file") == file)
            devices.push_back("/dev/" + name);
    }
    std::ranges::sort(devices);
    return devices;
}

Result<std::string> make_loop_device(const std::string& file, bool read_only) {
    const FileDescriptor control = open_file("/dev/loop-control", O_RDWR);
    if (!control.valid())
        return fail(ErrorKind::unsupported, "no loop devices here: /dev/loop-control: {}", std::strerror(errno));
    const FileDescriptor backing = open_file(file, read_only ? O_RDONLY : O_RDWR);
    if (!backing.valid())
        return fail_errno(file);
    loop_config config{};
    config.fd = static_cast<__u32>(backing.get());
    config.block_size = 512;
    std::snprintf(reinterpret_cast<char*>(config.info.lo_file_name), sizeof config.info.lo_file_name, "%s", file.c_str());
    // Others take free devices at the same time: the number is only a proposal.
    for (int attempt = 0; attempt < loop_attempts; ++attempt) {
        int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
        if (number < 0)
            return fail(ErrorKind::unsupported, "no loop device is free: {}", std::strerror(errno));
        std::string path = fmt::format("/dev/loop{}", number);
        struct stat status;
        // In a container nobody may be there to make the node.
        if (::stat(path.c_str(), &status) != 0 && ::mknod(path.c_str(), S_IFBLK | 0600, makedev(7, static_cast<unsigned>(number))) != 0 &&
            errno != EEXIST)
            return fail(ErrorKind::unsupported, "{}: {}", path, std::strerror(errno));
        const FileDescriptor device = open_file(path, O_RDWR);
        if (!device.valid())
            return fail(ErrorKind::unsupported, "{}: {}", path, std::strerror(errno));
        // Direct I/O, so that the volume isn't cached a second time; where the file can't, without.
        for (unsigned direct : {static_cast<unsigned>(LO_FLAGS_DIRECT_IO), 0u}) {
            config.info.lo_flags = (read_only ? static_cast<unsigned>(LO_FLAGS_READ_ONLY) : 0u) | direct;
            if (::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0)
                return path;
            if (errno != EINVAL)
                break;
        }
        if (errno != EBUSY)
            return fail(ErrorKind::unsupported, "{}: {}", path, std::strerror(errno));
    }
    return fail(ErrorKind::refused, "loop devices are taken faster than one can be had");
}

Result<void> remove_loop_device(const std::string& path) {
    const FileDescriptor device = open_file(path, O_RDWR);
    int fd = device.get();
    const FileDescriptor reader = open_file(path, O_RDONLY);
    if (fd < 0)
        fd = reader.get();
    if (fd < 0)
        return fail_errno(path);
    // A device whose file's process is gone can't be flushed any more; it has to go all the same.
    if (::fsync(fd) != 0 && errno != EIO)
        return fail_errno(path);
    if (::ioctl(fd, LOOP_CLR_FD, 0) != 0 && errno != ENXIO)
        return fail_errno(path);
    return {};
}

void grow_attached(Context& context, const VolumeAddress& address, VolumeGroup& group, const VolumeInfo& volume) {
    if (context.dry_run)
        return;
    const auto follow = [&]() -> Result<void> {
        const GroupInfo info = TRY(group.info());
        std::vector<std::string> paths = address.group.paths;
        if (paths.empty() && info.served)
            for (const PhysicalVolumeInfo& physical : info.physical_volumes)
                paths.push_back(physical.device);
        if (paths.empty())
            return {};
        for (const std::string& device : TRY(nbd_devices_of(paths, volume.name)))
            TRY(nbd::resize_kernel_device(device, volume.size));
        const std::string file = mount_point_of(info.name, volume.name) + "/" + volume.name;
        for (const std::string& path : loop_devices_of(file)) {
            struct statx status;  // asking the file's process makes the kernel see its new size
            const FileDescriptor device = open_file(path, O_RDWR);
            if (::statx(AT_FDCWD, file.c_str(), AT_STATX_FORCE_SYNC, STATX_SIZE, &status) != 0 || !device.valid() ||
                ::ioctl(device.get(), LOOP_SET_CAPACITY, 0) != 0)
                return fail_errno(path);
        }
        return {};
    };
    if (auto followed = follow(); !followed)
        context.note(fmt::format("volume {} has grown, but not the block device that it is attached as: {}", address.text(),
                                 followed.error().message()));
}

Result<void> refuse_if_used(const std::string& path) {
    std::vector<std::string> users = host::users_of(path);
    if (!users.empty())
        return fail(ErrorKind::refused, "{} is in use: {}", path, fmt::join(users, ", "));
    return {};
}

void wait_for_end_of(int process) {
    int fd = static_cast<int>(::syscall(SYS_pidfd_open, process, 0));
    if (fd < 0)
        return;  // gone already
    pollfd polled{fd, POLLIN, 0};
    while (::poll(&polled, 1, -1) < 0 && errno == EINTR) {}
    ::close(fd);
}

}  // namespace lamella::cli
