// SPDX-License-Identifier: Apache-2.0
#include "cli/dump_output.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace lamella::cli {

DumpOutput::~DumpOutput() {
    if (fd_ >= 0)
        ::close(fd_);
}

Result<void> DumpOutput::open() {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    struct stat status {};
    if (fd_ < 0 || ::fstat(fd_, &status) != 0)
        return fail_errno("open " + path_);
    if (S_ISREG(status.st_mode))
        file_ = TRY(DumpFile::start(std::exchange(fd_, -1), path_));
    return {};
}

Result<void> DumpOutput::write(std::string_view text) {
    if (path_.empty())
        return stream_(text);
    if (fd_ < 0 && file_ == nullptr)
        TRY(open());
    return file_ != nullptr ? file_->write(text) : tools::FileSink(fd_, path_).write(text);
}

Result<void> DumpOutput::finish() {
    // A pipe or terminal has nothing to make durable.
    return file_ != nullptr ? file_->finish() : Result<void>();
}

}  // namespace lamella::cli
