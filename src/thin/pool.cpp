// SPDX-License-Identifier: Apache-2.0
#include "thin/pool.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "thin/pool_thread.h"

namespace lamella::thin {

namespace {

constexpr std::uint64_t least_block_sectors = 128;  // dm-thin.c: DATA_DEV_BLOCK_SIZE_MIN_SECTORS, and so is the multiple
constexpr std::uint64_t most_block_sectors = 2097152;

Result<void> check_block_size(std::uint32_t sectors) {
    if (sectors < least_block_sectors || sectors > most_block_sectors || sectors % least_block_sectors != 0)
        return fail(ErrorKind::usage, "a chunk size of {} sectors is not a multiple of 64 KiB between 64 KiB and 1 GiB", sectors);
    return {};
}

Result<std::uint64_t> parse_number(std::string_view word) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc() || end != word.data() + word.size())
        return fail(ErrorKind::usage, "'{:.40}' is not a number", word);
    return value;
}

Result<ThinId> parse_id(std::string_view word) {
    const std::uint64_t value = TRY(parse_number(word));
    if (value >= 1u << 24)
        return fail(ErrorKind::usage, "thin device id {} is not below 2^24", value);
    return ThinId(static_cast<std::uint32_t>(value));
}

std::vector<std::string_view> split_words(std::string_view text) {
    std::vector<std::string_view> words;
    while (true) {
        const std::size_t begin = text.find_first_not_of(" \t");
        if (begin == std::string_view::npos)
            return words;
        text.remove_prefix(begin);
        const std::size_t end = std::min(text.find_first_of(" \t"), text.size());
        words.push_back(text.substr(0, end));
        text.remove_prefix(end);
    }
}

std::string_view discard_word(DiscardPolicy policy) {
    switch (policy) {
    case DiscardPolicy::ignore: return "ignore_discard";
    case DiscardPolicy::no_passdown: return "no_discard_passdown";
    case DiscardPolicy::passdown: break;
    }
    return "discard_passdown";
}

}  // namespace

PoolStatus status_of(const ThinMetadata& metadata) {
    PoolStatus status;
    if (metadata.needs_check())
        status.mode = PoolMode::read_only;
    status.transaction_id = metadata.transaction_id();
    // What is kept back counts as used: a pool without more is out of metadata space. (dm-thin-metadata.c, __get_free_metadata_blocks)
    const BlockCounts blocks = metadata.metadata_counts();
    status.metadata_blocks = blocks.total;
    status.used_metadata_blocks = std::min(blocks.total, blocks.used() + metadata.metadata_reserve());
    const BlockCounts data = metadata.data_counts();
    status.used_data_blocks = data.used();
    status.data_blocks = data.total;
    if (metadata.held_root().value() != 0)
        status.held_root = metadata.held_root();
    status.needs_check = metadata.needs_check();
    status.metadata_low_watermark = metadata.metadata_low_watermark();
    status.data_block_sectors = metadata.data_block_sectors();
    return status;
}

ThinPool::ThinPool(std::unique_ptr<PoolThread> thread) : thread_(std::move(thread)) {}

ThinPool::~ThinPool() {
    if (thread_ != nullptr)
        (void)close();
}

Result<void> ThinPool::format(BlockDevice& metadata, std::uint64_t data_bytes, std::uint32_t data_block_sectors) {
    TRY(check_block_size(data_block_sectors));
    ThinMetadata::Format format;
    format.data_block_sectors = data_block_sectors;
    format.data_blocks = data_bytes / (data_block_sectors * sector_bytes);
    TRY(ThinMetadata::create(metadata, format));
    return {};
}

Result<std::unique_ptr<ThinPool>> ThinPool::open(BlockDevice& metadata_device, BlockDevice& data, const ThinPoolOptions& options,
                                                 IoQueue* queue) {
    TRY(check_block_size(options.data_block_sectors));
    ThinMetadata::Options metadata_options;
    metadata_options.read_only = options.read_only;
    metadata_options.cache_bytes = options.metadata_cache_bytes;
    std::unique_ptr<ThinMetadata> metadata = TRY(ThinMetadata::open(metadata_device, metadata_options));
    if (metadata->data_block_sectors() != options.data_block_sectors)
        return fail(ErrorKind::damaged, "the pool's metadata has chunks of {} sectors, the group says {}", metadata->data_block_sectors(),
                    options.data_block_sectors);
    const std::uint64_t blocks = data.size() / (options.data_block_sectors * sector_bytes);
    if (blocks < metadata->data_counts().total)
        return fail(ErrorKind::damaged, "the data device has {} chunks, the pool's metadata needs {}", blocks,
                    metadata->data_counts().total);

    const bool needs_check = metadata->needs_check();

    std::unique_ptr<IoQueue> own_queue;
    std::unique_ptr<IoQueue> commit_queue;
    if (queue == nullptr) {
        own_queue = TRY(make_io_queue());
        commit_queue = TRY(make_io_queue());
        queue = own_queue.get();
    } else {
        commit_queue = TRY(make_plain_queue(queue->clock()));
    }
    auto thread = std::make_unique<PoolThread>(data, options, std::move(metadata), std::move(own_queue), std::move(commit_queue), *queue);
    thread->start();
    std::unique_ptr<ThinPool> pool(new ThinPool(std::move(thread)));
    if (!options.read_only && !needs_check) {
        TRY(pool->grow_metadata());
        TRY(pool->grow_data());
    }
    return pool;
}

