// SPDX-License-Identifier: Apache-2.0
//
// A pool's contents from the XML of thin_dump, of any version: superblock, def, device, single_mapping, range_mapping, ref. Attributes
// flags, version and metadata_snap may be missing. Of XML it takes what such a file may have: elements, attributes, comments, processing
// instructions, character references; no DTD, no text between elements.
#pragma once

#include "tools/control.h"
#include "tools/text_source.h"
#include "tools/visitor.h"

namespace lamella::tools {

// Hands the contents on, in calls of up to 1024 mappings, after StreamRules have approved of them. Memory: about 1.2 MiB, and what the rules
// take. An error says in which line of the source. The overrides apply before the rules. `control` counts bytes of text.
Result<void> parse_pool_xml(TextSource& source, const HeaderOverrides& overrides, PoolVisitor& sink, const Control& control = {});

}  // namespace lamella::tools
