// SPDX-License-Identifier: Apache-2.0
//
// A merge of a snapshot into its origin. Internal to the cow floor, and to the origin's thread.
#pragma once

#include <functional>
#include <vector>

#include "cow/origin_thread.h"

namespace lamella::cow {

struct OriginThread::Merge {
    Merge(OriginThread& its_thread, SnapshotState& its_snapshot);

    // False: the step has failed, and what its chunks hold on the disk isn't known.
    bool wait_for_step(Blocked& blocked);
    // Those that wait for a step, as it is over.
    void let_waiting_go();
    // No step is under way any more, and none follows.
    void has_stopped();

    OriginThread& thread;
    SnapshotState& snapshot;
    bool running = false;
    bool stop = false;
    // A step's exceptions may be gone from the disk, or not, until the store is opened again or they are taken away after all.
    bool clear_unknown = false;
    std::function<void()> stopped;

    struct StepBlocked : Blocked {
        Merge* merge;
    } blocked;
    struct StepCopy : Copy {
        Merge* merge;
    };
    std::vector<StepCopy> copies;
    std::size_t copying = 0;
    int error = 0;
    IoRequest flush;
    struct LogWaiter : ExceptionLog::Waiter {
        Merge* merge;
    } read_waiter, clear_waiter;
    struct StepTask : Task {
        Merge* merge;
    } step_task;
    std::vector<Blocked*> waiting;
};

}  // namespace lamella::cow
