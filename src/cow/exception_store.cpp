// SPDX-License-Identifier: Apache-2.0
#include "cow/exception_store.h"

#include "cow/exception_log.h"

namespace lamella::cow {

Result<StoreSummary> inspect_store(BlockDevice& device, std::uint64_t origin_bytes) {
    const auto opened = TRY(ExceptionLog::open(device, {}, origin_bytes, 1, ExceptionLog::Access::inspect));
    StoreSummary summary;
    summary.usage.total = device.size() / sector_bytes;
    if (opened.fresh)
        return summary;
    summary.kind = opened.valid ? StoreSummary::Kind::valid : StoreSummary::Kind::invalid;
    summary.chunk_sectors = opened.log->geometry().chunk_sectors;
    if (opened.valid) {
        summary.usage = opened.log->usage();
        summary.exceptions = opened.table->size();
    }
    return summary;
}

std::uint64_t largest_useful_store(std::uint64_t origin_bytes, std::uint32_t chunk_sectors) {
    const StoreGeometry geometry{chunk_sectors};
    const std::uint64_t chunks = (origin_bytes + geometry.chunk_bytes() - 1) / geometry.chunk_bytes();
    const std::uint64_t areas = chunks / geometry.exceptions_per_area() + 1;
    return (1 + areas + chunks) * geometry.chunk_bytes();
}

Result<StoreOptions> parse_store_type(std::string_view word) {
    // As the kernel reads it: the first letter decides, and after a P the second.
    const auto letter = [&](std::size_t index) { return index < word.size() ? static_cast<char>(word[index] & ~0x20) : '\0'; };
    if (letter(0) == 'P' && (word.size() == 1 || (word.size() == 2 && letter(1) == 'O')))
        return StoreOptions{.persistent = true, .overflow = word.size() == 2};
    if (letter(0) == 'N' && word.size() == 1)
        return StoreOptions{.persistent = false};
    return fail(ErrorKind::usage, "exception store type '{}' is not P, PO or N", word);
}

std::string_view store_type_word(const StoreOptions& options) { return !options.persistent ? "N" : options.overflow ? "PO" : "P"; }

}  // namespace lamella::cow
