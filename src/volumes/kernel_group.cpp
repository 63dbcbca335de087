// SPDX-License-Identifier: Apache-2.0
#include "volumes/kernel_group.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <iterator>
#include <system_error>

#include "base/file_descriptor.h"
#include "base/strong.h"
#include "base/uuid.h"
#include "device/file_device.h"
#include "lvm2/store.h"
#include "mapper/volume_device.h"
#include "thin/superblock.h"
#include "tools/dump.h"
#include "tools/pack.h"
#include "volumes/pool_check.h"
#include "volumes/pool_message.h"

namespace lamella {

namespace {

constexpr Duration report_is_good_for = std::chrono::seconds(1);
constexpr std::size_t max_backup = 64 << 20;

constexpr const char* reserve_message = "reserve_metadata_snap";
constexpr const char* release_message = "release_metadata_snap";
constexpr const char* unknown_holder = "?";  // in a mark
constexpr std::string_view mark_prefix = "metadata-snapshot-";

constexpr std::string_view uuid_prefix = "LVM-";  // of the kernel's devices that are LVM's

// --- Marks: what a process that is killed leaves behind ---------------------------------------------------------------------
//
// A mark is a file for each pool, locked as long as a process of ours holds that pool's metadata snapshot. It is empty when nothing is
// held, else has the number of the held block, or "?" from before the snapshot is asked for until its number is known. By the number a
// killed process's is known again, and released; one without a number, unless others have the metadata open. The file is never removed:
// whoever waits for its lock would else hold a file that is there no more.

// -1: another process has it.
Result<int> open_mark(const std::filesystem::path& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fail_errno(path.native());
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    const int error = errno;
    ::close(fd);
    return error == EWOULDBLOCK ? Result<int>(-1) : fail_errno(path.native(), error);
}

Result<void> write_mark(int fd, std::string_view text) {
    if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
        return fail_errno("remember a metadata snapshot");
    return {};
}

std::string read_mark(int fd) {
    std::array<char, 32> buffer;
    const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), 0);
    return got > 0 ? std::string(buffer.data(), static_cast<std::size_t>(got)) : std::string();
}

std::optional<KernelPoolStatus> status_of(const host::KernelDevice& pool) {
    return pool.status.empty() ? std::nullopt : parse_pool_status(pool.status.front().parameters);
}

std::string joined(const std::vector<host::KernelTarget>& targets) {
    std::string lines;
    for (const host::KernelTarget& target : targets)
        lines += (lines.empty() ? "" : "\n") + target.line();
    return lines;
}

// Empty: it can't be read.
std::vector<std::byte> read_block(BlockDevice& metadata, std::uint64_t number) {
    AlignedBuffer block(thin::metadata_block_bytes);
    if (number >= metadata.size() / block.size() || !read_now(metadata, number * block.size(), block.bytes()))
        return {};
    return {block.bytes().begin(), block.bytes().end()};
}

// Empty: no kernel starts the pool.
std::vector<std::byte> read_superblock(BlockDevice& metadata) { return read_block(metadata, 0); }

// The ids of a pool's thin devices.
class IdCollector final : public tools::PoolVisitor {
  public:
    PoolContents contents;

    Result<void> superblock_begin(const tools::PoolHeader& header) override {
        contents.transaction_id = header.transaction_id;
        contents.needs_check = (header.flags & thin::Superblock::needs_check_flag) != 0;
        return {};
    }
    Result<void> superblock_end() override { return {}; }
    Result<void> definition_begin(tools::DefinitionId) override { return {}; }
    Result<void> definition_end() override { return {}; }
    Result<void> device_begin(const tools::DeviceHeader& header) override {
        contents.device_ids.push_back(header.id.value());
        return {};
    }
    Result<void> device_end() override { return {}; }
    Result<void> map(std::span<const tools::Mapping>) override { return {}; }
    Result<void> reference(tools::DefinitionId) override { return {}; }
};

