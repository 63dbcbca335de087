// SPDX-License-Identifier: Apache-2.0
#include "device/crash_device.h"

#include <algorithm>
#include <cerrno>

#include "device/vectors.h"

namespace lamella {

namespace {

using Runs = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

bool lies_in(std::uint64_t place, const Runs& runs) {
    return std::any_of(runs.begin(), runs.end(), [&](const auto& run) { return place >= run.first && place - run.first < run.second; });
}

// A good hash of two numbers (the finaliser of SplitMix64), so that each decision of a cut depends on its seed alone.
std::uint64_t mix(std::uint64_t left, std::uint64_t right) {
    std::uint64_t value = left + 0x9e3779b97f4a7c15ULL * (right + 1);
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
    return value ^ (value >> 31);
}

// How a cut treats the uncovered operations.
class Fate {
  public:
    explicit Fate(std::uint64_t seed) : seed_(mix(seed, 0)) {
        // Some cuts keep almost everything and some almost nothing: single losses and single survivors find different mistakes.
        constexpr unsigned sixteenths[] = {0, 1, 4, 8, 12, 15, 16};
        kept_ = sixteenths[mix(seed_, 1) % std::size(sixteenths)];
        torn_ = mix(seed_, 2) % 2 == 0 ? 0 : 4;
    }

    enum class Whole { kept, lost, torn };
    Whole of(std::uint64_t operation) const {
        const std::uint64_t chance = mix(seed_ ^ 0xa5a5a5a5, operation);
        if (chance % 16 < torn_)
            return Whole::torn;
        return (chance >> 8) % 16 < kept_ ? Whole::kept : Whole::lost;
    }
    // Tears are either at one place (the first blocks, or the last, are there) or all over.
    bool block_kept(std::uint64_t operation, std::uint64_t block, std::uint64_t blocks) const {
        const std::uint64_t kind = mix(seed_ ^ 0x5a5a5a5a, operation);
        const std::uint64_t place = (kind >> 8) % (blocks + 1);
        switch (kind % 3) {
        case 0: return block < place;
        case 1: return block >= place;
        default: return mix(kind, block) % 2 == 0;
        }
    }

