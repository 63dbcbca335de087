// SPDX-License-Identifier: Apache-2.0
#include "base/sizes.h"

#include <array>

#include "base/strong.h"

namespace lamella {

namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::string_view binary_suffixes = "kmgtpe";
constexpr std::uint64_t largest = INT64_MAX;

char lower(char character) { return character >= 'A' && character <= 'Z' ? static_cast<char>(character - 'A' + 'a') : character; }

bool is_digit(char character) { return character >= '0' && character <= '9'; }

std::optional<std::uint64_t> unit_of(std::string_view suffix) {
    if (suffix.empty())
        return 1024 * 1024;
    if (suffix.size() > 1)
        return std::nullopt;
    const char letter = lower(suffix[0]);
    if (letter == 'b')
        return 1;
    if (letter == 's')
        return sector_bytes;
    const std::size_t power = binary_suffixes.find(letter);
    if (power == std::string_view::npos)
        return std::nullopt;
    return 1ULL << (10 * (power + 1));
}

bool equal_in_any_case(std::string_view left, std::string_view lower_case) {
    if (left.size() != lower_case.size())
        return false;
    for (std::size_t index = 0; index < left.size(); ++index) {
        if (lower(left[index]) != lower_case[index])
            return false;
    }
    return true;
}

Result<Percentage> parse_percentage(std::string_view text) {
    const std::size_t sign = text.find('%');
    const std::string_view number = text.substr(0, sign);
    const std::string_view word = text.substr(sign + 1);
    struct Name {
        std::string_view word;
        PercentOf of;
    };
    constexpr std::array<Name, 5> names = {Name{"free", PercentOf::free}, Name{"vg", PercentOf::group},
                                           Name{"pvs", PercentOf::physical_volumes}, Name{"origin", PercentOf::origin},
                                           Name{"lv", PercentOf::volume}};
    for (const Name& name : names) {
        if (!equal_in_any_case(word, name.word))
            continue;
        const unsigned limit = name.of == PercentOf::volume ? 10000 : 100;
        unsigned percent = 0;
        for (const char digit : number) {
            if (!is_digit(digit) || percent > limit)
                percent = limit + 1;
            else
                percent = percent * 10 + static_cast<unsigned>(digit - '0');
        }
        if (percent < 1 || percent > limit)
            return fail(ErrorKind::usage, "'{:.64}': the percentage is a whole number from 1 to {}", text, limit);
        return Percentage{percent, name.of};
    }
    return fail(ErrorKind::usage, "'{:.64}' is not a percentage: %FREE, %VG, %PVS, %ORIGIN or %LV", text);
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
    std::size_t position = 0;
    std::uint64_t whole = 0;
    while (position < text.size() && is_digit(text[position])) {
        const auto digit = static_cast<std::uint64_t>(text[position++] - '0');
        if (whole > (largest - digit) / 10)
            return fail(ErrorKind::usage, "'{:.64}' is more than 2^63 - 1 bytes", text);
        whole = whole * 10 + digit;
    }
    bool is_number = position > 0;
    // What comes after 18 digits is cut off: less than two bytes of the largest unit.
    std::uint64_t fraction = 0;
    std::uint64_t divisor = 1;
    if (position < text.size() && text[position] == '.') {
        const std::size_t point = position++;
        for (; position < text.size() && is_digit(text[position]); ++position) {
            if (position - point <= 18) {
                fraction = fraction * 10 + static_cast<std::uint64_t>(text[position] - '0');
                divisor *= 10;
            }
        }
        is_number = position - point > 1;  // ".5G" is one, "5.G" is not
    }
    const std::optional<std::uint64_t> unit = unit_of(text.substr(position));
    if (!is_number || !unit)
        return fail(ErrorKind::usage, "'{:.64}' is not a size: a number and one of b s k m g t p e (no suffix: MiB)", text);
    const Wide bytes = Wide{whole} * *unit + Wide{fraction} * *unit / divisor;
    if (bytes > largest)
        return fail(ErrorKind::usage, "'{:.64}' is more than 2^63 - 1 bytes", text);
    return static_cast<std::uint64_t>(bytes);
}

Result<SizeArgument> parse_size_argument(std::string_view text) {
    SizeArgument argument;
    std::string_view rest = text;
    if (!rest.empty() && (rest[0] == '+' || rest[0] == '-')) {
        argument.sign = rest[0] == '+' ? SizeArgument::Sign::plus : SizeArgument::Sign::minus;
        rest.remove_prefix(1);
    }
    if (rest.find('%') != std::string_view::npos)
        argument.percentage = TRY(parse_percentage(rest));
    else
        argument.bytes = TRY(parse_size(rest));
    return argument;
}

std::string print_size(std::uint64_t bytes) {
    constexpr std::array<std::string_view, 7> units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024)
        return fmt::format("{} B", bytes);
    std::size_t power = 1;
    Wide hundredths = 0;
    for (;; ++power) {
        const Wide unit = Wide{1} << (10 * power);
        hundredths = (Wide{bytes} * 100 + unit / 2) / unit;
        // Rounding may lead to 1024.00 of a unit: that is 1.00 of the next.
        if (hundredths < 102400 || power + 1 == units.size())
            break;
    }
    const auto value = static_cast<std::uint64_t>(hundredths);
    return fmt::format("{}.{:02} {}", value / 100, value % 100, units[power]);
}

}  // namespace lamella
