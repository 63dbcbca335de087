// SPDX-License-Identifier: Apache-2.0
#include "cli/end_signals.h"

#include <cerrno>
#include <csignal>
#include <iterator>

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace lamella::cli {

EndSignals::~EndSignals() {
    if (fd_ >= 0)
        ::close(fd_);
}

Result<void> EndSignals::block() {
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::sigaddset(&signals, SIGINT);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    fd_ = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd_ < 0)
        return fail_errno("signals");
    return {};
}

void EndSignals::wait(int other) const {
    pollfd polled[] = {{fd_, POLLIN, 0}, {other, POLLIN, 0}};
    while (::poll(polled, std::size(polled), -1) < 0 && errno == EINTR) {}
}

}  // namespace lamella::cli
