// SPDX-License-Identifier: Apache-2.0
//
// What the server's own interface can't bring about at will: things that happen while an export is being closed.
#include "serve/nbd/exports.h"

#include <future>

#include <gtest/gtest.h>

#include "device/memory_device.h"

namespace lamella::nbd {
namespace {

// An export that does something of the test's when it is closed.
class ClosingSource final : public ExportSource {
  public:
    std::vector<ExportInfo> list() override { return {{"disk", "", device_.size()}}; }
    Result<std::unique_ptr<Export>> open(std::string_view, bool) override { return std::make_unique<Opened>(*this); }

    std::function<void()> at_end = [] {};

  private:
    struct Opened final : Export {
        explicit Opened(ClosingSource& source) : source_(source) {}
        ~Opened() override { source_.at_end(); }
        BlockDevice& device() override { return source_.device_; }
        bool read_only() const override { return false; }
        ClosingSource& source_;
    };
    MemoryDevice device_{1 << 20};
};

TEST(NbdExports, OneThatIsBeingClosedCanBeAskedToClose) {
    ReactorGroup reactors = ReactorGroup::start(1).value();
    ClosingSource source;
    Exports exports(source, false, reactors.size());
    bool open = false;
    source.at_end = [&] { open = exports.begin_close("disk"); };
    std::promise<Exports::Handle> opened;
    exports.open("disk", reactors[0], [&](Result<Exports::Handle> handle) { opened.set_value(std::move(handle).value()); });
    { const Exports::Handle handle = opened.get_future().get(); }
    EXPECT_TRUE(exports.wait_all_closed());
    EXPECT_TRUE(open);
    EXPECT_TRUE(exports.wait_closed("disk"));
    EXPECT_FALSE(exports.begin_close("disk"));
}

}  // namespace
}  // namespace lamella::nbd
