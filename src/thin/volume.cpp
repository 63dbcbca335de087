// SPDX-License-Identifier: Apache-2.0
#include "thin/volume.h"

#include "thin/pool_thread.h"
#include "thin/thin_io.h"

namespace lamella::thin {

ThinVolume::ThinVolume(PoolThread& pool, ThinId id, std::uint64_t size, std::string name, std::uint32_t snapshot_time,
                       BlockDevice* external_origin, MappingBudget& budget)
    : pool_(pool),
      id_(id),
      size_(size),
      name_(std::move(name)),
      external_origin_(external_origin),
      snapshot_time_(snapshot_time),
      mappings_(budget, (size + pool.block_bytes() - 1) / pool.block_bytes()) {}

ThinVolume::~ThinVolume() { pool_.forget(*this); }

DeviceTraits ThinVolume::traits() const {
    const DeviceTraits lower = pool_.data().traits();
    DeviceTraits traits;
    traits.alignment = lower.alignment;
    traits.physical_block = lower.physical_block;  // which divides the pool's blocks: they are of 64 KiB at least
    traits.preferred_io = pool_.block_bytes() & (~pool_.block_bytes() + 1);
    traits.discards = pool_.takes_discards();
    traits.discard_zeroes = traits.discards && external_origin_ == nullptr;
    traits.discard_granularity = pool_.block_bytes();
    traits.rotational = lower.rotational;
    return traits;
}

void ThinVolume::add_leaves(std::vector<BlockDevice*>& leaves) { pool_.data().add_leaves(leaves); }

void ThinVolume::resize(std::uint64_t size) { pool_.resize(*this, size); }

void ThinVolume::submit(IoQueue& queue, IoRequest& request) {
    if (request.operation == IoOperation::flush) {
        if (pool_.dirty() || pool_.failed())
            pool_.join_commit(*new ThinIo(*this, queue, request));
        else
            pool_.data().submit(queue, request);
        return;
    }
    const std::uint64_t end = size_.load();
    if (request.offset > end || request.length > end - request.offset) {
        const bool reads = request.operation == IoOperation::read || request.operation == IoOperation::discard;
        queue.complete_later(request, reads ? EINVAL : ENOSPC);
        return;
    }
    if (request.length == 0) {
        queue.complete_later(request, 0);
        return;
    }
    ThinIo* io = new ThinIo(*this, queue, request);
    const bool direct = request.operation == IoOperation::read || request.operation == IoOperation::write;
    if (direct && io->deal(queue))
        io->finish_part(queue, true);
    else
        pool_.resume(*io);
}

void ThinVolume::status(IoQueue& queue, StatusRequest& request) {
    if (request.offset >= size_.load() || request.length == 0) {
        queue.complete_later(request, EINVAL);
        return;
    }
    pool_.answer_status(*this, queue, request);
}

}  // namespace lamella::thin
