// SPDX-License-Identifier: Apache-2.0
//
// linear DEVICE START: a piece of a device.
#include "base/strong.h"
#include "mapper/target.h"

namespace lamella::mapper {

namespace {

class Linear final : public Target {
  public:
    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        auto target = std::make_unique<Linear>();
        target->lower_ = TRY(context.open(TRY(context.words().take("the device"))));
        target->start_ = TRY(context.words().take_sectors("the start on the device"));
        target->device_ = TRY(slice_of(target->lower_, target->start_, context.length()));
        return target;
    }

    BlockDevice& device() override { return *device_; }
    std::string table() const override { return fmt::format("{} {}", lower_.word, start_ / sector_bytes); }

  private:
    LowerDevice lower_;
    std::uint64_t start_ = 0;
    std::unique_ptr<BlockDevice> device_;
};

}  // namespace

extern const TargetType linear_target;
const TargetType linear_target = {.name = "linear", .version = {1, 4, 0}, .create = Linear::create};

}  // namespace lamella::mapper
