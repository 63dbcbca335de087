// SPDX-License-Identifier: Apache-2.0
//
// Request lines at the control socket: each gets one line of JSON for an answer, and nothing is done that the line didn't ask for.
#include <cstdlib>
#include <string_view>

#include <nlohmann/json.hpp>

#include "volumes/control.h"
#include "volumes/fake_group.h"

using namespace lamella;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    FakeGroup group;
    const ControlHandlers handlers = group_handlers(group);
    std::string_view rest(reinterpret_cast<const char*>(data), size);
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        const std::string answer = answer_control_request(handlers, line);
        if (answer.find('\n') != std::string::npos)
            std::abort();
        const auto json = parse_json(answer);
        if (!json || json->contains("result") == json->contains("error"))
            std::abort();
    }
    return 0;
}