  private:
    std::uint64_t seed_;
    unsigned kept_;
    unsigned torn_;
};

}  // namespace

void PowerSwitch::cut_after(std::uint64_t operations) { limit_.store(operations_.load() + operations); }

bool PowerSwitch::count() {
    if (off())
        return false;
    if (operations_.fetch_add(1) + 1 >= limit_.load())
        cut_now();
    return true;
}

// A request in flight. Its own request goes round the queue until its delay is over.
struct CrashDevice::Operation {
    CrashDevice& device;
    IoQueue& queue;
    IoRequest& parent;
    unsigned delay = 0;
    std::shared_ptr<Effect> effect{};                // write, write_zeroes, discard
    std::vector<std::shared_ptr<Effect>> covered{};  // flush
    IoRequest turn{};
};

CrashDevice::CrashDevice(std::uint64_t size, std::string name, PowerSwitch& power, CompletionDelays delays)
    : CrashDevice(size, std::move(name), power, SparseBytes(), delays) {}

CrashDevice::CrashDevice(std::uint64_t size, std::string name, PowerSwitch& power, SparseBytes content, CompletionDelays delays,
                         std::uint32_t physical_block)
    : name_(std::move(name)),
      power_(power),
      delays_(delays),
      physical_block_(physical_block),
      size_(size),
      random_(delays.seed),
      durable_(std::move(content)),
      current_(durable_.copy()) {}

CrashDevice::~CrashDevice() = default;

std::uint64_t CrashDevice::size() const {
    std::lock_guard lock(mutex_);
    return size_;
}

DeviceTraits CrashDevice::traits() const {
    return {.alignment = sector_bytes, .physical_block = physical_block_, .discards = true, .discard_zeroes = true};
}

void CrashDevice::grow(std::uint64_t size) {
    std::lock_guard lock(mutex_);
    size_ = std::max(size_, size);
}

std::size_t CrashDevice::uncovered() const {
    std::lock_guard lock(mutex_);
    return uncovered_.size();
}

unsigned CrashDevice::draw_delay() { return delays_.max_steps == 0 ? 0 : static_cast<unsigned>(random_() % (delays_.max_steps + 1)); }

void CrashDevice::submit(IoQueue& queue, IoRequest& request) {
    std::unique_lock lock(mutex_);
    int error = check_request(request, size_, sector_bytes);
    const bool changes = request.operation != IoOperation::read && request.operation != IoOperation::flush;
    if (error == 0 && changes && ((request.offset | request.length) % sector_bytes) != 0)
        error = EINVAL;
    const bool counted = request.operation != IoOperation::read;
    if (error == 0 && (counted ? !power_.count() : power_.off()))
        error = EIO;
    if (error != 0) {
        lock.unlock();
        queue.complete_later(request, error);
        return;
    }
    auto* operation = new Operation{.device = *this, .queue = queue, .parent = request, .delay = draw_delay()};
    if (changes) {
        auto effect = std::make_shared<Effect>();
        effect->number = next_number_++;
        effect->offset = request.offset;
        effect->length = request.length;
        effect->keep_allocated = request.keep_allocated;
        if (request.operation == IoOperation::write) {
            effect->data.resize(request.length);
            copy_from_vectors(request.vectors, 0, effect->data);
        }
        uncovered_.push_back(effect);
        operation->effect = std::move(effect);
    } else if (request.operation == IoOperation::flush) {
        for (const auto& effect : uncovered_) {
            if (effect->completed)
                operation->covered.push_back(effect);
        }
    }
    lock.unlock();
    operation->turn.context = operation;
    operation->turn.completed = [](IoRequest& turn, int) {
        auto& self = *static_cast<Operation*>(turn.context);
        self.device.step(self);
    };
    queue.complete_later(operation->turn, 0);
}

void CrashDevice::step(Operation& operation) {
    if (operation.delay > 0) {
        --operation.delay;
        operation.queue.complete_later(operation.turn, 0);
        return;
    }
    const int error = take_effect(operation);
    IoRequest& request = operation.parent;
    delete &operation;
    request.completed(request, error);
}

int CrashDevice::take_effect(Operation& operation) {
    std::lock_guard lock(mutex_);
    if (power_.off())
        return EIO;
    IoRequest& request = operation.parent;
    if (request.operation == IoOperation::read) {
        current_.read(request.offset, request.length, request.vectors, 0, request.holes);
        return 0;
    }
    for (const auto& effect : operation.covered)
        make_durable(effect);
    if (operation.effect != nullptr) {
        apply(*operation.effect, current_);
        operation.effect->completed = true;
        // It is the newest now, whatever was submitted after it and has completed before.
        operation.effect->superseded.clear();
        const auto place = std::find(uncovered_.begin(), uncovered_.end(), operation.effect);
        std::rotate(place, place + 1, uncovered_.end());
        if (request.durable)
            make_durable(operation.effect);
    }
    return 0;
}

template <typename Predicate>
void CrashDevice::apply_sectors(const Effect& effect, SparseBytes& content, Predicate kept) const {
    for (std::uint64_t at = 0; at < effect.length; at += sector_bytes) {
        const std::uint64_t place = effect.offset + at;
        if (!kept(place / physical_block_ - effect.offset / physical_block_) || lies_in(place, effect.superseded))
            continue;
        if (effect.data.empty())
            content.zero(place, sector_bytes, effect.keep_allocated);
        else
            content.write(place, std::span(effect.data).subspan(at, sector_bytes));
    }
}

void CrashDevice::make_durable(const std::shared_ptr<Effect>& effect) {
    const auto found = std::find(uncovered_.begin(), uncovered_.end(), effect);
    if (found == uncovered_.end())
        return;  // another flush was first
    // Older operations that are still uncovered must not come back over it.
    for (auto older = uncovered_.begin(); older != found; ++older) {
        if ((*older)->offset < effect->offset + effect->length && effect->offset < (*older)->offset + (*older)->length)
            (*older)->superseded.emplace_back(effect->offset, effect->length);
    }
    if (effect->superseded.empty())
        apply(*effect, durable_);
    else
        apply_sectors(*effect, durable_, [](std::uint64_t) { return true; });
    uncovered_.erase(found);
}

void CrashDevice::apply(const Effect& effect, SparseBytes& content) {
    if (effect.data.empty())
        content.zero(effect.offset, effect.length, effect.keep_allocated);
    else
        content.write(effect.offset, effect.data);
}

SparseBytes CrashDevice::remains(std::uint64_t seed) const {
    std::lock_guard lock(mutex_);
    const Fate fate(seed);
    SparseBytes content = durable_.copy();
    for (const auto& effect : uncovered_) {
        const Fate::Whole whole = fate.of(effect->number);
        if (whole == Fate::Whole::lost)
            continue;
        const std::uint64_t end = effect->offset + effect->length;
        const std::uint64_t blocks = (end + physical_block_ - 1) / physical_block_ - effect->offset / physical_block_;
        if (whole == Fate::Whole::kept && effect->superseded.empty())
            apply(*effect, content);
        else
            apply_sectors(*effect, content, [&](std::uint64_t block) {
                return whole == Fate::Whole::kept || fate.block_kept(effect->number, block, blocks);
            });
    }
    return content;
}

std::unique_ptr<MemoryDevice> CrashDevice::cut(std::uint64_t seed) const {
    return std::make_unique<MemoryDevice>(size(), name_, remains(seed));
}

void CrashDevice::status(IoQueue& queue, StatusRequest& request) {
    int error = 0;
    {
        std::lock_guard lock(mutex_);
        request.extents.clear();
        if (power_.off())
            error = EIO;
        else if (request.offset >= size_)
            error = EINVAL;
        else
            current_.status(request, request.offset + std::min(request.length, size_ - request.offset));
    }
    queue.complete_later(request, error);
}

std::uint64_t CrashDevice::known_zero(std::uint64_t offset, std::uint64_t limit) {
    std::lock_guard lock(mutex_);
    return offset >= size_ ? 0 : current_.known_zero(offset, std::min(limit, size_ - offset));
}

}  // namespace lamella
