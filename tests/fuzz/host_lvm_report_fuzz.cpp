// SPDX-License-Identifier: Apache-2.0
//
// LVM's reports in either dialect: whatever comes, sums and names stay in bounds.
#include <cstdlib>
#include <string_view>

#include "host/lvm_report.h"

using namespace lamella;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    (void)host::parse_lvm_groups(text);
    (void)host::parse_lvm_duplicates(text);
    const auto report = host::parse_lvm_report(text);
    if (!report)
        return 0;
    for (const host::LvmGroup& group : report->groups) {
        if (group.free_extents > group.extents || group.extents * group.extent_size / group.extent_size != group.extents)
            std::abort();
        for (const host::LvmVolume& volume : group.volumes)
            if (volume.name.empty() || group.volume(volume.name) == nullptr)
                std::abort();
    }
    return 0;
}
