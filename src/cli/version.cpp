// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"

namespace lamella::cli {

void define_version(CommandLine& line) {
    line.describe("Print the version");
    line.runs([](Context& context) -> Result<void> {
        return context.answer(fmt::format("lamella {}\n", LAMELLA_VERSION), {{"version", LAMELLA_VERSION}});
    });
}

}  // namespace lamella::cli
