// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tools/control.h"
#include "tools/text_source.h"
#include "tools/visitor.h"

namespace lamella::tools {

// A pool's contents from the JSON form of a dump (printer.h): one object a line, with the members that the printer writes, in any order.
// Otherwise as parse_pool_xml(). Memory: about 1.2 MiB, and what the rules take.
Result<void> parse_pool_json(TextSource& source, const HeaderOverrides& overrides, PoolVisitor& sink, const Control& control = {});

}  // namespace lamella::tools
