// SPDX-License-Identifier: Apache-2.0
#include "base/result.h"

#include <cstring>

namespace lamella {

std::string_view to_string(ErrorKind kind) {
    switch (kind) {
    case ErrorKind::failed: return "failed";
    case ErrorKind::usage: return "usage";
    case ErrorKind::not_found: return "not_found";
    case ErrorKind::exists: return "exists";
    case ErrorKind::refused: return "refused";
    case ErrorKind::damaged: return "damaged";
    case ErrorKind::no_space: return "no_space";
    case ErrorKind::unsupported: return "unsupported";
    }
    return "failed";
}

Error Error::from_errno(std::string_view what, int error_number) {
    ErrorKind kind = ErrorKind::failed;
    switch (error_number) {
    case ENOSPC:
    case EDQUOT: kind = ErrorKind::no_space; break;
    case ENOENT: kind = ErrorKind::not_found; break;
    case EBUSY: kind = ErrorKind::refused; break;
    case EEXIST: kind = ErrorKind::exists; break;
    default: break;
    }
    return Error(kind, fmt::format("{}: {}", what, std::strerror(error_number)), error_number);
}

int Error::error_number() const {
    if (error_number_ != 0)
        return error_number_;
    switch (kind_) {
    case ErrorKind::usage: return EINVAL;
    case ErrorKind::not_found: return ENOENT;
    case ErrorKind::exists: return EEXIST;
    case ErrorKind::refused: return EBUSY;
    case ErrorKind::no_space: return ENOSPC;
    case ErrorKind::unsupported: return EOPNOTSUPP;
    case ErrorKind::failed:
    case ErrorKind::damaged: break;
    }
    return EIO;
}

Error Error::within(std::string_view context) const { return Error(kind_, fmt::format("{}: {}", context, message_), error_number_); }

}  // namespace lamella
