// SPDX-License-Identifier: Apache-2.0
#include "tools/text_sink.h"

#include <unistd.h>

namespace lamella::tools {

Result<void> FileSink::write(std::string_view text) {
    while (!text.empty()) {
        ssize_t written = ::write(fd_, text.data(), text.size());
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return fail_errno("write " + name_);
        text.remove_prefix(static_cast<std::size_t>(written));
    }
    return {};
}

}  // namespace lamella::tools