// A folder for a file that LVM writes or reads, gone with the object.
class PrivateFolder {
  public:
    static constexpr std::string_view prefix = "backup-";

    static Result<PrivateFolder> make(const std::filesystem::path& in) {
        for (;;) {
            std::string path = (in / fmt::format("{}XXXXXX", prefix)).native();
            if (::mkdtemp(path.data()) == nullptr)
                return fail_errno(path);
            FileDescriptor lock(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
            if (lock.get() >= 0 && ::flock(lock.get(), LOCK_EX) == 0 && std::filesystem::exists(path))
                return PrivateFolder(std::move(path), std::move(lock));
            // Another process took it for one of a killed process before it was locked.
            if (std::filesystem::exists(path))
                return fail_errno(path);
        }
    }
    // One that a killed process left. LVM's command that it was for may still be at work, and fails then.
    static void sweep(const std::filesystem::path& path) {
        const FileDescriptor lock(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
        std::error_code error;
        if (lock.get() >= 0 && ::flock(lock.get(), LOCK_EX | LOCK_NB) == 0)
            std::filesystem::remove_all(path, error);
    }

    PrivateFolder(PrivateFolder&& other) noexcept : path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}
    ~PrivateFolder() {
        std::error_code error;
        if (!path_.empty())
            std::filesystem::remove_all(path_, error);
    }
    std::string file() const { return path_ + "/metadata"; }

  private:
    PrivateFolder(std::string path, FileDescriptor lock) : path_(std::move(path)), lock_(std::move(lock)) {}
    std::string path_;
    FileDescriptor lock_;  // as long as it is needed
};

}  // namespace

// --- Opening and looking ----------------------------------------------------------------------------------------------------

Result<std::unique_ptr<KernelGroup>> KernelGroup::open(const std::string& name, KernelHost host) {
    std::unique_ptr<KernelGroup> group(new KernelGroup(name, std::move(host)));
    if (TRY(group->sweep()))
        TRY_WITHIN(fmt::format("group {}", name), group->release_leftovers());
    return group;
}

Result<const host::LvmGroup*> KernelGroup::reported() {
    if (!report_ || host_.clock->monotonic() - reported_at_ > report_is_good_for) {
        report_ = TRY(lvm_.report(name_));
        // From its end: that of a large group alone takes longer than it would be good for.
        reported_at_ = host_.clock->monotonic();
        shared_by_ = report_->shared() ? fmt::format("{} {}", report_->lock_type, report_->lock_arguments) : "";
    }
    return &*report_;
}

Result<KernelView> KernelGroup::look() {
    const host::LvmGroup& group = *TRY(reported());
    std::optional<host::HostLocks> locks;
    if (group.shared())
        locks = lvm_.locks(group.id);
    return KernelView(group, host_.mapper->devices(lvm2::dm_name(name_, {})), std::move(locks));
}

std::optional<host::KernelDevice> KernelGroup::device_by_name(const std::string& volume) {
    constexpr std::size_t of_both_ids = 64;
    const auto has_uuid_of_lvm = [](const host::KernelDevice& device, std::string_view suffix) {
        return device.uuid.starts_with(uuid_prefix) && device.uuid.size() == uuid_prefix.size() + of_both_ids + suffix.size() &&
               device.uuid.ends_with(suffix);
    };
    const auto is_pool = [](const host::KernelDevice& device) { return device.status.size() == 1 && device.status[0].type == "thin-pool"; };
    auto device = host_.mapper->device(lvm2::dm_name(name_, volume, "tpool"));
    if (device && has_uuid_of_lvm(*device, "-tpool") && is_pool(*device))
        return *std::move(device);
    device = host_.mapper->device(lvm2::dm_name(name_, volume));
    if (device && !device->status.empty() && (has_uuid_of_lvm(*device, "") || (has_uuid_of_lvm(*device, "-pool") && is_pool(*device))))
        return *std::move(device);
    return std::nullopt;
}

