// SPDX-License-Identifier: Apache-2.0
#include "mapper/mapper.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <set>

#include "base/strong.h"
#include "device/file_device.h"
#include "mapper/table.h"

namespace lamella::mapper {

struct Mapper::Device {
    std::string name;
    std::string uuid;
    std::shared_ptr<MappedDevice> mapped;
    std::unique_ptr<Table> live;
    std::unique_ptr<Table> inactive;
    State state = State::active;
    bool suspended_for_swap = false;  // by a resume() that is to bring a new table, not by suspend()
    bool no_flush = false;            // of the suspend() that isn't over
    bool deferred = false;
    std::uint32_t opens = 0;  // by clients

    // Devices that the tables stand on.
    std::vector<const LowerDevice*> lowers() const {
        std::vector<const LowerDevice*> all;
        for (const Table* table : {live.get(), inactive.get()})
            if (table != nullptr)
                for (const LowerDevice& lower : table->lowers())
                    all.push_back(&lower);
        return all;
    }
};

// What a target being made sees of the mapper.
class Mapper::Context final : public TargetContext {
  public:
    Context(Mapper& mapper, Device& device, Table& table, const TableLine& line, const std::string& directory)
        : mapper_(mapper), device_(device), table_(table), length_(line.length), words_(line.words), directory_(directory) {}

    Words& words() override { return words_; }
    std::uint64_t length() const override { return length_; }
    Result<LowerDevice> open(std::string_view word, Access access) override {
        LowerDevice lower = TRY(mapper_.open_lower(device_, word, directory_, table_.read_only() || access == Access::read_only));
        table_.add_lower(lower);
        return lower;
    }
    Result<void> refuse_suspended() const override { return mapper_.refuse_suspended_below(table_); }
    MappedDevice& owner() override { return *device_.mapped; }
    SharedObjects& shared() override { return mapper_.shared_; }

  private:
    Mapper& mapper_;
    Device& device_;
    Table& table_;
    const std::uint64_t length_;
    Words words_;
    const std::string& directory_;
};

class Mapper::Opened final : public OpenDevice {
  public:
    Opened(Mapper& mapper, std::shared_ptr<MappedDevice> mapped) : mapper_(mapper), mapped_(std::move(mapped)) {}
    ~Opened() override {
        std::lock_guard lock(mapper_.mutex_);
        --mapper_.device_of(mapped_.get())->opens;
        mapper_.remove_deferred();
    }
    BlockDevice& device() override { return *mapped_; }

