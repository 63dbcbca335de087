// SPDX-License-Identifier: Apache-2.0
#include "cli/command_line.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "cli/numbers.h"
#include "cli/program.h"

namespace lamella::cli {

namespace {

// CLI11 reports a bad value by exception; its parser catches it and run_program() prints it.
[[noreturn]] void reject(const std::string& name, const std::string& why) { throw CLI::ValidationError(name, why); }

Result<void> choose(const std::string& word, const std::vector<std::string>& words, std::string& value) {
    if (std::find(words.begin(), words.end(), word) == words.end())
        return fail(ErrorKind::usage, "\"{}\" is none of {}", word, fmt::join(words, ", "));
    value = word;
    return {};
}

template <typename T, typename Parse>
auto parsed_into(T& value, Parse parse) {
    return [&value, parse](const std::string& word) -> Result<void> {
        value = TRY(parse(word));
        return {};
    };
}

template <typename Number, typename Value>
auto number_into(Value& value) {
    return [&value](const std::string& word) -> Result<void> {
        value = TRY(parse_number<Number>(word));
        return {};
    };
}

}  // namespace

CLI::Option* CommandLine::add(const std::string& names, const std::string& placeholder, const std::string& help, Take take) {
    std::string name = names.substr(names.find("--"));
    CLI::Option* option = app_->add_option(
        names,
        [name, take](const CLI::results_t& words) {
            for (const std::string& word : words)
                if (Result<void> taken = take(word); !taken)
                    reject(name, taken.error().message());
            return true;
        },
        help);
    return option->type_name(placeholder)->allow_extra_args(false);
}

CLI::Option* CommandLine::add_positional(const std::string& name, const std::string& help, bool several, Take take, bool required) {
    CLI::Option* option = app_->add_option(
        name,
        [name, take](const CLI::results_t& words) {
            for (const std::string& word : words)
                if (Result<void> taken = take(word); !taken)
                    reject(name, taken.error().message());
            return true;
        },
        help);
    option->type_name("")->required(required);
    if (several)
        option->expected(CLI::detail::expected_max_vector_size);
    return option;
}

void CommandLine::describe(std::string_view summary, std::string_view description) {
    app_->description(std::string(summary));
    program_->notes[app_].description = description;
}

void CommandLine::example(std::string_view words, std::string_view meaning) { program_->notes[app_].examples.emplace_back(words, meaning); }

void CommandLine::hide() {
    app_->group("");
    program_->notes[app_].hidden = true;
}

void CommandLine::argument(const std::string& name, std::string& value, const std::string& help) {
    add_positional(name, help, false, [&value](const std::string& word) -> Result<void> {
        value = word;
        return {};
    });
}

void CommandLine::argument(const std::string& name, GroupAddress& value, const std::string& help) {
    add_positional(name, help, false, parsed_into(value, [](const std::string& word) { return parse_group_address(word); }));
}

void CommandLine::argument(const std::string& name, VolumeAddress& value, const std::string& help) {
    add_positional(name, help, false, parsed_into(value, [](const std::string& word) { return parse_volume_address(word); }));
}

void CommandLine::argument(const std::string& name, Address& value, const std::string& help) {
    add_positional(name, help, false, parsed_into(value, [](const std::string& word) { return parse_address(word); }));
}

void CommandLine::argument_choice(const std::string& name, std::string& value, const std::vector<std::string>& words,
                                  const std::string& help) {
    program_->notes[app_].choices[name] = words;
    add_positional(name, help, false, [&value, words](const std::string& word) { return choose(word, words, value); });
}

void CommandLine::arguments(const std::string& name, std::vector<std::string>& values, const std::string& help) {
    add_positional(name, help, true, [&values](const std::string& word) -> Result<void> {
        values.push_back(word);
        return {};
    });
}

void CommandLine::arguments(const std::string& name, std::vector<VolumeAddress>& values, const std::string& help) {
    add_positional(name, help, true, [&values](const std::string& word) -> Result<void> {
        values.push_back(TRY(parse_volume_address(word)));
        return {};
    });
}

void CommandLine::optional_arguments(const std::string& name, std::vector<std::string>& values, const std::string& help) {
    add_positional(
        name, help, true,
        [&values](const std::string& word) -> Result<void> {
            values.push_back(word);
            return {};
        },
        false);
}

void CommandLine::optional_argument(const std::string& name, std::string& value, const std::string& help) {
    add_positional(
        name, help, false,
        [&value](const std::string& word) -> Result<void> {
            value = word;
            return {};
        },
        false);
}

void CommandLine::flag(const std::string& names, bool& value, const std::string& help) { app_->add_flag(names, value, help); }

void CommandLine::option(const std::string& names, const std::string& placeholder, std::string& value, const std::string& help) {
    add(names, placeholder, help, [&value](const std::string& word) -> Result<void> {
        value = word;
        return {};
    });
}

void CommandLine::option(const std::string& names, const std::string& placeholder, std::uint32_t& value, const std::string& help) {
    add(names, placeholder, help, number_into<std::uint32_t>(value));
}

void CommandLine::option(const std::string& names, const std::string& placeholder, std::optional<std::uint32_t>& value,
                         const std::string& help) {
    add(names, placeholder, help, number_into<std::uint32_t>(value));
}

void CommandLine::option(const std::string& names, const std::string& placeholder, std::optional<std::uint64_t>& value,
                         const std::string& help) {
    add(names, placeholder, help, number_into<std::uint64_t>(value));
}

void CommandLine::option(const std::string& names, const std::string& placeholder, std::vector<std::string>& values,
                         const std::string& help) {
    CLI::Option* option = add(names, placeholder, help, [&values](const std::string& word) -> Result<void> {
        values.push_back(word);
        return {};
    });
    // Any number of times, with one value each: the words after it are not its own.
    option->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args(false);
}

void CommandLine::option_choice(const std::string& names, std::string& value, const std::vector<std::string>& words,
                                const std::string& help) {
    program_->notes[app_].choices[names.substr(names.find("--"))] = words;
    add(names, fmt::format("{}", fmt::join(words, "|")), help,
        [&value, words](const std::string& word) { return choose(word, words, value); });
}

void CommandLine::option_size(const std::string& names, std::uint64_t& value, const std::string& help) {
    add(names, "SIZE", help, parsed_into(value, [](const std::string& word) { return parse_size(word); }));
}

void CommandLine::option_size(const std::string& names, std::optional<std::uint64_t>& value, const std::string& help) {
    add(names, "SIZE", help, [&value](const std::string& word) -> Result<void> {
        value.reset();
        if (word != "auto")
            value = TRY(parse_size(word));
        return {};
    });
}

void CommandLine::option_size(const std::string& names, SizeArgument& value, const std::string& help) {
    add(names, "SIZE", help, parsed_into(value, [](const std::string& word) { return parse_size_argument(word); }));
}

void CommandLine::require(const std::string& option) { app_->get_option(option)->required(); }

void CommandLine::exclude(const std::string& option, const std::string& other) {
    app_->get_option(option)->excludes(app_->get_option(other));
}

void CommandLine::need(const std::string& option, const std::string& other) { app_->get_option(option)->needs(app_->get_option(other)); }

void CommandLine::changes() { flag("--dry-run", program_->notes[app_].dry_run, "say what would be done, and change nothing"); }

void CommandLine::destroys() { flag("-y,--yes", program_->notes[app_].yes, "do it without asking"); }

CommandLine CommandLine::subcommand(const std::string& name) {
    app_->require_subcommand(1);
    CLI::App* nested = app_->add_subcommand(name);
    return CommandLine(*program_, *nested);
}

void CommandLine::runs(Run run) {
    CommandNotes& notes = program_->notes[app_];
    flag("--json", notes.json, "print the answer as JSON, sizes in bytes");
    notes.run = std::move(run);
}

}  // namespace lamella::cli
