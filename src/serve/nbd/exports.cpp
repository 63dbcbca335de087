// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/exports.h"

namespace lamella::nbd {

OpenExport::OpenExport(std::unique_ptr<Export> opened, std::string export_name, std::vector<ExportCounters>& export_counters,
                       bool server_read_only)
    : name(std::move(export_name)),
      source(std::move(opened)),
      device(source->device()),
      traits(device.traits()),
      alignment(traits.alignment),
      read_only(server_read_only || source->read_only() || traits.read_only),
      gate(static_cast<unsigned>(export_counters.size())),
      counters(export_counters) {}

ExportFacts OpenExport::facts() const {
    return {
        .name = name,
        .description = source->description(),
        .size = size(),
        .preferred_block_size = source->preferred_block_size(),
        .read_only = read_only,
        .rotational = traits.rotational,
        .trims = traits.discards,
    };
}

Exports::Exports(ExportSource& source, bool read_only, unsigned reactors)
    : source_(source), read_only_(read_only), reactors_(reactors), thread_([this] { loop(); }) {}

Exports::~Exports() {
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    asked_.notify_one();
    thread_.join();
}

void Exports::loop() {
    std::unique_lock lock(mutex_);
    while (true) {
        asked_.wait(lock, [this] { return !work_.empty() || stopping_; });
        if (work_.empty())
            return;
        auto work = std::move(work_.front());
        work_.pop_front();
        lock.unlock();
        work();
        work = nullptr;
        lock.lock();
    }
}

void Exports::ask(std::move_only_function<void()> work) {
    // Notified under the lock: the last release may be what the owner waits for before it destroys this.
    std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
    asked_.notify_one();
}

void Exports::list(Reactor& reactor, std::move_only_function<void(std::vector<ExportInfo>)> answer) {
    ask([this, &reactor, answer = std::move(answer)]() mutable {
        reactor.run([answer = std::move(answer), list = source_.list()]() mutable { answer(std::move(list)); });
    });
}

void Exports::open(std::string name, Reactor& reactor, std::move_only_function<void(Result<Handle>)> answer) {
    ask([this, &reactor, name = std::move(name), answer = std::move(answer)]() mutable {
        reactor.run([answer = std::move(answer), handle = open_now(std::move(name))]() mutable { answer(std::move(handle)); });
    });
}

Result<Exports::Handle> Exports::open_now(std::string name) {
    if (name.empty()) {
        auto all = source_.list();
        if (all.size() != 1)
            return fail(ErrorKind::not_found, "no default export: {} exports are served", all.empty() ? "no" : "several");
        name = std::move(all.front().name);
    }
    {
        std::lock_guard lock(mutex_);
        if (const auto found = entries_.find(name); found != entries_.end()) {
            if (found->second.open->closing)
                return fail(ErrorKind::refused, "the export is being closed");
            ++found->second.handles;
            return Handle(*this, *found->second.open);
        }
    }
    auto opened = TRY(source_.open(name, read_only_));
    std::lock_guard lock(mutex_);
    auto counters = counters_.find(name);
    if (counters == counters_.end())
        counters = counters_.emplace(name, reactors_).first;
    Entry entry{std::make_unique<OpenExport>(std::move(opened), name, counters->second, read_only_), 1};
    return Handle(*this, *entries_.emplace(std::move(name), std::move(entry)).first->second.open);
}

void Exports::release(OpenExport& open) {
    ask([this, &open] { release_now(open); });
}

void Exports::release_now(OpenExport& open) {
    const auto found = entries_.find(open.name);  // only this thread changes the map
    {
        std::lock_guard lock(mutex_);
        if (--found->second.handles > 0)
            return;
    }
    Result<void> flushed;
    if (!open.read_only && open.source->flush_at_end())
        flushed = flush_now(open.device);
    // The entry stays whole meanwhile: who wants the export closed looks at it.
    open.source.reset();

    std::lock_guard lock(mutex_);
    if (!flushed)
        flush_errors_.insert_or_assign(open.name, flushed.error().within(open.name));
    entries_.erase(found);
    closed_.notify_all();
}

bool Exports::begin_close(std::string_view name) {
    std::lock_guard lock(mutex_);
    const auto found = entries_.find(name);
    if (found == entries_.end())
        return false;
    found->second.open->closing = true;
    flush_errors_.erase(found->first);
    return true;
}

Result<void> Exports::wait_closed(std::string_view name) {
    std::unique_lock lock(mutex_);
    closed_.wait(lock, [&] {
        const auto found = entries_.find(name);
        return found == entries_.end() || !found->second.open->closing;
    });
    if (const auto error = flush_errors_.find(name); error != flush_errors_.end())
        return std::unexpected(error->second);
    return {};
}

Result<void> Exports::wait_all_closed() {
    std::unique_lock lock(mutex_);
    closed_.wait(lock, [&] { return entries_.empty(); });
    if (!flush_errors_.empty())
        return std::unexpected(flush_errors_.begin()->second);
    return {};
}

std::vector<ExportStatistics> Exports::statistics() const {
    std::lock_guard lock(mutex_);
    std::vector<ExportStatistics> all;
    for (const auto& [name, counters] : counters_) {
        ExportStatistics sum{.name = name};
        for (const ExportCounters& one : counters) {
            const auto add = [](auto& to, const auto& from) { to += from.load(std::memory_order_relaxed); };
            add(sum.connections, one.connections);
            add(sum.reads, one.reads);
            add(sum.read_bytes, one.read_bytes);
            add(sum.writes, one.writes);
            add(sum.written_bytes, one.written_bytes);
            add(sum.flushes, one.flushes);
            add(sum.trims, one.trims);
            add(sum.trimmed_bytes, one.trimmed_bytes);
            add(sum.others, one.others);
            add(sum.errors, one.errors);
        }
        all.push_back(std::move(sum));
    }
    return all;
}

}  // namespace lamella::nbd
