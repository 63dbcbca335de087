// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/environment.h"
#include "device/block_device.h"
#include "lvm2/store.h"
#include "tools/control.h"
#include "tools/visitor.h"
#include "volumes/kernel_group.h"

namespace lamella::cli {

// The disks of a group that nobody else has open for writing, and its text. For writing, groups that are another host's, or unsound, are
// refused.
struct GroupDisks {
    static Result<GroupDisks> open(const std::vector<std::string>& paths, Access access);
    // A linear or striped volume. It borrows the disks, and not the store.
    Result<std::unique_ptr<BlockDevice>> volume(const std::string& name) const;

    std::vector<std::unique_ptr<BlockDevice>> disks;
    lvm2::GroupStore store;
};

// A pool's metadata as a tool is given it: a file, a block device, the pool of a group on image files or disks that nobody uses
// ("./vms.img:pool"), or, for reading, what lamella pack wrote, which is unpacked into a temporary file ($TMPDIR or /var/tmp), or a pool
// that this host's LVM runs ("vg0/pool"): while that is active, its metadata snapshot.
class MetadataInput {
  public:
    // Of "vg0/pool" while it is active: refused, or opened for a caller that looks at nothing but the metadata snapshot in it.
    enum class Active { refused, snapshot };

    // For reading others may read too, and a block device may even be in use; for writing it is ours alone. A file must be there.
    // Errors: not_found, refused (somebody has it), damaged, failed.
    static Result<std::unique_ptr<MetadataInput>> open(const Environment& environment, const std::string& address, Access access,
                                                       Active active = Active::refused);

    // For writing, and of a pool that this host's LVM runs, too: new metadata, which take the place of the old when take() is called.
    // `copied`: these begin as a copy of the old ones; anything else is written where it lies. `source`: what they are made of, where it was
    // read before; if that was the same pool, which was used since, it is refused, here or by take().
    static Result<std::unique_ptr<MetadataInput>> open_to_replace(const Environment& environment, const std::string& address,
                                                                  bool copied = false, const MetadataInput* source = nullptr);
    // After reading: a pool of the host's LVM wasn't used meanwhile. refused: it was, and what was read may be of several moments.
    Result<void> still_whole() const;
    // What is there is whole. Says under which name the old ones are kept; empty: they are overwritten.
    Result<std::string> take();

    BlockDevice& device() const { return made_ != nullptr ? made_->device() : held_ != nullptr ? held_->device() : *device_; }
    // Of a pool in use: only the metadata snapshot is whole.
    bool in_snapshot() const { return held_ != nullptr && held_->in_snapshot(); }
    // "vg0/pool": the group; else null.
    KernelGroup* kernel_group() const { return kernel_.get(); }

  private:
    MetadataInput() = default;
    Result<void> open_pool(const std::vector<std::string>& paths, const std::string& pool, Access access);

    std::vector<std::unique_ptr<BlockDevice>> disks_;  // below a pool
    std::unique_ptr<BlockDevice> device_;
    std::unique_ptr<KernelGroup> kernel_;
    std::unique_ptr<HeldMetadata> held_;
    std::unique_ptr<NewMetadata> made_;
};

// "./vms.img:pool" as an address; none: the text means something else, a path above all.
Result<std::optional<VolumeAddress>> pool_address(const std::string& text);

// "vg0/pool": of a group that this host's LVM runs; none: the text means something else.
Result<std::optional<VolumeAddress>> kernel_pool_address(const std::string& text);

// What a repair would save of metadata, on a temporary device.
Result<std::unique_ptr<BlockDevice>> repaired_copy(BlockDevice& metadata, const tools::HeaderOverrides& overrides,
                                                   const tools::Control& control);

// A device of zeros in a file without a name, which goes with the object; in $TMPDIR or /var/tmp.
Result<std::unique_ptr<BlockDevice>> temporary_device(std::uint64_t bytes);

// Where MetadataInput::take() left the old metadata, in words; empty, if it overwrote them.
std::string kept_text(const std::string& volume);

// Whether two paths lead to the same file or block device, by whatever names; a loop device is its file, from where it begins on. False if one isn't there.
bool same_file(const std::string& path, const std::string& other);

}  // namespace lamella::cli
