// SPDX-License-Identifier: Apache-2.0
#include "tools/restore.h"

#include "tools/builder.h"
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

}  // namespace

Result<RestoreReport> restore(TextSource& xml, BlockDevice& metadata, const HeaderOverrides& overrides, const Control& control) {
    RestoreReport report;
    std::unique_ptr<MetadataBuilder> builder = TRY(MetadataBuilder::start(metadata));
    Counter counter(*builder, report);
    TRY(parse_pool_xml(xml, overrides, counter, control));
    report.metadata_blocks = builder->used_blocks();
    return report;
}

}  // namespace lamella::tools
