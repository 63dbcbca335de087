// SPDX-License-Identifier: Apache-2.0
//
// Progress at a terminal: by a clock that the tests move, and at a pseudo-terminal with the program's own streams.
#include "cli/progress_line.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/program.h"
#include "volumes/fake_group.h"

namespace lamella::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr std::uint64_t gib = 1ull << 30;

TEST(ProgressLine, ShowsRateAndRest) {
    ManualClock clock;
    std::vector<std::string> written;
    {
        ProgressLine line([&](std::string_view text) { written.emplace_back(text); }, clock, 80);
        for (int step = 0; step < 20; ++step) {
            line.show({step * gib, 100 * gib});
            clock.advance(std::chrono::milliseconds(50));
        }
        EXPECT_TRUE(written.empty());  // not before a second has passed
        line.show({20 * gib, 100 * gib});
        clock.advance(std::chrono::milliseconds(50));
        line.show({21 * gib, 100 * gib});  // not too often
        clock.advance(std::chrono::seconds(4));
        line.show({25 * gib, 100 * gib});
        EXPECT_THAT(written, ElementsAre("\r20.00 GiB of 100.00 GiB, 20.00 GiB/s, 4 s left\x1b[K",
                                         "\r25.00 GiB of 100.00 GiB, 4.95 GiB/s, 15 s left\x1b[K"));
        // Another part: no rate of the one before.
        clock.advance(std::chrono::seconds(1));
        line.show({1 * gib, 200 * gib});
        EXPECT_EQ(written.back(), "\r1.00 GiB of 200.00 GiB\x1b[K");
        clock.advance(std::chrono::seconds(1));
        line.show({1 * gib, 200 * gib});  // nothing done: no time that would be left
        EXPECT_EQ(written.back(), "\r1.00 GiB of 200.00 GiB\x1b[K");
    }
    EXPECT_EQ(written.back(), "\r\x1b[K");
}

TEST(ProgressLine, QuickChangesShowNothing) {
    ManualClock clock;
    std::string written;
    {
        ProgressLine line([&](std::string_view text) { written += text; }, clock, 80);
        line.show({1, 2});
        clock.advance(std::chrono::milliseconds(999));
        line.show({2, 2});
    }
    EXPECT_EQ(written, "");
}

TEST(ProgressLine, FitsItsTerminal) {
    ManualClock clock;
    std::string written;
    ProgressLine line([&](std::string_view text) { written += text; }, clock, 10);
    clock.advance(std::chrono::seconds(2));
    line.show({1, 1000});
    EXPECT_EQ(written, "\r1 B of 10\x1b[K");
}

TEST(ProgressLine, Durations) {
    EXPECT_EQ(shown_duration(0), "0 s");
    EXPECT_EQ(shown_duration(125), "2 min 5 s");
    EXPECT_EQ(shown_duration(3 * 3600 + 10 * 60 + 59), "3 h 10 min");
}

// The program in a process of its own, whose standard error is `error`; its output there. It removes a volume, which takes four seconds of
// a clock that only the removal moves.
class Terminal : public testing::Test {
  protected:
    void run_in_child(const std::vector<std::string>& words) {
        ::setenv("TERM", "xterm", 1);
        FakeGroup group;
        ManualClock clock;
        group.work = [&](const ReportProgress& report) {
            for (std::uint64_t second = 0; second <= 4; ++second) {
                if (report)
                    report({second * gib, 4 * gib});
                clock.advance(std::chrono::seconds(1));
            }
        };
        Environment environment = system_environment();
        environment.clock = &clock;
        environment.open_group = [&](const GroupAddress&, Access) -> Result<std::unique_ptr<VolumeGroup>> {
            return std::make_unique<FakeGroup>(group);
        };
        ExitCode code = run_program(words, environment);
        environment.flush();
        ::_exit(static_cast<int>(code));
    }
    static std::string read_all(int fd, pid_t child) {
        std::string text;
        char buffer[4096];
        for (ssize_t count; (count = ::read(fd, buffer, sizeof buffer)) > 0;)  // a terminal whose other end is closed fails with EIO
            text.append(buffer, static_cast<std::size_t>(count));
        ::close(fd);
        int status = 0;
        EXPECT_EQ(::waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0) << text;
        return text;
    }
    std::string at_terminal(const std::vector<std::string>& words) {
        int terminal = -1;
        winsize size{24, 60, 0, 0};
        std::fflush(nullptr);  // or the child would print it, too
        pid_t child = ::forkpty(&terminal, nullptr, nullptr, &size);
        if (child == 0)
            run_in_child(words);
        return read_all(terminal, child);
    }
    std::string at_pipe(const std::vector<std::string>& words) {
        int pipe[2];
        EXPECT_EQ(::pipe(pipe), 0);
        std::fflush(nullptr);
        pid_t child = ::fork();
        if (child == 0) {
            ::dup2(pipe[1], STDOUT_FILENO);
            ::dup2(pipe[1], STDERR_FILENO);
            ::close(pipe[1]);
            run_in_child(words);
        }
        ::close(pipe[1]);
        return read_all(pipe[0], child);
    }
};

TEST_F(Terminal, ProgressAppearsAndIsErased) {
    for (std::vector<std::string> words :
         {std::vector<std::string>{"remove", "./vms.img:web", "--yes"}, {"rollback", "./vms.img:web", "--to", "web", "--yes"}}) {
        const std::string text = at_terminal(words);
        EXPECT_THAT(text, StartsWith("\r1.00 GiB of 4.00 GiB, 1.00 GiB/s, 3 s left\x1b[K\r2.00 GiB of 4.00 GiB, 1.00 GiB/s, 2 s left"));
        EXPECT_THAT(text, HasSubstr("0 s left\x1b[K\r\x1b[Kvolume web: r"));  // gone before anything else is said
    }
}

TEST_F(Terminal, NothingIsShownOtherwise) {
    EXPECT_EQ(at_pipe({"remove", "./vms.img:web", "--yes"}), "volume web: removed\n");
    EXPECT_THAT(at_terminal({"remove", "./vms.img:web", "--yes", "--json"}), Not(HasSubstr("GiB")));
    EXPECT_EQ(at_terminal({"remove", "./vms.img:web", "--dry-run"}), "volume web: would be removed\r\n");
}

}  // namespace
}  // namespace lamella::cli
