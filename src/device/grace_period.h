// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "device/io_queue.h"

namespace lamella {

// Lets one thread (a pool's, an origin's) wait until every I/O that may still act on what it has just changed is over, at the cost of two
// uncontended atomic operations for each I/O.
//
// A data-path I/O enters before it looks a mapping up and leaves when the I/O that it issued has completed. The owner's thread
// first makes its change visible (a raised snapshot time, a removed mapping, a retired page), then calls wait(): the waiter is
// told once everybody who may have entered before the change has left. Whoever enters later sees the change.
//
// It is the two-phase counter scheme of sleepable read-copy-update: two sets of counters, of which newcomers use one; a period
// turns newcomers to the other set and waits for the first to drain, then does the same the other way round. Both turns are
// needed because a thread may read which set is current, be held up, and count itself into the old set later; but then it looks
// the mapping up after the change was visible.
class GracePeriod {
  public:
    struct Token {
        std::uint8_t slot;
        std::uint8_t side;
    };

    // Owned by whoever waits, until `done`.
    struct Waiter {
        void (*done)(Waiter& waiter) = nullptr;
        Waiter* next = nullptr;
    };

    // `owner`: the queue of the thread that waits.
    explicit GracePeriod(IoQueue& owner);
    GracePeriod(const GracePeriod&) = delete;

    // Any thread.
    Token enter() {
        const auto slot = static_cast<std::uint8_t>(thread_slot() % slot_count);
        const auto side = static_cast<std::uint8_t>(turn_.load() & 1);
        slots_[slot].inside[side].fetch_add(1);
        return {slot, side};
    }
    // Any thread.
    void leave(Token token) {
        if (slots_[token.slot].inside[token.side].fetch_sub(1) == 1 && waiting_.load())
            notify();
    }

    // The owner's thread. `done` is called from its queue, never from inside wait().
    void wait(Waiter& waiter);
    // The owner's thread: true when nobody waits.
    bool idle() const { return current_ == nullptr && arriving_ == nullptr; }

  private:
    static constexpr std::size_t slot_count = 32;

    static unsigned thread_slot();
    void notify();
    void advance();
    bool drained(unsigned side) const;

    struct alignas(64) Slot {
        std::array<std::atomic<std::uint64_t>, 2> inside{};
    };
    std::array<Slot, slot_count> slots_;
    std::atomic<unsigned> turn_{0};
    std::atomic<bool> waiting_{false};

    struct NotifyTask : Task {
        GracePeriod* period;
    };
    IoQueue& owner_;
    NotifyTask notify_task_;
    std::atomic<bool> notify_posted_{false};

    Waiter* current_ = nullptr;   // served by the running period
    Waiter* arriving_ = nullptr;  // served by the next one
    int turns_left_ = 0;
};

}  // namespace lamella
