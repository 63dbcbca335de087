// SPDX-License-Identifier: Apache-2.0
//
// bench_report_load COUNT ROUNDS
//
// The kernel engine's own part of a listing: what it takes to make typed rows of LVM's report of a group with COUNT snapshots and to put them
// together with the kernel's devices, a tenth of them active. Prints the median of ROUNDS, in seconds.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/uuid.h"
#include "host/lvm_report.h"
#include "lvm2/group.h"
#include "volumes/kernel_view.h"

using namespace lamella;
using nlohmann::json;

namespace {

struct Made {
    std::string report;
    std::vector<host::KernelDevice> devices;
};

json segment_of(const LvmId& id, const char* type, unsigned thin_id) {
    return {{"lv_uuid", id.dashed()},   {"segtype", type},    {"seg_start", "0"},  {"seg_size", "1073741824"},
            {"stripes", "0"},           {"stripe_size", "0"}, {"chunk_size", "0"}, {"thin_id", fmt::to_string(thin_id)},
            {"transaction_id", "1"},    {"zero", ""},         {"discards", ""},    {"seg_monitor", ""},
            {"seg_pe_ranges", "pool:0"}};
}

json volume_of(const LvmId& id, const std::string& name, const char* origin) {
    return {{"lv_uuid", id.dashed()},
            {"lv_name", name},
            {"lv_size", "1073741824"},
            {"lv_attr", "Vwi---tz-k"},
            {"lv_role", "public,snapshot,thinsnapshot"},
            {"lv_layout", "thin,sparse"},
            {"lv_tags", "nightly"},
            {"lv_time", "1700000000"},
            {"lv_host", "host.example.org"},
            {"lv_skip_activation", "1"},
            {"pool_lv", "pool"},
            {"origin", origin},
            {"data_lv", ""},
            {"metadata_lv", ""},
            {"lv_metadata_size", ""},
            {"origin_size", ""},
            {"lv_when_full", ""},
            {"lv_health_status", ""},
            {"lv_merging", "0"},
            {"lv_merge_failed", "-1"},
            {"lv_snapshot_invalid", "-1"},
            {"lv_check_needed", "-1"},
            {"lv_profile", ""},
            {"kernel_discards", ""}};
}

Made make(unsigned count) {
    Made made;
    const LvmId group = LvmId::generate();
    json volumes = json::array(), segments = json::array();
    for (unsigned i = 0; i <= count; ++i) {
        const LvmId id = LvmId::generate();
        const std::string name = i == 0 ? "web" : fmt::format("web-s{}", i);
        volumes.push_back(volume_of(id, name, i == 0 ? "" : "web"));
        segments.push_back(segment_of(id, "thin", i + 1));
        if (i % 10 != 0)
            continue;
        host::KernelDevice device{.name = lvm2::dm_name("vg0", name), .uuid = lvm2::dm_uuid(group, id)};
        device.status.push_back({0, 2097152, "thin", "640 639"});
        made.devices.push_back(std::move(device));
    }
    const json vg = {{"vg_name", "vg0"},
                     {"vg_uuid", group.dashed()},
                     {"vg_seqno", "1"},
                     {"vg_extent_size", "4194304"},
                     {"vg_extent_count", "1000"},
                     {"vg_free_count", "10"},
                     {"vg_systemid", ""},
                     {"vg_lock_type", ""},
                     {"vg_tags", ""},
                     {"vg_exported", "0"},
                     {"vg_partial", "0"},
                     {"vg_missing_pv_count", "0"},
                     {"vg_permissions", "writeable"}};
    made.report =
        json{{"report", {{{"vg", {vg}}, {"pv", json::array()}, {"lv", volumes}, {"pvseg", json::array()}, {"seg", segments}}}}}.dump(1);
    return made;
}

}  // namespace

int main(int count, char** words) {
    if (count != 3)
        return 2;
    const auto wanted = static_cast<unsigned>(std::atoi(words[1]));
    const Made made = make(wanted);
    std::vector<double> seconds;
    for (int round = std::max(1, std::atoi(words[2])); round > 0; --round) {
        const Duration begin = Clock::system().monotonic();
        auto report = host::parse_lvm_report(made.report);
        if (!report || report->groups.size() != 1) {
            std::fprintf(stderr, "%s\n", report ? "no group" : report.error().message().c_str());
            return 1;
        }
        const KernelView view(std::move(report->groups[0]), made.devices);
        const std::vector<VolumeInfo> volumes = view.volumes();
        seconds.push_back(std::chrono::duration<double>(Clock::system().monotonic() - begin).count());
        if (volumes.size() != wanted + 1 || !volumes[0].mapped)
            return 1;
    }
    std::ranges::nth_element(seconds, seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2));
    std::printf("%.4f\n", seconds[seconds.size() / 2]);
}