bool KernelGroup::is_active() {
    const std::string prefix = lvm2::dm_name(name_, {});
    const auto names = host_.mapper->names(prefix);
    return names && std::ranges::any_of(*names, [&](const std::string& name) {
               // Those of a group "NAME-more" begin so too.
               if (name.size() <= prefix.size() || name[prefix.size()] == '-')
                   return false;
               const auto device = host_.mapper->device(name);
               return device && device->uuid.starts_with(uuid_prefix);
           });
}

Result<KernelView> KernelGroup::look_to(Purpose purpose) {
    report_.reset();
    KernelView view = TRY(look());
    const host::LvmGroup& group = view.lvm();
    if (group.exported)
        return fail(ErrorKind::refused, "group {} is exported: vgimport makes it usable", name_);
    if (purpose == Purpose::activate)
        return view;
    if (group.partial || group.missing_physical_volumes > 0)
        return fail(ErrorKind::refused, "group {}: physical volumes are missing; it is not changed from here meanwhile", name_);
    if (!group.writable)
        return fail(ErrorKind::refused, "group {} is read-only", name_);
    TRY(refuse_without_locking(view));
    return view;
}

Result<GroupInfo> KernelGroup::info() { return info_of(TRY(look())); }

Result<GroupInfo> KernelGroup::info_of(const KernelView& view) const {
    GroupInfo info = view.info();
    info.recovered = recovered_;
    info.broken_off = TRY(broken_off(view));
    return info;
}

Result<GroupListing> KernelGroup::listing() {
    const KernelView view = TRY(look());
    return GroupListing{TRY(info_of(view)), view.volumes()};
}

Result<std::vector<PhysicalVolumeInfo>> KernelGroup::inspect_disks() {
    std::vector<PhysicalVolumeInfo> disks = TRY(info()).physical_volumes;
    const std::vector<std::string> duplicates = TRY(lvm_.duplicates());
    std::vector<std::unique_ptr<BlockDevice>> opened;
    std::vector<BlockDevice*> devices;
    for (PhysicalVolumeInfo& disk : disks) {
        disk.duplicate = std::ranges::find(duplicates, disk.id) != duplicates.end();
        if (!disk.missing)
            if (auto device = FileDevice::open(disk.device, {.read_only = true}))
                devices.push_back(opened.emplace_back(*std::move(device)).get());
    }
    // A backup of LVM's would have the paths of now; those that were written down are on the disks. Where they can't be read at this
    // moment, nothing is known of them.
    if (const auto store = lvm2::GroupStore::open(devices, {}))
        for (const lvm2::PhysicalVolume& physical : store->group().physical_volumes)
            for (PhysicalVolumeInfo& disk : disks)
                if (physical.id.dashed() == disk.id)
                    disk.device_hint = physical.device_hint;
    return disks;
}

Result<std::vector<VolumeInfo>> KernelGroup::volumes() { return TRY(look()).volumes(); }

Result<VolumeInfo> KernelGroup::volume(const std::string& name) {
    const KernelView view = TRY(look());
    return view.describe(*TRY(view.find(name)));
}

Result<std::string> KernelGroup::status_line(const std::string& name) {
    if (const auto active = device_by_name(name))
        return joined(active->status);
    const KernelView view = TRY(look());
    const host::LvmVolume* volume = TRY(view.find(name));
    if (!view.kernel())
        return std::unexpected(view.kernel().error());
    const host::KernelDevice* device = view.pool_device(*volume);
    if (device == nullptr)
        device = view.device(*volume);
    if (device == nullptr || device->status.empty())
        return fail(ErrorKind::refused, "{} isn't active: lamella activate {}/{}", name, name_, name);
    return joined(device->status);
}

