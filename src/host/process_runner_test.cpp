// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "base/test_support.h"
#include "host/command_runner.h"

namespace lamella::host {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

Command shell(const std::string& script) { return {.words = {"/bin/sh", "-c", script}}; }

TEST(ProcessRunner, KeepsStreamsApartAndTellsTheExitCode) {
    const CommandResult result = test::value_of(ProcessRunner().run(shell("echo out; echo err >&2; exit 5")));
    EXPECT_EQ(result.exit_code, 5);
    EXPECT_EQ(result.signal, 0);
    EXPECT_EQ(result.output, "out\n");
    EXPECT_EQ(result.errors, "err\n");
}

TEST(ProcessRunner, PassesWordsAsTheyAre) {
    Command command{.words = {"/bin/echo", "a b", "$(id)", "'", "*"}};
    EXPECT_EQ(test::value_of(ProcessRunner().run(command)).output, "a b $(id) ' *\n");
}

TEST(ProcessRunner, CleansTheEnvironment) {
    ::setenv("LVM_SYSTEM_DIR", "/elsewhere", 1);
    ::setenv("LC_MESSAGES", "de_DE.UTF-8", 1);
    const std::string environment = test::value_of(ProcessRunner().run({.words = {"/usr/bin/env"}})).output;
    ::unsetenv("LVM_SYSTEM_DIR");
    ::unsetenv("LC_MESSAGES");
    EXPECT_EQ(environment, "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nLC_ALL=C\nLVM_SUPPRESS_FD_WARNINGS=1\nLVM_SUPPRESS_SYSLOG=1\n");
}

TEST(ProcessRunner, GivesNothingToReadAndNoOtherDescriptors) {
    const int leaked = ::open("/dev/null", O_RDONLY);  // without O_CLOEXEC
    const CommandResult result = test::value_of(ProcessRunner().run(shell("cat; ls /proc/self/fd | wc -l")));
    ::close(leaked);
    // 0, 1, 2 and the folder that ls reads.
    EXPECT_EQ(result.output, "4\n");
}

TEST(ProcessRunner, TellsOfASignal) {
    const CommandResult result = test::value_of(ProcessRunner().run(shell("kill -TERM $$")));
    EXPECT_EQ(result.signal, SIGTERM);
    EXPECT_NE(result.exit_code, 0);
}

TEST(ProcessRunner, TellsOfAProgramThatIsNotThere) {
    const auto result = ProcessRunner().run({.words = {"/no/such/program"}});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind(), ErrorKind::not_found);
    EXPECT_THAT(result.error().message(), HasSubstr("/no/such/program"));
}

TEST(ProcessRunner, TellsOfAProgramThatMayNotBeRun) {
    const auto result = ProcessRunner().run({.words = {"/dev/null"}});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind(), ErrorKind::refused);
}

TEST(ProcessRunner, EndsAReaderThatHangs) {
    Command command = shell("tail -f /dev/null");
    command.patience = 50ms;
    const auto result = ProcessRunner().run(command);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind(), ErrorKind::failed);
    EXPECT_THAT(result.error().message(), HasSubstr("gave no answer"));
}

TEST(ProcessRunner, EndsAReaderThatPrintsWithoutEnd) {
    Command command{.words = {"/usr/bin/yes"}, .max_output = 100'000};
    const auto result = ProcessRunner().run(command);
    ASSERT_FALSE(result);
    EXPECT_THAT(result.error().message(), HasSubstr("printed more than 100000 bytes"));
}

// However slow and talkative: what may hold devices suspended comes to its own end.
TEST(ProcessRunner, WaitsForAChangerAndSaysThatItIsSlow) {
    std::string folder = testing::TempDir() + "lamella-runner-XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    const std::string gate = folder + "/gate";
    ASSERT_EQ(::mkfifo(gate.c_str(), 0600), 0);
    std::vector<std::string> said;
    // It goes on only once it has been called slow: the note opens the gate.
    ProcessRunner runner([&](std::string_view text) {
        said.emplace_back(text);
        std::ofstream(gate) << "go\n";
    });
    Command command = shell("head -c 100000 /dev/zero; read word <" + gate + "; echo $word >&2");
    command.changes = true;
    command.patience = 20ms;
    command.max_output = 1000;
    const CommandResult result = test::value_of(runner.run(command));
    std::filesystem::remove_all(folder);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.output.size(), 1000u);
    EXPECT_EQ(result.errors, "go\n");
    ASSERT_EQ(said.size(), 1u);
    EXPECT_THAT(said[0], HasSubstr("is waited for"));
}

TEST(ProcessRunner, DoesNotWaitForWhatACommandLeavesBehind) {
    const CommandResult result = test::value_of(ProcessRunner().run(shell("tail -f /dev/null & echo $!")));
    const pid_t left = std::atoi(result.output.c_str());
    ASSERT_GT(left, 1);
    EXPECT_EQ(::kill(left, SIGKILL), 0);
}

TEST(ProcessRunner, KeepsInterruptsOfTheTerminalAway) {
    const std::string group = test::value_of(ProcessRunner().run(shell("cut -d' ' -f5 /proc/$$/stat; echo $$"))).output;
    EXPECT_EQ(group.substr(0, group.find('\n')) + "\n", group.substr(group.find('\n') + 1));
}

}  // namespace
}  // namespace lamella::host
