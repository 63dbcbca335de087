// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "volumes/control.h"
#include "volumes/volume_group.h"

namespace lamella {

// A group that another process serves, over that process's control socket. Errors are the serving process's own.
class RemoteGroup final : public VolumeGroup {
  public:
    explicit RemoteGroup(std::unique_ptr<ControlClient> client) : client_(std::move(client)) {}

    // For what a serving process offers beyond VolumeGroup.
    ControlClient& client() { return *client_; }

    Result<GroupInfo> info() override;
    Result<std::vector<PhysicalVolumeInfo>> inspect_disks() override;
    Result<std::vector<VolumeInfo>> volumes() override;
    Result<VolumeInfo> volume(const std::string& name) override;
    Result<VolumeInfo> create_pool(const CreatePool& request, ChangeOptions options) override;
    Result<VolumeInfo> create_volume(const CreateVolume& request, ChangeOptions options) override;
    Result<std::vector<VolumeInfo>> create_snapshots(const std::vector<CreateSnapshot>& requests, ChangeOptions options) override;
    Result<VolumeInfo> resize(const ResizeVolume& request, ChangeOptions options) override;
    Result<VolumeInfo> rename(const std::string& name, const std::string& new_name, ChangeOptions options) override;
    Result<VolumeInfo> change_tags(const std::string& name, const std::vector<std::string>& add, const std::vector<std::string>& remove,
                                   ChangeOptions options) override;
    Result<void> remove(const std::vector<std::string>& names, bool with_contents, ChangeOptions options) override;
    Result<VolumeInfo> convert_to_pool(const ConvertToPool& request, ChangeOptions options) override;
    Result<VolumeInfo> swap_metadata(const std::string& pool, const std::string& volume, ChangeOptions options) override;
    Result<VolumeInfo> change_pool(const ChangePool& request, ChangeOptions options) override;
    Result<AutomaticExtension> automatic_extension(const std::string& pool) override;
    Result<std::vector<VolumeInfo>> set_active(const SetActive& request, ChangeOptions options) override;
    Result<std::vector<PoolDependent>> pool_dependents(const std::string& pool) override;
    Result<void> remove_foreign(const std::string& pool, const std::vector<PoolDependent>& dependents, ChangeOptions options) override;
    Result<VolumeInfo> rollback(const std::string& name, const std::string& snapshot, ChangeOptions options) override;
    Result<std::uint64_t> reserve_metadata_snapshot(const std::string& pool, ChangeOptions options) override;
    Result<void> release_metadata_snapshot(const std::string& pool, ChangeOptions options) override;
    Result<std::uint64_t> trim(const std::string& pool, ChangeOptions options) override;
    Result<PoolContents> pool_contents(const std::string& pool, bool check) override;
    Result<std::vector<ThinUsage>> pool_usage(const std::string& pool) override;
    Result<PackedMetadata> pack_metadata(const std::string& pool, const std::string& file) override;
    Result<VolumeInfo> make_spare(ChangeOptions options) override;
    Result<std::string> status_line(const std::string& name) override;
    Result<std::string> table_line(const std::string& name) override;
    Result<void> send_message(const std::string& pool, const std::string& message) override;
    Result<std::string> backup_text() override;
    Result<void> restore_text(const std::string& text, bool force, ChangeOptions options) override;

  private:
    std::unique_ptr<ControlClient> client_;
};

}  // namespace lamella
