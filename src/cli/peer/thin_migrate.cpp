// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "cli/checked_pool.h"
#include "cli/metadata_input.h"
#include "cli/peer/peer_command.h"
#include "device/file_device.h"
#include "tools/transfer.h"

namespace lamella::cli {

namespace {

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;

struct Arguments {
    std::string source;
    std::string metadata;
    std::string data;
    std::optional<std::uint32_t> id;
    bool metadata_snapshot = false;
    std::string device;
    std::string file;
    std::optional<std::uint32_t> base;
    std::optional<std::uint64_t> buffer;
    bool zero_rest = false;
};

// A volume of a pool, and where the pool's mappings and data are.
struct Source {
    std::vector<std::unique_ptr<BlockDevice>> disks;  // below the others
    std::unique_ptr<BlockDevice> metadata;
    std::unique_ptr<BlockDevice> data;
    ThinId id;
    std::optional<std::uint64_t> size;  // bytes; only a group knows it
    std::vector<std::string> paths;
};

Result<Source> open_volume(const VolumeAddress& address) {
    for (const std::string& path : address.group.paths)
        TRY(refuse_if_claimed(path));
    GroupDisks disks = TRY(GroupDisks::open(address.group.paths, Access::read));
    const lvm2::VolumeGroup& group = disks.store.group();
    const lvm2::LogicalVolume* volume = group.logical_volume(address.volume);
    if (volume == nullptr)
        return fail(ErrorKind::not_found, "group {} has no such volume", group.name);
    const auto* thin = volume->sole<lvm2::Thin>();
    if (thin == nullptr)
        return fail(ErrorKind::usage, "not a thin volume");
    if (!thin->external_origin.empty())
        return fail(ErrorKind::unsupported, "what it doesn't map is read from {}, which would be missing from the copy",
                    thin->external_origin);
    for (const lvm2::LogicalVolume& other : group.logical_volumes)
        if (const auto* snapshot = other.sole<lvm2::Thin>(); snapshot != nullptr && snapshot->merging_into == volume->name)
            return fail(ErrorKind::refused, "{} will take its place when the volume is next used", other.name);
    const lvm2::LogicalVolume* pool = group.logical_volume(thin->pool);
    const auto* segment = pool == nullptr ? nullptr : pool->sole<lvm2::ThinPool>();
    if (segment == nullptr)
        return fail(ErrorKind::damaged, "the group's text lacks pool {}", thin->pool);
    Source source{.id = thin->device_id, .size = group.size_bytes(*volume), .paths = address.group.paths};
    source.metadata = TRY(disks.volume(segment->metadata_volume));
    source.data = TRY(disks.volume(segment->data_volume));
    source.disks = std::move(disks.disks);
    return source;
}

Result<Source> open_pool(const Arguments& arguments) {
    if (!arguments.metadata_snapshot)
        TRY(refuse_if_claimed(arguments.metadata));
    Source source{.id = ThinId(*arguments.id), .paths = {arguments.metadata, arguments.data}};
    source.metadata = TRY(FileDevice::open(arguments.metadata, {.read_only = true}));
    source.data = TRY(FileDevice::open(arguments.data, {.read_only = true}));
    return source;
}

Result<Source> open_source(const Arguments& arguments) {
    const bool pool = !arguments.metadata.empty() || !arguments.data.empty() || arguments.id;
    if (arguments.source.empty() != pool)
        return fail(ErrorKind::usage, "either --source-dev is needed, or --metadata-dev, --data-dev and --thin-id");
    if (pool) {
        if (arguments.metadata.empty() || arguments.data.empty() || !arguments.id)
            return fail(ErrorKind::usage, "--metadata-dev, --data-dev and --thin-id are needed together");
        return open_pool(arguments);
    }
    const auto address = TRY(pool_address(arguments.source));
    if (!address && ::access(arguments.source.c_str(), F_OK) != 0)
        return fail_errno(arguments.source);
    if (!address)
        return fail(
            ErrorKind::unsupported,
            "{}: the kernel isn't asked which pool a device belongs to. Name a volume of a group that nobody uses (./vms.img:web), or "
            "the pool's devices with --metadata-dev, --data-dev and --thin-id, and --metadata-snap while it is active",
            arguments.source);
    return TRY_WITHIN(arguments.source, open_volume(*address));
}

// Where the copy goes. A file that was made for it goes with the object, unless it is kept.
struct Destination {
    std::unique_ptr<FileDevice> device;
    std::string made;

