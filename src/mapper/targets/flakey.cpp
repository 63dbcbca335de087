// SPDX-License-Identifier: Apache-2.0
//
// flakey DEVICE START UP DOWN [COUNT FEATURE...]: a piece of a device that works for UP seconds, then doesn't for DOWN seconds, and so
// on. For tests. While it is down, all requests fail, unless a feature says otherwise:
//
//   drop_writes                                     writes are forgotten, reads go on
//   error_writes                                    writes fail, reads go on
//   corrupt_bio_byte N DIRECTION VALUE FLAGS        the Nth byte of each read (r) or write (w) becomes VALUE
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <optional>

#include "base/strong.h"
#include "device/vectors.h"
#include "mapper/target.h"

namespace lamella::mapper {

namespace {

struct Corruption {
    std::uint64_t byte = 1;  // of a request, from 1
    bool writes = false;
    std::uint8_t value = 0;
    std::uint32_t flags = 0;  // requests with all of these
};

// The kernel's bits of a request (linux/blk_types.h of 6.1): the operation, and FUA. Others never come from a client here.
std::uint32_t kernel_flags(const IoRequest& request) {
    constexpr std::uint32_t read = 0, write = 1, flush = 2, discard = 3, write_zeroes = 9, fua = 1u << 17;
    const std::uint32_t durable = request.durable ? fua : 0;
    switch (request.operation) {
    case IoOperation::read: return read;
    case IoOperation::write: return write | durable;
    case IoOperation::flush: return flush;
    case IoOperation::discard: return discard;
    case IoOperation::write_zeroes: return write_zeroes | durable;
    }
    return 0;
}

class FlakeyDevice final : public BlockDevice {
  public:
    std::uint64_t size() const override { return piece->size(); }
    DeviceTraits traits() const override { return piece->traits(); }
    std::string name() const override { return "flakey"; }
    void status(IoQueue& queue, StatusRequest& request) override { piece->status(queue, request); }

    void submit(IoQueue& queue, IoRequest& request) override {
        if (!down(queue)) {
            piece->submit(queue, request);
            return;
        }
        const bool reads = request.operation == IoOperation::read;
        if (!corruption && !drop_writes && !error_writes) {
            queue.complete_later(request, EIO);
        } else if (!reads && (drop_writes || error_writes)) {
            queue.complete_later(request, drop_writes ? 0 : EIO);
        } else if (corruption && picks(request)) {
            (new Corrupted(request, *corruption))->submit(queue, *piece);
        } else {
            piece->submit(queue, request);
        }
    }

    std::unique_ptr<BlockDevice> piece;
    Duration began{};
    std::uint64_t up = 0, interval = 0;  // seconds
    bool drop_writes = false, error_writes = false;
    std::optional<Corruption> corruption;

  private:
    bool down(const IoQueue& queue) const {
        const auto elapsed = std::chrono::duration_cast<std::chrono::seconds>(queue.clock().monotonic() - began).count();
        return static_cast<std::uint64_t>(elapsed) % interval >= up;
    }
    bool picks(const IoRequest& request) const {
        const IoOperation wanted = corruption->writes ? IoOperation::write : IoOperation::read;
        return request.operation == wanted && request.length >= corruption->byte &&
               (kernel_flags(request) & corruption->flags) == corruption->flags;
    }

    // In place of a request, with memory of its own: the client's stays as it is, and what is read is changed on its way back.
    class Corrupted {
      public:
        Corrupted(IoRequest& parent, const Corruption& corruption)
            : parent_(parent), corruption_(corruption), bytes_(parent.length), vector_{bytes_.data(), bytes_.size()}, request_(parent) {
            request_.vectors = {&vector_, 1};
            request_.holes = nullptr;
            request_.context = this;
            request_.completed = [](IoRequest& finished, int error) { static_cast<Corrupted*>(finished.context)->completed(error); };
        }
        void submit(IoQueue& queue, BlockDevice& piece) {
            if (corruption_.writes) {
                copy_from_vectors(parent_.vectors, 0, bytes_.bytes());
                corrupt();
            }
            piece.submit(queue, request_);
        }

      private:
        void corrupt() { bytes_.data()[corruption_.byte - 1] = static_cast<std::byte>(corruption_.value); }
        void completed(int error) {
            if (error == 0 && !corruption_.writes) {
                corrupt();
                copy_to_vectors(parent_.vectors, 0, bytes_.bytes());
            }
            IoRequest& parent = parent_;
            delete this;
            parent.completed(parent, error);
        }

