// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/command_line.h"

namespace lamella::cli {

void define_dm_run(CommandLine line);

}  // namespace lamella::cli
