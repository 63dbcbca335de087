// SPDX-License-Identifier: Apache-2.0
#include "volumes/remote_group.h"

#include <filesystem>

#include <nlohmann/json.hpp>

namespace lamella {

namespace {

// A string that has to arrive byte for byte: to_json would mend what isn't UTF-8, the printing refuses it.
Json exactly(const std::string& text) { return Json(text); }

Json names(const std::vector<std::string>& list) { return Json(list); }

template <typename T>
Result<T> call(ControlClient& client, std::string_view method, const Json& params, const ReportProgress& progress = {}) {
    Json result = TRY(client.call(method, params, progress));
    return from_json<T>(result, fmt::format("answer to {}", method));
}

Result<void> call_void(ControlClient& client, std::string_view method, const Json& params, const ReportProgress& progress = {}) {
    TRY(client.call(method, params, progress));
    return {};
}

}  // namespace

Result<GroupInfo> RemoteGroup::info() { return call<GroupInfo>(*client_, "info", Json::object()); }

Result<std::vector<PhysicalVolumeInfo>> RemoteGroup::inspect_disks() {
    return call<std::vector<PhysicalVolumeInfo>>(*client_, "inspect_disks", Json::object());
}

Result<std::vector<VolumeInfo>> RemoteGroup::volumes() { return call<std::vector<VolumeInfo>>(*client_, "volumes", {{"brief", true}}); }

Result<VolumeInfo> RemoteGroup::volume(const std::string& name) { return call<VolumeInfo>(*client_, "volume", {{"name", exactly(name)}}); }

Result<VolumeInfo> RemoteGroup::create_pool(const CreatePool& request, ChangeOptions options) {
    return call<VolumeInfo>(*client_, "create_pool", {{"request", to_json(request)}, {"options", to_json(options)}});
}

Result<VolumeInfo> RemoteGroup::create_volume(const CreateVolume& request, ChangeOptions options) {
    return call<VolumeInfo>(*client_, "create_volume", {{"request", to_json(request)}, {"options", to_json(options)}});
}

Result<std::vector<VolumeInfo>> RemoteGroup::create_snapshots(const std::vector<CreateSnapshot>& requests, ChangeOptions options) {
    return call<std::vector<VolumeInfo>>(*client_, "create_snapshots", {{"requests", to_json(requests)}, {"options", to_json(options)}});
}

Result<VolumeInfo> RemoteGroup::resize(const ResizeVolume& request, ChangeOptions options) {
    return call<VolumeInfo>(*client_, "resize", {{"request", to_json(request)}, {"options", to_json(options)}}, options.progress);
}

Result<VolumeInfo> RemoteGroup::rename(const std::string& name, const std::string& new_name, ChangeOptions options) {
    return call<VolumeInfo>(*client_, "rename", {{"name", exactly(name)}, {"new_name", exactly(new_name)}, {"options", to_json(options)}});
}

Result<VolumeInfo> RemoteGroup::change_tags(const std::string& name, const std::vector<std::string>& add,
                                            const std::vector<std::string>& remove, ChangeOptions options) {
    return call<VolumeInfo>(*client_, "change_tags",
                            {{"name", exactly(name)}, {"add", names(add)}, {"remove", names(remove)}, {"options", to_json(options)}});
}

Result<void> RemoteGroup::remove(const std::vector<std::string>& list, bool with_contents, ChangeOptions options) {
    return call_void(*client_, "remove", {{"names", names(list)}, {"with_contents", with_contents}, {"options", to_json(options)}},
                     options.progress);
}

Result<VolumeInfo> RemoteGroup::convert_to_pool(const ConvertToPool& request, ChangeOptions options) {
    return call<VolumeInfo>(*client_, "convert_to_pool", {{"request", to_json(request)}, {"options", to_json(options)}});
}

Result<VolumeInfo> RemoteGroup::swap_metadata(const std::string& pool, const std::string& volume, ChangeOptions options) {
    return call<VolumeInfo>(*client_, "swap_metadata",
                            {{"pool", exactly(pool)}, {"volume", exactly(volume)}, {"options", to_json(options)}});
}

Result<VolumeInfo> RemoteGroup::change_pool(const ChangePool& request, ChangeOptions options) {
    return call<VolumeInfo>(*client_, "change_pool", {{"request", to_json(request)}, {"options", to_json(options)}});
}

Result<AutomaticExtension> RemoteGroup::automatic_extension(const std::string& pool) {
    return call<AutomaticExtension>(*client_, "automatic_extension", {{"pool", exactly(pool)}});
}

Result<std::vector<VolumeInfo>> RemoteGroup::set_active(const SetActive& request, ChangeOptions options) {
    return call<std::vector<VolumeInfo>>(*client_, "set_active", {{"request", to_json(request)}, {"options", to_json(options)}});
}

Result<std::vector<PoolDependent>> RemoteGroup::pool_dependents(const std::string& pool) {
    return call<std::vector<PoolDependent>>(*client_, "pool_dependents", {{"pool", exactly(pool)}});
}

Result<void> RemoteGroup::remove_foreign(const std::string& pool, const std::vector<PoolDependent>& dependents, ChangeOptions options) {
    return call_void(*client_, "remove_foreign",
                     {{"pool", exactly(pool)}, {"dependents", to_json(dependents)}, {"options", to_json(options)}});
}

Result<VolumeInfo> RemoteGroup::rollback(const std::string& name, const std::string& snapshot, ChangeOptions options) {
    return call<VolumeInfo>(*client_, "rollback", {{"name", exactly(name)}, {"snapshot", exactly(snapshot)}, {"options", to_json(options)}},
                            options.progress);
}

Result<std::uint64_t> RemoteGroup::reserve_metadata_snapshot(const std::string& pool, ChangeOptions options) {
    return call<std::uint64_t>(*client_, "reserve_metadata_snapshot", {{"pool", exactly(pool)}, {"options", to_json(options)}});
}

Result<void> RemoteGroup::release_metadata_snapshot(const std::string& pool, ChangeOptions options) {
    return call_void(*client_, "release_metadata_snapshot", {{"pool", exactly(pool)}, {"options", to_json(options)}});
}

Result<std::uint64_t> RemoteGroup::trim(const std::string& pool, ChangeOptions options) {
    return call<std::uint64_t>(*client_, "trim", {{"pool", exactly(pool)}, {"options", to_json(options)}}, options.progress);
}

Result<PoolContents> RemoteGroup::pool_contents(const std::string& pool, bool check) {
    return call<PoolContents>(*client_, "pool_contents", {{"pool", exactly(pool)}, {"check", check}});
}

Result<std::vector<ThinUsage>> RemoteGroup::pool_usage(const std::string& pool) {
    return call<std::vector<ThinUsage>>(*client_, "pool_usage", {{"pool", exactly(pool)}});
}

Result<PackedMetadata> RemoteGroup::pack_metadata(const std::string& pool, const std::string& file) {
    // The other process may have another current folder.
    return call<PackedMetadata>(*client_, "pack_metadata",
                                {{"pool", exactly(pool)}, {"file", exactly(std::filesystem::absolute(file).native())}});
}

Result<VolumeInfo> RemoteGroup::make_spare(ChangeOptions options) {
    return call<VolumeInfo>(*client_, "make_spare", {{"options", to_json(options)}});
}

Result<std::string> RemoteGroup::status_line(const std::string& name) {
    return call<std::string>(*client_, "status_line", {{"name", exactly(name)}});
}

Result<std::string> RemoteGroup::table_line(const std::string& name) {
    return call<std::string>(*client_, "table_line", {{"name", exactly(name)}});
}

Result<void> RemoteGroup::send_message(const std::string& pool, const std::string& message) {
    return call_void(*client_, "send_message", {{"pool", exactly(pool)}, {"message", exactly(message)}});
}

Result<std::string> RemoteGroup::backup_text() { return call<std::string>(*client_, "backup_text", Json::object()); }

Result<void> RemoteGroup::restore_text(const std::string& text, bool force, ChangeOptions options) {
    return call_void(*client_, "restore_text", {{"text", exactly(text)}, {"force", force}, {"options", to_json(options)}});
}

}  // namespace lamella
