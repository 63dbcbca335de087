// SPDX-License-Identifier: Apache-2.0
#include "tools/pack_code.h"

#include <cstring>

#include "base/endian.h"
#include "pdata/btree.h"

namespace lamella::tools {

using pdata::block_bytes;
using pdata::Node;

namespace {

enum class Op : std::uint8_t {
    set,       // register = operand, whose width the number says
    add,       // register += number
    add_wide,  // register += operand
    subtract,  // register -= number
    subtract_wide,
    repeat,       // put the register out so many times
    repeat_long,  // number << 8 | next byte times
    times,        // the next instruction so many times
    times_long,
    literal,  // so many bytes follow
    literal_wide,
    split,  // number << 8 | next byte values: first all their high 40 bits, then all their low 24 bits
};

constexpr unsigned time_bits = 24;
constexpr std::uint64_t time_mask = (1u << time_bits) - 1;

class Encoder {
  public:
    explicit Encoder(std::vector<std::byte>& code) : code_(code) {}

    void literal(std::span<const std::byte> bytes) {
        if (bytes.size() < 16)
            op(Op::literal, bytes.size());
        else
            wide(Op::literal_wide, bytes.size());
        code_.insert(code_.end(), bytes.begin(), bytes.end());
    }

    // At least one of them, fewer than 4096.
    void numbers(std::span<const std::uint64_t> values) {
        std::uint64_t base = values[0];
        wide(Op::set, base);
        for (std::size_t at = 1; at < values.size();) {
            std::uint64_t step = values[at] - base;
            std::size_t end = at;
            for (std::uint64_t expected = base + step; end < values.size() && values[end] == expected; expected += step)
                ++end;
            std::size_t count = end - at;
            if (step == 0) {
                counted(Op::repeat, Op::repeat_long, count);
            } else {
                if (count > 1)
                    counted(Op::times, Op::times_long, count);
                if (values[at] > base)
                    change(Op::add, Op::add_wide, step);
                else
                    change(Op::subtract, Op::subtract_wide, ~step + 1);
            }
            base = values[end - 1];
            at = end;
        }
    }

    void split(std::span<const std::uint64_t> values) {
        op(Op::split, values.size() >> 8);
        code_.push_back(static_cast<std::byte>(values.size()));
        std::vector<std::uint64_t> part(values.size());
        for (std::size_t index = 0; index < values.size(); ++index)
            part[index] = values[index] >> time_bits;
        numbers(part);
        for (std::size_t index = 0; index < values.size(); ++index)
            part[index] = values[index] & time_mask;
        numbers(part);
    }

  private:
    void op(Op op, std::size_t number) { code_.push_back(static_cast<std::byte>(static_cast<unsigned>(op) << 4 | number)); }
    void operand(std::uint64_t value, std::size_t width) {
        for (std::size_t index = 0; index < width; ++index)
            code_.push_back(static_cast<std::byte>(value >> (8 * index)));
    }
    void wide(Op what, std::uint64_t value) {
        std::size_t width = value <= 0xff ? 1 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;
        op(what, width);
        operand(value, width);
    }
    void change(Op narrow, Op wider, std::uint64_t step) {
        if (step < 16)
            op(narrow, step);
        else
            wide(wider, step);
    }
    void counted(Op narrow, Op longer, std::size_t count) {
        if (count < 16) {
            op(narrow, count);
        } else {
            op(longer, count >> 8);
            code_.push_back(static_cast<std::byte>(count));
        }
    }

    std::vector<std::byte>& code_;
};

class Decoder {
  public:
    explicit Decoder(std::span<const std::byte>& code) : code_(code) {}

    // Runs instructions until they have put out as many bytes as there is room for.
    Result<void> fill(std::span<std::byte> out, bool within_split) {
        std::span<std::byte> before = std::exchange(out_, out);
        while (!out_.empty())
            TRY(run(1, within_split));
        out_ = before;
        return {};
    }

  private:
    static std::unexpected<Error> wrong(std::string_view what) { return fail(ErrorKind::damaged, "packed block: {}", what); }

    Result<std::span<const std::byte>> take(std::size_t bytes) {
        if (code_.size() < bytes)
            return wrong("the instructions end too early");
        std::span<const std::byte> taken = code_.first(bytes);
        code_ = code_.subspan(bytes);
        return taken;
    }
    Result<std::uint64_t> operand(std::size_t width) {
        if (width != 1 && width != 2 && width != 4 && width != 8)
            return wrong("an operand of an impossible width");
        std::span<const std::byte> bytes = TRY(take(width));
        std::uint64_t value = 0;
        for (std::size_t index = 0; index < width; ++index)
            value |= std::to_integer<std::uint64_t>(bytes[index]) << (8 * index);
        return value;
    }
    Result<std::size_t> long_count(std::size_t number) { return number << 8 | TRY(operand(1)); }

