// SPDX-License-Identifier: Apache-2.0
//
// What a target is to the mapper. A target maps the sectors of one line of a table: linear, thin-pool, snapshot, ...
//
// A target is one file in targets/ and one line in targets.inc. The file defines `const TargetType NAME_target`, whose create() reads
// the words of the line, opens the devices that they name, and answers with a Target.
//
// Who may need what:
// - its devices: TargetContext::open(). They are shared by all tables of the mapper, may grow, and are held as long as the LowerDevice.
// - something shared with targets of other tables (a pool and its volumes, an origin and its snapshots): TargetContext::shared().
// - handing state over from the live table's target to the one that replaces it: both are there from the load of the new table until
//   the resume that swaps them has ended; they meet in shared(), and preresume() of the new one is called while the old one, suspended,
//   still lives.
// - an event for `dm wait`: MappedDevice::raise_event() of TargetContext::owner().
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "device/block_device.h"
#include "mapper/shared_objects.h"
#include "mapper/words.h"

namespace lamella::mapper {

class MappedDevice;

// A device that a target stands on. A copy is another hold on it.
struct LowerDevice {
    std::shared_ptr<BlockDevice> device;
    // As table lines print it: "253:4" for a device of this mapper, else the path, escaped (words.h).
    std::string word;
    MappedDevice* mapped = nullptr;  // null: a file or block device outside
};

struct SuspendOptions {
    // What waits inside the target is kept back until the resume instead of being carried out: see Target::give_back(). I/O that has
    // reached the devices below is waited for in any case.
    bool no_flush = false;
};

// Threads: device() as BlockDevice says. Everything else is called by the mapper, one call at a time, never on a reactor; it may do I/O
// and wait for it, but for add_leaves(), which any thread may call.
class Target {
  public:
    virtual ~Target() = default;

    // The target's range, from offset 0. The same device for as long as the target lives; its size is at least the range's.
    virtual BlockDevice& device() = 0;
    // The devices that a flush of the mapped device has to reach. A target whose own device does more on a flush than pass it on adds
    // that; one that has nothing to flush adds nothing.
    virtual void add_leaves(std::vector<BlockDevice*>& leaves) { device().add_leaves(leaves); }

    // The line of `dm status`, without start, length and type. `flush`: what the target has not made durable is, first.
    virtual std::string status(bool flush) {
        (void)flush;
        return {};
    }
    // The line of `dm table`, likewise: the words that create() would read again.
    virtual std::string table() const = 0;
    // The answer is empty for most. Errors: unsupported when the type takes no messages.
    virtual Result<std::string> message(std::span<const std::string> words);

    // Device mapper's hooks. Suspending: presuspend(), then I/O is held back and what is in flight ends, then postsuspend(). If it
    // doesn't end and the suspending is called off: presuspend_undo(). Resuming, a first time after create() too: preresume(), which
    // changes nothing when it fails; then resume(); then I/O flows.
    virtual void presuspend(const SuspendOptions& options) { (void)options; }
    virtual void presuspend_undo() {}
    // Between presuspend() and postsuspend(), with no_flush, perhaps several times: requests that wait for something other than I/O below
    // complete with ERESTART, and come again after the resume.
    virtual void give_back() {}
    // Likewise, with or without no_flush: whether what else the suspending holds back has ended.
    virtual bool drained(Duration patience) {
        (void)patience;
        return true;
    }
    virtual void postsuspend() {}
    virtual Result<void> preresume() { return {}; }
    virtual void resume() {}
};

// What create() is given.
class TargetContext {
  public:
    virtual ~TargetContext() = default;

    // The words after the type, read one by one.
    virtual Words& words() = 0;
    // Bytes, a multiple of 512.
    virtual std::uint64_t length() const = 0;

    enum class Access { as_table, read_only };
    // A device by the word of a table line. Errors: usage for a device that stands on this one itself; refused when it is held by
    // somebody else, or open for reading only; not_found.
    virtual Result<LowerDevice> open(std::string_view word, Access access = Access::as_table) = 0;
    // For targets that do I/O of their own: while a device that was opened is suspended, or one below it, I/O on it would wait, and the
    // resume with it. Errors: refused.
    virtual Result<void> refuse_suspended() const = 0;

    // The device that the table is for; it outlives the target.
    virtual MappedDevice& owner() = 0;
    virtual SharedObjects& shared() = 0;
};

struct TargetType {
    std::string_view name;
    std::array<unsigned, 3> version;  // of the kernel's target whose words and lines these are
    Result<std::unique_ptr<Target>> (*create)(TargetContext& context);
    bool singleton = false;  // alone in its table
    bool immutable = false;  // a device with it gets no table without it
    bool wildcard = false;   // but for one of these
    bool writeable = false;  // not in a read-only table
    // Does I/O of its own on the devices below, beside what clients send: it isn't asked or ended while one of them is suspended.
    bool own_io = false;
};

// In the order of targets.inc.
std::span<const TargetType* const> target_types();
// Null: unknown.
const TargetType* find_target_type(std::string_view name);

// The piece [start, start + length) of a device as a linear target maps it, in bytes. Errors: usage when it isn't within the device, or
// not aligned.
Result<std::unique_ptr<BlockDevice>> slice_of(const LowerDevice& lower, std::uint64_t start, std::uint64_t length);

}  // namespace lamella::mapper
