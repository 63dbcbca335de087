// SPDX-License-Identifier: Apache-2.0
#include "cli/diff_output.h"

#include <algorithm>

#include "pdata/bitmap.h"

namespace lamella::cli {

using tools::DiffRun;

namespace {

constexpr std::size_t piece = 64 * 1024;

std::string_view word(DiffRun::Kind kind) {
    switch (kind) {
    case DiffRun::Kind::same: return "same";
    case DiffRun::Kind::different: return "different";
    case DiffRun::Kind::left_only: return "left_only";
    case DiffRun::Kind::right_only: return "right_only";
    }
    __builtin_unreachable();
}

}  // namespace

Result<void> DiffOutput::print(std::string_view text) {
    text_ += text;
    if (text_.size() < piece)
        return {};
    std::string full;
    full.swap(text_);
    return stream_(full);
}

Result<void> DiffOutput::begin(const thin::Superblock& superblock, std::int64_t left, std::int64_t right) {
    if (options_.form != Form::xml)
        return {};
    std::string uuid;
    if (std::ranges::any_of(superblock.uuid, [](std::byte byte) { return byte != std::byte{0}; }))
        for (std::byte byte : superblock.uuid)
            uuid += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
    const std::string snapshot =
        superblock.held_root == MetadataBlock(0) ? std::string() : fmt::format(" metadata_snap=\"{}\"", superblock.held_root);
    return print(
        fmt::format("<superblock uuid=\"{}\" time=\"{}\" transaction=\"{}\" data_block_size=\"{}\" nr_data_blocks=\"{}\"{}>\n"
                    "  <diff left=\"{}\" right=\"{}\">\n",
                    uuid, superblock.time, superblock.transaction_id, superblock.data_block_sectors,
                    pdata::SpaceMapRoot::unpack(superblock.data_space_map_root.data()).blocks, snapshot, left, right));
}

Result<void> DiffOutput::add(const DiffRun& run) {
    if (run.kind == DiffRun::Kind::same && !options_.same)
        return {};
    if (!options_.verbose && run_.length != 0 && run_.kind == run.kind && run_.begin + run_.length == run.begin) {
        run_.length += run.length;
        return {};
    }
    TRY(flush_run());
    run_ = run;
    return {};
}

Result<void> DiffOutput::flush_run() {
    if (run_.length == 0)
        return {};
    const DiffRun run = run_;
    run_.length = 0;
    const bool left = run.kind != DiffRun::Kind::right_only;
    const bool right = run.kind == DiffRun::Kind::right_only || run.kind == DiffRun::Kind::different;
    if (options_.form == Form::json) {
        std::string text = fmt::format("{{\"kind\":\"{}\",\"begin\":{},\"length\":{}", word(run.kind), run.begin, run.length);
        if (options_.verbose && left)
            text += fmt::format(",\"left_data_begin\":{}", run.left_begin);
        if (options_.verbose && right)
            text += fmt::format(",\"right_data_begin\":{}", run.right_begin);
        return print(text + "}\n");
    }
    if (options_.form == Form::plain) {
        std::string text = fmt::format("{} {}..{}", word(run.kind), run.begin, run.begin + run.length);
        if (options_.verbose && left)
            text += fmt::format(" left {}", run.left_begin);
        if (options_.verbose && right)
            text += fmt::format(" right {}", run.right_begin);
        return print(text + "\n");
    }
    if (!options_.verbose)
        return print(fmt::format("    <{} begin=\"{}\" length=\"{}\"/>\n", word(run.kind), run.begin, run.length));
    if (!group_open_ || group_ != run.kind) {
        if (group_open_)
            TRY(print(fmt::format("    </{}>\n", word(group_))));
        TRY(print(fmt::format("    <{}>\n", word(run.kind))));
        group_open_ = true;
        group_ = run.kind;
    }
    if (left && right)
        return print(fmt::format("      <range begin=\"{}\" left_data_begin=\"{}\" right_data_begin=\"{}\" length=\"{}\"/>\n", run.begin,
                                 run.left_begin, run.right_begin, run.length));
    return print(fmt::format("      <range begin=\"{}\" data_begin=\"{}\" length=\"{}\"/>\n", run.begin,
                             left ? run.left_begin : run.right_begin, run.length));
}

Result<void> DiffOutput::end() {
    TRY(flush_run());
    if (group_open_)
        TRY(print(fmt::format("    </{}>\n", word(group_))));
    if (options_.form == Form::xml)
        TRY(print("  </diff>\n</superblock>\n"));
    std::string rest;
    rest.swap(text_);
    return rest.empty() ? Result<void>{} : stream_(rest);
}

}  // namespace lamella::cli
