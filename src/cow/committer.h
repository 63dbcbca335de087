// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "device/block_device.h"
#include "device/io_queue.h"

namespace lamella::cow {

class ExceptionLog;

// Commits the exceptions of stores that lie on the same disks, in rounds. A round writes what has come together since the last one, the
// data of new exceptions and the exceptions whose data was flushed, then flushes each disk once: that makes the exceptions durable, and
// the data, whose exceptions the next round writes. So one flush a round serves all stores, once for data and once for exceptions.
// Internal to the cow floor.
//
// Stores on other disks have a committer of their own, so that none waits for a disk that isn't its own; nor for itself, where a store
// lies on what is made of another snapshot.
//
// One thread, that of the queue.
class Committer {
  public:
    // `leaves`: of the stores.
    Committer(IoQueue& queue, std::vector<BlockDevice*> leaves);

    const std::vector<BlockDevice*>& leaves() const { return leaves_; }
    void add(ExceptionLog& log) { logs_.push_back(&log); }
    // It has nothing to commit.
    void remove(ExceptionLog& log) { std::erase(logs_, &log); }
    bool unused() const { return logs_.empty() && !busy_; }
    bool busy() const { return busy_; }

    // There is something to do: a round begins soon, or one more follows.
    void wake();

    // Data is being read that will be written; and has come, or won't. A round that is to begin waits for as much as is under way then:
    // that is done long before a flush is, which it would wait for otherwise.
    void expect() { ++expected_; }
    void arrived();

    // For what a log does in a round: the flush waits until as many have ended as have begun.
    void begun() { ++under_way_; }
    void ended() {
        if (--under_way_ == 0)
            flush();
    }

  private:
    struct Flush : IoRequest {
        Committer* committer;
        BlockDevice* leaf;
        int error;
    };
    void begin_round();
    void write();
    void flush();
    void flushed();

    IoQueue& queue_;
    const std::vector<BlockDevice*> leaves_;
    std::vector<ExceptionLog*> logs_;
    bool busy_ = false;   // a round is under way, or posted
    bool again_ = false;  // woken meanwhile
    unsigned expected_ = 0;
    unsigned awaited_ = 0;  // not 0: the round waits
    unsigned under_way_ = 0;
    std::vector<Flush> flushes_;
    struct RoundTask : Task {
        Committer* committer;
    } task_;
};

// Writes to one device that wait to be sent together. What is next to each other on the device becomes one request.
class GatheredWrites {
  public:
    explicit GatheredWrites(BlockDevice& device) : device_(device) {}

    // Completed as if it had been submitted to the device.
    void add(IoRequest& request) { waiting_.push_back(&request); }
    // In a round of the committer, which waits for them.
    void send(IoQueue& queue, Committer& committer);

  private:
    struct Run;
    BlockDevice& device_;
    std::vector<IoRequest*> waiting_;
};

}  // namespace lamella::cow
