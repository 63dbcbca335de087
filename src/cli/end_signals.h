// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/result.h"

namespace lamella::cli {

// SIGTERM and SIGINT as something to wait for. Blocks them for this thread and those that it starts: made before other threads exist.
class EndSignals {
  public:
    EndSignals() = default;
    EndSignals(const EndSignals&) = delete;
    ~EndSignals();

    Result<void> block();
    // Until one of them has come, or `other` (-1: none) can be read.
    void wait(int other = -1) const;

  private:
    int fd_ = -1;
};

}  // namespace lamella::cli
