// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <nlohmann/json.hpp>

#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/pages.h"
#include "cli/peer/peer_command.h"

namespace lamella::cli {

namespace {

std::vector<std::string> option_names(const CommandPage& page) {
    std::vector<std::string> names;
    for (const OptionPage& option : page.options)
        names.insert(names.end(), option.names.begin(), option.names.end());
    return names;
}

// A word for a shell, in single quotes.
std::string shell_quoted(std::string_view text) {
    std::string result = "'";
    for (char c : text)
        result += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return result + "'";
}

std::vector<std::string> peer_names() {
    std::vector<std::string> names;
    for (const CommandPage& page : peer_command_pages())
        names.push_back(page.words.front());
    return names;
}

std::string bash_completion(const std::vector<CommandPage>& pages) {
    std::string commands, options, values, positional;
    for (const CommandPage& page : pages) {
        std::string key = page.joined(' ');
        if (!page.subcommands.empty())
            commands += fmt::format("        {}) words={} ;;\n", shell_quoted(key),
                                    shell_quoted(fmt::format("{}", fmt::join(page.subcommands, " "))));
        options += fmt::format("        {}) words={} ;;\n", shell_quoted(key),
                               shell_quoted(fmt::format("{}", fmt::join(option_names(page), " "))));
        for (const OptionPage& option : page.options) {
            if (option.placeholder.empty())
                continue;
            std::string action = !option.choices.empty() ? "words=" + shell_quoted(fmt::format("{}", fmt::join(option.choices, " ")))
                                 : option.placeholder == "FILE" || option.placeholder == "PATH" || option.placeholder == "DIR" ? "files=1"
                                                                                                                               : ":";
            for (const std::string& name : option.names)
                values += fmt::format("        {}) {}; value=1 ;;\n", shell_quoted(key + " " + name), action);
        }
        for (const OptionPage& argument : page.arguments)
            if (!argument.choices.empty())
                positional += fmt::format("        {}) words={}; files=1 ;;\n", shell_quoted(key),
                                          shell_quoted(fmt::format("{}", fmt::join(argument.choices, " "))));
    }
    return fmt::format(R"(# bash completion for lamella
_lamella() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= nested= words= files= value= i
    case "${{COMP_WORDS[0]##*/}}" in
    {5}) command=${{COMP_WORDS[0]##*/}} ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        nested=${{command:+$command }}${{COMP_WORDS[i]}}
        case "$nested" in
        {0}) command=$nested ;;
        esac
    done
    case "$command $previous" in
{1}    esac
    if [[ -z $value ]]; then
        if [[ $current == -* ]]; then
            case "$command" in
{2}            esac
        else
            files=1
            case "$command" in
{3}            esac
            case "$command" in
{4}            esac
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    if [[ -n $files ]]; then
        compopt -o filenames
        COMPREPLY+=($(compgen -f -- "$current"))
    fi
}}
complete -F _lamella lamella {6}
)",
                       [&] {
                           std::string names;
                           for (const CommandPage& page : pages)
                               if (!page.words.empty())
                                   names += (names.empty() ? "" : " | ") + shell_quoted(page.joined(' '));
                           return names;
                       }(),
                       values, options, positional, commands, fmt::join(peer_names(), " | "), fmt::join(peer_names(), " "));
}

