// SPDX-License-Identifier: Apache-2.0
#include "tools/findings.h"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

namespace lamella::tools {

std::string_view to_string(Severity severity) {
    switch (severity) {
    case Severity::note: return "note";
    case Severity::leak: return "leak";
    case Severity::needs_repair: return "needs-repair";
    case Severity::data_at_risk: return "data-at-risk";
    }
    __builtin_unreachable();
}

namespace {

std::string blocks_text(std::string_view what, std::uint64_t begin, std::uint64_t end) {
    if (end - begin == 1)
        return fmt::format("{} block {}", what, begin);
    return fmt::format("{} blocks {}-{}", what, begin, end - 1);
}

}  // namespace

std::string Finding::to_text() const {
    std::string text_so_far;
    auto add = [&](std::string part) {
        if (!text_so_far.empty())
            text_so_far += ", ";
        text_so_far += part;
    };
    if (in_metadata_snapshot)
        add("metadata snapshot");
    if (volume)
        add(fmt::format("volume {}", *volume));
    if (range)
        add(range->end ? blocks_text("virtual", range->begin.value(), range->end->value())
                       : fmt::format("virtual blocks from {} on", range->begin));
    if (data)
        add(blocks_text("data", data->begin.value(), data->end.value()));
    if (block)
        add(fmt::format("metadata block {}", *block));
    return text_so_far.empty() ? text : fmt::format("{}: {}", text_so_far, text);
}

void Findings::add(Finding finding) {
    std::lock_guard lock(mutex_);
    ++count_;
    worst_ = std::max(worst_, finding.severity);
    if (found_.size() < most)
        found_.push_back(std::move(finding));
}

std::optional<Finding> Findings::first() const {
    std::lock_guard lock(mutex_);
    return found_.empty() ? std::nullopt : std::optional(found_.front());
}

std::vector<Finding> Findings::take() {
    auto order = [](const Finding& finding) {
        return std::tuple(-static_cast<int>(finding.severity), finding.in_metadata_snapshot, finding.volume,
                          finding.range ? finding.range->begin.value() : 0, finding.data ? finding.data->begin.value() : 0, finding.block);
    };
    std::ranges::stable_sort(found_, {}, order);
    return std::move(found_);
}

}  // namespace lamella::tools
