// SPDX-License-Identifier: Apache-2.0
//
// What a check has to say.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/strong.h"

namespace lamella::tools {

enum class Severity : std::uint8_t {
    note,          // nothing is wrong with it
    leak,          // harmless: room that nothing uses is counted as used
    needs_repair,  // something can't be read, or isn't as it must be; using the pool as it is destroys nothing
    data_at_risk,  // using the pool as it is would overwrite data that is in use
};

// "note", "leak", "needs-repair", "data-at-risk"
std::string_view to_string(Severity severity);

// A half-open range; without an end: to the end of the volume.
struct VirtualRange {
    VirtualBlock begin{};
    std::optional<VirtualBlock> end{};
    bool operator==(const VirtualRange&) const = default;
};
struct DataRange {
    DataBlock begin{};
    DataBlock end{};
    bool operator==(const DataRange&) const = default;
};

struct Finding {
    Severity severity = Severity::note;
    std::string text;  // a sentence without its places: "not a B-tree node: checksum 0x..., expected 0x..."
    std::optional<ThinId> volume{};
    bool in_metadata_snapshot = false;  // of the volume as the metadata snapshot has it
    std::optional<VirtualRange> range{};
    std::optional<MetadataBlock> block{};
    std::optional<DataRange> data{};

    // "volume 3, virtual blocks 252-503, metadata block 17: not a B-tree node..."
    std::string to_text() const;
};

// Gathers findings: the first `most` of them, and how many there were. Any thread.
class Findings {
  public:
    static constexpr std::size_t most = 10'000;

    void add(Finding finding);

    std::uint64_t count() const { return count_; }
    Severity worst() const { return worst_; }
    bool full() const { return found_.size() >= most; }
    std::optional<Finding> first() const;
    // Worst first, then by volume, range and block.
    std::vector<Finding> take();

  private:
    mutable std::mutex mutex_;
    std::vector<Finding> found_;
    std::uint64_t count_ = 0;
    Severity worst_ = Severity::note;
};

}  // namespace lamella::tools
