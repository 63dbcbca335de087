// SPDX-License-Identifier: Apache-2.0
//
// The input changes a sound pool (changed_pool.h), over which everything goes that walks a pool's trees. Blocks of an even number get a
// right checksum then. What check calls sound all others must be able to read; what it has mended must be sound.
#include <cstdlib>

#include "changed_pool.h"
#include "tools/check.h"
#include "tools/diff.h"
#include "tools/dump.h"
#include "tools/printer.h"
#include "tools/rmap.h"
#include "tools/usage.h"

using namespace lamella;
using namespace lamella::tools;

namespace {

class NoSink final : public TextSink {
  public:
    Result<void> write(std::string_view) override { return {}; }
};

constexpr unsigned readers = 5;
// False: something could not be read.
bool read(BlockDevice& device, unsigned reader) {
    const auto visit = [](const DiffRun&) -> Result<void> { return {}; };
    const DataRange everything{DataBlock(0), DataBlock(20000)};
    NoSink sink;
    const auto printer = make_printer(DumpFormat::json, sink);
    switch (reader) {
    case 0: return dump(device, {.definitions = false}, *printer).has_value();
    case 1: return dump(device, {.definitions = true}, *printer).has_value();
    case 2: return usage(device, {.threads = 1}).has_value();
    case 3: return reverse_map(device, {&everything, 1}).has_value();
    default:
        (void)diff(device, {.left = ThinId(1), .right = ThinId(3), .left_in_snapshot = true}, visit);
        return diff(device, {.left = ThinId(0), .right = ThinId(2), .same = true}, visit).has_value();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const fuzz::PoolImage sound_image = fuzz::make_pool_image(true);
    const auto pool = fuzz::changed_pool(sound_image, 2, data, size);
    MemoryDevice& device = *pool;
    const auto report = check(device, {.threads = 1});
    const bool sound = report && report->grade == Severity::note && report->volume_ids.size() == 5;
    // The last byte says who goes over what is damaged: all of them at each would take most of the time.
    const unsigned chosen = size == 0 ? 0 : data[size - 1] % (readers + 1);
    for (unsigned reader = 0; reader < readers; ++reader)
        if ((sound || reader == chosen) && !read(device, reader) && sound)
            std::abort();
    if (chosen == readers)
        (void)check(device, {.metadata_snapshot = true, .threads = 1});
    const auto mended = check(device, {.rebuild_space_maps = true, .clear_needs_check = true, .threads = 1});
    if (!mended && mended.error().kind() == ErrorKind::damaged && report && report->grade < Severity::needs_repair)
        std::abort();
    if (mended && mended->space_maps_written && mended->grade_after == Severity::note) {
        const auto after = check(device, {.threads = 1});
        if (!after || after->grade != Severity::note)
            std::abort();
    }
    return 0;
}
