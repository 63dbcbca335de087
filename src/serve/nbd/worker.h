// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "serve/nbd/buffer_pool.h"
#include "serve/nbd/exports.h"
#include "serve/nbd/gather.h"
#include "serve/nbd/operation.h"
#include "serve/nbd/server.h"
#include "serve/nbd/tls.h"
#include "serve/reactor.h"

namespace lamella::nbd {

class Connection;

// How many connections there are, for whoever waits until none is left.
class Population {
  public:
    // False: there are `limit` already.
    bool enter(unsigned limit);
    void leave();
    unsigned count() const;
    void wait_until_empty();

  private:
    mutable std::mutex mutex_;
    std::condition_variable empty_;
    unsigned count_ = 0;
};

// What all connections of a server share.
struct Shared {
    Exports& exports;
    const ServerLimits limits;
    const TlsMode tls_mode;
    const std::shared_ptr<const TlsCredentials> credentials;
    Population population;
};

// One reactor's part of a server: its connections and the memory that they share.
//
// Memory is given so that nobody can take all of it. A connection that has some already may at most have half of what is free; long
// requests leave the last eighth to short ones. Who finds too little waits in a line, and while there is one, connections that hold
// memory and have stood still for the limit `stall` are closed.
//
// Threads: its reactor's only, but for load().
class Worker {
  public:
    Worker(Reactor& reactor, Shared& shared);
    ~Worker();

    Reactor& reactor() { return reactor_; }
    Shared& shared() { return shared_; }
    Gather& gather() { return gather_; }
    std::span<std::byte> receive_buffer() { return {receive_buffer_.get(), receive_bytes}; }
    Duration now() const { return reactor_.queue().clock().monotonic(); }

    // Connections that this worker has or is about to get. Any thread.
    std::atomic<unsigned>& load() { return load_; }

    // Called with an accepted socket, which is its from now on; counted in load() and the population already.
    void adopt(int fd);
    // Ends every connection, and whatever adopt() still brings.
    void stop();
    void end_connections_of(std::string_view export_name);

    // An operation and, if `bytes` isn't 0, a buffer for it. Null: not now. Then pump() will be called on the connection after
    // a release of its own or of others.
    Operation* take_operation(Connection& connection, std::size_t bytes, AlignedBuffer& buffer);
    void give_operation(Operation& operation);

    // At the end of this step of the reactor: send(), pump(), destruction.
    void wants_to_send(Connection& connection);
    void wants_to_pump(Connection& connection);
    void bury(Connection& connection);
    // It waits for memory no longer.
    void leave_line(Connection& connection);

  private:
    static constexpr std::size_t receive_bytes = (256 << 10) + (128 << 10);
    static constexpr std::size_t long_request = 256 << 10;
    static constexpr unsigned operations_shared = 8192;

    struct StepEnd : Reactor::StepEnd {
        Worker* worker = nullptr;
    };
    struct Again : Task {
        Worker* worker = nullptr;
        bool posted = false;
    };
    struct StallTimer : Timer {
        Worker* worker = nullptr;
    };

    void step_end();
    void wait_for_memory(Connection& connection, bool is_long);
    void resume_waiting();
    void close_stalled();

    Reactor& reactor_;
    Shared& shared_;
    StepEnd step_end_;
    Again again_;
    StallTimer stall_timer_;
    bool stopping_ = false;
    std::atomic<unsigned> load_{0};

    std::unordered_map<Connection*, std::unique_ptr<Connection>> connections_;
    std::vector<Connection*> to_send_;
    std::vector<Connection*> to_pump_;
    std::vector<Connection*> to_bury_;
    std::vector<Connection*> batch_;

    Gather gather_;
    std::unique_ptr<std::byte[]> receive_buffer_;
    BufferPool buffers_;
    std::vector<std::unique_ptr<Operation>> operations_;
    Operation* free_operations_ = nullptr;
    unsigned operations_in_use_ = 0;
    // Who waits for memory: for short requests, for long ones.
    std::array<std::vector<Connection*>, 2> waiting_;
};

}  // namespace lamella::nbd
