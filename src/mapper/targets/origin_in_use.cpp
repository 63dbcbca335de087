// SPDX-License-Identifier: Apache-2.0
#include "mapper/targets/origin_in_use.h"

#include "mapper/mapped_device.h"

namespace lamella::mapper {

Result<std::shared_ptr<OriginInUse>> OriginInUse::of(TargetContext& context, std::string_view word) {
    const LowerDevice lower = TRY(context.open(word));
    if (context.length() > lower.device->size())
        return fail(ErrorKind::usage, "{} has {} bytes, the table asks for {}", lower.word, lower.device->size(), context.length());
    if (auto found = context.shared().find<OriginInUse>(*lower.device))
        return found;
    auto made = std::make_shared<OriginInUse>();
    made->lower = lower;
    made->origin = TRY(cow::Origin::open(*lower.device, {.name = lower.word}));
    context.shared().put(*lower.device, made);
    return made;
}

Result<SnapshotWords> SnapshotWords::take(TargetContext& context) {
    Words& words = context.words();
    SnapshotWords taken;
    taken.origin = TRY(OriginInUse::of(context, TRY(words.take("the origin"))));
    taken.store = TRY(context.open(TRY(words.take("the store's device"))));
    if (taken.store.device == taken.origin->lower.device)
        return fail(ErrorKind::usage, "origin and store are one device");
    taken.store_in_use = context.shared().find<StoreInUse>(*taken.store.device);
    if (taken.store_in_use == nullptr) {
        taken.store_in_use = std::make_shared<StoreInUse>(taken.origin);
        context.shared().put(*taken.store.device, taken.store_in_use);
    } else if (taken.store_in_use->origin != taken.origin) {
        return fail(ErrorKind::refused, "{} is the store of a snapshot of {}", taken.store.word, taken.store_in_use->origin->lower.word);
    }
    taken.options.store = TRY(cow::parse_store_type(TRY(words.take("P, PO or N"))));
    taken.options.store.chunk_sectors = static_cast<std::uint32_t>(TRY(words.take_number("the chunk size", 0, UINT32_MAX)));
    // 0 is what the store itself says (dm-snap.c: "Chunk size not set").
    if (taken.options.store.chunk_sectors == 0 && !taken.options.store.persistent)
        return fail(ErrorKind::usage, "a store that isn't persistent needs a chunk size");
    taken.options.size = context.length();
    taken.options.name = taken.store.word;
    if (words.left() > 0) {
        const std::uint64_t count = TRY(words.take_number("the number of features", 0, 2));
        if (count != words.left())
            return fail(ErrorKind::usage, "{} features are announced, {} follow", count, words.left());
        while (words.left() > 0) {
            const std::string_view feature = TRY(words.take("a feature"));
            if (feature == "discard_zeroes_cow")
                taken.options.discard_zeroes_cow = true;
            else if (feature == "discard_passdown_origin")
                taken.options.discard_passdown_origin = true;
            else
                return fail(ErrorKind::usage, "feature \"{:.40}\" is unknown", feature);
        }
        if (taken.options.discard_passdown_origin && !taken.options.discard_zeroes_cow)
            return fail(ErrorKind::usage, "discard_passdown_origin needs discard_zeroes_cow");
    }
    TRY(cow::check_store_options(taken.options.store, *taken.store.device, *taken.origin->lower.device));
    TRY(context.refuse_suspended());
    for (const auto& open : taken.origin->origin->snapshots())
        if (&open->store_device() == taken.store.device.get())
            return taken;
    if (taken.options.store.persistent)
        TRY(cow::inspect_store(*taken.store.device, taken.options.size));
    return taken;
}

Result<std::shared_ptr<cow::Snapshot>> SnapshotWords::open(MappedDevice& owner, const Target& target) const {
    auto snapshot = TRY(origin->origin->open_snapshot(*store.device, options));
    // A merge's end is no event in the kernel; whoever merges looks at the status.
    snapshot->set_event_handler(
        [&owner, opened = snapshot.get()] {
            if (opened->snapshot_status().condition == cow::SnapshotCondition::invalid)
                owner.raise_event();
        },
        &target);
    return snapshot;
}

std::string SnapshotWords::print(const cow::Snapshot* snapshot) const {
    const std::uint32_t chunk = snapshot != nullptr ? snapshot->options().store.chunk_sectors : options.store.chunk_sectors;
    std::string line = fmt::format("{} {} {} {}", origin->lower.word, store.word, cow::store_type_word(options.store), chunk);
    if (options.discard_zeroes_cow)
        line += options.discard_passdown_origin ? " 2 discard_zeroes_cow discard_passdown_origin" : " 1 discard_zeroes_cow";
    return line;
}

}  // namespace lamella::mapper
