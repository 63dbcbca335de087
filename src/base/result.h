// SPDX-License-Identifier: Apache-2.0
//
// Result<T> and TRY: how errors travel. No exception crosses a floor.
//
//   Result<Label> label = read_label(device);
//   auto header = TRY(read_header(device));        // returns the error to the caller
//   TRY(device.flush());
#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace lamella {

// What a caller can act on. The command line maps these to its exit codes (docs: "Exit codes").
enum class ErrorKind {
    failed,       // anything that has no better name, I/O errors among them
    usage,        // the request itself is wrong: a bad name, size, option
    not_found,    // the object named isn't there
    exists,       // the object to be made is there already
    refused,      // busy, held by somebody else, foreign, or unsafe
    damaged,      // what was read is not what the format allows
    no_space,     // no room: in the group, the pool, its metadata, or the file system below
    unsupported,  // known, but not something that this engine does
};

std::string_view to_string(ErrorKind kind);

class Error {
  public:
    Error(ErrorKind kind, std::string message, int error_number = 0)
        : kind_(kind), error_number_(error_number), message_(std::move(message)) {}

    // "WHAT: <text of errno>". ENOSPC, EDQUOT become no_space; ENOENT not_found; EBUSY refused; EEXIST exists.
    static Error from_errno(std::string_view what, int error_number);

    ErrorKind kind() const { return kind_; }
    const std::string& message() const { return message_; }

    // The errno that a block device reports for this error; never 0. EIO when nothing better is known.
    int error_number() const;

    // The same error with "CONTEXT: " before its message.
    Error within(std::string_view context) const;

  private:
    ErrorKind kind_;
    int error_number_;
    std::string message_;
};

template <typename T>
using Result = std::expected<T, Error>;

template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
    return std::unexpected(Error(kind, fmt::format(format, std::forward<Args>(args)...)));
}

[[nodiscard]] inline std::unexpected<Error> fail_errno(std::string_view what, int error_number = errno) {
    return std::unexpected(Error::from_errno(what, error_number));
}

namespace detail {
template <typename T>
T unwrap(std::expected<T, Error>&& result) {
    return *std::move(result);
}
inline void unwrap(std::expected<void, Error>&&) {}
}  // namespace detail

// The value of a Result, or a return of its error from the enclosing function. A GNU statement expression: g++ and clang have it.
// The counter keeps the name inside apart from that of a TRY within the expression.
#define TRY(expression) LAMELLA_TRY(LAMELLA_JOIN(try_result_, __COUNTER__), expression)

// As TRY, with "CONTEXT: " put before the error's message.
#define TRY_WITHIN(context, expression) LAMELLA_TRY_WITHIN(LAMELLA_JOIN(try_result_, __COUNTER__), context, expression)

#define LAMELLA_JOIN_(left, right) left##right
#define LAMELLA_JOIN(left, right) LAMELLA_JOIN_(left, right)

#define LAMELLA_TRY(name, expression)                        \
    ({                                                       \
        auto name = (expression);                            \
        if (!name) [[unlikely]]                              \
            return std::unexpected(std::move(name).error()); \
        ::lamella::detail::unwrap(std::move(name));          \
    })

#define LAMELLA_TRY_WITHIN(name, context, expression)             \
    ({                                                            \
        auto name = (expression);                                 \
        if (!name) [[unlikely]]                                   \
            return std::unexpected(name.error().within(context)); \
        ::lamella::detail::unwrap(std::move(name));               \
    })

}  // namespace lamella
