// SPDX-License-Identifier: Apache-2.0
//
// error: every request fails. Words after it are passed over, as the kernel does.
#include "device/error_device.h"
#include "mapper/target.h"

namespace lamella::mapper {

namespace {

class ErrorTarget final : public Target {
  public:
    explicit ErrorTarget(std::uint64_t length) : device_(length, "error") {}

    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        while (context.words().left() > 0)
            TRY(context.words().take("a word"));
        return std::make_unique<ErrorTarget>(context.length());
    }

    BlockDevice& device() override { return device_; }
    // The kernel's target gets no flushes.
    void add_leaves(std::vector<BlockDevice*>&) override {}
    std::string table() const override { return {}; }

  private:
    ErrorDevice device_;
};

}  // namespace

extern const TargetType error_target;
const TargetType error_target = {.name = "error", .version = {1, 5, 0}, .create = ErrorTarget::create, .wildcard = true};

}  // namespace lamella::mapper
