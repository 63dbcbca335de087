// SPDX-License-Identifier: Apache-2.0
//
// The control socket: how commands reach a group that another process serves.
//
// A serving process listens on one unix socket for each of the group's physical volumes, in the runtime directory, named by what
// the physical volume is and not by its path: any path to the same file or device finds it. One JSON object a line, UTF-8:
//
//   -> {"version":1,"method":"rename","params":{"name":"web","new_name":"www","options":{"dry_run":false}}}
//   <- {"version":1,"result":{...}}     or     {"version":1,"error":{"kind":"not_found","message":"...","errno":2}}
//
// A request with "progress":true is told meanwhile how far it has come (Progress in volume_group.h), in any number of lines before the
// answer:
//
//   <- {"version":1,"progress":{"done":1073741824,"total":4294967296}}
//
// Who has asked for progress and then closes the connection, or only its own direction (shutdown(2)), wants no more: what can be stopped
// is stopped, and the answer is an error.
//
// A request is at most max_control_request long, an answer max_control_answer. Answers come in the order of the requests of a
// connection. Only the same user and root are answered.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "volumes/json.h"
#include "volumes/volume_group.h"

namespace lamella {

constexpr std::uint64_t control_version = 1;
constexpr std::size_t max_control_request = 16 << 20;
constexpr std::size_t max_control_answer = 256 << 20;

// Where sockets, logs and mount points of this user live: $LAMELLA_RUNTIME_DIR; else for root /run/lamella; else
// $XDG_RUNTIME_DIR/lamella; else /tmp/lamella-UID.
std::string runtime_directory();
// Makes it, for its owner alone (0700). Refused when what is there belongs to somebody else or others may enter.
Result<std::string> make_runtime_directory();

// The name of a physical volume's socket, without a folder. Errors: not_found.
Result<std::string> control_socket_name(const std::string& physical_volume);

// `progress` is empty when the client doesn't ask for it.
using ControlHandler = std::function<Result<Json>(const Json& params, const ReportProgress& progress)>;
using ControlHandlers = std::map<std::string, ControlHandler, std::less<>>;

// A method whose answer comes later, while others are answered. Called with the request's parameters; what it returns is asked at once,
// and after each ControlServer::wake(), until it has the answer. All on the server's thread.
using LaterAnswer = std::function<std::optional<Json>()>;
using WaitingHandler = std::function<Result<LaterAnswer>(const Json& params)>;
using WaitingHandlers = std::map<std::string, WaitingHandler, std::less<>>;

// The methods of VolumeGroup, each under its name, as RemoteGroup calls them. `group` outlives the handlers.
ControlHandlers group_handlers(VolumeGroup& group);

// The answer to one request line, without its line end. Never fails: what is wrong is in the answer. `send_progress` gets lines for
// the client before the answer, without their ends too, on whatever thread the handler reports; false: the client wants no more.
std::string answer_control_request(const ControlHandlers& handlers, std::string_view line,
                                   const std::function<bool(std::string)>& send_progress = {});

// The server side. Requests of all clients run one at a time, on one thread of its own. A client whose answer comes later is forgotten
// when it goes away.
class ControlServer {
  public:
    // `physical_volumes`: paths of the group, which this process holds open and locked. Errors: refused when another process
    // answers for one of them.
    static Result<std::unique_ptr<ControlServer>> start(const std::vector<std::string>& physical_volumes, ControlHandlers handlers);
    // At a socket of its own, of mode 0600; takes the place of one that nobody answers on. Errors: as nbd::Listener's.
    static Result<std::unique_ptr<ControlServer>> start_at(const std::string& socket, ControlHandlers handlers,
                                                           WaitingHandlers waiting = {});
    // Removes the sockets. A request that is running is finished first.
    ~ControlServer();
    // Something has happened that answers may have waited for. Any thread, without blocking.
    void wake();

  private:
    class Loop;
    explicit ControlServer(std::unique_ptr<Loop> loop);
    std::unique_ptr<Loop> loop_;
};

// A connection to a process that serves a group. One caller at a time.
class ControlClient {
  public:
    // nullptr: nobody serves these physical volumes. Sockets that dead processes left behind count as nobody's.
    static Result<std::unique_ptr<ControlClient>> connect(const std::vector<std::string>& physical_volumes);
    // To a ControlServer::start_at(). Errors: not_found when nobody listens there; refused when somebody else than this user or root does.
    static Result<std::unique_ptr<ControlClient>> connect_to(const std::string& socket);
    ~ControlClient();
    ControlClient(const ControlClient&) = delete;
    ControlClient& operator=(const ControlClient&) = delete;

    // Waits for the answer; `progress`, if given, is called meanwhile; once it says so the server is asked to stop, whose answer
    // tells what came of that. Errors: the server's; failed when the connection breaks or the answer can't be understood.
    Result<Json> call(std::string_view method, const Json& params, const ReportProgress& progress = {});

    int server_process() const { return server_process_; }

  private:
    ControlClient(int socket, int server_process) : socket_(socket), server_process_(server_process) {}

    int socket_;
    int server_process_;
};

}  // namespace lamella
