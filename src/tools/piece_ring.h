// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/result.h"

namespace lamella::tools {

// Pieces of a stream: the caller fills one while a thread of its own does the slow work with those before it, in their order. One caller
// at a time. An error stays: every later call returns it. A Piece has clear(), which makes it one that nothing has been filled into.
template <typename Piece>
class PieceRing {
  public:
    PieceRing() = default;
    // Returns when the thread has ended; pieces that it hasn't begun are left as they are.
    ~PieceRing() {
        if (!thread_.joinable())
            return;
        {
            std::lock_guard lock(mutex_);
            stop_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }
    PieceRing(const PieceRing&) = delete;
    PieceRing& operator=(const PieceRing&) = delete;

    // Before start(): to make them ready.
    std::array<Piece, 4>& pieces() { return pieces_; }
    Result<void> start(std::function<Result<void>(Piece&)> work) {
        work_ = std::move(work);
        try {
            thread_ = std::thread([this] { run(); });
        } catch (const std::system_error& error) {
            return fail_errno("start a thread", error.code().value());
        }
        return {};
    }

    // The piece that the caller fills.
    Piece& filling() { return pieces_[filling_]; }
    // The thread gets it; the next one is filling() then, once it is free.
    Result<void> hand_over() {
        std::unique_lock lock(mutex_);
        full_[filling_] = true;
        changed_.notify_all();
        filling_ = (filling_ + 1) % pieces_.size();
        changed_.wait(lock, [&] { return !full_[filling_]; });
        return outcome_;
    }
    // Until the thread has none left of which `of_interest` is true.
    template <typename Predicate>
    Result<void> wait_until_done(Predicate of_interest) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] {
            for (std::size_t index = 0; index < pieces_.size(); ++index)
                if (full_[index] && of_interest(pieces_[index]))
                    return false;
            return true;
        });
        return outcome_;
    }

  private:
    void run() {
        for (std::size_t index = 0;; index = (index + 1) % pieces_.size()) {
            {
                std::unique_lock lock(mutex_);
                changed_.wait(lock, [&] { return stop_ || full_[index]; });
                if (stop_)
                    return;
            }
            Result<void> outcome = work_(pieces_[index]);
            std::lock_guard lock(mutex_);
            if (outcome_ && !outcome)
                outcome_ = std::move(outcome);
            pieces_[index].clear();
            full_[index] = false;
            changed_.notify_all();
        }
    }

    std::function<Result<void>(Piece&)> work_;
    std::array<Piece, 4> pieces_;
    std::array<bool, 4> full_{};
    std::size_t filling_ = 0;
    std::mutex mutex_;
    std::condition_variable changed_;
    Result<void> outcome_;
    bool stop_ = false;
    std::thread thread_;
};

}  // namespace lamella::tools
