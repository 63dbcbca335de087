// SPDX-License-Identifier: Apache-2.0
//
// thin POOL ID [ORIGIN]: a volume of a pool; what it hasn't is read from the external origin, if there is one.
#include <utility>

#include "mapper/mapped_device.h"
#include "mapper/targets/pool_in_use.h"

namespace lamella::mapper {

namespace {

class ThinTarget final : public Target {
  public:
    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        auto target = std::make_unique<ThinTarget>();
        Words& words = context.words();
        const std::string_view pool = TRY(words.take("the pool"));
        target->id_ = ThinId(static_cast<std::uint32_t>(TRY(words.take_number("the id of the volume", 0, (1u << 24) - 1))));
        // Opened in the kernel's order, which dependencies are listed by.
        if (words.left() > 0)
            target->origin_ = TRY(context.open(TRY(words.take("the external origin")), TargetContext::Access::read_only));
        target->lower_ = TRY(context.open(pool));
        const auto known = context.shared().find<PoolOfDevice>(*target->lower_.device);
        if (known == nullptr)
            return fail(ErrorKind::usage, "{} is no thin-pool", target->lower_.word);
        target->shared_ = std::shared_ptr<PoolInUse>(known, known->pool);
        TRY(context.refuse_suspended());
        if (TRY(target->shared_->pool->status()).mode == thin::PoolMode::fail)
            return fail(ErrorKind::refused, "the pool {} has failed", target->lower_.word);
        TRY(target->open(context.owner().name(), context.length()));
        target->owner_ = &context.owner();
        return target;
    }
    ~ThinTarget() override {
        if (live_)
            shared_->devices.extract(owner_);
    }

    BlockDevice& device() override { return *volume_; }
    // What stands below the volume is the pool's to flush.
    void add_leaves(std::vector<BlockDevice*>& leaves) override { volume_->BlockDevice::add_leaves(leaves); }
    std::string status(bool flush) override {
        if (flush)
            (void)shared_->pool->commit();
        const Result<thin::PoolStatus> pool = shared_->pool->status();
        const Result<thin::DeviceDetails> details = shared_->pool->details(id_);
        const Result<std::optional<std::uint64_t>> highest = shared_->pool->highest_mapped_sector(id_);
        if (!pool || pool->mode == thin::PoolMode::fail)
            return "Fail";
        if (!details || !highest)
            return "Error";
        return fmt::format("{} {}", details->mapped_blocks * pool->data_block_sectors, *highest ? fmt::to_string(**highest) : "-");
    }
    std::string table() const override {
        return fmt::format("{} {}{}", lower_.word, id_, origin_.device != nullptr ? " " + origin_.word : "");
    }

    void resume() override {
        if (!std::exchange(live_, true))
            shared_->devices.insert(owner_);
    }
    void give_back() override { shared_->pool->give_back_waiting(); }

  private:
    Result<void> open(const std::string& name, std::uint64_t length) {
        std::erase_if(shared_->volumes, [](const auto& entry) { return entry.second.volume.expired(); });
        if (const auto open = shared_->volumes.find(id_); open != shared_->volumes.end()) {
            if (open->second.external_origin != origin_.device.get())
                return fail(ErrorKind::refused, "volume {} is in use with another external origin", id_);
            volume_ = open->second.volume.lock();
        } else {
            volume_ = TRY(shared_->pool->open_volume(id_, length, name, origin_.device.get()));
            shared_->volumes[id_] = {volume_, origin_.device.get()};
        }
        if (volume_->size() < length)
            volume_->resize(length);
        return {};
    }

    LowerDevice lower_;
    LowerDevice origin_;
    ThinId id_{};
    MappedDevice* owner_ = nullptr;
    bool live_ = false;
    std::shared_ptr<PoolInUse> shared_;
    std::shared_ptr<thin::ThinVolume> volume_;  // closed before the pool
};

}  // namespace

extern const TargetType thin_target;
const TargetType thin_target = {.name = "thin", .version = {1, 22, 0}, .create = ThinTarget::create, .own_io = true};

}  // namespace lamella::mapper
