// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/buffer_pool.h"

#include <bit>
#include <cassert>

namespace lamella::nbd {

std::size_t BufferPool::class_of(std::size_t bytes) {
    assert(bytes > 0 && bytes <= largest);
    const auto index = static_cast<std::size_t>(std::bit_width((bytes - 1) / 4096));
    return std::min(index, classes - 1);
}

AlignedBuffer BufferPool::take(std::size_t bytes) {
    const std::size_t index = class_of(bytes);
    in_use_ += class_bytes(index);
    assert(in_use_ <= limit_);
    if (free_[index].empty())
        return AlignedBuffer(class_bytes(index));
    AlignedBuffer buffer = std::move(free_[index].back());
    free_[index].pop_back();
    kept_ -= buffer.size();
    return buffer;
}

void BufferPool::give(AlignedBuffer&& given) {
    AlignedBuffer buffer(std::move(given));
    in_use_ -= buffer.size();
    if (kept_ + buffer.size() > kept_bytes)
        return;
    kept_ += buffer.size();
    free_[class_of(buffer.size())].push_back(std::move(buffer));
}

}  // namespace lamella::nbd
