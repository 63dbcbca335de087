// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "base/result.h"

namespace lamella::tools {

// Text to be read from its beginning to its end.
class TextSource {
  public:
    virtual ~TextSource() = default;
    // The next piece, valid until the next call; empty at the end.
    virtual Result<std::string_view> next() = 0;
    // Bytes, if that is known.
    virtual std::optional<std::uint64_t> size() const = 0;
    // For messages.
    virtual const std::string& name() const = 0;
};

// A file, pipe or terminal. A thread of its own reads ahead, two pieces of 1 MiB; it ends with the object, also while a pipe has nothing.
class FileSource final : public TextSource {
  public:
    static Result<std::unique_ptr<FileSource>> open(const std::string& path);
    ~FileSource() override;

    Result<std::string_view> next() override;
    std::optional<std::uint64_t> size() const override { return size_; }
    const std::string& name() const override { return name_; }

  private:
    struct Piece {
        std::unique_ptr<char[]> bytes;
        std::size_t size = 0;
        bool full = false;
    };

    FileSource() = default;
    void read_ahead();
    Result<std::size_t> read(char* bytes);

    int fd_ = -1;
    int stop_fd_ = -1;
    std::string name_;
    std::optional<std::uint64_t> size_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::array<Piece, 2> pieces_;
    std::size_t next_ = 0;
    Piece* given_ = nullptr;  // the caller's until the next call
    bool stop_ = false;
    Result<void> outcome_;
    std::thread thread_;
};

// Text in memory, in pieces of the given size.
class StringSource final : public TextSource {
  public:
    StringSource(std::string_view text, std::size_t piece, std::string name = "text")
        : text_(text), piece_(piece), name_(std::move(name)) {}
    Result<std::string_view> next() override {
        std::string_view piece = text_.substr(at_, piece_);
        at_ += piece.size();
        return piece;
    }
    std::optional<std::uint64_t> size() const override { return text_.size(); }
    const std::string& name() const override { return name_; }

  private:
    std::string_view text_;
    std::size_t piece_;
    std::size_t at_ = 0;
    std::string name_;
};

}  // namespace lamella::tools
