// SPDX-License-Identifier: Apache-2.0
#include "mapper/words.h"

#include <charconv>

#include "base/strong.h"

namespace lamella::mapper {

namespace {

bool is_blank(char character) { return character == ' ' || (character >= '\t' && character <= '\r'); }

template <typename Number>
bool parse_digits(std::string_view word, Number& number) {
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    return error == std::errc() && end == word.data() + word.size();
}

}  // namespace

Result<std::vector<std::string>> split_words(std::string_view line) {
    std::vector<std::string> words;
    for (std::size_t at = 0;;) {
        while (at < line.size() && is_blank(line[at]))
            ++at;
        if (at == line.size())
            return words;
        if (words.size() == max_words)
            return fail(ErrorKind::usage, "more than {} words", max_words);
        std::string& word = words.emplace_back();
        for (; at < line.size() && !is_blank(line[at]); ++at) {
            if (line[at] == '\\' && ++at == line.size())
                return fail(ErrorKind::usage, "a backslash at the end");
            word += line[at];
        }
    }
}

std::string escape_word(std::string_view word) {
    std::string escaped;
    for (const char character : word) {
        if (is_blank(character) || character == '\\')
            escaped += '\\';
        escaped += character;
    }
    return escaped;
}

bool parse_device_number(std::string_view word, DeviceNumber& number) {
    const std::size_t colon = word.find(':');
    return colon != std::string_view::npos && parse_digits(word.substr(0, colon), number.major) &&
           parse_digits(word.substr(colon + 1), number.minor);
}

Result<std::uint64_t> parse_whole_number(std::string_view word, std::string_view what) {
    std::uint64_t number = 0;
    if (!parse_digits(word, number))
        return fail(ErrorKind::usage, "{} \"{:.80}\" is not a whole number", what, word);
    return number;
}

Result<std::string_view> Words::take(std::string_view what) {
    if (next_ == words_.size())
        return fail(ErrorKind::usage, "{} is missing", what);
    return words_[next_++];
}

Result<std::uint64_t> Words::take_number(std::string_view what, std::uint64_t least, std::uint64_t most) {
    const std::uint64_t number = TRY(parse_whole_number(TRY(take(what)), what));
    if (number < least || number > most)
        return fail(ErrorKind::usage, "{} {} is not between {} and {}", what, number, least, most);
    return number;
}

Result<std::uint64_t> Words::take_sectors(std::string_view what) {
    return TRY(take_number(what, 0, INT64_MAX / sector_bytes)) * sector_bytes;
}

Result<void> Words::end() const {
    if (left() > 0)
        return fail(ErrorKind::usage, "\"{:.80}\" is one word too many", words_[next_]);
    return {};
}

}  // namespace lamella::mapper