  private:
    Mapper& mapper_;
    std::shared_ptr<MappedDevice> mapped_;
};

namespace {

constexpr std::size_t max_name = 127;  // linux/dm-ioctl.h: DM_NAME_LEN, DM_UUID_LEN, with the zero at the end
constexpr std::size_t max_uuid = 128;
constexpr std::size_t max_levels = 64;  // of devices upon devices
constexpr std::string_view node_folder = "/dev/mapper/";

Result<void> check_word(std::string_view what, std::string_view word, std::size_t most) {
    constexpr std::string_view others = "#+-.:=@_";
    const auto allowed = [&](char character) {
        return (character >= '0' && character <= '9') || (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
               others.contains(character);
    };
    if (word.size() > most)
        return fail(ErrorKind::usage, "{} \"{:.40}...\" is longer than {} characters", what, word, most);
    if (!std::ranges::all_of(word, allowed))
        return fail(ErrorKind::usage, "{} \"{}\": only letters, digits and {} may be in it", what, word, others);
    return {};
}

}  // namespace

Result<void> check_device_name(std::string_view name) {
    if (name.empty() || name == "." || name == "..")
        return fail(ErrorKind::usage, "\"{}\" is no name for a device", name);
    return check_word("name", name, max_name);
}

Result<void> check_uuid(std::string_view uuid) { return check_word("uuid", uuid, max_uuid); }

Mapper::Mapper() = default;

Mapper::~Mapper() {
    resume_all();
    // What others stand on goes after them.
    while (!devices_.empty()) {
        const auto unused = std::ranges::find_if(devices_, [this](const auto& entry) { return open_count(*entry.second) == 0; });
        if (unused == devices_.end())
            std::abort();  // somebody uses a device still
        (void)remove_now(*unused->second, default_patience);
    }
}

Result<Mapper::Device*> Mapper::find(std::string_view name) {
    if (const auto found = devices_.find(name); found != devices_.end())
        return found->second.get();
    if (!name.empty())
        for (const auto& [other, device] : devices_)
            if (device->uuid == name)
                return device.get();
    return fail(ErrorKind::not_found, "device {:.128}: there is none of that name", name);
}

Mapper::Device* Mapper::device_of(const MappedDevice* mapped) const {
    for (const auto& [name, device] : devices_)
        if (device->mapped.get() == mapped)
            return device.get();
    return nullptr;
}

std::uint32_t Mapper::open_count(const Device& device) const {
    std::uint32_t count = device.opens;
    for (const auto& [name, other] : devices_) {
        const auto lowers = other->lowers();
        if (std::ranges::any_of(lowers, [&](const LowerDevice* lower) { return lower->mapped == device.mapped.get(); }))
            ++count;
    }
    return count;
}

Result<void> Mapper::create(const std::string& name, const std::string& uuid) {
    std::lock_guard lock(mutex_);
    TRY(check_device_name(name));
    TRY(check_uuid(uuid));
    if (devices_.size() == max_devices)
        return fail(ErrorKind::refused, "device {}: there are {} devices already", name, max_devices);
    if (devices_.contains(name))
        return fail(ErrorKind::exists, "device {}: there is one of that name", name);
    std::set<std::uint32_t> minors;
    for (const auto& [other, device] : devices_) {
        if (!uuid.empty() && device->uuid == uuid)
            return fail(ErrorKind::exists, "device {}: {} has the uuid {}", name, other, uuid);
        minors.insert(device->mapped->minor());
    }
    std::uint32_t minor = 0;
    while (minors.contains(minor))
        ++minor;
    auto device = std::make_unique<Device>();
    device->name = name;
    device->uuid = uuid;
    device->mapped = TRY(MappedDevice::create(minor, name, bell_));
    devices_.emplace(name, std::move(device));
    return {};
}

Result<LowerDevice> Mapper::open_lower(Device& owner, std::string_view word, const std::string& directory, bool read_only) {
    std::string path(word);
    Device* lower = nullptr;
    DeviceNumber number{};
    if (parse_device_number(word, number)) {
        if (number.major == device_major)
            for (const auto& [name, device] : devices_)
                if (device->mapped->minor() == number.minor)
                    lower = device.get();
        path = fmt::format("/dev/block/{}", word);
    } else if (word.starts_with(node_folder) || !word.contains('/')) {
        const auto found = devices_.find(word.starts_with(node_folder) ? word.substr(node_folder.size()) : word);
        if (found != devices_.end())
            lower = found->second.get();
    }
    if (lower != nullptr) {
        TRY(refuse_cycle(owner, *lower));
        return LowerDevice{lower->mapped, lower->mapped->number(), lower->mapped.get()};
    }
    if (word.empty() || word.contains('\0'))
        return fail(ErrorKind::usage, "\"{}\" is neither a device nor a path", word);
    if (!path.starts_with('/'))
        path = directory + "/" + path;
    return open_file(path, read_only);
}

Result<LowerDevice> Mapper::open_file(const std::string& path, bool read_only) {
    const std::unique_ptr<char, void (*)(void*)> resolved(::realpath(path.c_str(), nullptr), std::free);
    if (resolved == nullptr)
        return fail_errno(path);
    const std::string real = resolved.get();
    std::erase_if(files_, [](const auto& entry) { return entry.second.expired(); });
    std::shared_ptr<FileDevice> file;
    if (const auto known = files_.find(real); known != files_.end())
        file = known->second.lock();
    if (file == nullptr) {
        file = TRY(FileDevice::open(real, {.read_only = read_only}));
        files_.insert_or_assign(real, file);
    } else {
        if (!read_only && file->traits().read_only)
            return fail(ErrorKind::refused, "{}: another table has it open for reading only", real);
        TRY(file->refresh_size());
    }
    return LowerDevice{file, escape_word(real), nullptr};
}

Result<void> Mapper::refuse_cycle(const Device& owner, const Device& lower) const {
    std::vector<const Device*> level{&lower};
    std::set<const Device*> seen;
    for (std::size_t levels = 1; !level.empty(); ++levels) {
        if (levels == max_levels)
            return fail(ErrorKind::usage, "more than {} levels of devices upon devices", max_levels);
        std::vector<const Device*> below;
        for (const Device* device : level) {
            if (device == &owner)
                return fail(ErrorKind::usage, "device {} would stand on itself", owner.name);
            for (const LowerDevice* next : device->lowers())
                if (const Device* found = device_of(next->mapped); found != nullptr && seen.insert(found).second)
                    below.push_back(found);
        }
        level = std::move(below);
    }
    return {};
}

Result<void> Mapper::refuse_suspended_below(const Table& table) const {
    std::vector<const LowerDevice*> level;
    for (const LowerDevice& lower : table.lowers())
        level.push_back(&lower);
    std::set<const MappedDevice*> seen;
    while (!level.empty()) {
        const MappedDevice* mapped = level.back()->mapped;
        level.pop_back();
        if (mapped == nullptr || !seen.insert(mapped).second)
            continue;
        const Device* device = device_of(mapped);
        if (device->state != State::active)
            return fail(ErrorKind::refused, "device {}, which {} stands on, is suspended", device->name, table.name());
        if (device->live != nullptr)
            for (const LowerDevice& lower : device->live->lowers())
                level.push_back(&lower);
    }
    return {};
}

Result<void> Mapper::refuse_stuck(const Table* table) const {
    if (table != nullptr && table->own_io())
        TRY(refuse_suspended_below(*table));
    return {};
}

Result<std::unique_ptr<Table>> Mapper::build(Device& device, std::string_view text, const std::string& directory, bool read_only) {
    auto table = std::make_unique<Table>(device.name, read_only);
    for (const TableLine& line : TRY(parse_table(text))) {
        const TargetType* type = find_target_type(line.type);
        if (type == nullptr)
            return fail(ErrorKind::unsupported, "{}: there is no target of that type", line.place());
        Context context(*this, device, *table, line, directory);
        std::unique_ptr<Target> target = TRY_WITHIN(line.place(), type->create(context));
        TRY_WITHIN(line.place(), context.words().end());
        TRY_WITHIN(line.place(), table->add(line.length, *type, std::move(target)));
    }
    return table;
}

Result<void> Mapper::load(std::string_view name, std::string_view text, const std::string& directory, bool read_only) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    TRY(refuse_stuck(device.inactive.get()));
    std::unique_ptr<Table> table = TRY_WITHIN(device.name, build(device, text, directory, read_only));
    const TargetType* immutable = device.live != nullptr ? device.live->immutable_type() : nullptr;
    if (immutable != nullptr && table->immutable_type() != immutable && !table->wildcard())
        return fail(ErrorKind::usage, "{}: a table with a {} target can be replaced only by another one", device.name, immutable->name);
    device.inactive = std::move(table);
    return {};
}

Result<void> Mapper::clear(std::string_view name) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    TRY(refuse_stuck(device.inactive.get()));
    device.inactive.reset();
    remove_deferred();
    return {};
}

