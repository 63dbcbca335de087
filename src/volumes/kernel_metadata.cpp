// SPDX-License-Identifier: Apache-2.0
//
// New metadata for a pool of the host's LVM. Nothing but LVM writes to a pool's own metadata: the new are written to a volume beside, looked
// at, and change places with the old by one command of LVM's. Until then the pool is as it was, and afterwards the old are still there.
#include <algorithm>

#include "device/file_device.h"
#include "lvm2/group.h"
#include "thin/superblock.h"
#include "tools/check.h"
#include "volumes/kernel_group.h"
#include "volumes/kernel_parts.h"

namespace lamella {

namespace {

using host::LvmVolume;
using host::LvmWords;

Result<void> copy(BlockDevice& from, BlockDevice& to) {
    AlignedBuffer buffer(1 << 20);
    const std::uint64_t size = std::min(from.size(), to.size());
    for (std::uint64_t at = 0; at < size; at += buffer.bytes().size()) {
        const auto part = buffer.bytes().first(std::min<std::uint64_t>(buffer.bytes().size(), size - at));
        TRY(read_now(from, at, part));
        TRY(write_now(to, at, part));
    }
    return {};
}

// LVM doesn't start a pool whose metadata are of another time than its text, the kernel none of another shape.
// A pool that LVM has no volumes in, as a container engine's, it starts whatever the transaction.
Result<void> refuse_unfitting(BlockDevice& metadata, const VolumeInfo& pool, bool foreign, const std::string& group) {
    AlignedBuffer block(thin::metadata_block_bytes);
    TRY(read_now(metadata, 0, block.bytes()));
    const thin::Superblock superblock = TRY(thin::Superblock::unpack(block.bytes(), true));
    const tools::CheckReport report = TRY(tools::check(metadata, {}));
    // Leaks cost room, and no data.
    if (report.grade > tools::Severity::leak)
        return fail(ErrorKind::damaged, "what was to become the metadata of pool {} isn't sound: {}", pool.name,
                    report.findings.empty() ? to_string(report.grade) : report.findings.front().to_text());
    if (superblock.data_block_sectors * sector_bytes != pool.chunk_size)
        return fail(ErrorKind::refused, "these metadata are of chunks of {} bytes, pool {} has chunks of {}",
                    superblock.data_block_sectors * sector_bytes, pool.name, pool.chunk_size.value_or(0));
    if (report.data_blocks > pool.size / *pool.chunk_size)
        return fail(ErrorKind::refused, "these metadata are of {} chunks, pool {} has {}", report.data_blocks, pool.name,
                    pool.size / *pool.chunk_size);
    if (!foreign && superblock.transaction_id != pool.transaction_id)
        return fail(
            ErrorKind::refused,
            "these metadata have transaction id {}, and LVM's text of pool {} has {}: it would not be started. Put back the text of "
            "their time first (lamella group restore {} --force); --transaction-id raises the id of metadata that lost it",
            superblock.transaction_id, pool.name, pool.transaction_id.value_or(0), group);
    return {};
}

}  // namespace

NewMetadata::~NewMetadata() {
    if (name_.empty())
        return;
    device_.reset();
    (void)group_.undone(lock_, record_, Error(ErrorKind::failed, ""));
}

Result<void> NewMetadata::still_fits() const { return group_.refuse_used(pool_, superblock_); }

Result<std::unique_ptr<NewMetadata>> KernelGroup::new_metadata(const std::string& name, bool copied, const HeldMetadata* source) {
    const KernelView view = TRY(look_to_change());
    const LvmVolume& pool = *TRY(view.find_pool(name));
    if (!view.kernel())
        return std::unexpected(view.kernel().error());
    if (view.lvm().shared())
        return fail(ErrorKind::refused, "group {} is shared between hosts: another one may have pool {}", name_, name);
    if (view.pool_device(pool) != nullptr)
        return fail(ErrorKind::refused, "pool {0} is active: lamella deactivate {1}/{0} --with-contents first", name, name_);
    TRY(refuse_in_use(view, *TRY(view.find(pool.metadata))));
    const std::uint64_t size = TRY(view.find(pool.metadata))->size;
    if (const std::uint64_t room = view.lvm().free_extents * view.lvm().extent_size; room < size)
        return fail(ErrorKind::no_space,
                    "new metadata of pool {} are written beside the old ones: they take {} bytes, and group {} has {} free", name, size,
                    name_, room);

    std::unique_ptr<NewMetadata> made(new NewMetadata(*this, TRY(lock_changes())));
    for (unsigned number = 0; made->record_.volumes.empty(); ++number)
        if (std::string free = fmt::format("{}_meta{}", name, number); !view.find(free))
            made->record_.volumes = {{.name = std::move(free)}};
    const std::string& volume = made->record_.volumes.front().name;
    TRY(check_new_name(view, volume));
    made->pool_ = name;
    const auto present = TRY(read_metadata(name));
    const bool of_source = source != nullptr && source->pool_ == name && source->group_.name_ == name_;
    made->superblock_ = of_source ? source->superblock_ : present->superblock_;
    TRY(made->still_fits());
    made->record_.kind = ChangeRecord::Kind::metadata;
    made->record_.tag = unfinished::part_tag();
    made->record_.pool = name;
    made->record_.sequence_number = view.lvm().sequence_number;
    TRY(made->lock_.write(made->record_));
    made->name_ = volume;
    LvmWords words("lvcreate");
    words.option("--type", "linear").option("--yes").new_name("--name", name_, volume).size("--size", size);
    words.tag("--addtag", made->record_.tag).group(name_);
    TRY(change(words, false));
    TRY(made_next(made->lock_, made->record_));
    made->device_ = TRY(FileDevice::open(host_.device_directory / lvm2::dm_name(name_, volume)));
    if (copied)
        TRY(copy(present->device(), *made->device_));
    return made;
}

Result<std::string> KernelGroup::take_metadata(NewMetadata& made) {
    const VolumeInfo pool = TRY(volume(made.pool_));
    const KernelView view = TRY(look());
    const bool foreign = pool.transaction_id == 0 &&
                         std::ranges::none_of(view.lvm().volumes, [&](const LvmVolume& volume) { return volume.pool == pool.name; });
    TRY(refuse_unfitting(*made.device_, pool, foreign, name_));
    TRY(flush_now(*made.device_));
    made.device_.reset();
    TRY(change(LvmWords("lvchange").option("--activate", "n").volume(name_, made.name_), false));
    TRY(made.still_fits());
    // Which of the two has the new volume's name and id afterwards is up to the version of LVM, and one of them is the only original: from
    // here on nothing knows a volume to remove.
    const std::string name = std::exchange(made.name_, {});
    TRY(made.lock_.clear());
    const auto change_places = [&]() -> Result<void> {
        // A hidden volume would keep it.
        TRY(change(LvmWords("lvchange").tag("--deltag", made.record_.tag).volume(name_, name), false));
        TRY(made.still_fits());
        TRY(swap_metadata(made.pool_, name, {}));
        return {};
    };
    if (const auto done = change_places(); !done)
        return fail(done.error().kind(),
                    "{}; volume {} stays: it has the new metadata, or the old ones if they have changed places all the same",
                    done.error().message(), name);
    return name;
}

}  // namespace lamella
