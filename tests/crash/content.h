// SPDX-License-Identifier: Apache-2.0
//
// What a volume may hold: for each sector the versions that were written, which of them a read may show, and which may be found
// after a crash. A disk with a volatile cache is the contract: after a crash a sector holds the last version that a flush covered, or
// any later one; never an older one, never half a sector, never anything else.
//
// Versions of a sector are in the order of submission; the driver never has two writes to one sector in flight.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/endian.h"
#include "base/strong.h"

namespace lamella::crash {

// The content of a sector: 0 is zeros; anything else is the number of the write that made it, no two writes of a run having the same.
using Value = std::uint32_t;

constexpr std::uint64_t tag_magic = 0x7461676765642121;

// A sector that says which write it is from, where it belongs, and, all over, that it is whole.
inline void fill_sector(std::byte* bytes, Value value, std::uint64_t sector) {
    if (value == 0) {
        std::memset(bytes, 0, sector_bytes);
        return;
    }
    store_little<std::uint64_t>(bytes, tag_magic);
    store_little<std::uint64_t>(bytes + 8, sector);
    store_little<std::uint64_t>(bytes + 16, value);
    const std::uint64_t noise = (value * 0x9e3779b97f4a7c15u) ^ (sector * 0xc2b2ae3d27d4eb4fu);
    for (std::size_t at = 24; at < sector_bytes; at += 8)
        store_little<std::uint64_t>(bytes + at, noise + at);
}

// The value of a sector that is whole and where it belongs; nullopt: it is something else.
inline std::optional<Value> sector_value(const std::byte* bytes, std::uint64_t sector) {
    static constexpr std::byte zeros[sector_bytes]{};
    if (std::memcmp(bytes, zeros, sector_bytes) == 0)
        return 0;
    std::byte expected[sector_bytes];
    const auto value = static_cast<Value>(load_little<std::uint64_t>(bytes + 16));
    if (value == 0)
        return std::nullopt;
    fill_sector(expected, value, sector);
    return std::memcmp(bytes, expected, sector_bytes) == 0 ? std::optional(value) : std::nullopt;
}

inline std::string describe_sector(const std::byte* bytes, std::uint64_t sector) {
    if (const auto value = sector_value(bytes, sector))
        return *value == 0 ? "zeros" : fmt::format("write {}", *value);
    if (load_little<std::uint64_t>(bytes) == tag_magic)
        return fmt::format("a piece of write {} to sector {}", load_little<std::uint64_t>(bytes + 16),
                           load_little<std::uint64_t>(bytes + 8));
    return fmt::format("foreign bytes {:016x} {:016x}", load_little<std::uint64_t>(bytes), load_little<std::uint64_t>(bytes + 8));
}

class Content {
  public:
    // The first `shown_through` sectors hold `value`, the rest zeros, for certain.
    explicit Content(std::uint64_t sectors, std::uint64_t shown_through = 0, Value value = 0) : sectors_(sectors) {
        for (std::uint64_t sector = 0; sector < std::min(sectors, shown_through); ++sector)
            sectors_[sector].versions[0].value = value;
    }

    std::uint64_t sectors() const { return sectors_.size(); }

    // A write (value 0: zeros) has been submitted.
    void submitted(std::uint64_t first, std::uint64_t count, Value value) {
        for (std::uint64_t sector = first; sector < first + count; ++sector)
            sectors_[sector].versions.push_back({value, never});
    }
    // ... and was acknowledged at `now`; `durable`: with FUA.
    void acknowledged(std::uint64_t first, std::uint64_t count, std::uint64_t now, bool durable) {
        for (std::uint64_t number = first; number < first + count; ++number) {
            Sector& sector = sectors_[number];
            sector.shown = static_cast<std::uint32_t>(sector.versions.size() - 1);
            sector.versions.back().acknowledged_at = now;
            if (durable)
                sector.keep_from(sector.shown);
        }
    }
    // What had been acknowledged by `then` is durable.
    void flushed(std::uint64_t then) {
        for (Sector& sector : sectors_) {
            const std::uint32_t index = sector.acknowledged_by(then);
            sector.keep_from(index);
        }
    }

