// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <set>

#include "device/concatenation_device.h"
#include "mapper/target.h"
#include "thin/pool.h"
#include "thin/volume.h"

namespace lamella::mapper {

// A pool that thin-pool targets of one device (the live table's and an inactive one's) and the thin targets on it share. Found in
// SharedObjects by its metadata device as PoolInUse, by its data device as PoolData, by the pool's own device as PoolOfDevice.
struct PoolInUse;
struct PoolData {
    const MappedDevice* owner = nullptr;
};
struct PoolOfDevice {
    PoolInUse* pool = nullptr;
};

struct PoolInUse {
    MappedDevice* owner = nullptr;
    LowerDevice metadata;
    LowerDevice data;
    // The data device as far as the table of the pool goes. May become longer.
    std::unique_ptr<ConcatenationDevice> window;
    PoolData as_data;
    PoolOfDevice as_device;
    std::unique_ptr<thin::ThinPool> pool;

    bool begun = false;  // a table of it has been resumed

    // Devices whose live table has a volume: they take no I/O while the pool's device is suspended.
    std::multiset<MappedDevice*> devices;

    // External origins of open volumes.
    struct Volume {
        std::weak_ptr<thin::ThinVolume> volume;
        const BlockDevice* external_origin = nullptr;
    };
    std::map<ThinId, Volume> volumes;
};

}  // namespace lamella::mapper
