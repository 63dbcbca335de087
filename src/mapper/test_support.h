// SPDX-License-Identifier: Apache-2.0
//
// What unit tests of targets and devices share: a mapper and two image files.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "device/file_device.h"
#include "device/test_support.h"
#include "mapper/mapper.h"

namespace lamella::mapper {

class MapperTest : public testing::Test {
  protected:
    void SetUp() override {
        for (const char* name : {"a.img", "b.img"})
            ASSERT_TRUE(FileDevice::open(folder.file(name), {.create = image_bytes}));
        directory = std::filesystem::canonical(folder.file(".")).string();
        auto made = make_plain_queue();
        ASSERT_TRUE(made);
        queue = *std::move(made);
    }

    Result<void> load(const std::string& name, const std::string& table, bool read_only = false) {
        return mapper.load(name, table, directory, read_only);
    }
    void make(const std::string& name, const std::string& table) {
        ASSERT_TRUE(mapper.create(name, ""));
        auto loaded = load(name, table);
        ASSERT_TRUE(loaded) << loaded.error().message();
        resume(name);
    }
    void resume(const std::string& name) {
        auto resumed = mapper.resume(name);
        ASSERT_TRUE(resumed) << resumed.error().message();
        ASSERT_TRUE(*resumed);
    }
    void suspend(const std::string& name) {
        auto suspended = mapper.suspend(name, {});
        ASSERT_TRUE(suspended) << suspended.error().message();
        ASSERT_TRUE(*suspended);
    }
    std::string table(const std::string& name, bool inactive = false) {
        std::string text;
        const std::vector<TargetLine> lines = mapper.table(name, inactive).value();
        for (const TargetLine& line : lines)
            text += fmt::format("{} {} {} {}\n", line.start, line.length, line.type, line.text);
        return text;
    }
    std::string image(const std::string& name) { return directory + "/" + name; }
    std::string status(const std::string& name) {
        std::string text;
        const std::vector<TargetLine> lines = mapper.status(name).value();
        for (const TargetLine& line : lines)
            text += fmt::format("{} {} {} {}\n", line.start, line.length, line.type, line.text);
        return text;
    }
    // The error of a load for a device that is there, "none" without.
    std::string error_of(const std::string& name, const std::string& text) {
        const Result<void> loaded = load(name, text);
        return loaded ? "none" : loaded.error().message();
    }
    void step() {
        while (queue->run_once(false)) {}
    }

    static constexpr std::uint64_t image_bytes = 16 << 20;
    test::TemporaryFolder folder;
    std::string directory;
    Mapper mapper;
    std::unique_ptr<IoQueue> queue;
};

}  // namespace lamella::mapper
