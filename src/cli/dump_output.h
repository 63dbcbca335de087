// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cli/dump_file.h"
#include "tools/text_sink.h"

namespace lamella::cli {

// Where a dump goes: standard output, or a file that is made, or emptied, when the first text comes: not if the dump fails before.
class DumpOutput final : public tools::TextSink {
  public:
    // An empty path: `stream`.
    DumpOutput(std::string path, std::function<Result<void>(std::string_view)> stream)
        : path_(std::move(path)), stream_(std::move(stream)) {}
    ~DumpOutput() override;

    Result<void> write(std::string_view text) override;
    // The file is durable.
    Result<void> finish();

  private:
    Result<void> open();

    std::string path_;
    std::function<Result<void>(std::string_view)> stream_;
    int fd_ = -1;  // of what isn't a plain file
    std::unique_ptr<DumpFile> file_;
};

}  // namespace lamella::cli
