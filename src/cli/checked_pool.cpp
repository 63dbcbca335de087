// SPDX-License-Identifier: Apache-2.0
#include "cli/checked_pool.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/metadata_input.h"

namespace lamella::cli {

Result<std::optional<PoolText>> read_pool_text(const std::string& address) {
    const auto pool = TRY(pool_address(address));
    if (!pool)
        return std::nullopt;
    const GroupDisks disks = TRY(GroupDisks::open(pool->group.paths, Access::read));
    const lvm2::VolumeGroup& group = disks.store.group();
    const lvm2::LogicalVolume* volume = group.logical_volume(pool->volume);
    const auto* segment = volume == nullptr ? nullptr : volume->sole<lvm2::ThinPool>();
    if (segment == nullptr)
        return std::nullopt;  // whoever opens it says what is wrong
    PoolText text{.transaction_id = segment->transaction_id, .messages_queued = !segment->messages.empty()};
    for (const lvm2::LogicalVolume& other : group.logical_volumes)
        if (const auto* thin = other.sole<lvm2::Thin>(); thin != nullptr && thin->pool == pool->volume)
            text.names[thin->device_id.value()] = other.name;
    return text;
}

void compare_with_text(tools::CheckReport& report, const PoolText& text) {
    auto add = [&](std::string what, std::optional<std::uint32_t> id = std::nullopt) {
        tools::Finding finding{.severity = tools::Severity::needs_repair, .text = std::move(what)};
        if (id)
            finding.volume = ThinId(*id);
        report.findings.push_back(std::move(finding));
        ++report.finding_count;
        report.grade = std::max(report.grade, tools::Severity::needs_repair);
        report.grade_after = std::max(report.grade_after, tools::Severity::needs_repair);
        report.accounting_only = false;
    };
    const bool one_less = text.messages_queued && report.transaction_id + 1 == text.transaction_id;
    if (report.transaction_id != text.transaction_id && !one_less)
        add(fmt::format("the pool's transaction id is {}, the group's text says {}", report.transaction_id, text.transaction_id));
    // A queued message makes or deletes a volume, when the pool is next used.
    if (text.messages_queued)
        return;
    auto known = [&](std::uint32_t id) { return std::ranges::binary_search(report.volume_ids, ThinId(id)); };
    for (const auto& [id, name] : text.names)
        if (!known(id))
            add(fmt::format("the group's text has it as {}, the pool doesn't know it", name), id);
    for (ThinId id : report.volume_ids)
        if (!text.names.contains(id.value()))
            add("the group's text has no such volume", id.value());
}

Result<void> refuse_if_claimed(const std::string& address) {
    struct stat status {};
    if (::stat(address.c_str(), &status) != 0 || !S_ISBLK(status.st_mode))
        return {};
    const int fd = ::open(address.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_EXCL);
    if (fd >= 0) {
        ::close(fd);
        return {};
    }
    if (errno != EBUSY)
        return fail_errno(address);
    return fail(ErrorKind::refused, "{} is in use; while a pool is active only its metadata snapshot can be looked at (-m)", address);
}

std::optional<std::string> mistaken_for_metadata(BlockDevice& device) {
    if (device.size() < 4096)
        return "Metadata device/file too small.  Is this binary metadata?";
    AlignedBuffer block(4096);
    if (!read_now(device, 0, block.bytes()))
        return std::nullopt;
    std::string_view text(reinterpret_cast<const char*>(block.data()), block.size());
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
    if (text.starts_with("<superblock") || text.starts_with("<?xml"))
        return "This looks like XML.  This tool only supports the binary metadata format.";
    return std::nullopt;
}

}  // namespace lamella::cli
