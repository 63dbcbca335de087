// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <sys/mman.h>

#include "base/result.h"

namespace lamella::tools {

// A large array of zeros that takes memory only where it was written: for what is kept for each block of a device of which most may
// be unused.
template <typename T>
class ZeroedArray {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    // ErrorKind::failed: the system doesn't give that much address space.
    static Result<ZeroedArray> create(std::uint64_t count) {
        ZeroedArray array;
        if (count > SIZE_MAX / sizeof(T) / 2)
            return fail_errno("memory", ENOMEM);
        array.bytes_ = count * sizeof(T);
        if (array.bytes_ == 0)
            return array;
        void* memory = ::mmap(nullptr, array.bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            return fail_errno(fmt::format("{} bytes of memory", array.bytes_));
        array.data_ = static_cast<T*>(memory);
        return array;
    }
    ZeroedArray() = default;
    ZeroedArray(ZeroedArray&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    ZeroedArray& operator=(ZeroedArray&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~ZeroedArray() {
        if (data_ != nullptr)
            ::munmap(data_, bytes_);
    }

    std::uint64_t size() const { return bytes_ / sizeof(T); }
    T& operator[](std::uint64_t index) { return data_[index]; }
    const T& operator[](std::uint64_t index) const { return data_[index]; }

  private:
    T* data_ = nullptr;
    std::size_t bytes_ = 0;
};

}  // namespace lamella::tools
