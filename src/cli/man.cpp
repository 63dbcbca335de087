// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "cli/command_line.h"
#include "cli/context.h"
#include "cli/pages.h"
#include "cli/peer/peer_command.h"
#include "cli/program.h"

namespace lamella::cli {

namespace {

// Text for roff: backslashes and hyphens as they are, no line that looks like a request, paragraphs kept apart.
std::string roff(std::string_view text) {
    std::string result;
    bool line_begins = true;
    for (std::size_t i = 0; i < text.size(); ++i) {
        char c = text[i];
        if (c == '\n' && i + 1 < text.size() && text[i + 1] == '\n') {
            result += "\n.PP\n";
            ++i;
            line_begins = true;
            continue;
        }
        if (line_begins && (c == '.' || c == '\''))
            result += "\\&";
        if (c == '\\')
            result += "\\e";
        else if (c == '-')
            result += "\\-";
        else
            result += c;
        line_begins = c == '\n';
    }
    return result;
}

std::string bold(std::string_view text) { return fmt::format("\\fB{}\\fR", roff(text)); }

std::string italic(std::string_view text) { return fmt::format("\\fI{}\\fR", roff(text)); }

std::string heading(const OptionPage& option) {
    std::string names;
    for (const std::string& name : option.names)
        names += (names.empty() ? "" : ", ") + (name.starts_with("-") ? bold(name) : italic(name));
    return option.placeholder.empty() ? names : names + " " + italic(option.placeholder);
}

std::string synopsis(const CommandPage& page, const std::string& called) {
    std::string text = bold(called);
    if (!page.subcommands.empty())
        return text + " " + italic("COMMAND") + " ...";
    for (const OptionPage& argument : page.arguments) {
        const std::string name = italic(argument.names.back()) + (argument.repeats ? "..." : "");
        text += argument.required ? " " + name : " [" + name + "]";
    }
    for (const OptionPage& option : page.options)
        if (option.required)
            text += " " + bold(option.names.back()) + " " + italic(option.placeholder);
    return text + " [" + italic("OPTION") + "...]";
}

std::string page_name(const CommandPage& page) { return page.words.empty() ? "lamella" : "lamella-" + page.joined('-'); }

std::string title(const std::string& name, std::string_view summary, const std::string& synopsis) {
    std::string upper = name;
    for (char& c : upper)
        c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    return fmt::format(".TH {} 1 \"\" \"lamella {}\" \"Lamella\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n{}\n", upper, program_version,
                       roff(name), roff(summary), synopsis);
}

std::string options_section(const CommandPage& page) {
    std::string text;
    if (!page.arguments.empty() || !page.options.empty())
        text += ".SH OPTIONS\n";
    for (const auto* options : {&page.arguments, &page.options})
        for (const OptionPage& option : *options)
            text += fmt::format(".TP\n{}\n{}\n", heading(option), roff(option.help));
    return text;
}

std::string man_page(const CommandPage& page, const std::vector<CommandPage>& all) {
    std::string name = page_name(page);
    std::string text = title(name, page.summary, synopsis(page, "lamella" + (page.words.empty() ? "" : " " + page.joined(' '))));
    if (!page.description.empty() || page.words.empty())
        text += ".SH DESCRIPTION\n";
    if (!page.description.empty())
        text += roff(page.description) + "\n";
    if (page.words.empty())
        text += roff(
                    "A GROUP is the path of an LVM2 volume group's physical volume, an image file or a block device, or several "
                    "separated by commas. A VOLUME is GROUP:NAME, such as ./vms.img:web. While a group is served, every command "
                    "on it is carried out by the serving process, without stopping I/O.") +
                "\n";
    if (!page.subcommands.empty()) {
        text += ".SH COMMANDS\n";
        for (const CommandPage& other : all)
            if (other.words.size() == page.words.size() + 1 && std::equal(page.words.begin(), page.words.end(), other.words.begin()))
                text += fmt::format(".TP\n{}(1)\n{}\n", bold(page_name(other)), roff(other.summary));
    }
    text += options_section(page);
    if (!page.examples.empty())
        text += ".SH EXAMPLES\n";
    for (const auto& [words, meaning] : page.examples)
        text += fmt::format(".TP\n{}\n{}\n", bold("lamella " + words), roff(meaning));
    text +=
        ".SH EXIT STATUS\n0 done; 1 failed; 2 wrong usage; 3 not found; 4 refused: busy, held by somebody else, there already, or unsafe; "
        "5 damage found; 6 out of space; 7 leaked space found; 8 data found at risk.\n";
    if (!page.words.empty())
        text += ".SH SEE ALSO\n" + bold("lamella") + "(1)\n";
    return text;
}

std::string peer_man_page(const CommandPage& page) {
    const std::string& name = page.words.front();
    std::string text = title(name, page.summary, synopsis(page, name)) + ".SH DESCRIPTION\n";
    if (!page.description.empty())
        text += roff(page.description) + "\n.PP\n";
    text += roff(
                "Lamella's program for the command of thin-provisioning-tools of that name. METADATA is a block device or file, or the "
                "pool of a group that nobody uses, as in ./vms.img:pool.") +
            "\n";
    return text + options_section(page) + ".SH EXIT STATUS\n0 done; 1 failed.\n.SH SEE ALSO\n" + bold("lamella") + "(1)\n";
}

}  // namespace

// For packaging: the manual pages are made from the program that they describe.
void define_man(CommandLine& line) {
    auto directory = std::make_shared<std::string>();
    line.describe("Write the manual pages");
    line.hide();
    line.option("--output", "DIR", *directory, "the folder to write to");
    line.require("--output");
    line.runs([directory](Context& context) -> Result<void> {
        std::vector<CommandPage> pages = command_pages();
        std::vector<std::string> files;
        for (const CommandPage& page : pages) {
            files.push_back(fmt::format("{}/{}.1", *directory, page_name(page)));
            TRY(write_file_aside(files.back(), man_page(page, pages), 0644));
        }
        for (const CommandPage& page : peer_command_pages()) {
            files.push_back(fmt::format("{}/{}.1", *directory, page.words.front()));
            TRY(write_file_aside(files.back(), peer_man_page(page), 0644));
        }
        return context.answer(fmt::format("{}\n", fmt::join(files, "\n")), {{"files", files}});
    });
}

}  // namespace lamella::cli