Result<bool> Mapper::begin_suspending(Device& device, const SuspendOptions& options, Duration patience) {
    if (device.state == State::active) {
        TRY(refuse_stuck(device.live.get()));
        if (device.live != nullptr)
            device.live->presuspend(options);
        device.no_flush = options.no_flush;
        device.mapped->block();
        device.state = State::suspending;
    }
    return finish_suspending(device, patience);
}

Result<bool> Mapper::finish_suspending(Device& device, Duration patience) {
    if (device.state == State::suspended)
        return true;
    if (device.live != nullptr && device.no_flush && refuse_stuck(device.live.get()))
        device.live->give_back();
    if (!device.mapped->drained(patience) || !refuse_stuck(device.live.get()))
        return false;
    if (device.live != nullptr && !device.live->drained(patience))
        return false;
    if (device.live != nullptr)
        device.live->postsuspend();
    device.state = State::suspended;
    return true;
}

Result<bool> Mapper::suspend(std::string_view name, const SuspendOptions& options, Duration patience) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    device.suspended_for_swap = false;
    return begin_suspending(device, options, patience);
}

Result<bool> Mapper::resume(std::string_view name, Duration patience) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    if (device.inactive != nullptr) {
        if (device.state == State::active)
            device.suspended_for_swap = true;
        if (!TRY(begin_suspending(device, {}, patience)))
            return false;
        TRY_WITHIN(device.name, swap(device));
        return true;
    }
    if (device.state == State::active)
        return true;
    if (device.live != nullptr) {
        if (device.state == State::suspending) {
            call_off(device);
            return true;
        }
        TRY(refuse_stuck(device.live.get()));
        TRY_WITHIN(device.name, device.live->resume());
    }
    device.mapped->unblock(device.live.get(), device.live != nullptr && device.live->read_only());
    device.state = State::active;
    return true;
}

