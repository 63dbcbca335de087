// SPDX-License-Identifier: Apache-2.0
#include "cli/peer/peer_command.h"

#include <algorithm>
#include <set>

#include "cli/interrupt.h"
#include "cli/numbers.h"
#include "cli/program.h"

namespace lamella::cli {

#define PEER_COMMAND(name) void define_##name(PeerCommand& command);
#include "cli/peer/commands.inc"
#undef PEER_COMMAND

namespace {

// The peer whose options and statuses these are.
constexpr const char* peer_release = "0.9.0";

struct RegisteredCommand {
    const char* name;
    void (*define)(PeerCommand& command);
};

constexpr RegisteredCommand registered[] = {
#define PEER_COMMAND(name) {#name, define_##name},
#include "cli/peer/commands.inc"
#undef PEER_COMMAND
};

template <typename Number>
auto number_into(std::optional<Number>& value) {
    return [&value](const std::string& word) -> Result<void> {
        value = TRY(parse_number<Number>(word));
        return {};
    };
}

}  // namespace

tools::Control PeerContext::control() const { return {.progress = {}, .stop = &interrupted()}; }

void PeerCommand::describe(std::string_view summary, std::string_view description) {
    summary_ = summary;
    description_ = description;
}

void PeerCommand::argument(const std::string& name, std::string& value, const std::string& help) {
    argument_name_ = name;
    argument_help_ = help;
    argument_ = &value;
}

PeerCommand::Option& PeerCommand::add(const std::string& names, Value value, const std::string& placeholder, const std::string& help,
                                      Take take) {
    Option& option = options_.emplace_back();
    if (names.starts_with('-') && names[1] != '-')
        option.letter = names[1];
    if (std::size_t dashes = names.find("--"); dashes != std::string::npos)
        option.name = names.substr(dashes + 2);
    option.value = value;
    option.placeholder = placeholder;
    option.help = help;
    option.take = std::move(take);
    return option;
}

PeerCommand::Option& PeerCommand::find(const std::string& option) {
    return *std::ranges::find_if(options_, [&](const Option& candidate) { return "--" + candidate.name == option; });
}

void PeerCommand::flag(const std::string& names, bool& value, const std::string& help) {
    add(names, Value::none, "", help, [&value](const std::string&) -> Result<void> {
        value = true;
        return {};
    });
}

void PeerCommand::option(const std::string& names, const std::string& placeholder, std::string& value, const std::string& help) {
    add(names, Value::required, placeholder, help, [&value](const std::string& word) -> Result<void> {
        value = word;
        return {};
    });
}

void PeerCommand::option(const std::string& names, const std::string& placeholder, std::optional<std::uint64_t>& value,
                         const std::string& help) {
    add(names, Value::required, placeholder, help, number_into(value));
}

void PeerCommand::option(const std::string& names, const std::string& placeholder, std::optional<std::uint32_t>& value,
                         const std::string& help) {
    add(names, Value::required, placeholder, help, number_into(value));
}

void PeerCommand::option(const std::string& names, const std::string& placeholder, std::vector<std::string>& values,
                         const std::string& help) {
    add(names, Value::required, placeholder, help, [&values](const std::string& word) -> Result<void> {
        values.push_back(word);
        return {};
    }).repeats = true;
}

void PeerCommand::flag_or_option(const std::string& names, const std::string& placeholder, bool& given, std::optional<std::uint64_t>& value,
                                 const std::string& help) {
    add(names, Value::optional, placeholder, help, [&given, take = number_into(value)](const std::string& word) -> Result<void> {
        given = true;
        if (!word.empty())
            TRY(take(word));
        return {};
    });
}

void PeerCommand::flag_or_option(const std::string& names, const std::string& placeholder, bool& given, std::string& value,
                                 const std::string& help) {
    add(names, Value::optional, placeholder, help, [&given, &value](const std::string& word) -> Result<void> {
        given = true;
        value = word;
        return {};
    });
}

void PeerCommand::option_choice(const std::string& names, std::string& value, const std::vector<std::string>& words,
                                const std::string& help) {
    Option& option = add(names, Value::required, "", help, [&value, words](const std::string& word) -> Result<void> {
        if (std::ranges::find(words, word) == words.end())
            return fail(ErrorKind::usage, "'{}' is none of {}", word, fmt::join(words, ", "));
        value = word;
        return {};
    });
    option.placeholder = fmt::format("{}", fmt::join(words, "|"));
    option.choices = words;
}

void PeerCommand::quiet() { flag("-q,--quiet", quiet_, "print nothing; the exit status tells"); }

void PeerCommand::require(const std::string& option) { find(option).required = true; }

void PeerCommand::exclude(const std::string& option, const std::string& other) { find(option).excludes.push_back(other); }

std::string PeerCommand::usage() const {
    std::string text = fmt::format("Usage: {} [options]{}\n{}\n\nOptions:\n", name_, argument_ ? " " + argument_name_ : "", summary_);
    auto line = [&text](char letter, const std::string& name, const std::string& value, const std::string& help) {
        std::string names = letter != 0 ? fmt::format("-{}, --{}", letter, name) : "    --" + name;
        text += fmt::format("  {:<36}{}\n", names + value, help);
    };
    for (const Option& option : options_)
        line(option.letter, option.name,
             option.value == Value::none       ? ""
             : option.value == Value::optional ? "[=" + option.placeholder + "]"
                                               : " " + option.placeholder,
             option.help + (option.required ? " (required)" : ""));
    line('h', "help", "", "print this help");
    line('V', "version", "", "print the version");
    return text;
}

CommandPage PeerCommand::page() const {
    CommandPage page;
    page.words = {name_};
    page.summary = summary_;
    page.description = description_;
    if (argument_ != nullptr)
        page.arguments.push_back({.names = {argument_name_}, .help = argument_help_, .required = true});
    for (const Option& option : options_) {
        OptionPage& one = page.options.emplace_back();
        if (option.letter != 0)
            one.names.push_back(fmt::format("-{}", option.letter));
        one.names.push_back("--" + option.name);
        one.placeholder = option.value == Value::optional ? "[" + option.placeholder + "]" : option.placeholder;
        one.help = option.help;
        one.required = option.required;
        one.repeats = option.repeats;
        one.choices = option.choices;
    }
    return page;
}

// False: help or version was asked for and printed. As getopt_long: options and arguments in any order, "--" ends the options, names
// may be cut short as long as they are unambiguous.
Result<bool> PeerCommand::parse(const std::vector<std::string>& words, Environment& environment) {
    std::set<const Option*> given;
    std::vector<std::string> arguments;
    auto apply = [&](const Option& option, const std::string& shown, const std::string& value) -> Result<void> {
        given.insert(&option);
        TRY_WITHIN(shown, option.take(value));
        return {};
    };
    bool options_ended = false;
    for (std::size_t at = 0; at < words.size(); ++at) {
        const std::string& word = words[at];
        if (options_ended || word.size() < 2 || word[0] != '-') {
            arguments.push_back(word);
        } else if (word == "--") {
            options_ended = true;
        } else if (word.starts_with("--")) {
            std::size_t equals = word.find('=');
            std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
            std::vector<const Option*> matches;
            for (const Option& option : options_)
                if (option.name == name) {
                    matches = {&option};
                    break;
                } else if (!option.name.empty() && option.name.starts_with(name)) {
                    matches.push_back(&option);
                }
            bool help = std::string_view("help").starts_with(name);
            bool version = std::string_view("version").starts_with(name);
            if (matches.empty() && (help || version) && equals == std::string::npos) {
                environment.out(help ? usage() : peer_version() + "\n");
                return false;
            }
            if (matches.empty())
                return fail(ErrorKind::usage, "unrecognized option '--{}'", name);
            if (matches.size() > 1)
                return fail(ErrorKind::usage, "option '--{}' is ambiguous", name);
            const Option& option = *matches.front();
            std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
            if (option.value == Value::none && equals != std::string::npos)
                return fail(ErrorKind::usage, "option '--{}' doesn't allow an argument", option.name);
            if (option.value == Value::required && equals == std::string::npos) {
                if (++at == words.size())
                    return fail(ErrorKind::usage, "option '--{}' requires an argument", option.name);
                value = words[at];
            }
            TRY(apply(option, "--" + option.name, value));
        } else {
            for (std::size_t letter = 1; letter < word.size(); ++letter) {
                auto option = std::ranges::find_if(options_, [&](const Option& candidate) { return candidate.letter == word[letter]; });
                if (option == options_.end() && (word[letter] == 'h' || word[letter] == 'V')) {
                    environment.out(word[letter] == 'h' ? usage() : peer_version() + "\n");
                    return false;
                }
                if (option == options_.end())
                    return fail(ErrorKind::usage, "invalid option -- '{}'", word[letter]);
                std::string value;
                if (option->value != Value::none) {
                    value = word.substr(letter + 1);
                    if (option->value == Value::required && value.empty()) {
                        if (++at == words.size())
                            return fail(ErrorKind::usage, "option requires an argument -- '{}'", option->letter);
                        value = words[at];
                    }
                    letter = word.size();
                }
                TRY(apply(*option, fmt::format("-{}", option->letter), value));
            }
        }
    }

    if (argument_ == nullptr)
        std::erase(arguments, "");
    if (argument_ != nullptr && arguments.empty())
        return fail(ErrorKind::usage, "no {} given", argument_name_);
    if (arguments.size() > (argument_ != nullptr ? 1u : 0u))
        return fail(ErrorKind::usage, "unexpected argument '{}'", arguments.back());
    if (argument_ != nullptr)
        *argument_ = arguments.front();
    for (const Option& option : options_) {
        if (option.required && !given.contains(&option))
            return fail(ErrorKind::usage, "option '--{}' is required", option.name);
        for (const std::string& other : option.excludes)
            if (given.contains(&option) && given.contains(&find(other)))
                return fail(ErrorKind::usage, "options '--{}' and '{}' don't go together", option.name, other);
    }
    return true;
}

int PeerCommand::run(const std::vector<std::string>& words, Environment& environment) {
    Result<bool> parsed = parse(words, environment);
    if (!parsed) {
        environment.err(fmt::format("{}: {}\n{}", name_, parsed.error().message(), usage()));
        return 1;
    }
    if (!*parsed)
        return 0;
    PeerContext context(environment);
    context.quiet = quiet_;
    Result<int> status = run_(context);
    if (status)
        return *status;
    // A reader that has seen enough isn't worth a word.
    if (status.error().error_number() != EPIPE)
        context.err(status.error().message() + "\n");
    return 1;
}

std::string peer_version() { return fmt::format("{} (lamella {})", peer_release, program_version); }

bool is_peer_command(std::string_view name) {
    return std::ranges::any_of(registered, [&](const RegisteredCommand& command) { return command.name == name; });
}

int run_peer_command(std::string_view name, const std::vector<std::string>& words, Environment& environment) {
    auto found = std::ranges::find_if(registered, [&](const RegisteredCommand& command) { return command.name == name; });
    PeerCommand command(found->name);
    found->define(command);
    return command.run(words, environment);
}

std::vector<CommandPage> peer_command_pages() {
    std::vector<CommandPage> pages;
    for (const RegisteredCommand& one : registered) {
        PeerCommand command(one.name);
        one.define(command);
        pages.push_back(command.page());
    }
    return pages;
}

}  // namespace lamella::cli
