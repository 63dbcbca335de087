// SPDX-License-Identifier: Apache-2.0
//
// snapshot ORIGIN STORE P|PO|N CHUNK [COUNT FEATURE...]: the origin as it was when the table was resumed first, and what was written here.
#include <atomic>

#include "mapper/mapped_device.h"
#include "mapper/targets/origin_in_use.h"

namespace lamella::mapper {

namespace {

// A snapshot that begins when the table is resumed; there is no I/O before.
class SnapshotToCome final : public BlockDevice {
  public:
    explicit SnapshotToCome(const SnapshotWords& words) : words_(words) {}
    void set(std::shared_ptr<cow::Snapshot> snapshot) {
        snapshot_ = std::move(snapshot);
        began_.store(snapshot_.get());
    }
    cow::Snapshot* get() const { return began_.load(); }

    std::uint64_t size() const override { return words_.options.size; }
    std::string name() const override { return words_.store.word; }
    DeviceTraits traits() const override {
        if (const cow::Snapshot* snapshot = get())
            return snapshot->traits();
        DeviceTraits traits = words_.origin->lower.device->traits();
        traits.alignment = std::max(traits.alignment, words_.store.device->traits().alignment);
        traits.discards = words_.options.discard_zeroes_cow;
        traits.discard_zeroes = false;
        return traits;
    }
    void submit(IoQueue& queue, IoRequest& request) override {
        if (cow::Snapshot* snapshot = began_.load())
            snapshot->submit(queue, request);
        else
            queue.complete_later(request, EIO);
    }
    void status(IoQueue& queue, StatusRequest& request) override {
        if (cow::Snapshot* snapshot = began_.load())
            snapshot->status(queue, request);
        else
            BlockDevice::status(queue, request);
    }

  private:
    const SnapshotWords& words_;
    std::shared_ptr<cow::Snapshot> snapshot_;
    std::atomic<cow::Snapshot*> began_{nullptr};
};

class SnapshotTarget final : public Target {
  public:
    SnapshotTarget(SnapshotWords words, MappedDevice& owner) : words_(std::move(words)), owner_(owner), device_(words_) {}

    ~SnapshotTarget() override {
        if (device_.get() != nullptr)
            device_.get()->drop_event_handler(this);
    }

    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        return std::make_unique<SnapshotTarget>(TRY(SnapshotWords::take(context)), context.owner());
    }

    BlockDevice& device() override { return device_; }
    std::string status(bool) override {
        if (device_.get() != nullptr) {
            cow::SnapshotStatus status = device_.get()->snapshot_status();
            if (status.merging)  // the origin's now; nothing is to be had here any more
                status.condition = cow::SnapshotCondition::invalid;
            return status.line();
        }
        const auto found = cow::inspect_store(*words_.store.device, words_.options.size);
        if (!found)
            return "Unknown";
        cow::SnapshotStatus status{.usage = found->usage};
        if (found->kind == cow::StoreSummary::Kind::invalid)
            status.condition = cow::SnapshotCondition::invalid;
        return status.line();
    }
    std::string table() const override { return words_.print(device_.get()); }
    Result<void> preresume() override {
        if (device_.get() == nullptr)
            device_.set(TRY(words_.open(owner_, *this)));
        return {};
    }

    // A store that is suspended is whole: it may be copied, or handed on.
    bool drained(Duration patience) override { return device_.get() == nullptr || device_.get()->wait_until_committed(patience); }

  private:
    const SnapshotWords words_;
    MappedDevice& owner_;
    SnapshotToCome device_;
};

}  // namespace

extern const TargetType snapshot_target;
const TargetType snapshot_target = {.name = "snapshot", .version = {1, 16, 0}, .create = SnapshotTarget::create, .own_io = true};

}  // namespace lamella::mapper
