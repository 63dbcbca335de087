// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace lamella::tools {

// Where a printer's text goes, in large pieces.
class TextSink {
  public:
    virtual ~TextSink() = default;
    virtual Result<void> write(std::string_view text) = 0;
};

// Text in memory.
class StringSink final : public TextSink {
  public:
    Result<void> write(std::string_view piece) override {
        text += piece;
        return {};
    }
    std::string text;
};

// An open file, pipe or terminal, which stays the caller's. A reader that has gone away is an error with EPIPE.
class FileSink final : public TextSink {
  public:
    // `name` is for messages.
    FileSink(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
    Result<void> write(std::string_view text) override;

  private:
    int fd_;
    std::string name_;
};

}  // namespace lamella::tools
