// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "device/block_device.h"
#include "device/file_lock.h"

namespace lamella {

struct FileOptions {
    // A shared lock instead of an exclusive one; writes fail with EROFS.
    bool read_only = false;
    // Block devices are claimed read-only, too: no kernel starts to write to them meanwhile.
    bool claim_read_only = false;

    enum class Direct { automatic, never };
    // automatic: O_DIRECT where the file has it.
    Direct direct = Direct::automatic;

    // Makes a new sparse file of so many bytes; fails with ErrorKind::exists when there is one.
    std::optional<std::uint64_t> create{};
};

// An image file or a block device. Any thread may use it; each through its own queue.
//
// Ownership: the opener holds a FileLock as long as the object lives. Block devices are claimed (O_EXCL) unless read-only; files
// under a loop device that is mounted or part of a device-mapper device are refused unless read-only. Errors of kind `refused` name the
// holder.
//
// Requests: a write that isn't aligned to traits().alignment completes with EINVAL, a read of any range is served. Memory that O_DIRECT
// doesn't take goes through a buffer of at most 1 MiB a request. write_zeroes falls back to real zeros; discard of parts of a unit does
// nothing. What the file system or disk below reports (EIO, ENOSPC) comes through as it is.
class FileDevice final : public BlockDevice {
  public:
    static Result<std::unique_ptr<FileDevice>> open(const std::string& path, const FileOptions& options = {});
    ~FileDevice() override;

    std::uint64_t size() const override { return size_.load(std::memory_order_relaxed); }
    DeviceTraits traits() const override { return traits_; }
    std::string name() const override { return path_; }
    void submit(IoQueue& queue, IoRequest& request) override;
    // Holes of a file as SEEK_HOLE reports them: preallocated blocks that were never written count as holes.
    void status(IoQueue& queue, StatusRequest& request) override;
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) override;

    bool is_block_device() const { return is_block_device_; }
    bool direct() const { return direct_; }

    // Makes a file longer, durably; its new part is a hole. A block device can't: ErrorKind::unsupported.
    Result<void> grow(std::uint64_t size);
    // Asks for the size again, after somebody has grown the file or the disk.
    Result<void> refresh_size();

  private:
    FileDevice() = default;
    Result<void> discover(const FileOptions& options);
    Result<void> discover_alignment(const FileOptions& options);
    void discover_physical_block(dev_t disk);
    Result<std::uint64_t> measure() const;
    bool suits(const IoRequest& request) const;

    int fd_ = -1;
    std::string path_;
    FileLock lock_;
    bool is_block_device_ = false;
    bool direct_ = false;
    std::uint32_t memory_alignment_ = 1;
    DeviceTraits traits_;
    std::atomic<std::uint64_t> size_{0};
};

}  // namespace lamella
