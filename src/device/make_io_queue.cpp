// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string_view>

#include "device/io_queue.h"

namespace lamella {

Result<std::unique_ptr<IoQueue>> make_io_queue(Clock& clock) {
    const char* wish = std::getenv("LAMELLA_IO");
    if (wish == nullptr || std::string_view(wish) != "plain") {
        // Any refusal will do: the kernel may be too old, kernel.io_uring_disabled set, or a container's filter in the way.
        if (auto queue = make_uring_queue(256, clock))
            return queue;
    }
    return make_plain_queue(clock);
}

}  // namespace lamella
