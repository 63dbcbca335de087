// SPDX-License-Identifier: Apache-2.0
//
// Words of table lines and messages. Blanks separate them; a backslash takes the next character as it is, as the kernel's
// dm_split_args() has it, so that a path with blanks can be a word.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace lamella::mapper {

constexpr std::size_t max_words = 1024;  // of one line

// Errors: usage, for more than max_words, or a backslash at the end.
Result<std::vector<std::string>> split_words(std::string_view line);
// As split_words() would read it as one word.
std::string escape_word(std::string_view word);

// "253:4", decimal.
struct DeviceNumber {
    std::uint32_t major;
    std::uint32_t minor;
};
// False: it isn't one.
bool parse_device_number(std::string_view word, DeviceNumber& number);

// A whole number in decimal digits and nothing else. ErrorKind::usage, naming `what` it is.
Result<std::uint64_t> parse_whole_number(std::string_view word, std::string_view what);

// The words of a line, taken from left to right. What is wrong is ErrorKind::usage and names the word.
class Words {
  public:
    explicit Words(std::vector<std::string> words) : words_(std::move(words)) {}

    std::size_t left() const { return words_.size() - next_; }
    // `what` it is: "the device".
    Result<std::string_view> take(std::string_view what);
    Result<std::uint64_t> take_number(std::string_view what, std::uint64_t least = 0, std::uint64_t most = UINT64_MAX);
    // A number of sectors, in bytes.
    Result<std::uint64_t> take_sectors(std::string_view what);
    // There are no more.
    Result<void> end() const;

  private:
    std::vector<std::string> words_;
    std::size_t next_ = 0;
};

}  // namespace lamella::mapper
