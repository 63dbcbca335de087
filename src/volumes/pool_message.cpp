// SPDX-License-Identifier: Apache-2.0
#include "volumes/pool_message.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <sstream>
#include <string>

namespace lamella {

Result<void> refuse_behind_the_text(std::string_view pool, std::string_view message, const std::vector<std::uint32_t>& known,
                                    bool certain) {
    // The kernel takes words apart at any white space, for which it takes some bytes above 127 too, and takes a backslash for a quote.
    const auto is_plain = [](char byte) { return byte != '\\' && ((byte >= ' ' && byte <= '~') || (byte >= '\t' && byte <= '\r')); };
    if (!std::ranges::all_of(message, is_plain))
        return fail(ErrorKind::usage, "a pool's messages are of printable ASCII characters, without backslashes");
    std::istringstream stream{std::string(message)};
    std::vector<std::string> words{std::istream_iterator<std::string>(stream), {}};
    if (known.empty() || words.empty())
        return {};
    // To the kernel "Delete" is "delete".
    for (char& letter : words[0])
        if (letter >= 'A' && letter <= 'Z')
            letter = static_cast<char>(letter - 'A' + 'a');
    if (words[0] == "delete" && words.size() == 2) {
        std::uint32_t id = 0;
        const auto [end, error] = std::from_chars(words[1].data(), words[1].data() + words[1].size(), id);
        // The kernel reads "0x1" and "010" in its own way.
        const bool plain = error == std::errc() && end == words[1].data() + words[1].size() && std::to_string(id) == words[1];
        if (certain && plain && std::ranges::find(known, id) == known.end())
            return {};
    }
    for (const char* word : {"create_thin", "create_snap", "delete", "set_transaction_id"})
        if (words[0] == word)
            return fail(ErrorKind::refused, "pool {}: {} behind the group's back would part the pool's metadata from the group's", pool,
                        word);
    return {};
}

}  // namespace lamella
