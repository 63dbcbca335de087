// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "device/io_request.h"

namespace lamella {

// The system calls that one request on a file comes down to, one after the other: pieces of a read that came back short, the
// fdatasync after durable zeros, real zeros where the file system can't make them by itself. Both queues run this; they differ
// in how a call is made.
class FileOperation {
  public:
    enum class Call : std::uint8_t { read, write, sync, allocate, discard };
    struct Step {
        Call call = Call::sync;
        int flags = 0;                   // read, write: RWF_*; allocate: the mode of fallocate
        const iovec* vectors = nullptr;  // read, write
        unsigned vector_count = 0;
        std::uint64_t offset = 0;
        std::uint64_t length = 0;  // allocate, discard
    };

    // Takes up a request that has passed the device's checks; step() says the first call then.
    void start(int fd, bool is_block_device, IoRequest& request);

    IoRequest& request() const { return *request_; }
    int fd() const { return fd_; }
    const Step& step() const { return step_; }

    // Takes the result of the call: bytes or 0, or -errno. An errno, or 0, when the request is finished; else step() says what
    // comes next (after EINTR and EAGAIN: the same again).
    std::optional<int> advance(long result);

    // Makes the call on this thread.
    long perform() const;

  private:
    void prepare_transfer();
    void prepare_zeros();
    void allocate(int mode);
    std::optional<int> zeroes_refused();
    std::optional<int> finish_zeroes();

    IoRequest* request_ = nullptr;
    int fd_ = -1;
    bool is_block_device_ = false;
    std::uint64_t done_ = 0;   // bytes read or written
    std::size_t vector_ = 0;   // the first vector that isn't done
    std::size_t within_ = 0;   // what of it is done
    std::vector<iovec> rest_;  // the vectors that follow a short transfer, or the zeros
    Step step_;
};

}  // namespace lamella
