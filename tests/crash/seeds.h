// SPDX-License-Identifier: Apache-2.0
//
// Which seeds to run, and what to say when one fails.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <unistd.h>
#include <csignal>

#include <gtest/gtest.h>

namespace lamella::crash {

// A number from the environment.
inline std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
    const char* text = std::getenv(variable);
    return text != nullptr && *text != '\0' ? std::strtoull(text, nullptr, 0) : otherwise;
}

// Sanitizers slow the simulation down tenfold; a tenth of the seeds does then.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t slowness = 10;
#else
constexpr std::uint64_t slowness = 1;
#endif

// The command that runs one seed again; also printed when the program aborts.
class Replay {
  public:
    Replay(std::string_view filter, std::uint64_t seed) {
        std::snprintf(text(), capacity, "replay: LAMELLA_CRASH_SEED=%llu build/tests/crash/crash_test --gtest_filter='%.*s'\n",
                      static_cast<unsigned long long>(seed), static_cast<int>(filter.size()), filter.data());
        ::signal(SIGABRT, on_abort);
        ::signal(SIGSEGV, on_abort);
    }
    ~Replay() {
        ::signal(SIGABRT, SIG_DFL);
        ::signal(SIGSEGV, SIG_DFL);
        if (testing::Test::HasFailure())
            std::fputs(text(), stderr);
    }

  private:
    static constexpr std::size_t capacity = 200;
    static char* text() {
        static char memory[capacity];
        return memory;
    }
    static void on_abort(int number) {
        ::signal(number, SIG_DFL);
        if (::write(STDERR_FILENO, text(), std::string_view(text()).size()) < 0) {
            // Nothing more can be said.
        }
        ::raise(number);
    }
};

// Runs the seeds of one shard, up to the first that fails.
template <typename RunSeed>
void run_seeds(std::string_view filter, std::uint64_t default_seeds, unsigned shard, unsigned shards, RunSeed run_seed) {
    const std::uint64_t one = number_from("LAMELLA_CRASH_SEED", UINT64_MAX);
    if (one != UINT64_MAX) {
        if (shard == 0) {
            const Replay replay(filter, one);
            run_seed(one);
        }
        return;
    }
    const std::uint64_t seeds = number_from("LAMELLA_CRASH_SEEDS", default_seeds / slowness);
    for (std::uint64_t seed = shard; seed < seeds && !testing::Test::HasFailure(); seed += shards) {
        const Replay replay(filter, seed);
        run_seed(seed);
    }
}

}  // namespace lamella::crash
