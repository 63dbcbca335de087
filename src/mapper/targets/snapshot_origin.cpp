// SPDX-License-Identifier: Apache-2.0
//
// snapshot-origin DEVICE: a device that has snapshots.
#include "mapper/targets/origin_in_use.h"

namespace lamella::mapper {

namespace {

class SnapshotOriginTarget final : public Target {
  public:
    explicit SnapshotOriginTarget(std::shared_ptr<OriginInUse> origin) : origin_(std::move(origin)) {}

    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        const std::string_view word = TRY(context.words().take("the device"));
        return std::make_unique<SnapshotOriginTarget>(TRY(OriginInUse::of(context, word)));
    }

    BlockDevice& device() override { return *origin_->origin; }
    std::string table() const override { return origin_->lower.word; }

  private:
    std::shared_ptr<OriginInUse> origin_;
};

}  // namespace

extern const TargetType snapshot_origin_target;
const TargetType snapshot_origin_target = {.name = "snapshot-origin", .version = {1, 9, 0}, .create = SnapshotOriginTarget::create};

}  // namespace lamella::mapper
