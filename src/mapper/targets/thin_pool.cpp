// SPDX-License-Identifier: Apache-2.0
//
// thin-pool METADATA DATA CHUNK LOW-WATER [COUNT FEATURE...]: a pool of thin volumes. Metadata that begins with zeros is formatted.
#include <algorithm>
#include <utility>

#include "base/strong.h"
#include "mapper/mapped_device.h"
#include "mapper/targets/pool_in_use.h"

namespace lamella::mapper {

namespace {

constexpr std::size_t superblock_bytes = 4096;

Result<thin::ThinPoolOptions> take_options(Words& words) {
    thin::ThinPoolOptions options;
    options.data_block_sectors = static_cast<std::uint32_t>(TRY(words.take_number("the chunk size", 1, UINT32_MAX)));
    options.low_water_blocks = TRY(words.take_number("the low water mark"));
    if (words.left() == 0)
        return options;
    const std::uint64_t count = TRY(words.take_number("the number of features", 0, 4));
    if (count != words.left())
        return fail(ErrorKind::usage, "{} features are announced, {} follow", count, words.left());
    while (words.left() > 0) {
        const std::string_view feature = TRY(words.take("a feature"));
        if (feature == "skip_block_zeroing")
            options.zero_new_blocks = false;
        else if (feature == "ignore_discard")
            options.discards = thin::DiscardPolicy::ignore;
        else if (feature == "no_discard_passdown")
            options.discards = thin::DiscardPolicy::no_passdown;
        else if (feature == "read_only")
            options.read_only = true;
        else if (feature == "error_if_no_space")
            options.error_if_no_space = true;
        else
            return fail(ErrorKind::usage, "feature \"{:.40}\" is unknown", feature);
    }
    return options;
}

Result<void> format_if_new(BlockDevice& metadata, std::uint64_t data_bytes, const thin::ThinPoolOptions& options) {
    std::vector<std::byte> superblock(superblock_bytes);
    TRY(read_now(metadata, 0, superblock));
    if (!options.read_only && std::ranges::all_of(superblock, [](std::byte byte) { return byte == std::byte{}; }))
        TRY(thin::ThinPool::format(metadata, data_bytes, options.data_block_sectors));
    return {};
}

class ThinPoolTarget final : public Target {
  public:
    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        auto target = std::make_unique<ThinPoolTarget>();
        Words& words = context.words();
        const LowerDevice metadata = TRY(context.open(TRY(words.take("the metadata device"))));
        const LowerDevice data = TRY(context.open(TRY(words.take("the data device"))));
        target->options_ = TRY(take_options(words));
        target->length_ = context.length();
        if (metadata.device == data.device)
            return fail(ErrorKind::usage, "metadata and data are one device");
        TRY(context.refuse_suspended());
        target->shared_ = context.shared().find<PoolInUse>(*metadata.device);
        if (target->shared_ == nullptr)
            target->shared_ = TRY(open(context, metadata, data, target->options_));
        else
            TRY(target->take_over(context.owner(), data));
        return target;
    }

    BlockDevice& device() override { return *shared_->window; }
    std::string status(bool flush) override {
        if (flush)
            (void)shared_->pool->commit();  // an error shows in the mode
        return shared_->pool->status_line().value_or("Error");
    }
    std::string table() const override { return thin::pool_table_line(options_, shared_->metadata.word, shared_->data.word); }
    Result<std::string> message(std::span<const std::string> words) override {
        TRY(shared_->pool->message(fmt::format("{}", fmt::join(words, " "))));
        return std::string();
    }
    // As the kernel does: the volumes' devices are suspended with the pool's.
    void presuspend(const SuspendOptions&) override {
        for (MappedDevice* device : shared_->devices)
            device->block_from_below();
    }
    void presuspend_undo() override { resume(); }
    void give_back() override { shared_->pool->give_back_waiting(); }
    bool drained(Duration patience) override {
        for (MappedDevice* device : shared_->devices)
            if (!device->drained(patience)) {
                // What waits for room does so inside the pool: the suspend may well be on the way to bring some.
                const Result<thin::PoolStatus> status = shared_->pool->status();
                return status && status->mode == thin::PoolMode::out_of_data_space;
            }
        return true;
    }
    void postsuspend() override { (void)shared_->pool->commit(); }
    void resume() override {
        // A pool that isn't what its table asks for, or was told not to be written, tells so as it begins.
        if (!std::exchange(shared_->begun, true))
            if (const Result<thin::PoolStatus> status = shared_->pool->status(); status && status->mode != thin::PoolMode::write)
                shared_->owner->raise_event();
        for (MappedDevice* device : shared_->devices)
            device->unblock_from_below();
    }
    Result<void> preresume() override {
        const thin::PoolStatus status = TRY(shared_->pool->status());
        const std::uint64_t blocks = length_ / (options_.data_block_sectors * sector_bytes);
        if (blocks < status.data_blocks)
            return fail(ErrorKind::usage, "the table has room for {} chunks, the pool has {}", blocks, status.data_blocks);
        if (const std::uint64_t had = shared_->window->size(); length_ > had) {
            const CompositeDevice::Piece more{shared_->data.device.get(), had, length_ - had};
            TRY(shared_->window->append({&more, 1}));
        }
        thin::ThinPoolOptions options = options_;
        if (options.discards == thin::DiscardPolicy::passdown && !shared_->data.device->traits().discards)
            options.discards = thin::DiscardPolicy::no_passdown;
        TRY(shared_->pool->change_options(options));
        const thin::PoolMode mode = TRY(shared_->pool->status()).mode;
        if (mode != thin::PoolMode::read_only && mode != thin::PoolMode::fail && !status.needs_check) {
            TRY(shared_->pool->grow_metadata());
            TRY(shared_->pool->grow_data());
        }
        return {};
    }

