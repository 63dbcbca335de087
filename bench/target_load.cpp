// SPDX-License-Identifier: Apache-2.0
//
// bench_target_load FILE COUNT DEPTH: random reads and writes of 4 KiB, DEPTH at a time, on a file that is there and written already: by
// itself, and under devices of the mapper. Each is measured several times, COUNT of each kind, to and fro, so that what else the machine
// does meets all. Prints a line "WHERE OPERATION NUMBER", a second, for each.
#include <cstdlib>
#include <string>

#include <fmt/format.h>

#include "base/strong.h"
#include "device/file_device.h"
#include "mapper/mapper.h"
#include "random_load.h"

namespace lamella {
namespace {

constexpr int turns = 4;
constexpr IoOperation operations[] = {IoOperation::read, IoOperation::write};

// The file itself, or a device of the mapper over it.
struct Place {
    std::string name;
    std::string table{};
    double seconds[2] = {0, 0};  // of reads, of writes

    Result<void> measure(IoQueue& queue, const std::string& file, std::uint64_t count, unsigned depth) {
        if (table.empty())
            return measure_on(queue, *TRY(FileDevice::open(file)), count, depth);
        mapper::Mapper mapper;
        TRY(mapper.create(name, ""));
        TRY(mapper.load(name, table, "/", false));
        TRY(mapper.resume(name));
        const auto device = TRY(mapper.open(name));
        return measure_on(queue, device->device(), count, depth);
    }
    Result<void> measure_on(IoQueue& queue, BlockDevice& device, std::uint64_t count, unsigned depth) {
        Load load(queue, request_bytes, count, depth);
        for (std::size_t index = 0; index < std::size(operations); ++index)
            seconds[index] += static_cast<double>(count) / TRY(load.run(device, 0, operations[index]));
        return {};
    }
};

Result<void> run(const std::string& file, std::uint64_t count, unsigned depth) {
    const auto queue = TRY(make_io_queue());
    const std::uint64_t sectors = TRY(FileDevice::open(file))->size() / sector_bytes / 256 * 256;
    if (count == 0 || depth == 0 || count > sectors * sector_bytes / request_bytes)
        return fail(ErrorKind::usage, "{}: too small for so many requests", file);
    Place places[] = {{"file"},
                      {"linear", fmt::format("0 {} linear {} 0", sectors, file)},
                      {"striped", fmt::format("0 {0} striped 2 128 {1} 0 {1} {2}", sectors, file, sectors / 2)}};
    for (int turn = 0; turn < turns; ++turn)
        for (std::size_t step = 0; step < std::size(places); ++step)
            TRY(places[turn % 2 == 0 ? step : std::size(places) - 1 - step].measure(*queue, file, count, depth));
    for (const Place& place : places)
        for (std::size_t index = 0; index < std::size(operations); ++index)
            fmt::print("{} {} {:.0f}\n", place.name, operations[index] == IoOperation::read ? "read" : "write",
                       static_cast<double>(count) * turns / place.seconds[index]);
    return {};
}

}  // namespace
}  // namespace lamella

int main(int count, char** words) {
    if (count != 4) {
        fmt::print(stderr, "bench_target_load FILE COUNT DEPTH\n");
        return 2;
    }
    const auto number = [&](int index) { return std::strtoull(words[index], nullptr, 10); };
    if (const auto done = lamella::run(words[1], number(2), static_cast<unsigned>(number(3))); !done) {
        fmt::print(stderr, "bench_target_load: {}\n", done.error().message());
        return 1;
    }
    return 0;
}
