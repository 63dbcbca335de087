// SPDX-License-Identifier: Apache-2.0
#include "device/memory_device.h"

#include <algorithm>
#include <cerrno>

#include "device/vectors.h"

namespace lamella {

MemoryDevice::MemoryDevice(std::uint64_t size, std::string name) : size_(size), name_(std::move(name)) {}

std::uint64_t MemoryDevice::size() const {
    std::lock_guard lock(mutex_);
    return size_;
}

DeviceTraits MemoryDevice::traits() const {
    return {.alignment = 512, .preferred_io = page_bytes, .discards = true, .discard_zeroes = true, .discard_granularity = page_bytes};
}

void MemoryDevice::submit(IoQueue& queue, IoRequest& request) {
    int error;
    {
        std::lock_guard lock(mutex_);
        error = perform(request);
    }
    queue.complete_later(request, error);
}

int MemoryDevice::perform(IoRequest& request) {
    if (const int error = check_request(request, size_, traits().alignment); error != 0)
        return error;
    if (request.operation == IoOperation::flush)
        return 0;
    for (std::uint64_t done = 0; done < request.length;) {
        const std::uint64_t place = request.offset + done;
        const std::uint64_t within = place % page_bytes;
        const std::uint64_t length = std::min(page_bytes - within, request.length - done);
        auto page = pages_.find(place / page_bytes);
        switch (request.operation) {
        case IoOperation::read:
            if (page != pages_.end())
                copy_to_vectors(request.vectors, done, page->second.bytes().subspan(within, length));
            else if (request.holes == nullptr || !request.holes->add(done, length))
                zero_vectors(request.vectors, done, length);
            break;
        case IoOperation::write:
            if (page == pages_.end())
                page = pages_.emplace(place / page_bytes, AlignedBuffer(page_bytes)).first;
            copy_from_vectors(request.vectors, done, page->second.bytes().subspan(within, length));
            break;
        case IoOperation::discard:
        case IoOperation::write_zeroes:
            if (request.keep_allocated && page == pages_.end())
                pages_.emplace(place / page_bytes, AlignedBuffer(page_bytes));
            else if (length == page_bytes && !request.keep_allocated && page != pages_.end())
                pages_.erase(page);
            else if (page != pages_.end())
                std::memset(page->second.data() + within, 0, length);
            break;
        case IoOperation::flush:
            break;
        }
        done += length;
    }
    return 0;
}

void MemoryDevice::status(IoQueue& queue, StatusRequest& request) {
    int error = 0;
    {
        std::lock_guard lock(mutex_);
        request.extents.clear();
        if (request.offset >= size_)
            error = EINVAL;
        const std::uint64_t end = error != 0 ? 0 : request.offset + std::min(request.length, size_ - request.offset);
        for (std::uint64_t place = request.offset; place < end;) {
            const std::uint64_t length = std::min(page_bytes - place % page_bytes, end - place);
            const bool allocated = pages_.contains(place / page_bytes);
            const std::uint8_t depth = allocated ? 1 : 0;
            if (!request.add({.length = length, .allocated = allocated, .zero = !allocated, .depth = depth}))
                break;
            place += length;
        }
    }
    queue.complete_later(request, error);
}

std::uint64_t MemoryDevice::known_zero(std::uint64_t offset, std::uint64_t limit) {
    std::lock_guard lock(mutex_);
    if (offset >= size_)
        return 0;
    const std::uint64_t end = offset + std::min(limit, size_ - offset);
    std::uint64_t place = offset;
    while (place < end && !pages_.contains(place / page_bytes))
        place = std::min(end, (place / page_bytes + 1) * page_bytes);
    return place - offset;
}

void MemoryDevice::grow(std::uint64_t size) {
    std::lock_guard lock(mutex_);
    size_ = std::max(size_, size);
}

std::size_t MemoryDevice::allocated_pages() const {
    std::lock_guard lock(mutex_);
    return pages_.size();
}

}  // namespace lamella