Result<std::string> KernelGroup::table_line(const std::string& name) {
    if (const auto active = device_by_name(name))
        return joined(TRY(host_.mapper->table(active->name)));
    const KernelView view = TRY(look());
    const host::LvmVolume* volume = TRY(view.find(name));
    if (!view.kernel())
        return std::unexpected(view.kernel().error());
    const host::KernelDevice* device = view.pool_device(*volume);
    if (device == nullptr)
        device = view.device(*volume);
    if (device == nullptr)
        return fail(ErrorKind::refused, "{} isn't active: lamella activate {}/{}", name, name_, name);
    return joined(TRY(host_.mapper->table(device->name)));
}

Result<std::vector<std::string>> KernelGroup::disks() {
    const host::LvmGroup& group = *TRY(reported());
    std::vector<std::string> paths;
    for (const host::LvmPhysicalVolume& physical : group.physical_volumes)
        if (!physical.missing)
            paths.push_back(physical.device);
    return paths;
}

Result<HostDisks> KernelGroup::inactive_disks() {
    const KernelView view = TRY(look_to(Purpose::activate));
    if (view.lvm().shared())
        return fail(ErrorKind::refused, "group {} is shared between hosts by lvmlockd ({}), whose locks the user-space engine doesn't take",
                    name_, shared_by_);
    TRY(look_to_change());
    if (!view.kernel())
        return std::unexpected(view.kernel().error());
    const std::string ours = "LVM-" + std::string(TRY(LvmId::parse(view.lvm().id)).plain());
    for (const host::KernelDevice& device : *view.kernel())
        if (device.uuid.starts_with(ours))
            return fail(ErrorKind::refused, "group {} is active in the kernel ({}): vgchange -an {} first", name_, device.name, name_);
    return HostDisks{TRY(disks()), view.lvm().system_id, TRY(lvm_.locking_directory())};
}

// --- Messages and metadata snapshots ----------------------------------------------------------------------------------------

Result<host::KernelDevice> KernelGroup::active_pool(const KernelView& view, const std::string& name) {
    const host::LvmVolume* pool = TRY(view.find_pool(name));
    if (!view.kernel())
        return std::unexpected(view.kernel().error());
    const host::KernelDevice* device = view.pool_device(*pool);
    if (device == nullptr)
        return fail(ErrorKind::refused, "pool {} isn't active: lamella activate {}/{}", name, name_, name);
    TRY(refuse_without_lock(view, *pool));
    return *device;
}

Result<host::KernelDevice> KernelGroup::pool_to_tell(const std::string& name) {
    // LVM has no need to be asked, but of what may be a group that hosts share: by sanlock one has a volume with leases, by dlm nothing but
    // the daemon's knowledge.
    if (auto device = device_by_name(name); device && device->status[0].type == "thin-pool" &&
                                            !host_.mapper->device(lvm2::dm_name(name_, "lvmlock")) &&
                                            !host::is_running(host_.process_directory, "lvmlockd"))
        return *std::move(device);
    return active_pool(TRY(look_to_change()), name);
}

Result<void> KernelGroup::send_message(const std::string& name, const std::string& message) {
    if (message == reserve_message) {
        TRY(reserve_metadata_snapshot(name, {}));
        return {};
    }
    if (message == release_message)
        return release_metadata_snapshot(name, {});
    const KernelView view = TRY(look_to_change());
    const host::KernelDevice pool = TRY(active_pool(view, name));
    const auto status = status_of(pool);
    bool certain = status && !status->failed && view.describe(**view.find_pool(name)).transaction_id == status->transaction_id;
    std::vector<std::uint32_t> known;
    for (const host::LvmVolume& volume : view.lvm().volumes) {
        if (volume.pool != name)
            continue;
        const std::optional<std::uint32_t> id = view.describe(volume).device_id;
        certain = certain && id;
        known.push_back(id.value_or(UINT32_MAX));
    }
    TRY(refuse_behind_the_text(name, message, known, certain));
    TRY(host_.mapper->message(pool.name, message));
    return {};
}

