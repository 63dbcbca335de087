// SPDX-License-Identifier: Apache-2.0
//
// The text of a group: what is printed of it is parsed to the same print; a sound one stays sound, also through changes.
#include <cstdlib>
#include <string_view>

#include "lvm2/group.h"

using namespace lamella;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    auto parsed = lvm2::parse_group({reinterpret_cast<const char*>(data), size});
    if (!parsed || !parsed->findings.empty())
        return 0;
    lvm2::VolumeGroup& group = parsed->group;
    const std::string printed = lvm2::print_group(group, lvm2::TextStyle::on_disk);
    const auto again = lvm2::parse_group(printed);
    if (!again || !again->findings.empty() || lvm2::print_group(again->group, lvm2::TextStyle::on_disk) != printed)
        std::abort();

    const lvm2::NewVolume request{"new", {}, false, {1, "host"}};
    const std::vector<lvm2::LogicalVolume> before = group.logical_volumes;
    (void)lvm2::create_volume(group, request, 3, {});
    lvm2::NewThinPool pool;
    pool.volume.name = "newpool";
    pool.data_extents = 5;
    (void)lvm2::create_thin_pool(group, pool);
    for (const lvm2::LogicalVolume& volume : before) {
        (void)lvm2::create_thin_snapshot(group, {"s" + volume.name, {}, true, {}}, volume.name);
        (void)lvm2::extend_volume(group, volume.name, 2, {});
        (void)lvm2::rename_volume(group, volume.name, "r" + volume.name);
        (void)lvm2::merge_thin_snapshot(group, volume.name);
        (void)lvm2::remove_volume(group, volume.name);
    }
    if (!lvm2::check(group).empty())
        std::abort();
    return 0;
}