    Destination() = default;
    Destination(Destination&& other) noexcept : device(std::move(other.device)), made(std::exchange(other.made, {})) {}
    Destination& operator=(Destination&&) = delete;
    ~Destination() {
        if (!made.empty())
            ::unlink(made.c_str());
    }
};

// `size`: what it has to have; `exactly`: a device of any other size is somebody else's.
Result<Destination> open_destination(const Arguments& arguments, std::uint64_t size, bool exactly) {
    const std::string& path = arguments.device.empty() ? arguments.file : arguments.device;
    Destination destination;
    if (arguments.device.empty() && ::access(path.c_str(), F_OK) != 0) {
        destination.device = TRY(FileDevice::open(path, {.create = size}));
        destination.made = path;
        return destination;
    }
    destination.device = TRY(FileDevice::open(path));
    FileDevice& device = *destination.device;
    if (!arguments.device.empty() && !device.is_block_device())
        return fail(ErrorKind::usage, "{} is not a block device", path);
    if (!device.is_block_device()) {
        if (exactly ? device.size() == size : device.size() >= size)
            return destination;
        // It is locked by now.
        if (device.size() > size && ::truncate(path.c_str(), static_cast<off_t>(size)) != 0)
            return fail_errno(path);
        TRY(device.size() > size ? device.refresh_size() : device.grow(size));
        return destination;
    }
    if (exactly && device.size() != size)
        return fail(ErrorKind::usage, "lengths differ: the volume has {} bytes, {} has {}", size, path, device.size());
    if (device.size() < size)
        return fail(ErrorKind::no_space, "the volume's mappings end at byte {}, {} has {}", size, path, device.size());
    return destination;
}

Result<void> migrate(PeerContext& context, const Arguments& arguments) {
    if (arguments.device.empty() == arguments.file.empty())
        return fail(ErrorKind::usage, "one of --dest-dev and --dest-file is needed");
    if (arguments.buffer && (*arguments.buffer == 0 || *arguments.buffer > 1024))
        return fail(ErrorKind::usage, "--buffer-size-meg: 1 to 1024");
    const Source source = TRY(open_source(arguments));
    const std::string& path = arguments.device.empty() ? arguments.file : arguments.device;
    for (const std::string& other : source.paths)
        if (same_file(path, other))
            return fail(ErrorKind::usage, "{} and {} are the same", path, other);
    tools::TransferOptions options{.volume = source.id, .in_snapshot = arguments.metadata_snapshot, .control = context.control()};
    if (arguments.base) {
        options.base = ThinId(*arguments.base);
        options.base_in_snapshot = arguments.metadata_snapshot;
    }
    // All that can be wrong with the source is known before the destination is touched.
    const tools::TransferSize size = TRY(tools::measure_transfer(*source.metadata, options));
    Destination destination = TRY(open_destination(arguments, source.size.value_or(size.end), source.size.has_value()));
    const bool fresh = !destination.made.empty();
    const tools::TransferReport report = TRY(tools::transfer(*source.metadata, *source.data,
                                                             {.device = *destination.device,
                                                              .size = source.size.value_or(destination.device->size()),
                                                              .zero_rest = arguments.zero_rest && !fresh,
                                                              .memory = arguments.buffer.value_or(4) * mebibyte},
                                                             options));
    destination.made.clear();
    if (!fresh && report.left != 0)
        context.err(
            fmt::format("{}: {} bytes that the volume doesn't map are as they were; --zero-dest makes zeros of them\n", path, report.left));
    return {};
}

}  // namespace

void define_thin_migrate(PeerCommand& command) {
    auto arguments = std::make_shared<Arguments>();
    command.describe(
        "Copy what a thin volume maps to another device or file",
        "The volume is one of a group on image files or disks that nobody uses (./vms.img:web), or one of a pool outside a group, by its "
        "two devices and the volume's id. Of a pool that is active --metadata-snap copies a volume that is read-only, as the metadata "
        "snapshot has it: reserve one before, release it afterwards.\n\n"
        "A file is made if it isn't there, and gets the volume's size; a device must have that size. Only a group knows it: of a pool "
        "outside a group it is taken to end with the last block that is mapped, and the destination may be larger. What the volume "
        "doesn't map stays as it is in the destination, unless --zero-dest is given.\n\n"
        "With --delta-id only that is copied in which the volume differs from another of the pool, which the destination holds already: "
        "a snapshot that was copied before. What the volume doesn't map any more becomes zeros.");
    command.option("--source-dev", "VOLUME", arguments->source, "the volume: GROUP:VOLUME");
    command.option("--metadata-dev", "DEVICE", arguments->metadata, "instead of --source-dev: the metadata of the volume's pool");
    command.option("--data-dev", "DEVICE", arguments->data, "the pool's data");
    command.option("--thin-id", "ID", arguments->id, "the volume's id in the pool");
    command.flag("-m,--metadata-snap", arguments->metadata_snapshot, "as the metadata snapshot has it, of a pool in use");
    command.exclude("--source-dev", "--metadata-snap");
    command.option("--dest-dev", "DEVICE", arguments->device, "where the copy goes: a block device");
    command.option("--dest-file", "FILE", arguments->file, "where the copy goes: a file");
    command.option("--delta-id", "ID", arguments->base, "copy only what differs from the volume of that id");
    command.flag("--zero-dest", arguments->zero_rest, "make zeros of what the volume doesn't map");
    command.exclude("--zero-dest", "--delta-id");
    command.option("--buffer-size-meg", "MEBIBYTES", arguments->buffer, "memory for what is under way between them: 1 to 1024 (4)");
    command.quiet();
    command.runs([arguments](PeerContext& context) -> Result<int> {
        TRY(migrate(context, *arguments));
        return 0;
    });
}

}  // namespace lamella::cli
