// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

namespace lamella {

namespace {
class SystemClock final : public Clock {
  public:
    Duration monotonic() const override { return std::chrono::steady_clock::now().time_since_epoch(); }
    std::int64_t wall_seconds() const override {
        return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
    }
};
}  // namespace

Clock& Clock::system() {
    static SystemClock clock;
    return clock;
}

}  // namespace lamella
