// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>

#include "volumes/volume_group.h"

namespace lamella {

// A group that exists in memory only, for tests of what stands on VolumeGroup. It keeps the names and sizes right and little else.
// What is given to `refuse` is returned as the error of every change, or of `refused_change` alone; `changes` says what was done, in words.
class FakeGroup : public VolumeGroup {
  public:
    FakeGroup() {
        group.name = "vms";
        group.id = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG";
        group.extent_size = 4 << 20;
        group.size = 20ull << 30;
        group.free = 1ull << 30;
        list.push_back(made("pool", VolumeKind::thin_pool, "thin-pool", 16ull << 30));
        list.back().chunk_size = 64 * 1024;
        list.back().data_used = 4ull << 30;
        list.back().metadata_size = 64ull << 20;
        list.back().metadata_used = 1ull << 20;
        list.back().transaction_id = 1;
        list.push_back(made("pool_tdata", VolumeKind::pool_data, "linear", 16ull << 30));
        list.back().visible = false;
        list.push_back(made("web", VolumeKind::thin, "thin", 10ull << 30));
        list.back().pool = "pool";
        list.back().device_id = 1;
        list.back().mapped = 5ull << 30;
        list.back().tags = {"prod"};
    }

    GroupInfo group;
    std::vector<VolumeInfo> list;
    std::optional<Error> refuse;
    std::string refused_change;
    std::vector<std::string> changes;
    std::string text = "# a group\n";
    std::vector<PoolDependent> dependents;
    // Of pools whose own metadata doesn't agree with `list`.
    std::map<std::string, PoolContents> contents;
    std::map<std::string, AutomaticExtension> extensions;
    // What remove and rollback do meanwhile, and report.
    std::function<void(const ReportProgress&)> work;

    Result<GroupInfo> info() override { return group; }
    Result<std::vector<PhysicalVolumeInfo>> inspect_disks() override { return group.physical_volumes; }
    Result<std::vector<VolumeInfo>> volumes() override { return list; }
    Result<VolumeInfo> volume(const std::string& name) override { return *TRY(find(name)); }