void Mapper::call_off(Device& device) {
    if (device.live != nullptr)
        device.live->presuspend_undo();
    device.mapped->unblock(device.live.get(), device.live != nullptr && device.live->read_only());
    device.state = State::active;
}

Result<void> Mapper::swap(Device& device) {
    const auto check = [&]() -> Result<void> {
        TRY(refuse_stuck(device.live.get()));
        TRY(refuse_stuck(device.inactive.get()));
        const std::uint32_t alignment = device.inactive->traits().alignment;
        if (device.live != nullptr && alignment > device.live->traits().alignment && open_count(device) > 0)
            return fail(ErrorKind::refused, "it is in use, and the new table asks for requests aligned to {} bytes", alignment);
        return device.inactive->resume();
    };
    Result<void> resumed = check();
    if (!resumed && !device.suspended_for_swap)
        return resumed;
    std::unique_ptr<Table> replaced;
    if (resumed)
        replaced = std::exchange(device.live, std::move(device.inactive));
    else if (device.live != nullptr && !device.live->resume())
        return resumed;  // suspended, then
    device.mapped->unblock(device.live.get(), device.live != nullptr && device.live->read_only());
    device.state = State::active;
    replaced.reset();
    remove_deferred();
    return resumed;
}

Result<void> Mapper::rename(std::string_view name, const std::string& new_name) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    TRY(check_device_name(new_name));
    if (devices_.contains(new_name))
        return fail(ErrorKind::exists, "device {}: there is one of that name", new_name);
    auto node = devices_.extract(device.name);
    node.key() = new_name;
    devices_.insert(std::move(node));
    device.name = new_name;
    device.mapped->rename(new_name);
    if (device.live != nullptr)
        device.mapped->raise_event();  // as the kernel does
    return {};
}

Result<void> Mapper::set_uuid(std::string_view name, const std::string& uuid) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    TRY(check_uuid(uuid));
    if (uuid.empty())
        return fail(ErrorKind::usage, "device {}: an empty uuid", device.name);
    if (!device.uuid.empty())
        return fail(ErrorKind::refused, "device {}: it has a uuid, {}", device.name, device.uuid);
    for (const auto& [other, one] : devices_)
        if (one->uuid == uuid)
            return fail(ErrorKind::exists, "device {}: {} has the uuid {}", device.name, other, uuid);
    device.uuid = uuid;
    if (device.live != nullptr)
        device.mapped->raise_event();
    return {};
}

Result<bool> Mapper::remove(std::string_view name, bool deferred, Duration patience) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    if (const std::uint32_t count = open_count(device); count > 0) {
        if (!deferred)
            return fail(ErrorKind::refused, "device {}: in use, open count {}", device.name, count);
        device.deferred = true;
        return false;
    }
    if (!TRY(remove_now(device, patience)))
        return false;
    remove_deferred();
    return true;
}

Result<bool> Mapper::remove_now(Device& device, Duration patience) {
    TRY(refuse_stuck(device.live.get()));
    TRY(refuse_stuck(device.inactive.get()));
    // Nobody has it open, so nothing is in flight but what a target does by itself: it may be merging.
    if (!TRY(begin_suspending(device, {}, patience)))
        return false;
    const auto entry = devices_.find(device.name);
    if (device.live != nullptr)
        device.mapped->raise_event();  // as the kernel does
    device.inactive.reset();
    device.live.reset();
    devices_.erase(entry);
    return true;
}

void Mapper::remove_deferred() {
    for (bool removed = true; removed;) {
        removed = false;
        for (const auto& [name, device] : devices_) {
            if (!device->deferred || open_count(*device) > 0)
                continue;
            const bool was_active = device->state == State::active;
            removed = remove_now(*device, default_patience).value_or(false);
            if (removed)
                break;
            // What it does goes on until the next try, and the removal may be cancelled.
            if (was_active && device->state == State::suspending)
                call_off(*device);
        }
    }
}

