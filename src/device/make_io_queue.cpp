// SPDX-License-Identifier: Apache-2.0
#include "device/io_queue.h"

#include <cstdlib>
#include <string_view>

namespace lamella {

Result<std::unique_ptr<IoQueue>> make_io_queue(Clock& clock) {
    return make_plain_queue(clock);
}

}  // namespace lamella
