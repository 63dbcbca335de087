// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "thin/superblock.h"
#include "tools/diff.h"
#include "tools/volume_trees.h"

namespace lamella::cli {

// Prints differences as they come: thin_delta's XML, one JSON object a line, or ranges for people.
class DiffOutput {
  public:
    enum class Form { xml, json, plain };
    struct Options {
        Form form = Form::plain;
        bool verbose = false;  // with data blocks; without them runs are joined whatever their data blocks
        bool same = false;     // what doesn't differ as well
    };

    DiffOutput(const Options& options, std::function<Result<void>(std::string_view)> stream)
        : options_(options), stream_(std::move(stream)) {}

    // `left` and `right` are attributes of the XML: volume ids, or -1 for a tree without one.
    Result<void> begin(const thin::Superblock& superblock, std::int64_t left, std::int64_t right);
    Result<void> add(const tools::DiffRun& run);
    Result<void> end();

  private:
    Result<void> flush_run();
    Result<void> print(std::string_view text);

    Options options_;
    std::function<Result<void>(std::string_view)> stream_;
    std::string text_;
    tools::DiffRun run_;
    bool group_open_ = false;
    tools::DiffRun::Kind group_{};
};

}  // namespace lamella::cli
