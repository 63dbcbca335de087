// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>

namespace lamella {

using Duration = std::chrono::nanoseconds;

// A seam: everything that asks for the time asks a Clock, so that tests can step it. Any thread may call it.
class Clock {
  public:
    virtual ~Clock() = default;
    // Time since an arbitrary start; never goes back.
    virtual Duration monotonic() const = 0;
    // Seconds since 1970-01-01 UTC.
    virtual std::int64_t wall_seconds() const = 0;

    static Clock& system();
};

// A clock that stands until it is stepped. For tests, on one thread.
class ManualClock final : public Clock {
  public:
    Duration monotonic() const override { return now_; }
    std::int64_t wall_seconds() const override { return 1'700'000'000 + std::chrono::duration_cast<std::chrono::seconds>(now_).count(); }
    void advance(Duration step) { now_ += step; }

  private:
    Duration now_{};
};

}  // namespace lamella
