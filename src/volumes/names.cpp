// SPDX-License-Identifier: Apache-2.0
#include "volumes/names.h"

#include <algorithm>

#include <unistd.h>

#include "lvm2/group.h"

namespace lamella {

namespace {

constexpr std::size_t max_address = 64 * 1024;
constexpr std::size_t max_physical_volumes = 1024;

bool is_path(const std::string& text, PathExists exists) { return text.find('/') != std::string::npos || exists(text); }

// For messages: what came in may be anything, control characters included.
std::string quoted(std::string_view text) {
    constexpr std::size_t shown = 200;
    std::string result = "\"";
    for (char c : text.substr(0, shown))
        result += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    return result + (text.size() > shown ? "...\"" : "\"");
}

Result<void> check_address(std::string_view text) {
    if (text.empty())
        return fail(ErrorKind::usage, "an empty word names no group: give the path of its physical volume, such as ./vms.img");
    if (text.size() > max_address)
        return fail(ErrorKind::usage, "an address of {} characters is too long; at most {}", text.size(), max_address);
    if (text.find('\0') != std::string_view::npos)
        return fail(ErrorKind::usage, "address {} holds a NUL character", quoted(text));
    return {};
}

bool is_name(std::string_view text) {
    // A volume that LVM hides can be named too, so that its own rules for new volumes don't apply.
    return lvm2::check_group_name(text).has_value();
}

bool names_host_volume(std::string_view text) {
    std::size_t slash = text.find('/');
    return slash != std::string_view::npos && is_name(text.substr(0, slash)) && is_name(text.substr(slash + 1));
}

}  // namespace

std::string GroupAddress::text() const {
    std::string result = name;
    for (const std::string& path : paths)
        result += (result.empty() ? "" : ",") + path;
    return result;
}

std::string VolumeAddress::text() const { return group.text() + (group.paths.empty() ? "/" : ":") + volume; }

bool path_exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

Result<GroupAddress> parse_group_address(std::string_view view, PathExists exists) {
    TRY(check_address(view));
    std::string text(view);
    if (exists(text))
        return GroupAddress{.paths = {text}, .name = {}};

    GroupAddress address;
    for (std::size_t begin = 0; begin <= text.size();) {
        std::size_t end = std::min(text.find(',', begin), text.size());
        if (end == begin)
            return fail(ErrorKind::usage, "a path is missing at a comma of {}", quoted(text));
        address.paths.push_back(text.substr(begin, end - begin));
        if (address.paths.size() > max_physical_volumes)
            return fail(ErrorKind::usage, "more than {} physical volumes are named", max_physical_volumes);
        begin = end + 1;
    }
    if (std::ranges::any_of(address.paths, [&](const std::string& path) { return is_path(path, exists); }))
        return address;
    if (address.paths.size() > 1)
        return fail(ErrorKind::usage, "{} names several groups; paths of physical volumes hold a '/', such as ./{}", quoted(text),
                    address.paths[0]);
    if (!is_name(text))
        return fail(ErrorKind::usage, "{} is neither a path nor the name of a volume group", quoted(text));
    return GroupAddress{.paths = {}, .name = text};
}

Result<VolumeAddress> parse_volume_address(std::string_view text, PathExists exists) {
    TRY(check_address(text));
    std::size_t colon = text.rfind(':');
    // A colon before a '/' belongs to a path.
    bool has_volume = colon != std::string_view::npos && text.find('/', colon) == std::string_view::npos;
    if (has_volume && colon > 0) {
        std::string_view volume = text.substr(colon + 1);
        if (volume.empty())
            return fail(ErrorKind::usage, "{} ends in a colon: the name of a volume is missing after it", quoted(text));
        if (!is_name(volume))
            return fail(ErrorKind::usage, "{} in {} can't be the name of a volume", quoted(volume), quoted(text));
        GroupAddress group = TRY(parse_group_address(text.substr(0, colon), exists));
        if (group.paths.empty())
            return fail(ErrorKind::usage, "there is no file {0}; a volume of the host's group {0} is named {0}/{1}", group.name, volume);
        return VolumeAddress{std::move(group), std::string(volume)};
    }
    if (!exists(std::string(text)) && names_host_volume(text)) {
        std::size_t slash = text.find('/');
        return VolumeAddress{{.paths = {}, .name = std::string(text.substr(0, slash))}, std::string(text.substr(slash + 1))};
    }
    return fail(ErrorKind::usage, "{} names no volume; a volume is PATH:NAME, such as ./vms.img:web", quoted(text));
}

Result<Address> parse_address(std::string_view text, PathExists exists) {
    TRY(check_address(text));
    if (exists(std::string(text)))
        return Address(GroupAddress{.paths = {std::string(text)}, .name = {}});
    if (Result<VolumeAddress> volume = parse_volume_address(text, exists))
        return Address(*std::move(volume));
    else if (text.rfind(':') != std::string_view::npos)
        return std::unexpected(volume.error());
    return Address(TRY(parse_group_address(text, exists)));
}

}  // namespace lamella
