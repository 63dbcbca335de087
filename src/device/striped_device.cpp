// SPDX-License-Identifier: Apache-2.0
#include "device/striped_device.h"

#include <algorithm>

namespace lamella {

Result<std::unique_ptr<StripedDevice>> StripedDevice::create(std::span<const Stripe> stripes, std::uint64_t chunk, std::uint64_t length,
                                                             std::string name) {
    constexpr std::size_t max_stripes = 128;  // LVM's own limit
    constexpr std::uint64_t max_chunk = 1ULL << 40;
    if (stripes.empty() || stripes.size() > max_stripes)
        return fail(ErrorKind::usage, "{}: {} stripes are not between 1 and {}", name, stripes.size(), max_stripes);
    if (chunk == 0 || chunk > max_chunk || length % (chunk * stripes.size()) != 0)
        return fail(ErrorKind::usage, "{}: {} bytes can't be cut into {} stripes of {} bytes", name, length, stripes.size(), chunk);
    DeviceTraits traits = stripes.front().device->traits();
    const std::uint64_t share = length / stripes.size();
    for (const Stripe& stripe : stripes) {
        const std::uint64_t lower_size = stripe.device->size();
        if (stripe.start > lower_size || share > lower_size - stripe.start)
            return fail(ErrorKind::usage, "{}: bytes {}+{} lie beyond the end of {} ({} bytes)", name, stripe.start, share,
                        stripe.device->name(), lower_size);
        traits = combine(traits, stripe.device->traits());
    }
    for (const Stripe& stripe : stripes) {
        if ((stripe.start | chunk) % traits.alignment != 0)
            return fail(ErrorKind::usage, "{}: stripes of {} bytes from {} of {} are not aligned to {}", name, chunk, stripe.start,
                        stripe.device->name(), traits.alignment);
        traits.physical_block = block_at(traits.physical_block, stripe.start | chunk);
    }
    std::unique_ptr<StripedDevice> device(new StripedDevice(stripes, chunk, length, std::move(name)));
    device->traits_ = traits;
    return device;
}

void StripedDevice::add_leaves(std::vector<BlockDevice*>& leaves) {
    for (const Stripe& stripe : stripes_)
        stripe.device->add_leaves(leaves);
}

CompositeDevice::Piece StripedDevice::piece_at(std::uint64_t offset, std::uint64_t limit) const {
    const std::uint64_t chunk_number = offset / chunk_;
    const std::uint64_t within = offset % chunk_;
    const Stripe& stripe = stripes_[chunk_number % stripes_.size()];
    return {stripe.device, stripe.start + chunk_number / stripes_.size() * chunk_ + within, std::min(limit, chunk_ - within)};
}

std::uint64_t StripedDevice::share_of(std::size_t stripe, std::uint64_t offset) const {
    const std::uint64_t row = chunk_ * stripes_.size();
    const std::uint64_t within_row = offset % row;
    const std::uint64_t before = stripe * chunk_;
    const std::uint64_t of_last_row = within_row <= before ? 0 : std::min(within_row - before, chunk_);
    return offset / row * chunk_ + of_last_row;
}

void StripedDevice::add_runs(std::uint64_t offset, std::uint64_t length, std::vector<Piece>& runs) const {
    for (std::size_t index = 0; index < stripes_.size(); ++index) {
        const std::uint64_t begin = share_of(index, offset);
        const std::uint64_t end = share_of(index, offset + length);
        if (begin < end)
            runs.push_back({stripes_[index].device, stripes_[index].start + begin, end - begin});
    }
}

}  // namespace lamella
