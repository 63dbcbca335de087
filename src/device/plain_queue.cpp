// SPDX-License-Identifier: Apache-2.0

#include "device/file_operation.h"
#include "device/io_queue.h"
#include "device/watch_set.h"

namespace lamella {

namespace {

class PlainQueue final : public IoQueue {
  public:
    explicit PlainQueue(Clock& clock) : IoQueue(clock) {}
    ~PlainQueue() override { wait_for_posters(); }

    void submit_file(int fd, bool is_block_device, IoRequest& request) override {
        FileOperation operation;
        operation.start(fd, is_block_device, request);
        std::optional<int> error;
        while (!error)
            error = operation.advance(operation.perform());
        complete_later(request, *error);
    }

    void wake() override { watches_.wake(); }
    Result<void> watch(Watcher& watcher) override { return watches_.watch(watcher); }
    void unwatch(Watcher& watcher) override { watches_.unwatch(watcher); }

  protected:
    bool poll_kernel(std::optional<Duration> wait) override { return watches_.poll(wait); }

  private:
    WatchSet watches_;
};

}  // namespace

Result<std::unique_ptr<IoQueue>> make_plain_queue(Clock& clock) { return std::make_unique<PlainQueue>(clock); }

}  // namespace lamella
