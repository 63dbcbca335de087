// SPDX-License-Identifier: Apache-2.0
//
// striped COUNT CHUNK [DEVICE START]...: chunk after chunk to device after device.
#include <atomic>
#include <cerrno>

#include "base/strong.h"
#include "device/striped_device.h"
#include "mapper/mapped_device.h"
#include "mapper/target.h"

namespace lamella::mapper {

namespace {

// A device that stripes lie on, and how many requests have failed there. All stripes on one device share it.
class Leg final : public BlockDevice {
  public:
    Leg(LowerDevice lower, MappedDevice& owner) : lower_(std::move(lower)), owner_(owner) {}

    const LowerDevice& lower() const { return lower_; }
    bool failed() const { return errors_.load() > 0; }

    std::uint64_t size() const override { return lower_.device->size(); }
    DeviceTraits traits() const override { return lower_.device->traits(); }
    std::string name() const override { return lower_.device->name(); }
    void status(IoQueue& queue, StatusRequest& request) override { lower_.device->status(queue, request); }
    std::uint64_t known_zero(std::uint64_t offset, std::uint64_t limit) override { return lower_.device->known_zero(offset, limit); }
    // A leaf itself: a flush that fails counts, too.
    void submit(IoQueue& queue, IoRequest& request) override {
        struct Watched : IoRequest {
            Leg* leg;
            IoRequest* parent;
        };
        auto* watched = new Watched{request, this, &request};
        watched->context = watched;
        watched->completed = [](IoRequest& finished, int error) {
            auto& self = *static_cast<Watched*>(finished.context);
            if (error != 0 && error != EOPNOTSUPP)
                self.leg->count_error();
            IoRequest& parent = *self.parent;
            delete &self;
            parent.completed(parent, error);
        };
        lower_.device->submit(queue, *watched);
    }

  private:
    // A disk that is gone for good raises no more events than this.
    static constexpr std::uint32_t most_events = 14;  // the kernel's: dm-stripe.c, DM_IO_ERROR_THRESHOLD

    void count_error() {
        if (errors_.fetch_add(1) < most_events)
            owner_.raise_event();
    }

    const LowerDevice lower_;
    MappedDevice& owner_;
    std::atomic<std::uint32_t> errors_{0};
};

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
            Leg& leg = target->leg_on(TRY(context.open(TRY(words.take("the device of a stripe")))), context.owner());
            places.push_back({&leg, TRY(words.take_sectors("the start of a stripe"))});
            target->stripes_.push_back({&leg, places.back().start});
        }
        target->device_ = TRY(StripedDevice::create(places, target->chunk_, context.length(), "stripes"));
        return target;
    }

    BlockDevice& device() override { return *device_; }
    // The devices, and a letter for each: A, alive, or D, a request has failed there.
    std::string status(bool flush) override {
        (void)flush;
        std::string line = fmt::format("{}", stripes_.size());
        for (const Stripe& stripe : stripes_)
            line += " " + stripe.leg->lower().word;
        line += " 1 ";
        for (const Stripe& stripe : stripes_)
            line += stripe.leg->failed() ? 'D' : 'A';
        return line;
    }
    std::string table() const override {
        std::string line = fmt::format("{} {}", stripes_.size(), chunk_ / sector_bytes);
        for (const Stripe& stripe : stripes_)
            line += fmt::format(" {} {}", stripe.leg->lower().word, stripe.start / sector_bytes);
        return line;
    }

  private:
    Leg& leg_on(LowerDevice lower, MappedDevice& owner) {
        for (const auto& leg : legs_)
            if (leg->lower().device == lower.device)
                return *leg;
        return *legs_.emplace_back(std::make_unique<Leg>(std::move(lower), owner));
    }

    struct Stripe {
        Leg* leg;
        std::uint64_t start;  // bytes
    };
    std::uint64_t chunk_ = 0;  // bytes
    std::vector<std::unique_ptr<Leg>> legs_;
    std::vector<Stripe> stripes_;
    std::unique_ptr<StripedDevice> device_;
};

}  // namespace

extern const TargetType striped_target;
const TargetType striped_target = {.name = "striped", .version = {1, 6, 0}, .create = StripedTarget::create};

}  // namespace lamella::mapper
