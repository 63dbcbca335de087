// SPDX-License-Identifier: Apache-2.0
//
// cow_tool ORIGIN STORE TYPE CHUNK VERB...: an origin and one snapshot of it, over two image files, by the cow floor alone; for scripts
// that compare it with a kernel's. Verbs, in order:
//
//   origin=SEED,COUNT    COUNT writes to the origin, at places and of lengths that SEED decides; likewise:
//   snapshot=SEED,COUNT
//   fill=BYTES           the first bytes of the origin
//   dump=FILE            everything that the snapshot shows; likewise:
//   dump-origin=FILE
//   merge                the whole snapshot into the origin
//   merge-part           some of it
//   status               dm-snapshot's status words, to the standard output
//   physical-block       that of the store's file, likewise
//
// A write that fails is told, and the next one done.
#include <charconv>
#include <cstdio>
#include <fstream>
#include <random>
#include <string_view>

#include "cow/origin.h"
#include "device/file_device.h"

namespace lamella {
namespace {

struct Arguments {
    std::uint64_t first = 0, second = 0;
};

Arguments numbers(std::string_view text) {
    Arguments found;
    const char* end = text.data() + text.size();
    const auto [comma, error] = std::from_chars(text.data(), end, found.first);
    if (error == std::errc() && comma != end)
        std::from_chars(comma + 1, end, found.second);
    return found;
}

void scatter(BlockDevice& device, Arguments arguments) {
    std::mt19937_64 random(arguments.first);
    for (std::uint64_t number = 0; number < arguments.second; ++number) {
        const std::uint64_t most = random() % 8 == 0 ? 256 : 16;
        const std::uint64_t offset = random() % (device.size() / sector_bytes) * sector_bytes;
        const std::uint64_t length = std::min((1 + random() % most) * sector_bytes, device.size() - offset);
        std::vector<std::byte> bytes(length, static_cast<std::byte>(1 + random() % 255));
        if (const auto written = write_now(device, offset, bytes); !written)
            std::fprintf(stderr, "%s\n", written.error().message().c_str());
    }
}

Result<void> dump(BlockDevice& device, const std::string& file) {
    std::vector<std::byte> bytes(device.size());
    TRY(read_now(device, 0, bytes));
    std::ofstream(file, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return {};
}

Result<void> merge(cow::Origin& origin, const std::shared_ptr<cow::Snapshot>& snapshot, IoQueue& queue, bool whole) {
    const auto left = [&] {
        const cow::StoreUsage usage = snapshot->snapshot_status().usage;
        return usage.allocated - usage.metadata;
    };
    const std::uint64_t before = left();
    TRY(origin.start_merge(snapshot));
    queue.run_until(
        [&] { return snapshot->snapshot_status().condition != cow::SnapshotCondition::active || (whole ? left() == 0 : left() < before); });
    origin.stop_merge();
    return {};
}

Result<void> run(int count, char** words) {
    const auto origin_file = TRY(FileDevice::open(words[1], {.direct = FileOptions::Direct::never}));
    const auto store_file = TRY(FileDevice::open(words[2], {.direct = FileOptions::Direct::never}));
    cow::SnapshotOptions options;
    options.store = TRY(cow::parse_store_type(words[3]));
    options.store.chunk_sectors = static_cast<std::uint32_t>(numbers(words[4]).first);
    // Stepped by hand, so that a merge can be stopped where it is.
    const auto queue = TRY(make_plain_queue());
    // A merge that is stopped has done a step or two.
    const std::uint64_t step = options.store.chunk_sectors < 1024 ? 100 : 1;
    const auto origin = TRY(cow::Origin::open(*origin_file, {.merge_step_chunks = step}, queue.get()));
    auto snapshot = TRY(origin->open_snapshot(*store_file, options));
    struct Stepped : BlockDevice {
        Stepped(BlockDevice& its_device, IoQueue& its_queue) : device(its_device), mine(its_queue) {}
        std::uint64_t size() const override { return device.size(); }
        DeviceTraits traits() const override { return device.traits(); }
        std::string name() const override { return device.name(); }
        // Another queue's request, done on ours before it is answered there.
        void submit(IoQueue& home, IoRequest& request) override {
            struct Done {
                bool over = false;
                int error = 0;
            } done;
            IoRequest copy = request;
            copy.context = &done;
            copy.completed = [](IoRequest& finished, int error) { *static_cast<Done*>(finished.context) = {true, error}; };
            device.submit(mine, copy);
            mine.run_until([&] { return done.over; });
            home.complete_later(request, done.error);
        }
        BlockDevice& device;
        IoQueue& mine;
    };
    Stepped origin_device(*origin, *queue), snapshot_device(*snapshot, *queue);
    for (int index = 5; index < count; ++index) {
        const std::string_view word = words[index];
        const std::string_view verb = word.substr(0, word.find('='));
        const std::string_view argument = verb.size() < word.size() ? word.substr(verb.size() + 1) : std::string_view();
        if (verb == "origin")
            scatter(origin_device, numbers(argument));
        else if (verb == "snapshot")
            scatter(snapshot_device, numbers(argument));
        else if (verb == "fill")
            TRY(write_now(origin_device, 0, std::vector<std::byte>(numbers(argument).first, std::byte{0x5a})));
        else if (verb == "dump")
            TRY(dump(snapshot_device, std::string(argument)));
        else if (verb == "dump-origin")
            TRY(dump(origin_device, std::string(argument)));
        else if (verb == "merge" || verb == "merge-part")
            TRY(merge(*origin, snapshot, *queue, verb == "merge"));
        else if (verb == "status")
            std::printf("%s\n", snapshot->snapshot_status().line().c_str());
        else if (verb == "physical-block")
            std::printf("%u\n", store_file->traits().physical_block);
        else
            return fail(ErrorKind::usage, "unknown verb {}", word);
    }
    TRY(flush_now(*origin_file));
    return flush_now(*store_file);
}

}  // namespace
}  // namespace lamella

int main(int count, char** words) {
    if (count < 5) {
        std::fprintf(stderr, "usage: cow_tool ORIGIN STORE TYPE CHUNK VERB...\n");
        return 2;
    }
    const auto done = lamella::run(count, words);
    if (!done)
        std::fprintf(stderr, "cow_tool: %s\n", done.error().message().c_str());
    return done ? 0 : 1;
}