Result<std::uint64_t> KernelGroup::reserve_metadata_snapshot(const std::string& name, ChangeOptions options) {
    const host::KernelDevice pool = TRY(pool_to_tell(name));
    if (const auto status = status_of(pool); status && status->held_root)
        return fail(ErrorKind::exists, "pool {} holds a metadata snapshot already", name);
    if (options.dry_run)
        return 0;
    TRY(host_.mapper->message(pool.name, reserve_message));
    const auto status = status_of(TRY(host_.mapper->device(pool.name)));
    if (!status || !status->held_root)
        return fail(ErrorKind::failed, "pool {}: the kernel took the message and holds no metadata snapshot", name);
    return *status->held_root;
}

Result<void> KernelGroup::release_metadata_snapshot(const std::string& name, ChangeOptions options) {
    const host::KernelDevice pool = TRY(pool_to_tell(name));
    if (const auto status = status_of(pool); !status || !status->held_root)
        return fail(ErrorKind::not_found, "pool {} holds no metadata snapshot", name);
    int mark = -1;
    constexpr std::size_t id_length = 32;
    if (const auto id = LvmId::parse(std::string_view(pool.uuid).substr(uuid_prefix.size() + id_length, id_length))) {
        mark = TRY(open_mark(mark_of(id->dashed())));
        if (mark < 0)
            return fail(ErrorKind::refused, "another process reads the metadata of pool {} through its metadata snapshot now", name);
    }
    const FileDescriptor held(mark);
    if (!options.dry_run)
        TRY(host_.mapper->message(pool.name, release_message));
    return {};
}

std::filesystem::path KernelGroup::mark_of(const std::string& pool_id) const {
    return host_.state_directory / (std::string(mark_prefix) + pool_id);
}

Result<bool> KernelGroup::sweep() {
    std::error_code error;
    bool marked = false;
    for (std::filesystem::directory_iterator entry(host_.state_directory, error), end; !error && entry != end; entry.increment(error)) {
        const std::string name = entry->path().filename();
        std::error_code ignored;
        marked |= name.starts_with(mark_prefix) && entry->file_size(ignored) != 0;
        if (name.starts_with(PrivateFolder::prefix))
            PrivateFolder::sweep(entry->path());
    }
    if (error)
        return fail_errno(host_.state_directory.native(), error.value());
    return marked;
}

// By others than the pool itself.
bool KernelGroup::metadata_is_open(const KernelView& view, const host::LvmVolume& pool) {
    const auto metadata = view.find(pool.metadata);
    const host::KernelDevice* device = metadata ? view.device(**metadata, "tmeta") : nullptr;
    return device == nullptr || device->open_count > 1;
}

Result<void> KernelGroup::release_leftovers() {
    const KernelView view = TRY(look());
    for (const host::LvmVolume& pool : view.lvm().volumes) {
        std::error_code error;
        if (!LvmId::parse(pool.id) || std::filesystem::file_size(mark_of(pool.id), error) == 0 || error)
            continue;
        const int mark = TRY(open_mark(mark_of(pool.id)));
        if (mark < 0)
            continue;
        const std::string held = read_mark(mark);
        const host::KernelDevice* device = view.pool_device(pool);
        const auto status = device != nullptr ? status_of(*device) : std::nullopt;
        // Another number: somebody else's, taken since. No number: killed in the moment between the kernel's taking it, which a kill waits
        // for, and its number's being known. Only somebody who has the metadata open can be reading through it: it may be his.
        const bool unnumbered = status && status->held_root && held == unknown_holder;
        const bool unknown = unnumbered && metadata_is_open(view, pool);
        const bool ours = status && status->held_root && (held == fmt::to_string(*status->held_root) || (unnumbered && !unknown));
        if (unknown)
            unknown_holders_.push_back(pool.name);
        // One that takes no messages must be looked at and mended all the same.
        const bool released = ours && host_.mapper->message(device->name, release_message).has_value();
        if (released)
            recovered_.push_back(fmt::format("{}: a metadata snapshot that a command had left behind is released", pool.name));
        // Of a pool that can't be asked now, as it isn't active, nothing is forgotten.
        const bool gone = status && !status->failed && !ours && !unknown;
        const Result<void> written = released || gone ? write_mark(mark, "") : Result<void>();
        ::close(mark);
        TRY_WITHIN(pool.name, Result<void>(written));
    }
    return {};
}

