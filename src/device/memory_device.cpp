// SPDX-License-Identifier: Apache-2.0
#include "device/memory_device.h"

#include <algorithm>
#include <cerrno>

namespace lamella {

MemoryDevice::MemoryDevice(std::uint64_t size, std::string name) : size_(size), name_(std::move(name)) {}

MemoryDevice::MemoryDevice(std::uint64_t size, std::string name, SparseBytes content)
    : size_(size), name_(std::move(name)), content_(std::move(content)) {}

std::uint64_t MemoryDevice::size() const {
    std::lock_guard lock(mutex_);
    return size_;
}

DeviceTraits MemoryDevice::traits() const {
    return {.alignment = 512, .discards = true, .discard_zeroes = true, .discard_granularity = SparseBytes::page_bytes};
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
    switch (request.operation) {
    case IoOperation::read: content_.read(request.offset, request.length, request.vectors, 0, request.holes); break;
    case IoOperation::write: content_.write(request.offset, request.length, request.vectors, 0); break;
    case IoOperation::discard: content_.zero(request.offset, request.length); break;
    case IoOperation::write_zeroes: content_.zero(request.offset, request.length, request.keep_allocated); break;
    case IoOperation::flush: break;
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
        else
            content_.status(request, request.offset + std::min(request.length, size_ - request.offset));
    }
    queue.complete_later(request, error);
}

std::uint64_t MemoryDevice::known_zero(std::uint64_t offset, std::uint64_t limit) {
    std::lock_guard lock(mutex_);
    return offset >= size_ ? 0 : content_.known_zero(offset, std::min(limit, size_ - offset));
}

void MemoryDevice::grow(std::uint64_t size) {
    std::lock_guard lock(mutex_);
    size_ = std::max(size_, size);
}

std::size_t MemoryDevice::allocated_pages() const {
    std::lock_guard lock(mutex_);
    return content_.pages();
}

}  // namespace lamella
