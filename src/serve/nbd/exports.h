// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "serve/export_source.h"
#include "serve/nbd/server.h"
#include "serve/nbd/session.h"
#include "serve/reactor.h"
#include "serve/write_gate.h"

namespace lamella::nbd {

// Each reactor writes its own, anybody reads.
struct alignas(64) ExportCounters {
    std::atomic<std::uint64_t> reads{0}, read_bytes{0}, writes{0}, written_bytes{0}, flushes{0}, trims{0}, trimmed_bytes{0}, others{0},
        errors{0};
    std::atomic<unsigned> connections{0};

    // By the one thread that writes it.
    template <typename T>
    static void add(std::atomic<T>& counter, T by) {
        counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
    }
};

// An export while connections use it.
struct OpenExport {
    OpenExport(std::unique_ptr<Export> opened, std::string export_name, std::vector<ExportCounters>& export_counters,
               bool server_read_only);

    // Bytes that can be served: whole units of the device.
    std::uint64_t size() const { return device.size() / alignment * alignment; }
    ExportFacts facts() const;

    const std::string name;
    std::unique_ptr<Export> source;  // until its last connection is gone
    BlockDevice& device;             // of the source
    const DeviceTraits traits;
    const std::uint64_t alignment;
    const bool read_only;
    WriteGate gate;
    std::vector<ExportCounters>& counters;  // by reactor
    // Its connections are ended, and new ones refused.
    std::atomic<bool> closing{false};
};

// All exports in use, and the thread that opens and closes them. Requests to it are answered in order.
class Exports {
  public:
    Exports(ExportSource& source, bool read_only, unsigned reactors);
    // After the last handle is gone.
    ~Exports();

    // A share in an open export. Given back from any thread.
    class Handle {
      public:
        Handle() = default;
        Handle(Exports& exports, OpenExport& open) : exports_(&exports), open_(&open) {}
        Handle(Handle&& other) noexcept : exports_(std::exchange(other.exports_, nullptr)), open_(std::exchange(other.open_, nullptr)) {}
        Handle& operator=(Handle&& other) noexcept {
            std::swap(exports_, other.exports_);
            std::swap(open_, other.open_);
            return *this;
        }
        ~Handle() {
            if (open_ != nullptr)
                exports_->release(*open_);
        }
        explicit operator bool() const { return open_ != nullptr; }
        OpenExport* operator->() const { return open_; }
        OpenExport* get() const { return open_; }

      private:
        Exports* exports_ = nullptr;
        OpenExport* open_ = nullptr;
    };

    // Any thread. `answer` is called on the thread of `reactor`.
    void list(Reactor& reactor, std::move_only_function<void(std::vector<ExportInfo>)> answer);
    void open(std::string name, Reactor& reactor, std::move_only_function<void(Result<Handle>)> answer);

    // Any thread. From now on the export isn't given to anybody until it has been closed. False: it isn't open.
    bool begin_close(std::string_view name);
    // Waits until the export, whose handles are on their way back, is closed; what its last flush said.
    Result<void> wait_closed(std::string_view name);
    // Waits until everything is closed; the first error of a flush.
    Result<void> wait_all_closed();

    std::vector<ExportStatistics> statistics() const;

  private:
    struct Entry {
        std::unique_ptr<OpenExport> open;
        unsigned handles = 0;
    };

    void loop();
    void ask(std::move_only_function<void()> work);
    Result<Handle> open_now(std::string name);
    void release(OpenExport& open);
    void release_now(OpenExport& open);

    ExportSource& source_;
    const bool read_only_;
    const unsigned reactors_;

    mutable std::mutex mutex_;
    std::condition_variable asked_;
    std::condition_variable closed_;
    std::deque<std::move_only_function<void()>> work_;
    bool stopping_ = false;
    // Changed by the thread, under the lock.
    std::map<std::string, Entry, std::less<>> entries_;
    std::map<std::string, std::vector<ExportCounters>, std::less<>> counters_;
    std::map<std::string, Error, std::less<>> flush_errors_;

    std::thread thread_;
};

}  // namespace lamella::nbd
