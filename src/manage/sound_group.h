// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "manage/diagnosis.h"
#include "volumes/fake_group.h"

namespace lamella::manage {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t gib = 1 << 30;

// For tests: what the doctor sees of a group that nothing is wrong with, in this order: a pool half full, a volume in it, a spare, a thick
// volume with a snapshot. Its address isn't filled in.
inline Examination sound_group() {
    Examination seen;
    seen.group.extent_size = 4 * mib;
    seen.group.size = 40 * gib;
    seen.group.free = 8 * gib;
    VolumeInfo pool = FakeGroup::made("pool", VolumeKind::thin_pool, "thin-pool", 16 * gib);
    pool.chunk_size = 64 * 1024;
    pool.data_used = 8 * gib;
    pool.metadata_size = 64 * mib;
    pool.metadata_used = 8 * mib;
    pool.transaction_id = 3;
    pool.pool_mode = "rw";
    pool.discards = "passdown";
    VolumeInfo web = FakeGroup::made("web", VolumeKind::thin, "thin", 10 * gib);
    web.pool = "pool";
    web.device_id = 1;
    VolumeInfo spare = FakeGroup::made("lvol0_pmspare", VolumeKind::spare, "linear", 64 * mib);
    VolumeInfo thick = FakeGroup::made("thick", VolumeKind::linear, "linear", 4 * gib);
    VolumeInfo snap = FakeGroup::made("snap", VolumeKind::snapshot, "snapshot", 4 * gib);
    snap.origin = "thick";
    snap.chunk_size = 4096;
    snap.store_size = 800 * mib;
    snap.store_used = 80 * mib;
    snap.snapshot_state = "active";
    seen.volumes = {pool, web, spare, thick, snap};
    seen.contents["pool"] = {.transaction_id = 3, .device_ids = {1}};
    return seen;
}

}  // namespace lamella::manage
