// SPDX-License-Identifier: Apache-2.0
#include "tools/restore.h"

#include <utility>

#include "tools/builder.h"
#include "tools/json_parser.h"
#include "tools/xml_parser.h"

namespace lamella::tools {

namespace {

// Counts what goes by.
class Counter final : public PoolVisitor {
  public:
    Counter(PoolVisitor& next, RestoreReport& report) : next_(next), report_(report) {}

    Result<void> superblock_begin(const PoolHeader& header) override { return next_.superblock_begin(header); }
    Result<void> superblock_end() override { return next_.superblock_end(); }
    Result<void> definition_begin(DefinitionId id) override { return next_.definition_begin(id); }
    Result<void> definition_end() override { return next_.definition_end(); }
    Result<void> device_begin(const DeviceHeader& header) override {
        ++report_.devices;
        report_.mapped_blocks += header.mapped_blocks;
        return next_.device_begin(header);
    }
    Result<void> device_end() override { return next_.device_end(); }
    Result<void> map(std::span<const Mapping> mappings) override { return next_.map(mappings); }
    Result<void> reference(DefinitionId id) override { return next_.reference(id); }

  private:
    PoolVisitor& next_;
    RestoreReport& report_;
};

// Hands a text on whose first piece was taken already.
class Resumed final : public TextSource {
  public:
    Resumed(TextSource& source, std::string_view first) : source_(source), first_(first) {}
    Result<std::string_view> next() override {
        if (const std::string_view first = std::exchange(first_, {}); !first.empty())
            return first;
        return source_.next();
    }
    std::optional<std::uint64_t> size() const override { return source_.size(); }
    const std::string& name() const override { return source_.name(); }

  private:
    TextSource& source_;
    std::string_view first_;
};

}  // namespace

Result<RestoreReport> restore(TextSource& text, BlockDevice& metadata, const HeaderOverrides& overrides, const Control& control) {
    RestoreReport report;
    std::unique_ptr<MetadataBuilder> builder = TRY(MetadataBuilder::start(metadata));
    Counter counter(*builder, report);
    const std::string_view first = TRY(text.next());
    Resumed resumed(text, first);
    const std::size_t begin = first.find_first_not_of(" \t\r\n");
    const bool json = begin != std::string_view::npos && first[begin] == '{';
    TRY((json ? parse_pool_json : parse_pool_xml)(resumed, overrides, counter, control));
    report.metadata_blocks = builder->used_blocks();
    return report;
}

}  // namespace lamella::tools
