// SPDX-License-Identifier: Apache-2.0
#include "pdata/transaction.h"

#include <cstring>

namespace lamella::pdata {

Result<BlockRef> TransactionManager::create(BlockKind kind) { return cache_.create(TRY(space_map_.allocate()), kind); }

Result<TransactionManager::Shadow> TransactionManager::shadow(MetadataBlock original, BlockKind kind) {
    std::uint32_t references = TRY(space_map_.count(original));
    if (references == 0)
        return fail(ErrorKind::damaged, "{} is in use, but counted as free", cache_.describe(original));
    if (references == 1 && TRY(space_map_.is_new(original)))
        return Shadow{TRY(cache_.modify(original, kind)), false};
    BlockRef source = TRY(cache_.read(original, kind));
    BlockRef copy = TRY(create(kind));
    std::memcpy(copy.writable(), source.bytes(), block_bytes);
    if (source.structure_checked())
        copy.set_structure_checked();
    TRY(decrement(original));
    return Shadow{std::move(copy), references > 1};
}

Result<std::uint32_t> TransactionManager::decrement(MetadataBlock block) {
    std::uint32_t left = TRY(space_map_.decrement(block));
    if (left == 0)
        cache_.forget(block);
    return left;
}

}  // namespace lamella::pdata
