// SPDX-License-Identifier: Apache-2.0
//
// striped COUNT CHUNK [DEVICE START]...: chunk after chunk to device after device.
#include "base/strong.h"
#include "device/striped_device.h"
#include "mapper/target.h"

namespace lamella::mapper {

namespace {

class StripedTarget final : public Target {
  public:
    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        auto target = std::make_unique<StripedTarget>();
        Words& words = context.words();
        const std::uint64_t count = TRY(words.take_number("the number of stripes", 1, max_words));
        target->chunk_ = TRY(words.take_sectors("the chunk size"));
        if (target->chunk_ == 0 || context.length() % (target->chunk_ * count) != 0)
            return fail(ErrorKind::usage, "the length is not a multiple of {} chunks of {} sectors", count, target->chunk_ / sector_bytes);
        std::vector<StripedDevice::Stripe> places;
        for (std::uint64_t index = 0; index < count; ++index) {
            LowerDevice lower = TRY(context.open(TRY(words.take("the device of a stripe"))));
            places.push_back({lower.device.get(), TRY(words.take_sectors("the start of a stripe"))});
            target->stripes_.push_back({std::move(lower), places.back().start});
        }
        target->device_ = TRY(StripedDevice::create(places, target->chunk_, context.length(), "stripes"));
        return target;
    }

    BlockDevice& device() override { return *device_; }
    // The devices, and a letter for each: A, alive. What would be D in the kernel, a device with errors, isn't counted here.
    std::string status(bool flush) override {
        (void)flush;
        std::string line = fmt::format("{}", stripes_.size());
        for (const Stripe& stripe : stripes_)
            line += " " + stripe.lower.word;
        return line + " 1 " + std::string(stripes_.size(), 'A');
    }
    std::string table() const override {
        std::string line = fmt::format("{} {}", stripes_.size(), chunk_ / sector_bytes);
        for (const Stripe& stripe : stripes_)
            line += fmt::format(" {} {}", stripe.lower.word, stripe.start / sector_bytes);
        return line;
    }

  private:
    struct Stripe {
        LowerDevice lower;
        std::uint64_t start;  // bytes
    };
    std::uint64_t chunk_ = 0;  // bytes
    std::vector<Stripe> stripes_;
    std::unique_ptr<StripedDevice> device_;
};

}  // namespace

extern const TargetType striped_target;
const TargetType striped_target = {.name = "striped", .version = {1, 6, 0}, .create = StripedTarget::create};

}  // namespace lamella::mapper