    Result<VolumeInfo> create_pool(const CreatePool& request, ChangeOptions options) override {
        VolumeInfo pool = made(request.name, VolumeKind::thin_pool, "thin-pool", request.size.value);
        pool.chunk_size = request.chunk_size;
        return add(pool, options);
    }
    Result<VolumeInfo> create_volume(const CreateVolume& request, ChangeOptions options) override {
        VolumeInfo volume = request.linear ? made(request.name, VolumeKind::linear, "linear", request.size.value)
                                           : made(request.name, VolumeKind::thin, "thin", request.size.value);
        volume.pool = request.linear ? "" : request.pool.empty() ? "pool" : request.pool;
        volume.tags = request.tags;
        volume.read_only = request.read_only;
        return add(volume, options);
    }
    Result<std::vector<VolumeInfo>> create_snapshots(const std::vector<CreateSnapshot>& requests, ChangeOptions options) override {
        std::vector<VolumeInfo> snapshots;
        for (const CreateSnapshot& request : requests) {
            VolumeInfo snapshot = *TRY(find(request.origin));
            snapshot.origin = request.origin;
            snapshot.name = request.name.empty() ? request.origin + "-s1" : request.name;
            snapshot.tags = request.tags;
            snapshot.read_only = request.read_only;
            snapshot.skip_activation = true;
            if (request.classic) {
                snapshot.kind = VolumeKind::snapshot;
                snapshot.store_size = request.size.value;
            }
            snapshots.push_back(TRY(add(snapshot, options)));
        }
        return snapshots;
    }
    Result<VolumeInfo> resize(const ResizeVolume& request, ChangeOptions options) override {
        VolumeInfo volume = *TRY(find(request.name));
        std::uint64_t& size = request.metadata ? volume.metadata_size.emplace(volume.metadata_size.value_or(0)) : volume.size;
        size = request.size.relation == SizeRequest::Relation::absolute ? request.size.value
               : request.size.relation == SizeRequest::Relation::grow   ? size + request.size.value
                                                                        : size - request.size.value;
        if (volume.size < (*find(request.name))->size && !request.shrink_allowed)
            return fail(ErrorKind::refused, "volume {}: would shrink", request.name);
        return change(request.name, volume, options);
    }
    Result<VolumeInfo> rename(const std::string& name, const std::string& new_name, ChangeOptions options) override {
        VolumeInfo volume = *TRY(find(name));
        if (find(new_name))
            return fail(ErrorKind::exists, "volume {}: there already", new_name);
        volume.name = new_name;
        return change(name, volume, options);
    }
    Result<VolumeInfo> change_tags(const std::string& name, const std::vector<std::string>& add_tags,
                                   const std::vector<std::string>& remove_tags, ChangeOptions options) override {
        VolumeInfo volume = *TRY(find(name));
        for (const std::string& tag : remove_tags)
            std::erase(volume.tags, tag);
        volume.tags.insert(volume.tags.end(), add_tags.begin(), add_tags.end());
        return change(name, volume, options);
    }
    Result<void> remove(const std::vector<std::string>& names, bool with_contents, ChangeOptions options) override {
        for (const std::string& name : names)
            if ((*TRY(find(name))).kind == VolumeKind::thin_pool && !with_contents)
                return fail(ErrorKind::refused, "pool {}: has volumes", name);
        TRY(may_change("remove", options));
        do_work(options);
        for (const std::string& name : names)
            if (!options.dry_run)
                std::erase_if(list, [&](const VolumeInfo& volume) { return volume.name == name; });
        return {};
    }
    Result<VolumeInfo> convert_to_pool(const ConvertToPool& request, ChangeOptions options) override {
        VolumeInfo volume = *TRY(find(request.name));
        volume.kind = VolumeKind::thin_pool;
        volume.segment_type = "thin-pool";
        volume.chunk_size = request.chunk_size;
        return change(request.name, volume, options);
    }
    Result<VolumeInfo> swap_metadata(const std::string& pool, const std::string& volume, ChangeOptions options) override {
        TRY(find(volume));
        TRY(may_change("swap metadata of " + pool + " with " + volume, options));
        return *TRY(find(pool));
    }
    Result<VolumeInfo> change_pool(const ChangePool& request, ChangeOptions options) override {
        VolumeInfo volume = *TRY(find(request.name));
        if (!request.discards.empty())
            volume.discards = request.discards;
        volume.error_when_full = request.error_when_full.value_or(volume.error_when_full);
        return change(request.name, volume, options);
    }
    Result<AutomaticExtension> automatic_extension(const std::string& pool) override {
        const auto found = extensions.find(pool);
        if (found == extensions.end())
            return fail(ErrorKind::unsupported, "nobody extends {}", pool);
        return found->second;
    }
    Result<std::vector<VolumeInfo>> set_active(const SetActive& request, ChangeOptions options) override {
        if (!group.can(Capability::activation))
            return fail(ErrorKind::unsupported, "group {}: not activated", group.name);
        TRY(may_change(request.active ? "activate" : "deactivate", options));
        std::vector<VolumeInfo> changed;
        for (VolumeInfo& volume : list)
            if (volume.active != request.active &&
                (request.names.empty() || std::ranges::find(request.names, volume.name) != request.names.end())) {
                VolumeInfo after = volume;
                after.active = request.active;
                changed.push_back(after);
                if (!options.dry_run)
                    volume = after;
            }
        return changed;
    }
    Result<std::vector<PoolDependent>> pool_dependents(const std::string& pool) override {
        TRY(find(pool));
        return dependents;
    }
    Result<void> remove_foreign(const std::string& pool, const std::vector<PoolDependent>& gone, ChangeOptions options) override {
        for (const PoolDependent& dependent : gone)
            if (!dependent.used_by.empty())
                return fail(ErrorKind::refused, "{}: {}", dependent.name, dependent.used_by);
        return may_change("remove foreign devices of " + pool, options);
    }
    Result<VolumeInfo> rollback(const std::string& name, const std::string& snapshot, ChangeOptions options) override {
        VolumeInfo volume = *TRY(find(name));
        TRY(find(snapshot));
        TRY(may_change("rollback " + name + " to " + snapshot, options));
        do_work(options);
        if (!options.dry_run)
            std::erase_if(list, [&](const VolumeInfo& other) { return other.name == snapshot && other.snapshot_state != "Merge failed"; });
        return volume;
    }
    Result<std::uint64_t> reserve_metadata_snapshot(const std::string& pool, ChangeOptions options) override {
        TRY(find(pool));
        TRY(may_change("reserve " + pool, options));
        return 77;
    }
    Result<void> release_metadata_snapshot(const std::string& pool, ChangeOptions options) override {
        TRY(find(pool));
        return may_change("release " + pool, options);
    }
    Result<std::uint64_t> trim(const std::string& pool, ChangeOptions options) override {
        TRY(find(pool));
        TRY(may_change("trim " + pool, options));
        return std::uint64_t{1} << 30;
    }
    Result<PoolContents> pool_contents(const std::string& pool, bool /*check*/) override {
        const VolumeInfo& info = *TRY(find(pool));
        if (auto known = contents.find(pool); known != contents.end())
            return known->second;
        PoolContents agreed{.transaction_id = info.transaction_id.value_or(0)};
        for (const VolumeInfo& volume : list)
            if (volume.pool == pool && volume.device_id)
                agreed.device_ids.push_back(*volume.device_id);
        std::ranges::sort(agreed.device_ids);
        return agreed;
    }
    Result<std::vector<ThinUsage>> pool_usage(const std::string& pool) override {
        TRY(find(pool));
        std::vector<ThinUsage> usage;
        for (const VolumeInfo& volume : list)
            if (volume.pool == pool && volume.device_id)
                usage.push_back({*volume.device_id, volume.mapped.value_or(0), volume.mapped.value_or(0) / 4});
        return usage;
    }
    Result<PackedMetadata> pack_metadata(const std::string& pool, const std::string& file) override {
        const VolumeInfo& info = *TRY(find(pool));
        std::ofstream(file) << "packed";
        return PackedMetadata{6, info.transaction_id.value_or(0), false};
    }
    Result<VolumeInfo> make_spare(ChangeOptions options) override {
        VolumeInfo spare = made("lvol0_pmspare", VolumeKind::spare, "linear", 64ull << 20);
        spare.visible = false;
        return add(spare, options);
    }
    Result<std::string> status_line(const std::string& name) override {
        TRY(find(name));
        return std::string("0 33554432 thin-pool 1 256/16384 65536/262144 - rw discard_passdown queue_if_no_space - 1024");
    }
    Result<std::string> table_line(const std::string& name) override {
        TRY(find(name));
        return std::string("0 33554432 thin-pool 253:0 253:1 128 1024 0");
    }
    Result<void> send_message(const std::string& pool, const std::string& message) override {
        TRY(find(pool));
        return may_change("message " + message, {});
    }
    Result<std::string> backup_text() override { return text; }
    Result<void> restore_text(const std::string& new_text, bool force, ChangeOptions options) override {
        TRY(may_change(force ? "restore by force" : "restore", options));
        if (!options.dry_run)
            text = new_text;
        return {};
    }