    Result<void> put(std::size_t times, std::uint64_t step) {
        if (times > out_.size() / 8)
            return wrong("more than 4096 bytes");
        for (; times > 0; --times) {
            register_ += step;
            store_little<std::uint64_t>(out_.data(), register_);
            out_ = out_.subspan(8);
        }
        return {};
    }
    Result<void> copy(std::uint64_t bytes) {
        if (bytes > out_.size())
            return wrong("more than 4096 bytes");
        std::span<const std::byte> literal = TRY(take(bytes));
        std::memcpy(out_.data(), literal.data(), literal.size());
        out_ = out_.subspan(bytes);
        return {};
    }

    Result<void> run(std::size_t times, bool within_split, bool counted = false) {
        auto byte = std::to_integer<unsigned>(TRY(take(1))[0]);
        std::size_t number = byte & 15;
        auto op = static_cast<Op>(byte >> 4);
        if (counted && op != Op::set && op != Op::add && op != Op::add_wide && op != Op::subtract && op != Op::subtract_wide)
            return wrong("a count before what can't be counted");
        switch (op) {
        case Op::set: register_ = TRY(operand(number)); return put(times, 0);
        case Op::add: return put(times, number);
        case Op::add_wide: return put(times, TRY(operand(number)));
        case Op::subtract: return put(times, ~std::uint64_t{number} + 1);
        case Op::subtract_wide: return put(times, ~TRY(operand(number)) + 1);
        case Op::repeat: return put(number, 0);
        case Op::repeat_long: return put(TRY(long_count(number)), 0);
        case Op::times: return run(number, within_split, true);
        case Op::times_long: return run(TRY(long_count(number)), within_split, true);
        case Op::literal: return copy(number);
        case Op::literal_wide: return copy(TRY(operand(number)));
        case Op::split: {
            std::size_t values = TRY(long_count(number));
            if (within_split || values > out_.size() / 8)
                return wrong("more than 4096 bytes");
            std::vector<std::byte> high(values * 8);
            std::vector<std::byte> low(values * 8);
            TRY(fill(high, true));
            TRY(fill(low, true));
            for (std::size_t at = 0; at < values * 8; at += 8)
                store_little<std::uint64_t>(out_.data() + at, load_little<std::uint64_t>(high.data() + at) << time_bits |
                                                                  (load_little<std::uint64_t>(low.data() + at) & time_mask));
            out_ = out_.subspan(values * 8);
            return {};
        }
        }
        return wrong("an unknown instruction");
    }

    std::span<const std::byte>& code_;
    std::span<std::byte> out_;
    std::uint64_t register_ = 0;
};

std::vector<std::uint64_t> load_numbers(const std::byte* bytes, std::size_t count) {
    std::vector<std::uint64_t> numbers(count);
    for (std::size_t index = 0; index < count; ++index)
        numbers[index] = load_little<std::uint64_t>(bytes + index * 8);
    return numbers;
}

}  // namespace

void encode_block(std::span<const std::byte> block, pdata::BlockKind kind, std::vector<std::byte>& code) {
    Encoder encoder(code);
    Node node(block.data());
    std::size_t entries = node.max_entries();
    bool has_numbers = !node.is_leaf() || node.value_size() == 8;
    std::size_t numbers = has_numbers ? 2 * entries : entries;
    // A checksum doesn't make a node sound.
    if (kind != pdata::BlockKind::node || entries == 0 || Node::header_bytes + numbers * 8 > block_bytes)
        return encoder.literal(block);
    encoder.literal(block.first(Node::header_bytes));
    const std::byte* keys = block.data() + Node::header_bytes;
    encoder.numbers(load_numbers(keys, entries));
    if (has_numbers) {
        std::vector<std::uint64_t> values = load_numbers(keys + entries * 8, entries);
        if (node.is_leaf())
            encoder.split(values);
        else
            encoder.numbers(values);
    }
    if (std::size_t used = Node::header_bytes + numbers * 8; used < block_bytes)
        encoder.literal(block.subspan(used));
}

Result<void> decode_block(std::span<const std::byte>& code, std::span<std::byte> block) { return Decoder(code).fill(block, false); }

}  // namespace lamella::tools
