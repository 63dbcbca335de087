// SPDX-License-Identifier: Apache-2.0
//
// A pool of the kernel engine whose metadata can be read: on an image that the LVM in memory says is its group's disk.
#pragma once

#include <fstream>

#include "thin/superblock.h"
#include "volumes/engine_group.h"
#include "volumes/little_lvm.h"

namespace lamella {

class PoolOnImageTest : public LittleLvmTest {
  protected:
    // A group with a pool, on an image that the little LVM says is its disk.
    void SetUp() override {
        image = folder + "/disk.img";
        CreateGroup request;
        request.paths = {image};
        request.size = 64 * MiB;
        request.name = "my-vg";
        ASSERT_TRUE(EngineGroup::create(request, {}));
        EngineOptions options;
        options.archive_directory = folder + "/archive";
        const auto group = test::value_of(EngineGroup::open(request.paths, options));
        CreatePool pool;
        pool.name = "pool";
        pool.size.value = 8 * MiB;
        pool.metadata_size = 4 * MiB;
        test::value_of(group->create_pool(pool, {}));
        CreateVolume volume;
        volume.name = "web";
        volume.pool = "pool";
        volume.size.value = 4 * MiB;
        test::value_of(group->create_volume(volume, {}));
        transaction_id = test::value_of(group->volume("pool")).transaction_id.value();
    }

    LittleLvm lvm(bool ids_change_places = false) const {
        LittleLvm made;
        made.disk = image;
        made.device_directory = folder;
        made.transaction_id = transaction_id;
        made.ids_change_places = ids_change_places;
        made.make("pool_tmeta", "linear").hidden = true;
        made.make("pool_tdata", "linear").hidden = true;
        LittleLvm::Volume& pool = made.make("pool", "thin-pool");
        pool.metadata = "pool_tmeta";
        pool.data = "pool_tdata";
        pool.active = false;
        return made;
    }
    // As after a transaction of the kernel's that leaves the id as it is.
    void use_pool() {
        AlignedBuffer block(thin::metadata_block_bytes);
        std::fstream stream(image, std::ios::binary | std::ios::in | std::ios::out);
        char* bytes = reinterpret_cast<char*>(block.data());
        for (std::streamoff at = 0; stream.read(bytes, thin::metadata_block_bytes); at += thin::metadata_block_bytes)
            if (auto superblock = thin::Superblock::unpack(block.bytes(), true)) {
                ++superblock->time;
                superblock->pack(block.bytes());
                stream.seekp(at);
                stream.write(bytes, thin::metadata_block_bytes);
                return;
            }
        FAIL() << "no superblock in " << image;
    }
    void activate(LittleLvm& lvm) {
        host::KernelDevice device;
        device.name = lvm2::dm_name("my-vg", "pool", "tpool");
        device.uuid = lvm2::dm_uuid(*LvmId::parse("FTM2AD-Md9x-9Pyd-AcDP-m8QK-xGzn-4hs1m3"), *LvmId::parse(lvm.at("pool").id), "tpool");
        device.status.push_back({0, 1000, "thin-pool", "1 113/1024 5/1024 - rw no_discard_passdown queue_if_no_space - 256"});
        mapper->all.push_back(device);
    }
    std::string image;
    std::uint64_t transaction_id = 0;
};

}  // namespace lamella