Result<void> ThinPool::close() {
    if (thread_ == nullptr)
        return {};
    auto result = thread_->stop();
    thread_.reset();
    return result;
}

Result<std::shared_ptr<ThinVolume>> ThinPool::open_volume(ThinId id, std::uint64_t size, std::string name, BlockDevice* external_origin) {
    return thread_->ask<std::shared_ptr<ThinVolume>>([&](Answer<std::shared_ptr<ThinVolume>>& answer) {
        answer.give(thread_->open_volume(id, size, std::move(name), external_origin));
    });
}

Result<void> ThinPool::transact(const std::vector<PoolChange>& changes, std::uint64_t old_transaction, std::uint64_t new_transaction,
                                const Progress& progress) {
    return thread_->ask<void>(
        [&](Answer<void>& answer) { thread_->transact(changes, old_transaction, new_transaction, progress, answer); });
}

Result<void> ThinPool::freeze(const std::vector<ThinId>& origins) {
    return thread_->ask<void>([&](Answer<void>& answer) { thread_->freeze(origins, answer); });
}

void ThinPool::thaw(const std::vector<ThinId>& origins) {
    (void)thread_->ask<void>([&](Answer<void>& answer) {
        thread_->thaw(origins);
        answer.give({});
    });
}

Result<PoolStatus> ThinPool::status() {
    return thread_->ask<PoolStatus>([&](Answer<PoolStatus>& answer) { answer.give(thread_->status()); });
}

Result<DeviceDetails> ThinPool::details(ThinId id) {
    return thread_->ask<DeviceDetails>([&](Answer<DeviceDetails>& answer) { answer.give(thread_->metadata().details(id)); });
}

Result<std::vector<DeviceEntry>> ThinPool::devices() {
    constexpr std::size_t at_once = 1024;
    std::vector<DeviceEntry> all;
    ThinId first{};
    for (;;) {
        auto some = TRY(thread_->ask<std::vector<DeviceEntry>>(
            [&](Answer<std::vector<DeviceEntry>>& answer) { answer.give(thread_->metadata().devices(first, at_once)); }));
        if (some.empty())
            return all;
        all.insert(all.end(), some.begin(), some.end());
        first = some.back().id + 1;
    }
}

Result<std::optional<std::uint64_t>> ThinPool::highest_mapped_sector(ThinId id) {
    return thread_->ask<std::optional<std::uint64_t>>([&](Answer<std::optional<std::uint64_t>>& answer) {
        auto highest = thread_->metadata().highest_mapped(id);
        if (!highest)
            return answer.give(std::unexpected(highest.error()));
        std::optional<std::uint64_t> sector;
        if (*highest)
            sector = ((*highest)->value() + 1) * data_block_sectors() - 1;
        answer.give(sector);
    });
}

// dm-thin.c: pool_status(), STATUSTYPE_INFO.
Result<std::string> ThinPool::status_line() {
    const PoolStatus status = TRY(this->status());
    if (status.mode == PoolMode::fail)
        return std::string("Fail");
    std::string_view mode = "rw";
    if (status.mode == PoolMode::out_of_data_space)
        mode = "out_of_data_space";
    else if (status.mode != PoolMode::write)
        mode = "ro";
    return fmt::format("{} {}/{} {}/{} {} {} {} {} {} {}", status.transaction_id, status.used_metadata_blocks, status.metadata_blocks,
                       status.used_data_blocks, status.data_blocks, status.held_root ? fmt::to_string(status.held_root->value()) : "-",
                       mode, discard_word(thread_->options().discards),
                       status.error_if_no_space ? "error_if_no_space" : "queue_if_no_space", status.needs_check ? "needs_check" : "-",
                       status.metadata_low_watermark);
}