std::string zsh_completion(const std::vector<CommandPage>& pages) {
    auto described = [](std::string_view text) {
        std::string result;
        for (char c : text)
            result += c == '[' || c == ']' || c == ':' || c == '\\' ? std::string("\\") + c : std::string(1, c);
        return result;
    };
    std::string text = fmt::format("#compdef lamella {}\n# zsh completion for lamella\n\n", fmt::join(peer_names(), " "));
    for (const CommandPage& page : pages) {
        std::string function = "_lamella" + (page.words.empty() ? "" : "_" + page.joined('_'));
        std::string arguments;
        for (const OptionPage& option : page.options)
            for (const std::string& name : option.names) {
                std::string value = option.placeholder.empty() ? ""
                                    : !option.choices.empty()  ? fmt::format(":value:({})", fmt::join(option.choices, " "))
                                                               : fmt::format(":{}:_files", described(option.placeholder));
                arguments +=
                    fmt::format(" \\\n        {}",
                                shell_quoted(fmt::format("{}{}[{}]{}", option.repeats ? "*" : "", name, described(option.help), value)));
            }
        if (!page.subcommands.empty()) {
            std::string cases;
            for (const std::string& name : page.subcommands)
                cases += fmt::format("        {}) {}_{} ;;\n", name, function, name);
            text += fmt::format(
                "{}() {{\n    local state\n    _arguments -C{} \\\n        '1:command:({})' \\\n        '*::argument:->argument'\n"
                "    if [[ $state == argument ]]; then\n        case $words[1] in\n{}        esac\n    fi\n}}\n\n",
                function, arguments, fmt::join(page.subcommands, " "), cases);
            continue;
        }
        for (const OptionPage& argument : page.arguments)
            arguments += fmt::format(
                " \\\n        {}",
                shell_quoted(fmt::format("{}:{}:{}", argument.repeats ? "*" : "", described(argument.names.back()),
                                         argument.choices.empty() ? "_files" : fmt::format("({})", fmt::join(argument.choices, " ")))));
        text += fmt::format("{}() {{\n    _arguments{}\n}}\n\n", function, arguments);
    }
    return text + "if [[ $service == lamella ]]; then _lamella \"$@\"; else _lamella_$service \"$@\"; fi\n";
}

std::string fish_completion(const std::vector<CommandPage>& pages) {
    auto quoted_for_fish = [](std::string_view text) {
        std::string result = "'";
        for (char c : text)
            result += c == '\'' || c == '\\' ? std::string("\\") + c : std::string(1, c);
        return result + "'";
    };
    std::string text = "# fish completion for lamella\n";
    for (const CommandPage& page : pages) {
        std::string called = "lamella", condition = "__fish_use_subcommand";
        if (!page.words.empty() && is_peer_command(page.words.front())) {
            called = page.words.front();
            condition = "true";
        } else if (!page.words.empty()) {
            condition.clear();
            for (const std::string& word : page.words)
                condition += (condition.empty() ? "" : "; and ") + ("__fish_seen_subcommand_from " + word);
        }
        for (const std::string& name : page.subcommands) {
            auto nested = std::ranges::find_if(pages, [&](const CommandPage& other) {
                return other.words.size() == page.words.size() + 1 && other.words.back() == name &&
                       std::equal(page.words.begin(), page.words.end(), other.words.begin());
            });
            text += fmt::format("complete -c lamella -f -n {} -a {} -d {}\n", quoted_for_fish(condition), name,
                                quoted_for_fish(nested->summary));
        }
        for (const OptionPage& option : page.options) {
            text += fmt::format("complete -c {} -n {}", called, quoted_for_fish(condition));
            for (const std::string& name : option.names)
                text += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
            if (!option.choices.empty())
                text += fmt::format(" -x -a {}", quoted_for_fish(fmt::format("{}", fmt::join(option.choices, " "))));
            else if (!option.placeholder.empty())
                text += " -r";
            text += fmt::format(" -d {}\n", quoted_for_fish(option.help));
        }
    }
    return text;
}

}  // namespace

void define_completion(CommandLine& line) {
    auto shell = std::make_shared<std::string>();
    line.describe("Print a completion script for a shell");
    line.example("completion bash > /etc/bash_completion.d/lamella", "for all users of bash");
    line.argument_choice("SHELL", *shell, {"bash", "zsh", "fish"}, "bash, zsh or fish");
    line.runs([shell](Context& context) -> Result<void> {
        std::vector<CommandPage> pages = command_pages();
        for (CommandPage& page : peer_command_pages())
            pages.push_back(std::move(page));
        std::string script = *shell == "bash" ? bash_completion(pages) : *shell == "zsh" ? zsh_completion(pages) : fish_completion(pages);
        return context.answer(script, {{"shell", *shell}, {"script", script}});
    });
}

}  // namespace lamella::cli