  private:
    static Result<std::shared_ptr<PoolInUse>> open(TargetContext& context, const LowerDevice& metadata, const LowerDevice& data,
                                                   thin::ThinPoolOptions options) {
        if (context.shared().find<PoolData>(*data.device) != nullptr)
            return fail(ErrorKind::refused, "data device {} is in use by a pool", data.word);
        auto opened = std::make_shared<PoolInUse>();
        opened->owner = &context.owner();
        opened->metadata = metadata;
        opened->data = data;
        opened->as_data.owner = opened->owner;
        opened->as_device.pool = opened.get();
        const CompositeDevice::Piece whole{data.device.get(), 0, context.length()};
        opened->window = TRY(ConcatenationDevice::create({&whole, 1}, data.word));
        TRY(format_if_new(*metadata.device, context.length(), options));
        // What the kernel calls its adjusted features: no discards for a device that has none.
        if (options.discards == thin::DiscardPolicy::passdown && !data.device->traits().discards)
            options.discards = thin::DiscardPolicy::no_passdown;
        opened->pool = TRY(thin::ThinPool::open(*metadata.device, *opened->window, options));
        opened->pool->set_event_handler([owner = opened->owner] { owner->raise_event(); });
        context.shared().put(*metadata.device, opened);
        context.shared().put(*data.device, std::shared_ptr<PoolData>(opened, &opened->as_data));
        context.shared().put(*static_cast<BlockDevice*>(opened->owner), std::shared_ptr<PoolOfDevice>(opened, &opened->as_device));
        return opened;
    }

    // A new table for a pool in use.
    Result<void> take_over(const MappedDevice& owner, const LowerDevice& data) const {
        const thin::ThinPoolOptions& had = shared_->pool->options();
        if (TRY(shared_->pool->status()).mode == thin::PoolMode::fail)
            return fail(ErrorKind::refused, "the pool has failed: it has to be removed, and made again");
        if (shared_->owner != &owner)
            return fail(ErrorKind::refused, "metadata device {} is in use by a pool", shared_->metadata.word);
        if (shared_->data.device != data.device)
            return fail(ErrorKind::refused, "the pool is in use with another data device, {}", shared_->data.word);
        if (had.data_block_sectors != options_.data_block_sectors)
            return fail(ErrorKind::usage, "the pool has chunks of {} sectors", had.data_block_sectors);
        if ((had.discards == thin::DiscardPolicy::ignore) != (options_.discards == thin::DiscardPolicy::ignore))
            return fail(ErrorKind::usage, "whether the pool takes discards can't be changed while it is in use");
        return {};
    }

    std::shared_ptr<PoolInUse> shared_;
    thin::ThinPoolOptions options_;
    std::uint64_t length_ = 0;  // bytes
};

}  // namespace

extern const TargetType thin_pool_target;
const TargetType thin_pool_target = {.name = "thin-pool",
                                     .version = {1, 22, 0},
                                     .create = ThinPoolTarget::create,
                                     .singleton = true,
                                     .immutable = true,
                                     .writeable = true,
                                     .own_io = true};

}  // namespace lamella::mapper
