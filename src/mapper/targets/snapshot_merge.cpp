// SPDX-License-Identifier: Apache-2.0
//
// snapshot-merge ORIGIN STORE P|PO CHUNK [COUNT FEATURE...]: in place of snapshot-origin, the origin while a snapshot is given back to it.
// Takes the snapshot over from a snapshot target over the same store, whose I/O fails from then on. A second one over a store is refused,
// as the kernel does.
#include "mapper/mapped_device.h"
#include "mapper/targets/origin_in_use.h"

namespace lamella::mapper {

namespace {

// A merge lasts as long as its table: found in SharedObjects by the store's device.
struct MergeInUse {
    std::shared_ptr<OriginInUse> origin;
    std::shared_ptr<cow::Snapshot> snapshot;
    ~MergeInUse() {
        if (snapshot != nullptr && origin->origin->merging() == snapshot)
            (void)origin->origin->end_merge();
    }
};

class SnapshotMergeTarget final : public Target {
  public:
    SnapshotMergeTarget(SnapshotWords words, MappedDevice& owner) : words_(std::move(words)), owner_(owner) {}

    ~SnapshotMergeTarget() override {
        if (merge_ != nullptr && merge_->snapshot != nullptr)
            merge_->snapshot->drop_event_handler(this);
    }

    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        auto target = std::make_unique<SnapshotMergeTarget>(TRY(SnapshotWords::take(context)), context.owner());
        if (!target->words_.options.store.persistent)
            return fail(ErrorKind::unsupported, "a transient store can't be merged");
        if (context.shared().find<MergeInUse>(*target->words_.store.device) != nullptr)
            return fail(ErrorKind::refused, "{} is in a snapshot-merge table already", target->words_.store.word);
        target->merge_ = std::make_shared<MergeInUse>();
        target->merge_->origin = target->words_.origin;
        context.shared().put(*target->words_.store.device, target->merge_);
        return target;
    }

    BlockDevice& device() override { return *words_.origin->origin; }
    void add_leaves(std::vector<BlockDevice*>& leaves) override {
        words_.store.device->add_leaves(leaves);
        words_.origin->lower.device->add_leaves(leaves);
    }
    std::string status(bool) override {
        return merge_->snapshot != nullptr ? merge_->snapshot->snapshot_status().line() : std::string("Unknown");
    }
    std::string table() const override { return words_.print(merge_->snapshot.get()); }

    Result<void> preresume() override {
        const auto merging = words_.origin->origin->merging();
        if (merging != nullptr && merging != merge_->snapshot)
            return fail(ErrorKind::refused, "a snapshot is merging into {} already", words_.origin->lower.word);
        merge_->snapshot = TRY(words_.open(owner_, *this));
        return {};
    }
    // An error leaves the snapshot as it is, which the status shows.
    void resume() override { (void)words_.origin->origin->start_merge(merge_->snapshot); }
    // The disk may take its time over what is being merged: no other command waits for that.
    void presuspend(const SuspendOptions&) override { (void)words_.origin->origin->stop_merge(Duration::zero()); }
    void presuspend_undo() override { resume(); }
    bool drained(Duration patience) override { return words_.origin->origin->stop_merge(patience); }

  private:
    const SnapshotWords words_;
    MappedDevice& owner_;
    std::shared_ptr<MergeInUse> merge_;
};

}  // namespace

extern const TargetType snapshot_merge_target;
const TargetType snapshot_merge_target = {
    .name = "snapshot-merge", .version = {1, 5, 0}, .create = SnapshotMergeTarget::create, .own_io = true};

}  // namespace lamella::mapper
