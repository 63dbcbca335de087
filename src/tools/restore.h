// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "device/block_device.h"
#include "tools/control.h"
#include "tools/text_source.h"
#include "tools/visitor.h"

namespace lamella::tools {

struct RestoreReport {
    std::uint64_t devices = 0;
    std::uint64_t mapped_blocks = 0;    // of all devices together
    std::uint64_t metadata_blocks = 0;  // in use
};

// Makes the metadata that an XML dump describes, of whatever version of thin_dump. The device keeps what it held until the XML has turned out
// to be a dump; from then on it is no valid metadata until all of it is there and durable (MetadataBuilder). Errors name the line of
// the XML. Flags of the dump are not restored: what a check has to look for is gone.
//
// The JSON form of our own dumps is taken as well: what begins with '{'.
Result<RestoreReport> restore(TextSource& text, BlockDevice& metadata, const HeaderOverrides& overrides, const Control& control = {});

}  // namespace lamella::tools