    // What a snapshot holds that was begun when `then` was the time and is complete now: each sector as it was at some moment between.
    // Durable, since the snapshot is.
    Content snapshot(std::uint64_t then) const {
        Content taken(*this);
        for (Sector& sector : taken.sectors_) {
            const std::uint32_t index = sector.acknowledged_by(then);
            sector.keep_from(index);
            sector.shown = 0;
            sector.alternatives = static_cast<std::uint32_t>(sector.versions.size());
            for (Version& version : sector.versions)
                version.acknowledged_at = 0;
        }
        return taken;
    }

    // Compares what a read returned. Empty: right; else what is wrong. A choice that is settled by it stays settled.
    std::string check_read(std::uint64_t first, std::span<const std::byte> bytes) {
        for (std::uint64_t index = 0; index < bytes.size() / sector_bytes; ++index) {
            Sector& sector = sectors_[first + index];
            const std::byte* found = bytes.data() + index * sector_bytes;
            const auto value = sector_value(found, first + index);
            const auto version = value ? sector.find(*value, sector.shown) : std::nullopt;
            if (!version)
                return complain(first + index, sector, sector.shown, found);
            // Unless it may be a later one that looks the same.
            if (*version < sector.alternatives && !sector.find(*value, sector.alternatives))
                sector.settle(*version);
        }
        return {};
    }

    // The same after a crash; what is found is what the volume holds from now on.
    std::string check_after_crash(std::uint64_t first, std::span<const std::byte> bytes) {
        for (std::uint64_t index = 0; index < bytes.size() / sector_bytes; ++index) {
            Sector& sector = sectors_[first + index];
            const std::byte* found = bytes.data() + index * sector_bytes;
            const auto value = sector_value(found, first + index);
            if (!value || !sector.find(*value, 0))
                return complain(first + index, sector, 0, found);
            sector = Sector{};
            sector.versions[0].value = *value;
        }
        return {};
    }

  private:
    static constexpr std::uint64_t never = UINT64_MAX;
    struct Version {
        Value value = 0;
        std::uint64_t acknowledged_at = 0;
    };
    struct Sector {
        // The first is durable; older ones can't come back.
        std::vector<Version> versions{1};
        std::uint32_t shown = 0;         // reads show this one or a later one (not acknowledged, or failed)
        std::uint32_t alternatives = 1;  // the first so many: one of them was there from the start, and it isn't known which

        // What was there for certain at that time; the first of the alternatives, where it was one of them.
        std::uint32_t acknowledged_by(std::uint64_t then) const {
            std::uint32_t index = shown;
            while (index > 0 && versions[index].acknowledged_at > then)
                --index;
            return index < alternatives ? 0 : index;
        }
        void keep_from(std::uint32_t index) {
            if (index < alternatives)
                return;  // it may as well be another of them that was there
            versions.erase(versions.begin(), versions.begin() + index);
            shown -= index;
            alternatives = 1;
        }
        void settle(std::uint32_t chosen) {
            const Version kept = versions[chosen];
            versions.erase(versions.begin(), versions.begin() + (alternatives - 1));
            versions.front() = kept;
            shown -= std::min(shown, alternatives - 1);
            alternatives = 1;
        }
        std::optional<std::uint32_t> find(Value value, std::uint32_t from) const {
            for (std::uint32_t index = from; index < versions.size(); ++index)
                if (versions[index].value == value)
                    return index;
            return std::nullopt;
        }
    };

    static std::string complain(std::uint64_t number, const Sector& sector, std::uint32_t from, const std::byte* found) {
        std::string allowed;
        for (std::uint32_t index = from; index < sector.versions.size(); ++index)
            allowed += fmt::format(" {}{}", sector.versions[index].value, sector.versions[index].acknowledged_at == never ? "?" : "");
        return fmt::format("sector {} holds {}; allowed are the writes{} (0: zeros)", number, describe_sector(found, number), allowed);
    }

    std::vector<Sector> sectors_;
};

}  // namespace lamella::crash