Result<std::string> Mapper::message(std::string_view name, std::uint64_t sector, std::string_view text) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    const std::vector<std::string> words = TRY_WITHIN("message", split_words(text));
    if (words.empty())
        return fail(ErrorKind::usage, "device {}: an empty message", device.name);
    if (words.size() == 1 && words[0] == "@cancel_deferred_remove") {
        device.deferred = false;
        return std::string();
    }
    if (device.live == nullptr)
        return fail(ErrorKind::refused, "device {}: it has no live table", device.name);
    if (sector >= device.live->size() / sector_bytes)
        return fail(ErrorKind::usage, "device {}: sector {} is beyond its end", device.name, sector);
    for (Table::Entry& entry : device.live->entries()) {
        if (sector * sector_bytes - entry.begin >= entry.length)
            continue;
        if (entry.type->own_io)
            TRY(refuse_suspended_below(*device.live));
        return TRY_WITHIN(fmt::format("{}: {}", device.name, entry.type->name), entry.target->message(words));
    }
    return std::string();
}

DeviceInfo Mapper::describe(const Device& device) const {
    return {
        .name = device.name,
        .uuid = device.uuid,
        .minor = device.mapped->minor(),
        .suspended = device.state != State::active,
        .read_only = device.live != nullptr && device.live->read_only(),
        .live = device.live != nullptr,
        .inactive = device.inactive != nullptr,
        .deferred_remove = device.deferred,
        .open_count = open_count(device),
        .event_number = device.mapped->event_number(),
        .target_count = device.live != nullptr ? static_cast<std::uint32_t>(device.live->entries().size()) : 0,
        .size = device.live != nullptr ? device.live->size() : 0,
    };
}

Result<DeviceInfo> Mapper::info(std::string_view name) {
    std::lock_guard lock(mutex_);
    return describe(*TRY(find(name)));
}

Result<std::function<std::uint32_t()>> Mapper::events(std::string_view name) {
    std::lock_guard lock(mutex_);
    return [mapped = TRY(find(name))->mapped] { return mapped->event_number(); };
}

std::vector<DeviceInfo> Mapper::devices() {
    std::lock_guard lock(mutex_);
    std::vector<DeviceInfo> all;
    for (const auto& [name, device] : devices_)
        all.push_back(describe(*device));
    return all;
}

Result<std::vector<TargetLine>> Mapper::lines(std::string_view name, bool inactive, bool status, bool flush) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    Table* table = inactive ? device.inactive.get() : device.live.get();
    std::vector<TargetLine> all;
    if (table == nullptr)
        return all;
    const bool stuck = !refuse_stuck(table);
    for (Table::Entry& entry : table->entries()) {
        if (status && !(stuck && entry.type->own_io))
            entry.last_status = entry.target->status(flush && device.state == State::active);
        all.push_back({entry.begin / sector_bytes, entry.length / sector_bytes, std::string(entry.type->name),
                       status ? entry.last_status : entry.target->table()});
    }
    return all;
}

Result<std::vector<TargetLine>> Mapper::status(std::string_view name, bool flush, bool inactive) {
    return lines(name, inactive, true, flush);
}

Result<std::vector<TargetLine>> Mapper::table(std::string_view name, bool inactive) { return lines(name, inactive, false, false); }

Result<std::vector<Dependency>> Mapper::dependencies(std::string_view name) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    std::vector<Dependency> all;
    if (device.live == nullptr)
        return all;
    for (const LowerDevice& lower : device.live->lowers()) {
        const Device* mapped = device_of(lower.mapped);
        if (mapped != nullptr)
            all.push_back({lower.word, mapped->mapped->minor(), mapped->name});
        else
            all.push_back({lower.word, std::nullopt, lower.device->name()});
    }
    std::ranges::reverse(all);
    return all;
}

Result<std::unique_ptr<OpenDevice>> Mapper::open(std::string_view name) {
    std::lock_guard lock(mutex_);
    Device& device = *TRY(find(name));
    if (device.deferred)
        return fail(ErrorKind::refused, "device {}: it is to be removed", device.name);
    ++device.opens;
    return std::make_unique<Opened>(*this, device.mapped);
}

void Mapper::resume_all() {
    std::lock_guard lock(mutex_);
    std::vector<Device*> suspended;
    for (const auto& [name, device] : devices_) {
        if (device->state == State::active)
            continue;
        suspended.push_back(device.get());
        device->mapped->unblock(device->live.get(), device->live != nullptr && device->live->read_only());
        device->state = State::active;
    }
    // Only now: a target may wait for I/O on another one of them.
    for (Device* device : suspended)
        if (device->live != nullptr)
            (void)device->live->resume();
}

}  // namespace lamella::mapper