    static VolumeInfo made(const std::string& name, VolumeKind kind, const std::string& segment_type, std::uint64_t size) {
        VolumeInfo volume;
        volume.name = name;
        volume.kind = kind;
        volume.segment_type = segment_type;
        volume.size = size;
        return volume;
    }

  private:
    void do_work(const ChangeOptions& options) {
        if (work && !options.dry_run)
            work(options.progress);
    }
    Result<VolumeInfo*> find(const std::string& name) {
        auto found = std::ranges::find(list, name, &VolumeInfo::name);
        if (found == list.end())
            return fail(ErrorKind::not_found, "volume {}: group {} has none of that name", name, group.name);
        return &*found;
    }
    Result<void> may_change(const std::string& what, ChangeOptions options) {
        if (refuse && (refused_change.empty() || refused_change == what))
            return std::unexpected(*refuse);
        changes.push_back((options.dry_run ? "dry run: " : "") + what);
        return {};
    }
    Result<VolumeInfo> add(VolumeInfo volume, ChangeOptions options) {
        if (find(volume.name))
            return fail(ErrorKind::exists, "volume {}: there already", volume.name);
        TRY(may_change("add " + volume.name, options));
        if (!options.dry_run)
            list.push_back(volume);
        return volume;
    }
    Result<VolumeInfo> change(const std::string& name, VolumeInfo volume, ChangeOptions options) {
        TRY(may_change("change " + name, options));
        if (!options.dry_run)
            *TRY(find(name)) = volume;
        return volume;
    }
};

}  // namespace lamella