HeldMetadata::~HeldMetadata() {
    if (mark_ < 0)
        return;
    device_.reset();
    const auto pool = mapper_->device(pool_device_);
    const auto status = pool ? status_of(*pool) : std::nullopt;
    // Somebody may have released it, and taken another. What can't be released now stays marked.
    const bool anothers = held_root_ && status && !status->failed && status->held_root != held_root_;
    if (anothers || mapper_->message(pool_device_, release_message))
        (void)write_mark(mark_, "");
    ::close(mark_);
}

Result<void> HeldMetadata::still_whole() const {
    if (in_snapshot_) {
        const auto status = status_of(TRY(mapper_->device(pool_device_)));
        if (status && status->held_root == held_root_ && read_block(*device_, *held_root_) == superblock_)
            return {};
        return fail(ErrorKind::refused, "{}: the metadata snapshot was released while it was read", pool_device_);
    }
    if (still_.empty())
        return group_.refuse_used(pool_, superblock_);
    for (const host::KernelDevice& device : TRY(mapper_->devices(pool_device_)))
        if (device.name == pool_device_ && joined(device.status) == still_ && read_superblock(*device_) == superblock_)
            return {};
    return fail(ErrorKind::refused, "{} has changed while its metadata were read", pool_device_);
}

Result<KernelGroup::AtRest> KernelGroup::metadata_at_rest(const KernelView& view, const host::LvmVolume& pool) {
    AtRest found;
    std::vector<BlockDevice*> devices;
    for (const host::LvmPhysicalVolume& physical : view.lvm().physical_volumes)
        if (!physical.missing)
            devices.push_back(found.disks.emplace_back(TRY(FileDevice::open(physical.device, {.read_only = true}))).get());
    lvm2::GroupStore store = TRY(lvm2::GroupStore::open(devices, {}));
    const lvm2::LogicalVolume* metadata = store.group().logical_volume(pool.metadata);
    if (metadata == nullptr)
        return fail(ErrorKind::damaged, "the group's text lacks {}", pool.metadata);
    found.device =
        TRY(mapper::VolumeDevice::open(store.group(), *metadata, [&store](std::string_view disk) { return store.device(disk); }));
    return found;
}

bool KernelGroup::has_messages(const KernelView& view, const std::string& pool) {
    std::vector<std::unique_ptr<BlockDevice>> disks;
    std::vector<BlockDevice*> devices;
    for (const host::LvmPhysicalVolume& physical : view.lvm().physical_volumes)
        if (auto device = FileDevice::open(physical.device, {.read_only = true}); device && !physical.missing)
            devices.push_back(disks.emplace_back(*std::move(device)).get());
    const auto store = lvm2::GroupStore::open(devices, {});
    const lvm2::LogicalVolume* volume = store ? store->group().logical_volume(pool) : nullptr;
    const auto* segment = volume != nullptr ? volume->sole<lvm2::ThinPool>() : nullptr;
    return segment != nullptr && !segment->messages.empty();
}

