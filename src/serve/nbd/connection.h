// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "device/io_queue.h"
#include "serve/nbd/exports.h"
#include "serve/nbd/operation.h"
#include "serve/nbd/session.h"
#include "serve/nbd/transport.h"
#include "serve/nbd/worker.h"

namespace lamella::nbd {

// One client: moves bytes between its socket, the session and operations. Its life:
//
//   handshake -> transmission -> ending (nothing more is read; what is in flight is answered) -> dead (the socket is closed; what the
//   devices still hold is waited for) -> destroyed by its worker
//
// Input is received into the worker's buffer, which all its connections use in turn; what can't be used at once is kept by the
// connection. The payload of a WRITE is received directly into the operation's own aligned buffer, once its header is known.
class Connection {
  public:
    // `fd`: a non-blocking socket, closed when the connection is dead.
    Connection(Worker& worker, int fd);
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    void start();
    // Sends what is ready, as far as the client takes it.
    void send();
    // Takes input as far as there is some and limits allow.
    void pump();
    // Answers what is in flight, within the limit `drain`, and closes.
    void end();
    // Closes now.
    void die();

    bool uses(std::string_view export_name) const;
    // For the worker's rules about memory.
    unsigned requests() const { return in_flight_; }
    std::uint64_t bytes() const { return bytes_; }
    // Holds memory and has moved no byte since `before`, though it is the client's turn.
    bool stalled_since(Duration before) const;

    // The worker's marks.
    bool send_wanted = false;
    bool pump_wanted = false;
    bool waits_for_memory = false;

  private:
    enum class Tls { none, due, handshake };

    struct SocketWatcher : Watcher {
        Connection* connection = nullptr;
    };
    struct Deadline : Timer {
        Connection* connection = nullptr;
    };

    void ready(std::uint32_t events);
    bool may_receive() const;
    bool receive();
    void consume(std::span<const std::byte> input);
    void keep(std::span<const std::byte> input) { kept_.assign(input.begin(), input.end()); }
    bool start_request();
    void perform(Operation& operation);
    void finished(Operation& operation);
    void release(Operation& operation);
    void drop_receiving();

    void ask_exports();
    void ask_export();
    void answered();
    void start_tls();
    void continue_tls();

    bool output_pending() const { return output_sent_ < session_.output().size(); }
    void account_sent(std::size_t sent);
    void after_sending();
    void update_watch();
    void arm(Duration after);

    Worker& worker_;
    int fd_;
    std::unique_ptr<Transport> transport_;
    Session session_;
    SocketWatcher watcher_;
    std::uint32_t watched_ = 0;
    Deadline deadline_;

    bool dead_ = false;
    bool ending_ = false;
    bool end_of_input_ = false;
    bool awaiting_ = false;       // an answer from Exports
    bool request_waits_ = false;  // session_'s request isn't started yet,
    bool starved_ = false;        // for want of an operation or of memory
    bool need_more_ = false;      // what is kept is only the beginning of something
    bool cannot_send_ = false;
    bool large_payloads_ = false;
    Tls tls_ = Tls::none;
    bool tls_wants_to_send_ = false;

    std::vector<std::byte> kept_;
    std::uint64_t skip_ = 0;          // bytes of payload to throw away
    Operation* receiving_ = nullptr;  // the WRITE whose payload is coming
    std::size_t received_ = 0;
    Duration last_progress_{};

    std::size_t output_sent_ = 0;
    Operation* replies_head_ = nullptr;  // to send, in the order of completion
    Operation* replies_tail_ = nullptr;
    std::size_t reply_sent_ = 0;  // bytes of the first one
    unsigned in_flight_ = 0;      // operations, from taken to released
    unsigned at_device_ = 0;      // of these
    std::uint64_t bytes_ = 0;     // of their buffers

    Exports::Handle export_;
    bool counted_ = false;  // among the export's connections
};

}  // namespace lamella::nbd
