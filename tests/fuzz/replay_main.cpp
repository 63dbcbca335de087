// SPDX-License-Identifier: Apache-2.0
//
// Runs a fuzz target without libFuzzer: over every file of the folders named, then over a fixed number of seeded mutations of
// those files. The same seed gives the same inputs everywhere.
//
//   pdata_node_fuzz tests/fuzz/corpus/pdata_node_fuzz        the test
//   pdata_node_fuzz build/fuzz/found/pdata_node_fuzz-crash-* one input
//
// Environment: LAMELLA_FUZZ_SEED (default 1), LAMELLA_FUZZ_RUNS (default 2000; 0: the files alone).
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>
#include <csignal>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

using Input = std::vector<std::uint8_t>;

// What is running now, for the message of a crash: written without anything that a broken heap could break.
char current[512];

void tell_current() { [[maybe_unused]] auto written = write(STDERR_FILENO, current, std::strlen(current)); }

void on_signal(int number) {
    tell_current();
    std::signal(number, SIG_DFL);
    std::raise(number);
}

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 0) : otherwise;
}

Input read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return Input(std::istreambuf_iterator<char>(file), {});
}

// A few edits of the kinds that parsers of binary formats stumble over: bits, bytes, interesting integers, cuts, repeats, splices.
Input mutate(const std::vector<Input>& corpus, std::mt19937_64& random) {
    auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
    Input input = corpus[below(corpus.size())];
    for (std::size_t edit = 1 + below(6); edit > 0; --edit) {
        if (input.empty())
            input.push_back(static_cast<std::uint8_t>(random()));
        std::size_t place = below(input.size());
        std::size_t rest = input.size() - place;
        switch (below(7)) {
        case 0: input[place] ^= static_cast<std::uint8_t>(1u << below(8)); break;
        case 1: input[place] = static_cast<std::uint8_t>(random()); break;
        case 2: {
            static constexpr std::uint64_t interesting[] = {
                0, 1, 2, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, 1ull << 32, 0x7fffffffffffffff, 0xffffffffffffffff};
            std::uint64_t value = interesting[below(std::size(interesting))];
            std::memcpy(&input[place], &value, std::min<std::size_t>(rest, std::size_t{1} << below(4)));
            break;
        }
        case 3: input.resize(place); break;
        case 4:
            input.erase(input.begin() + static_cast<std::ptrdiff_t>(place),
                        input.begin() + static_cast<std::ptrdiff_t>(place + 1 + below(std::min<std::size_t>(rest, 64))));
            break;
        case 5: {
            Input piece(input.begin() + static_cast<std::ptrdiff_t>(place),
                        input.begin() + static_cast<std::ptrdiff_t>(place + std::min<std::size_t>(rest, 1 + below(128))));
            input.insert(input.begin() + static_cast<std::ptrdiff_t>(below(input.size() + 1)), piece.begin(), piece.end());
            break;
        }
        case 6: {
            const Input& other = corpus[below(corpus.size())];
            std::size_t start = below(other.size() + 1);
            input.resize(place);
            input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(start), other.end());
            break;
        }
        }
    }
    return input;
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<std::filesystem::path> files;
    for (int i = 1; i < argc; ++i) {
        if (std::filesystem::is_directory(argv[i])) {
            for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i]))
                if (entry.is_regular_file())
                    files.push_back(entry.path());
        } else {
            files.emplace_back(argv[i]);
        }
    }
    if (files.empty()) {
        std::fprintf(stderr, "nothing to replay\n");
        return 2;
    }
    std::sort(files.begin(), files.end());

    for (int number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL})
        std::signal(number, on_signal);
    if (__sanitizer_set_death_callback != nullptr)
        __sanitizer_set_death_callback(tell_current);

    std::vector<Input> corpus;
    for (const auto& path : files) {
        std::snprintf(current, sizeof current, "while running %s\n", path.c_str());
        corpus.push_back(read_file(path));
        LLVMFuzzerTestOneInput(corpus.back().data(), corpus.back().size());
    }

    std::uint64_t seed = from_environment("LAMELLA_FUZZ_SEED", 1);
    std::uint64_t runs = from_environment("LAMELLA_FUZZ_RUNS", 2000);
    std::printf("%zu files, then %llu mutations with seed %llu\n", files.size(), static_cast<unsigned long long>(runs),
                static_cast<unsigned long long>(seed));
    std::mt19937_64 random(seed);
    for (std::uint64_t run = 1; run <= runs; ++run) {
        // Written out before it runs only as numbers: seed and run name the input.
        std::snprintf(current, sizeof current, "while running mutation %llu of LAMELLA_FUZZ_SEED=%llu\n",
                      static_cast<unsigned long long>(run), static_cast<unsigned long long>(seed));
        Input input = mutate(corpus, random);
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    return 0;
}