// dm-thin.c: pool_status(), STATUSTYPE_TABLE, and emit_flags().
std::string pool_table_line(const ThinPoolOptions& options, std::string_view metadata_device, std::string_view data_device) {
    std::string features;
    std::size_t count = 0;
    const auto add = [&](bool present, std::string_view word) {
        if (!present)
            return;
        features += ' ';
        features += word;
        ++count;
    };
    add(!options.zero_new_blocks, "skip_block_zeroing");
    add(options.discards == DiscardPolicy::ignore, "ignore_discard");
    add(options.discards == DiscardPolicy::no_passdown, "no_discard_passdown");
    add(options.read_only, "read_only");
    add(options.error_if_no_space, "error_if_no_space");
    return fmt::format("{} {} {} {} {}{}", metadata_device, data_device, options.data_block_sectors, options.low_water_blocks, count,
                       features);
}

Result<void> ThinPool::message(std::string_view text) {
    const std::vector<std::string_view> words = split_words(text);
    const auto is = [&](std::string_view verb, std::size_t arguments) -> Result<bool> {
        if (words.empty() || words[0] != verb)
            return false;
        if (words.size() != arguments + 1)
            return fail(ErrorKind::usage, "message '{}' takes {} arguments, got {}", verb, arguments, words.size() - 1);
        return true;
    };
    const auto change = [&](PoolChange one) -> Result<void> {
        const PoolStatus now = TRY(status());
        return transact({one}, now.transaction_id, now.transaction_id);
    };
    if (TRY(is("create_thin", 1)))
        return change({PoolChange::Kind::create_thin, TRY(parse_id(words[1]))});
    if (TRY(is("create_snap", 2)))
        return change({PoolChange::Kind::create_snapshot, TRY(parse_id(words[1])), TRY(parse_id(words[2]))});
    if (TRY(is("delete", 1)))
        return change({PoolChange::Kind::remove, TRY(parse_id(words[1]))});
    if (TRY(is("set_transaction_id", 2)))
        return transact({}, TRY(parse_number(words[1])), TRY(parse_number(words[2])));
    if (TRY(is("reserve_metadata_snap", 0))) {
        TRY(reserve_metadata_snapshot());
        return {};
    }
    if (TRY(is("release_metadata_snap", 0)))
        return release_metadata_snapshot();
    return fail(ErrorKind::usage, "unknown message '{:.80}' to a thin pool", text);
}

Result<ThinPool::Trimmed> ThinPool::trim(DataBlock from) {
    return thread_->ask<Trimmed>([&](Answer<Trimmed>& answer) { thread_->trim(from, answer); });
}

Result<MetadataBlock> ThinPool::reserve_metadata_snapshot() {
    return thread_->ask<MetadataBlock>([&](Answer<MetadataBlock>& answer) {
        const auto reserve = [&]() -> Result<MetadataBlock> {
            TRY(thread_->writable());
            TRY(thread_->commit());  // the snapshot is of what is durable
            auto reserved = thread_->metadata().reserve_metadata_snapshot();
            if (!reserved) {
                thread_->metadata_error(reserved.error());
                return std::unexpected(reserved.error());
            }
            thread_->changed();
            TRY(thread_->commit());
            return thread_->metadata().held_root();
        };
        answer.give(reserve());
    });
}

Result<void> ThinPool::release_metadata_snapshot() {
    return thread_->ask<void>([&](Answer<void>& answer) {
        const auto release = [&]() -> Result<void> {
            TRY(thread_->writable());
            auto released = thread_->metadata().release_metadata_snapshot();
            if (!released) {
                thread_->metadata_error(released.error());
                return released;
            }
            thread_->changed();
            return thread_->commit();
        };
        answer.give(release());
    });
}

Result<void> ThinPool::grow_data() {
    return thread_->ask<void>([&](Answer<void>& answer) { answer.give(thread_->grow_data()); });
}

Result<void> ThinPool::grow_metadata() {
    return thread_->ask<void>([&](Answer<void>& answer) { answer.give(thread_->grow_metadata()); });
}

Result<void> ThinPool::commit() {
    return thread_->ask<void>([&](Answer<void>& answer) { answer.give(thread_->commit()); });
}

const ThinPoolOptions& ThinPool::options() const { return thread_->options(); }

Result<void> ThinPool::change_options(const ThinPoolOptions& options) {
    return thread_->ask<void>([&](Answer<void>& answer) { answer.give(thread_->change_options(options)); });
}

void ThinPool::give_back_waiting() {
    (void)thread_->ask<void>([&](Answer<void>& answer) {
        thread_->give_back_waiting();
        answer.give({});
    });
}

void ThinPool::set_event_handler(std::function<void()> handler) {
    (void)thread_->ask<void>([&](Answer<void>& answer) {
        thread_->event_handler = std::move(handler);
        answer.give({});
    });
}

}  // namespace lamella::thin
