// SPDX-License-Identifier: Apache-2.0
#include "base/uuid.h"

#include <sys/random.h>
#include <cstdlib>

namespace lamella {

namespace {
constexpr std::string_view generated_alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

bool is_identifier_character(char character) {
    return generated_alphabet.find(character) != std::string_view::npos || character == '!' || character == '#';
}
}  // namespace

LvmId LvmId::generate() {
    LvmId id;
    std::size_t filled = 0;
    while (filled < length) {
        unsigned char random;
        if (::getrandom(&random, 1, 0) != 1)
            std::abort();  // the kernel's random source can't fail for one byte
        // 62 * 4 = 248: values above would favour the first characters.
        if (random < 248)
            id.characters_[filled++] = generated_alphabet[random % 62];
    }
    return id;
}

Result<LvmId> LvmId::parse(std::string_view text) {
    LvmId id;
    std::size_t filled = 0;
    for (char character : text) {
        if (character == '-')
            continue;
        if (filled == length || !is_identifier_character(character))
            return fail(ErrorKind::damaged, "'{:.64}' is not an LVM identifier", text);
        id.characters_[filled++] = character;
    }
    if (filled != length)
        return fail(ErrorKind::damaged, "'{:.64}' is not an LVM identifier: {} of {} characters", text, filled, length);
    return id;
}

std::string LvmId::dashed() const {
    constexpr std::array<std::size_t, 7> groups = {6, 4, 4, 4, 4, 4, 6};
    std::string text;
    std::size_t position = 0;
    for (std::size_t group : groups) {
        if (!text.empty())
            text += '-';
        text.append(characters_.data() + position, group);
        position += group;
    }
    return text;
}

}  // namespace lamella
