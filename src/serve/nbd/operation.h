// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/block_device.h"
#include "serve/nbd/exports.h"
#include "serve/nbd/gather.h"
#include "serve/nbd/session.h"
#include "serve/write_gate.h"

namespace lamella::nbd {

// One request from the moment it is taken until its reply is sent: performs it on the export's device, whatever its alignment, and
// encodes the reply. Lives on one reactor and is used again and again.
class Operation {
  public:
    // The memory that a request needs for its data, 0 for none.
    static std::size_t buffer_bytes(const Request& request, const OpenExport& target);

    // `buffer`: at least buffer_bytes(). A request with an error is ready to encode; any other is to be performed, a WRITE after its
    // payload has been put where payload() says.
    void begin(const Request& request, ReplyStyle style, OpenExport* target, AlignedBuffer&& buffer);
    std::byte* payload() { return buffer_.data() + skew_; }
    // Calls finished(*this) on the queue's thread when the request has been done or has failed; at once if there is nothing to do.
    void perform(IoQueue& queue, unsigned reactor, void (*finished)(Operation& operation));

    // The same bytes each time it is called.
    void encode(Gather& gather) const;
    bool fits(const Gather& gather) const;

    const Request& request() const { return request_; }
    bool failed() const { return request_.error != WireError::none; }
    const AlignedBuffer& buffer() const { return buffer_; }
    AlignedBuffer take_buffer() { return std::move(buffer_); }

    // The owner's.
    Operation* next = nullptr;
    void* owner = nullptr;
    std::size_t reply_bytes = 0;

  private:
    enum class Step {
        only,         // one request to the device is all
        enter,        // nothing yet of an unaligned update
        read_first,   // the unit in which an unaligned update begins
        read_last,    // the unit in which it ends
        write,        // all of an unaligned WRITE, its units completed from what was read
        zero_first,   // the same for WRITE_ZEROES: the first unit,
        zero_last,    // the last,
        zero_middle,  // and what lies between
        flush,        // after a TRIM with FUA, which a device can't discard durably
    };

    struct GateWaiter : WriteGate::Waiter {
        Operation* operation = nullptr;
    };

    void submit(Step step, IoOperation operation, std::uint64_t offset, std::uint64_t length, std::byte* memory);
    void enter_gate(bool alone);
    void begin_update();
    void continue_after(Step step);
    void continue_unaligned();
    void complete_units();
    void done(int error);
    void take_status();
    void encode_read(Gather& gather) const;

    Request request_;
    ReplyTo to_{};
    OpenExport* target_ = nullptr;
    AlignedBuffer buffer_;
    // The request widened to whole units; the client's bytes begin `skew_` behind start_.
    std::uint64_t start_ = 0;
    std::uint64_t end_ = 0;
    std::size_t skew_ = 0;

    IoQueue* queue_ = nullptr;
    unsigned reactor_ = 0;
    void (*finished_)(Operation&) = nullptr;
    Step step_ = Step::only;
    bool shared_ = false;
    bool alone_ = false;
    bool first_partial_ = false;
    bool last_partial_ = false;
    IoRequest io_;
    iovec vector_{};
    HoleList holes_;
    StatusRequest status_;
    GateWaiter waiter_;
    AlignedBuffer edges_;  // the first and the last unit
};

}  // namespace lamella::nbd
