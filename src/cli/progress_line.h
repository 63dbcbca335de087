// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string_view>

#include "base/clock.h"
#include "volumes/volume_group.h"

namespace lamella::cli {

// One line at a terminal that says how far a change has come, at what rate, and how long the rest will take:
//
//   3.20 GiB of 40.00 GiB, 1.10 GiB/s, 34 s left
//
// It appears a second after the object was made, follows ten times a second, and is erased with the object. A change that is done
// sooner shows nothing.
class ProgressLine {
  public:
    // The clock outlives the line.
    ProgressLine(std::function<void(std::string_view)> write, Clock& clock, unsigned columns)
        : write_(std::move(write)), clock_(clock), columns_(columns), next_(clock.monotonic() + std::chrono::seconds(1)) {}
    ~ProgressLine();
    ProgressLine(const ProgressLine&) = delete;
    ProgressLine& operator=(const ProgressLine&) = delete;

    void show(const Progress& progress);

  private:
    struct Start {
        Duration time;
        std::uint64_t done;
        std::uint64_t total;
    };

    std::function<void(std::string_view)> write_;
    Clock& clock_;
    unsigned columns_;
    Duration next_;
    std::optional<Start> start_;  // what the rate is reckoned from
    bool shown_ = false;
};

// "34 s", "2 min 5 s", "3 h 10 min"
std::string shown_duration(std::uint64_t seconds);

}  // namespace lamella::cli
