// SPDX-License-Identifier: Apache-2.0
//
// zero: reads as zeros, forgets what is written.
#include "device/zero_device.h"
#include "mapper/target.h"

namespace lamella::mapper {

namespace {

class ZeroTarget final : public Target {
  public:
    explicit ZeroTarget(std::uint64_t length) : device_(length, "zero") {}

    static Result<std::unique_ptr<Target>> create(TargetContext& context) { return std::make_unique<ZeroTarget>(context.length()); }

    BlockDevice& device() override { return device_; }
    void add_leaves(std::vector<BlockDevice*>&) override {}
    std::string table() const override { return {}; }

  private:
    ZeroDevice device_;
};

}  // namespace

extern const TargetType zero_target;
const TargetType zero_target = {.name = "zero", .version = {1, 1, 0}, .create = ZeroTarget::create};

}  // namespace lamella::mapper
