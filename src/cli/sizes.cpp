// SPDX-License-Identifier: Apache-2.0
#include "cli/sizes.h"

namespace lamella::cli {

namespace {

SizeRequest::Relation relation(SizeArgument::Sign sign) {
    switch (sign) {
    case SizeArgument::Sign::none: return SizeRequest::Relation::absolute;
    case SizeArgument::Sign::plus: return SizeRequest::Relation::grow;
    case SizeArgument::Sign::minus: return SizeRequest::Relation::shrink;
    }
    return SizeRequest::Relation::absolute;
}

}  // namespace

Result<SizeRequest> size_request(const SizeArgument& argument, std::optional<std::uint64_t> size_now) {
    SizeRequest request{.base = SizeRequest::Base::bytes, .relation = relation(argument.sign), .value = argument.bytes};
    if (!argument.percentage)
        return request;
    unsigned percent = argument.percentage->percent;
    request.value = percent * 100ull;
    switch (argument.percentage->of) {
    case PercentOf::free: request.base = SizeRequest::Base::percent_of_free; return request;
    case PercentOf::group: request.base = SizeRequest::Base::percent_of_group; return request;
    case PercentOf::physical_volumes: request.base = SizeRequest::Base::percent_of_physical_volumes; return request;
    case PercentOf::origin: request.base = SizeRequest::Base::percent_of_origin; return request;
    case PercentOf::volume: break;
    }
    if (!size_now)
        return fail(ErrorKind::usage, "--size: {}%LV is a share of the volume itself, which isn't there yet", percent);
    // At most 2^63 bytes and 10000 percent: in 128 bits there is room.
    auto bytes = static_cast<unsigned __int128>(*size_now) * percent / 100;
    if (bytes > INT64_MAX)
        return fail(ErrorKind::usage, "--size: {}%LV is more than any volume can have", percent);
    request.value = static_cast<std::uint64_t>(bytes);
    return request;
}

std::string shown_size(std::optional<std::uint64_t> bytes) { return bytes ? print_size(*bytes) : "-"; }

std::string shown_percent(std::optional<std::uint64_t> part, std::optional<std::uint64_t> whole) {
    if (!part || !whole || *whole == 0)
        return "-";
    return fmt::format("{:.2f}", 100.0 * static_cast<double>(*part) / static_cast<double>(*whole));
}

}  // namespace lamella::cli