Result<void> KernelGroup::refuse_used(const std::string& name, const std::vector<std::byte>& superblock) {
    const KernelView view = TRY(look());
    const host::LvmVolume& pool = *TRY(view.find_pool(name));
    if (!view.kernel())
        return std::unexpected(view.kernel().error());
    if (view.pool_device(pool) != nullptr)
        return fail(ErrorKind::refused,
                    "pool {0} was activated after its metadata were read: lamella deactivate {1}/{0} --with-contents, "
                    "and begin again",
                    name, name_);
    // Each transaction of the kernel's ends with another superblock.
    const AtRest now = TRY(metadata_at_rest(view, pool));
    if (read_superblock(*now.device) != superblock)
        return fail(ErrorKind::refused, "pool {} was used after its metadata were read: they are others now; begin again", name);
    return {};
}

Result<std::unique_ptr<HeldMetadata>> KernelGroup::read_metadata(const std::string& name) {
    const KernelView view = TRY(look());
    const host::LvmVolume& pool = *TRY(view.find_pool(name));
    if (!view.kernel())
        return std::unexpected(view.kernel().error());
    std::unique_ptr<HeldMetadata> held(new HeldMetadata(*this, name));
    const host::KernelDevice* device = view.pool_device(pool);
    if (device == nullptr) {
        if (view.lvm().shared())
            return fail(ErrorKind::refused, "pool {} isn't active here, and another host may have it: lamella activate {}/{}", name, name_,
                        name);
        AtRest found = TRY(metadata_at_rest(view, pool));
        held->disks_ = std::move(found.disks);
        held->device_ = std::move(found.device);
        held->superblock_ = read_superblock(*held->device_);
        return held;
    }
    TRY(refuse_without_lock(view, pool));
    held->mapper_ = host_.mapper.get();
    held->pool_device_ = device->name;
    const auto metadata = view.find(pool.metadata);
    const host::KernelDevice* below = metadata ? view.device(**metadata, "tmeta") : nullptr;
    const std::string path = host_.device_directory / (below != nullptr ? below->name : lvm2::dm_name(name_, pool.metadata));
    if (const auto status = status_of(*device); status && (status->failed || status->mode == "ro")) {
        held->still_ = joined(device->status);
        held->device_ = TRY(FileDevice::open(path, {.read_only = true}));
        held->superblock_ = read_superblock(*held->device_);
        return held;
    }
    const int mark = TRY(open_mark(mark_of(pool.id)));
    if (mark < 0)
        return fail(ErrorKind::refused, "another process reads the metadata of pool {} now", name);
    held->in_snapshot_ = true;
    if (const auto status = status_of(*device); status && status->held_root) {
        held->held_root_ = status->held_root;
        ::close(mark);
    } else {
        auto asked = write_mark(mark, unknown_holder);
        if (asked)
            if (auto answer = host_.mapper->message(device->name, reserve_message); !answer)
                asked = std::unexpected(answer.error());
        if (!asked) {
            (void)write_mark(mark, "");
            ::close(mark);
            return std::unexpected(asked.error().within(fmt::format("a metadata snapshot of pool {}", name)));
        }
        held->mark_ = mark;
        const auto now = status_of(TRY(host_.mapper->device(device->name)));
        if (!now || !now->held_root)
            return fail(ErrorKind::failed, "pool {}: the kernel took the message and holds no metadata snapshot", name);
        held->held_root_ = now->held_root;
        TRY(write_mark(mark, fmt::to_string(*now->held_root)));
    }
    held->device_ = TRY(FileDevice::open(path, {.read_only = true}));
    held->superblock_ = read_block(*held->device_, *held->held_root_);
    return held;
}

Result<PoolContents> KernelGroup::pool_contents(const std::string& pool, bool check) {
    const auto metadata = TRY(read_metadata(pool));
    IdCollector ids;
    TRY_WITHIN(pool, tools::dump(metadata->device(), {.metadata_snapshot = metadata->in_snapshot(), .mappings = false}, ids));
    if (check && !metadata->in_snapshot())
        ids.contents.check = TRY_WITHIN(pool, check_metadata(metadata->device()));
    TRY(metadata->still_whole());
    KernelView view = TRY(look());
    if (view.describe(*TRY(view.find(pool))).transaction_id != ids.contents.transaction_id) {
        // LVM may have changed it since it was asked.
        report_.reset();
        view = TRY(look());
    }
    if (view.describe(*TRY(view.find(pool))).transaction_id == ids.contents.transaction_id + 1)
        ids.contents.changing = has_messages(view, pool);
    return std::move(ids.contents);
}

