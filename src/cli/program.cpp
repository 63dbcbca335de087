// SPDX-License-Identifier: Apache-2.0
#include "cli/program.h"

#include <algorithm>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <nlohmann/json.hpp>

#include "cli/context.h"

namespace lamella::cli {

#define COMMAND(name) void define_##name(CommandLine& line);
#include "cli/commands.inc"
#undef COMMAND

namespace {

struct RegisteredCommand {
    const char* name;
    void (*define)(CommandLine& line);
};

constexpr RegisteredCommand registered[] = {
#define COMMAND(name) {#name, define_##name},
#include "cli/commands.inc"
#undef COMMAND
};

// The innermost command that was named.
const CLI::App& parsed_command(const CLI::App& app) {
    auto nested = app.get_subcommands();
    return nested.empty() ? app : parsed_command(*nested.front());
}

std::string full_name(const CLI::App& app) {
    return app.get_parent() ? full_name(*app.get_parent()) + " " + app.get_name() : app.get_name();
}

ExitCode report(const Error& error, const std::string& what, const std::string& suggestion, bool json, Environment& environment) {
    if (json) {
        Json answer = Json::object();
        answer["error"] = error_to_json(error);
        answer["error"]["try"] = suggestion;
        if (Result<std::string> text = print_json_indented(answer))
            environment.out(*text);
    }
    environment.err(fmt::format("{}: {}\n", what, error.message()));
    if (!suggestion.empty())
        environment.err(fmt::format("try: {}\n", suggestion));
    return exit_code(error.kind());
}

}  // namespace

Program::Program() : app(std::make_unique<CLI::App>("thin provisioning and snapshots for Linux block storage", "lamella")) {
    app->require_subcommand(1);
    app->option_defaults()->always_capture_default(false);
    app->get_formatter()->column_width(34);
    app->set_help_flag("-h,--help", "print this help");
    app->set_version_flag("--version", std::string("lamella ") + program_version);
    for (const RegisteredCommand& command : registered) {
        std::string name = command.name;
        std::replace(name.begin(), name.end(), '_', '-');
        CommandLine line(*this, *app->add_subcommand(name));
        command.define(line);
    }
}

Program::~Program() = default;

ExitCode run_program(const std::vector<std::string>& words, Environment& environment) {
    Program program;
    try {
        std::vector<std::string> reversed(words.rbegin(), words.rend());
        program.app->parse(reversed);
    } catch (const CLI::CallForHelp&) {
        const CLI::App& command = parsed_command(*program.app);
        environment.out(command.help(command.get_parent() ? full_name(*command.get_parent()) : ""));
        const CommandNotes& notes = program.notes[&command];
        if (!notes.description.empty())
            environment.out("\n" + notes.description + "\n");
        for (const auto& [example, meaning] : notes.examples)
            environment.out(fmt::format("\n  lamella {}\n      {}\n", example, meaning));
        return ExitCode::done;
    } catch (const CLI::CallForVersion& version) {
        environment.out(std::string(version.what()) + "\n");
        return ExitCode::done;
    } catch (const CLI::ParseError& error) {
        const std::string name = full_name(parsed_command(*program.app));
        bool json = std::find(words.begin(), words.end(), "--json") != words.end();
        return report(Error(ErrorKind::usage, error.what()), name, name + " --help", json, environment);
    }

    const CLI::App& command = parsed_command(*program.app);
    const CommandNotes& notes = program.notes[&command];
    Context context(environment);
    context.json = notes.json;
    context.dry_run = notes.dry_run;
    context.yes = notes.yes;
    Result<void> outcome = notes.run(context);
    if (outcome)
        return context.code();
    std::string suggestion = context.suggestion(outcome.error());
    if (suggestion.empty() && outcome.error().kind() == ErrorKind::usage)
        suggestion = full_name(command) + " --help";
    return report(outcome.error(), full_name(command), suggestion, context.json && !context.answered(), environment);
}

}  // namespace lamella::cli
