// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <csignal>
#include <cstdio>

#include "cli/peer/peer_command.h"
#include "cli/program.h"

int main(int count, char** words) {
    using namespace lamella::cli;
    // A reader of our output, or a client, that goes away is an error of that write and not the end of the process.
    std::signal(SIGPIPE, SIG_IGN);
    Environment environment = system_environment();
    std::vector<std::string> arguments(words + (count > 0 ? 1 : 0), words + count);
    // By the name of one of the peer's tools, as that; "lamella thin_check ..." does the same.
    std::string_view name = count > 0 ? words[0] : "";
    name.remove_prefix(name.rfind('/') + 1);
    if (!is_peer_command(name) && !arguments.empty() && is_peer_command(arguments.front())) {
        name = words[1];
        arguments.erase(arguments.begin());
    }
    int code =
        is_peer_command(name) ? run_peer_command(name, arguments, environment) : static_cast<int>(run_program(arguments, environment));
    if ((std::fflush(stdout) != 0 || std::ferror(stdout)) && code == 0) {
        if (errno != EPIPE)
            std::perror("lamella: standard output");
        code = static_cast<int>(ExitCode::failed);
    }
    return code;
}
