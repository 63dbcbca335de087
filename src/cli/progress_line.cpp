// SPDX-License-Identifier: Apache-2.0
#include "cli/progress_line.h"

#include <algorithm>

#include "base/sizes.h"

namespace lamella::cli {

namespace {

constexpr Duration pause = std::chrono::milliseconds(100);
constexpr std::string_view erase = "\r\x1b[K";  // to the line's beginning, and clear to its end (ECMA-48)
constexpr double longest_rest = 99 * 3600;      // seconds; more isn't worth telling

}  // namespace

ProgressLine::~ProgressLine() {
    if (shown_)
        write_(erase);
}

void ProgressLine::show(const Progress& progress) {
    const Duration now = clock_.monotonic();
    // Another part of the change begins to count anew.
    if (!start_ || start_->total != progress.total || progress.done < start_->done)
        start_ = {now, progress.done, progress.total};
    if (now < next_)
        return;
    next_ = now + pause;
    std::string text = fmt::format("{} of {}", print_size(progress.done), print_size(progress.total));
    const double seconds = std::chrono::duration<double>(now - start_->time).count();
    const double rate = seconds > 0 ? static_cast<double>(progress.done - start_->done) / seconds : 0;
    if (rate >= 1) {
        text += fmt::format(", {}/s", print_size(static_cast<std::uint64_t>(rate)));
        const double left = static_cast<double>(progress.total - std::min(progress.done, progress.total)) / rate;
        if (left <= longest_rest)
            text += fmt::format(", {} left", shown_duration(static_cast<std::uint64_t>(left + 0.5)));
    }
    // A line that wraps couldn't be erased.
    write_(fmt::format("\r{}\x1b[K", std::string_view(text).substr(0, columns_ - 1)));
    shown_ = true;
}

std::string shown_duration(std::uint64_t seconds) {
    if (seconds < 60)
        return fmt::format("{} s", seconds);
    if (seconds < 3600)
        return fmt::format("{} min {} s", seconds / 60, seconds % 60);
    return fmt::format("{} h {} min", seconds / 3600, seconds / 60 % 60);
}

}  // namespace lamella::cli