        IoRequest& parent_;
        const Corruption corruption_;
        AlignedBuffer bytes_;
        iovec vector_;
        IoRequest request_;
    };
};

bool same_word(std::string_view left, std::string_view right) {
    return std::ranges::equal(left, right, [](unsigned char one, unsigned char other) { return std::tolower(one) == std::tolower(other); });
}

class Flakey final : public Target {
  public:
    static Result<std::unique_ptr<Target>> create(TargetContext& context) {
        auto target = std::make_unique<Flakey>();
        Words& words = context.words();
        target->lower_ = TRY(context.open(TRY(words.take("the device"))));
        target->start_ = TRY(words.take_sectors("the start on the device"));
        FlakeyDevice& device = target->device_;
        device.up = TRY(words.take_number("the seconds up", 0, UINT32_MAX));
        device.interval = device.up + TRY(words.take_number("the seconds down", 0, UINT32_MAX - device.up));
        if (device.interval == 0)
            return fail(ErrorKind::usage, "0 seconds up and 0 seconds down");
        if (words.left() > 0)
            TRY(target->take_features(words));
        device.piece = TRY(slice_of(target->lower_, target->start_, context.length()));
        device.began = Clock::system().monotonic();
        return target;
    }

    BlockDevice& device() override { return device_; }
    std::string table() const override {
        const std::optional<Corruption>& corruption = device_.corruption;
        std::string line = fmt::format("{} {} {} {} {} ", lower_.word, start_ / sector_bytes, device_.up, device_.interval - device_.up,
                                       device_.drop_writes + device_.error_writes + (corruption ? 5 : 0));
        if (device_.drop_writes)
            line += "drop_writes ";
        if (device_.error_writes)
            line += "error_writes ";
        if (corruption)
            line += fmt::format("corrupt_bio_byte {} {} {} {} ", corruption->byte, corruption->writes ? 'w' : 'r', corruption->value,
                                corruption->flags);
        return line;
    }

  private:
    Result<void> take_features(Words& words) {
        const std::uint64_t count = TRY(words.take_number("the number of feature words", 0, 6));
        if (count != words.left())
            return fail(ErrorKind::usage, "{} feature words are announced, {} follow", count, words.left());
        while (words.left() > 0) {
            const std::string_view feature = TRY(words.take("a feature"));
            if (same_word(feature, "drop_writes") && !device_.drop_writes) {
                device_.drop_writes = true;
            } else if (same_word(feature, "error_writes") && !device_.error_writes) {
                device_.error_writes = true;
            } else if (same_word(feature, "corrupt_bio_byte") && !device_.corruption) {
                Corruption& corruption = device_.corruption.emplace();
                corruption.byte = TRY(words.take_number("the number of the byte", 1, UINT32_MAX));
                const std::string_view direction = TRY(words.take("the direction"));
                if (!same_word(direction, "r") && !same_word(direction, "w"))
                    return fail(ErrorKind::usage, "the direction \"{:.40}\" is neither r nor w", direction);
                corruption.writes = same_word(direction, "w");
                corruption.value = static_cast<std::uint8_t>(TRY(words.take_number("the value of the byte", 0, 255)));
                corruption.flags = static_cast<std::uint32_t>(TRY(words.take_number("the flags", 0, UINT32_MAX)));
            } else {
                return fail(ErrorKind::usage, "feature \"{:.40}\" is unknown, or there twice", feature);
            }
        }
        if (device_.drop_writes && device_.error_writes)
            return fail(ErrorKind::usage, "drop_writes and error_writes exclude each other");
        if ((device_.drop_writes || device_.error_writes) && device_.corruption && device_.corruption->writes)
            return fail(ErrorKind::usage, "{} leaves no writes to corrupt", device_.drop_writes ? "drop_writes" : "error_writes");
        return {};
    }

    LowerDevice lower_;
    std::uint64_t start_ = 0;
    FlakeyDevice device_;
};

}  // namespace

extern const TargetType flakey_target;
const TargetType flakey_target = {.name = "flakey", .version = {1, 5, 0}, .create = Flakey::create};

}  // namespace lamella::mapper
