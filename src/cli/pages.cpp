// SPDX-License-Identifier: Apache-2.0
#include "cli/pages.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "cli/program.h"

namespace lamella::cli {

namespace {

OptionPage option_page(const CLI::Option& option, const CommandNotes& notes) {
    OptionPage page;
    for (const std::string& name : option.get_snames())
        page.names.push_back("-" + name);
    for (const std::string& name : option.get_lnames())
        page.names.push_back("--" + name);
    if (page.names.empty())
        page.names.push_back(option.get_name(true));
    page.placeholder = option.get_items_expected_max() > 0 ? option.get_type_name() : "";
    page.help = option.get_description();
    page.required = option.get_required();
    page.repeats = option.get_items_expected_max() > 1;
    if (auto choices = notes.choices.find(page.names.back()); choices != notes.choices.end())
        page.choices = choices->second;
    return page;
}

void add_pages(const CLI::App& app, const Program& program, const std::vector<std::string>& words, std::vector<CommandPage>& pages) {
    static const CommandNotes none;
    auto found = program.notes.find(&app);
    const CommandNotes& notes = found != program.notes.end() ? found->second : none;
    if (notes.hidden)
        return;
    CommandPage page;
    page.words = words;
    page.summary = app.get_description();
    page.description = notes.description;
    page.examples = notes.examples;
    for (const CLI::Option* option : app.get_options({}))
        (option->nonpositional() ? page.options : page.arguments).push_back(option_page(*option, notes));
    auto subcommands = app.get_subcommands([](const CLI::App*) { return true; });
    std::size_t at = pages.size();
    pages.push_back(std::move(page));
    for (const CLI::App* subcommand : subcommands) {
        std::vector<std::string> nested = words;
        nested.push_back(subcommand->get_name());
        std::size_t before = pages.size();
        add_pages(*subcommand, program, nested, pages);
        if (pages.size() > before)
            pages[at].subcommands.push_back(subcommand->get_name());
    }
}

}  // namespace

std::string CommandPage::joined(char separator) const {
    std::string result;
    for (const std::string& word : words)
        result += (result.empty() ? "" : std::string(1, separator)) + word;
    return result;
}

std::vector<CommandPage> command_pages() {
    Program program;
    std::vector<CommandPage> pages;
    add_pages(*program.app, program, {}, pages);
    return pages;
}

}  // namespace lamella::cli
