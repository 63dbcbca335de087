// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "cli/numbers.h"
#include "cli/peer/peer_command.h"
#include "tools/metadata_size.h"

namespace lamella::cli {

namespace {

struct Unit {
    std::string_view letter;
    std::string_view name;
    std::uint64_t bytes;
};

constexpr std::array units = {
    Unit{"b", "byte", 1},
    Unit{"s", "sector", 512},
    Unit{"k", "kibibyte", 1ull << 10},
    Unit{"K", "kilobyte", 1000},
    Unit{"m", "mebibyte", 1ull << 20},
    Unit{"M", "megabyte", 1'000'000},
    Unit{"g", "gibibyte", 1ull << 30},
    Unit{"G", "gigabyte", 1'000'000'000},
    Unit{"t", "tebibyte", 1ull << 40},
    Unit{"T", "terabyte", 1'000'000'000'000},
    Unit{"p", "pebibyte", 1ull << 50},
    Unit{"P", "petabyte", 1'000'000'000'000'000},
};

Result<Unit> parse_unit(std::string_view word) {
    for (const Unit& unit : units)
        if (word == unit.letter || word == unit.name || (word.ends_with('s') && word.substr(0, word.size() - 1) == unit.name))
            return unit;
    return fail(ErrorKind::usage, "\"{}\" is no unit", word);
}

// A number and a unit; sectors without one. Capitals are powers of 1000 here, unlike in LVM's arguments.
Result<std::uint64_t> parse_bytes(std::string_view word) {
    std::size_t digits = std::min(word.find_first_not_of("0123456789"), word.size());
    auto number = TRY(parse_number<std::uint64_t>(word.substr(0, digits)));
    Unit unit = TRY(parse_unit(digits == word.size() ? "s" : word.substr(digits)));
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(number, unit.bytes, &bytes))
        return fail(ErrorKind::usage, "{} is too large", word);
    return bytes;
}

}  // namespace

void define_thin_metadata_size(PeerCommand& command) {
    struct Arguments {
        std::string block_size;
        std::string pool_size;
        std::optional<std::uint64_t> thin_devices;
        std::string unit = "sector";
        bool numeric = false;
        std::string numeric_form;
    };
    auto arguments = std::make_shared<Arguments>();
    command.describe("Estimate how much metadata a pool needs",
                     "Sizes take b, s, k, m, g, t or p (powers of 1024), or capitals for powers of 1000; sectors without a unit.");
    command.option("-b,--block-size", "SIZE", arguments->block_size, "of a data block");
    command.require("--block-size");
    command.option("-s,--pool-size", "SIZE", arguments->pool_size, "of the pool's data");
    command.require("--pool-size");
    command.option("-m,--max-thins", "NUMBER", arguments->thin_devices, "how many thin devices and snapshots there will be");
    command.require("--max-thins");
    command.option("-u,--unit", "UNIT", arguments->unit, "of the answer: b, s, k, K, m, M, g or G");
    command.flag_or_option("-n,--numeric-only", "short|long", arguments->numeric, arguments->numeric_form,
                           "only the number, or with a short or long unit");
    command.runs([arguments](PeerContext& context) -> Result<int> {
        Unit unit = TRY_WITHIN("--unit", parse_unit(arguments->unit));
        std::string_view form = arguments->numeric_form;
        if (!form.empty() && form != "short" && form != "long")
            return fail(ErrorKind::usage, "--numeric-only: \"{}\" is neither short nor long", form);
        std::uint64_t bytes =
            TRY(tools::metadata_size(TRY_WITHIN("--pool-size", parse_bytes(arguments->pool_size)),
                                     TRY_WITHIN("--block-size", parse_bytes(arguments->block_size)), arguments->thin_devices.value_or(0)));
        double size = static_cast<double>(bytes) / static_cast<double>(unit.bytes);
        bool plain = size < 1 || bytes % unit.bytes == 0;
        std::string text = plain ? fmt::format("{}", size) : fmt::format("{:.2f}", size);
        if (text.ends_with(".0"))
            text.resize(text.size() - 2);
        if (!arguments->numeric)
            text += fmt::format(" {}s", unit.name);
        else if (form == "short")
            text += unit.letter;
        else if (form == "long")
            text += fmt::format("{}s", unit.name);
        context.out(text + "\n");
        return 0;
    });
}

}  // namespace lamella::cli
