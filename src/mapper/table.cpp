// SPDX-License-Identifier: Apache-2.0
#include "mapper/table.h"

#include <algorithm>

#include "base/strong.h"

namespace lamella::mapper {

Result<void> Table::add(std::uint64_t length, const TargetType& type, std::unique_ptr<Target> target) {
    if (!entries_.empty() && (type.singleton || entries_.front().type->singleton))
        return fail(ErrorKind::usage, "a {} target must be alone in its table", type.singleton ? type.name : entries_.front().type->name);
    if (type.writeable && read_only_)
        return fail(ErrorKind::usage, "a {} target can't be in a read-only table", type.name);
    const DeviceTraits traits = target->device().traits();
    if ((size_ | length) % traits.alignment != 0)
        return fail(ErrorKind::usage, "start and length must be multiples of the {} bytes that {} is aligned to", traits.alignment,
                    target->device().name());
    traits_ = entries_.empty() ? traits : combine(traits_, traits);
    traits_.physical_block = sector_bytes;  // whatever is below may get another table
    entries_.push_back({size_, length, &type, std::move(target)});
    size_ += length;
    return {};
}

void Table::add_lower(const LowerDevice& lower) {
    if (std::ranges::find(lowers_, lower.device, &LowerDevice::device) == lowers_.end())
        lowers_.push_back(lower);
}

bool Table::own_io() const {
    return std::ranges::any_of(entries_, [](const Entry& entry) { return entry.type->own_io; });
}

const TargetType* Table::immutable_type() const {
    const auto found = std::ranges::find_if(entries_, [](const Entry& entry) { return entry.type->immutable; });
    return found == entries_.end() ? nullptr : found->type;
}

bool Table::wildcard() const {
    return std::ranges::all_of(entries_, [](const Entry& entry) { return entry.type->wildcard; });
}

void Table::presuspend(const SuspendOptions& options) {
    for (Entry& entry : entries_)
        entry.target->presuspend(options);
}

void Table::presuspend_undo() {
    for (Entry& entry : entries_)
        entry.target->presuspend_undo();
}

void Table::give_back() {
    for (Entry& entry : entries_)
        entry.target->give_back();
}

bool Table::drained(Duration patience) {
    return std::ranges::all_of(entries_, [&](const Entry& entry) { return entry.target->drained(patience); });
}

void Table::postsuspend() {
    for (Entry& entry : entries_)
        entry.target->postsuspend();
}

Result<void> Table::resume() {
    for (Entry& entry : entries_)
        TRY_WITHIN(entry.type->name, entry.target->preresume());
    for (Entry& entry : entries_)
        entry.target->resume();
    return {};
}

DeviceTraits Table::traits() const {
    DeviceTraits traits = traits_;
    traits.read_only = read_only_;
    return traits;
}

void Table::add_leaves(std::vector<BlockDevice*>& leaves) {
    for (Entry& entry : entries_)
        entry.target->add_leaves(leaves);
}

CompositeDevice::Piece Table::piece_at(std::uint64_t offset, std::uint64_t limit) const {
    const auto after = std::ranges::upper_bound(entries_, offset, {}, &Entry::begin);
    const Entry& entry = *std::prev(after);
    const std::uint64_t within = offset - entry.begin;
    return {&entry.target->device(), within, std::min(limit, entry.length - within)};
}

}  // namespace lamella::mapper