Result<std::vector<ThinUsage>> KernelGroup::pool_usage(const std::string& pool) {
    const auto metadata = TRY(read_metadata(pool));
    std::vector<ThinUsage> usage = TRY_WITHIN(pool, thin_usage(metadata->device(), metadata->in_snapshot()));
    TRY(metadata->still_whole());
    return usage;
}

Result<PackedMetadata> KernelGroup::pack_metadata(const std::string& pool, const std::string& file) {
    const auto metadata = TRY(read_metadata(pool));
    IdCollector header;
    TRY_WITHIN(pool, tools::dump(metadata->device(), {.metadata_snapshot = metadata->in_snapshot(), .mappings = false}, header));
    const tools::PackReport report = TRY_WITHIN(pool, tools::pack_into_file(metadata->device(), file));
    TRY(metadata->still_whole());
    return PackedMetadata{report.bytes, header.contents.transaction_id, metadata->in_snapshot()};
}

// --- The group's text -------------------------------------------------------------------------------------------------------

Result<std::string> KernelGroup::backup_text() {
    const PrivateFolder folder = TRY(PrivateFolder::make(host_.state_directory));
    TRY(lvm_.change(host::LvmWords("vgcfgbackup").option("--file", folder.file()).group(name_)));
    std::ifstream stream(folder.file(), std::ios::binary);
    std::string text(std::istreambuf_iterator<char>(stream), {});
    if (text.empty() || text.size() > max_backup)
        return fail(ErrorKind::failed, "group {}: vgcfgbackup left no backup", name_);
    return text;
}

Result<void> KernelGroup::restore_text(const std::string& text, bool force, ChangeOptions options) {
    const KernelView view = TRY(look_to_change());
    if (view.lvm().shared())
        return fail(ErrorKind::refused, "group {} is shared between hosts by lvmlockd, and what another one has active isn't seen here",
                    name_);
    const lvm2::ParsedGroup parsed = TRY_WITHIN("the backup", lvm2::check_backup(text));
    if (!parsed.findings.empty())
        return fail(ErrorKind::damaged, "the backup is not sound: {}", lvm2::to_string(parsed.findings[0]));
    if (parsed.group.name != name_ || parsed.group.id.dashed() != view.lvm().id)
        return fail(ErrorKind::refused, "the backup is of group {} ({}), this is {} ({})", parsed.group.name, parsed.group.id.dashed(),
                    name_, view.lvm().id);
    // LVM would ask, and go on with a yes; what is active then would not be what the metadata says.
    for (const host::LvmVolume& volume : view.lvm().volumes)
        if (volume.active())
            return fail(ErrorKind::refused, "{} is active: vgchange -an {} first", volume.name, name_);
    for (const lvm2::LogicalVolume& volume : parsed.group.logical_volumes)
        if (volume.sole<lvm2::ThinPool>() != nullptr && !force)
            return fail(ErrorKind::refused, "the backup has thin pool {}, whose own metadata it doesn't hold: restore with force",
                        volume.name);
    const PrivateFolder folder = TRY(PrivateFolder::make(host_.state_directory));
    std::ofstream stream(folder.file(), std::ios::binary);
    stream << text;
    stream.close();
    if (!stream)
        return fail(ErrorKind::failed, "{} can't be written", folder.file());
    host::LvmWords words("vgcfgrestore");
    words.option("--file", folder.file());
    if (force)
        words.option("--force");
    return change(words.group(name_), options.dry_run);
}

}  // namespace lamella
