// SPDX-License-Identifier: Apache-2.0
//
// The input is the beginning of an exception store; the rest of its device is zeros. It is looked at, then used as a snapshot's: read,
// written, opened again, merged. What was opened once and used must open again.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "cow/origin.h"
#include "device/memory_device.h"

using namespace lamella;
using namespace lamella::cow;

namespace {

constexpr std::uint64_t origin_bytes = 96 * 1024;
constexpr std::uint64_t store_bytes = 64 * 1024;

// A request, done by stepping the queue that the origin runs on.
int run(BlockDevice& device, IoQueue& queue, IoOperation operation, std::uint64_t offset, std::vector<std::byte>& bytes) {
    struct Outcome {
        bool done = false;
        int error = 0;
    } outcome;
    const iovec vector{bytes.data(), bytes.size()};
    IoRequest request{.operation = operation, .offset = offset, .length = bytes.size(), .vectors = {&vector, 1}};
    request.context = &outcome;
    request.completed = [](IoRequest& finished, int error) { *static_cast<Outcome*>(finished.context) = {true, error}; };
    device.submit(queue, request);
    queue.run_until([&] { return outcome.done; });
    return outcome.error;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::unique_ptr<IoQueue> queue = *make_plain_queue();
    MemoryDevice store(store_bytes);
    const std::vector<std::byte> input(reinterpret_cast<const std::byte*>(data),
                                       reinterpret_cast<const std::byte*>(data) + std::min<std::size_t>(size, store_bytes));
    (void)write_now(store, 0, input);
    const bool sound = inspect_store(store, origin_bytes).has_value();

    MemoryDevice device(origin_bytes);
    const auto origin = *Origin::open(device, {.copy_buffer_bytes = 1}, queue.get());
    auto opened = origin->open_snapshot(store, {.store = {.chunk_sectors = 1}});
    if (!opened)
        return 0;
    if (!sound)
        std::abort();
    std::shared_ptr<Snapshot> snapshot = *std::move(opened);
    std::vector<std::byte> bytes(6 * 1024);
    for (std::uint64_t offset = 0; offset < origin_bytes; offset += 24 * 1024) {
        (void)run(*snapshot, *queue, IoOperation::read, offset, bytes);
        if (run(*origin, *queue, IoOperation::write, offset + 512, bytes) != 0)
            std::abort();  // an origin outlives whatever happens to its snapshot
        (void)run(*snapshot, *queue, IoOperation::write, offset + 1024, bytes);
    }
    const SnapshotCondition before = snapshot->snapshot_status().condition;
    snapshot.reset();
    snapshot = *origin->open_snapshot(store, {});
    if ((snapshot->snapshot_status().condition == SnapshotCondition::invalid) != (before == SnapshotCondition::invalid))
        std::abort();
    if (before == SnapshotCondition::invalid)
        return 0;
    if (!origin->start_merge(snapshot))
        std::abort();
    queue->run_until([&] {
        const SnapshotStatus status = snapshot->snapshot_status();
        return status.condition != SnapshotCondition::active || status.usage.allocated == status.usage.metadata;
    });
    if (snapshot->snapshot_status().condition != SnapshotCondition::active)
        std::abort();
    return 0;
}
