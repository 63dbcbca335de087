// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstdio>

#include "cli/program.h"

int main(int count, char** words) {
    using namespace lamella::cli;
    // A reader of our output, or a client, that goes away is an error of that write and not the end of the process.
    std::signal(SIGPIPE, SIG_IGN);
    Environment environment = system_environment();
    ExitCode code = run_program(std::vector<std::string>(words + 1, words + count), environment);
    if ((std::fflush(stdout) != 0 || std::ferror(stdout)) && code == ExitCode::done) {
        std::perror("lamella: standard output");
        code = ExitCode::failed;
    }
    return static_cast<int>(code);
}
