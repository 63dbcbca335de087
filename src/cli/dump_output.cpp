// SPDX-License-Identifier: Apache-2.0
#include "cli/dump_output.h"

#include <fcntl.h>
#include <unistd.h>

namespace lamella::cli {

DumpOutput::~DumpOutput() {
    if (fd_ >= 0)
        ::close(fd_);
}

Result<void> DumpOutput::write(std::string_view text) {
    if (path_.empty())
        return stream_(text);
    if (fd_ < 0)
        fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0)
        return fail_errno("open " + path_);
    return tools::FileSink(fd_, path_).write(text);
}

Result<void> DumpOutput::finish() {
    // A pipe or terminal has nothing to make durable.
    if (fd_ >= 0 && ::fdatasync(fd_) != 0 && errno != EINVAL && errno != EROFS)
        return fail_errno("flush " + path_);
    return {};
}

}  // namespace lamella::cli
