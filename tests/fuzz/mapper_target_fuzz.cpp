// SPDX-License-Identifier: Apache-2.0
//
// Tables, up to devices that stand: what each target makes of its words. Words name the files a, b and m of a folder of its own; an input that
// could name any other is left out. A table that was taken is taken again as it is printed, and prints the same.
#include <cstdlib>
#include <filesystem>
#include <string>

#include <unistd.h>

#include "base/strong.h"
#include "device/file_device.h"
#include "mapper/mapper.h"

using namespace lamella;
using namespace lamella::mapper;

namespace {

constexpr std::uint64_t image_bytes = 1 << 20;

void require(bool holds) {
    if (!holds)
        std::abort();
}

class Folder {
  public:
    Folder() : path_("/tmp/lamella-fuzz-XXXXXX") {
        require(::mkdtemp(path_.data()) != nullptr);
        path_ = std::filesystem::canonical(path_).string();
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    const std::string& path() const { return path_; }
    // Three images of zeros.
    void renew() const {
        for (const char* name : {"a", "b", "m"}) {
            std::filesystem::remove(path_ + "/" + name);
            require(FileDevice::open(path_ + "/" + name, {.create = image_bytes}).has_value());
        }
    }

  private:
    std::string path_;
};

std::string printed(Mapper& mapper, bool inactive) {
    const auto lines = mapper.table("x", inactive);
    require(lines.has_value());
    std::string text;
    for (const TargetLine& line : *lines)
        text += fmt::format("{} {} {} {}\n", line.start, line.length, line.type, line.text);
    return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const Folder folder;
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (text.find_first_of("/:\\") != std::string_view::npos)
        return 0;
    folder.renew();
    Mapper mapper;
    require(mapper.create("x", "").has_value());
    if (!mapper.load("x", text, folder.path(), false))
        return 0;
    const std::string table = printed(mapper, true);
    require(mapper.clear("x").has_value());
    require(mapper.load("x", table, folder.path(), false).has_value());
    require(printed(mapper, true) == table);
    if (const auto resumed = mapper.resume("x"); resumed && *resumed) {
        // What a store says itself stands there now.
        const std::string live = printed(mapper, false);
        if (const auto again = mapper.load("x", live, folder.path(), false); again)
            require(printed(mapper, true) == live);
        else  // a store merges in one table at a time
            require(again.error().kind() == ErrorKind::refused && live.contains(" snapshot-merge "));
        (void)mapper.status("x", false);
        (void)mapper.message("x", 0, "create_thin 0");
    }
    require(mapper.remove("x").has_value());
    return 0;
}
