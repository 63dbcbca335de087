// SPDX-License-Identifier: Apache-2.0
#include "cli/dm_output.h"

#include <algorithm>
#include <map>
#include <set>

namespace lamella::cli {

using mapper::Dependency;
using mapper::device_major;
using mapper::DeviceInfo;

namespace {

std::vector<std::string> split_at_commas(std::string_view text) {
    std::vector<std::string> words;
    while (!text.empty()) {
        const std::size_t comma = std::min(text.find(','), text.size());
        if (comma > 0)
            words.emplace_back(text.substr(0, comma));
        text.remove_prefix(std::min(comma + 1, text.size()));
    }
    return words;
}

std::string attributes(const DeviceInfo& device) {
    return fmt::format("{}{}{}{}", device.live ? 'L' : '-', device.inactive ? 'I' : '-', device.suspended ? 's' : '-',
                       device.read_only ? 'r' : 'w');
}

struct Field {
    std::string_view name;
    std::string_view heading;
    std::size_t width;
    bool right;
    std::string (*value)(const DeviceInfo&);
};
constexpr Field fields[] = {
    {"name", "Name", 16, false, [](const DeviceInfo& device) { return device.name; }},
    {"major", "Maj", 3, true, [](const DeviceInfo&) { return fmt::to_string(device_major); }},
    {"minor", "Min", 3, true, [](const DeviceInfo& device) { return fmt::to_string(device.minor); }},
    {"attr", "Stat", 4, false, attributes},
    {"open", "Open", 4, true, [](const DeviceInfo& device) { return fmt::to_string(device.open_count); }},
    {"segments", "Targ", 4, true, [](const DeviceInfo& device) { return fmt::to_string(device.target_count); }},
    {"events", "Event", 6, true, [](const DeviceInfo& device) { return fmt::to_string(device.event_number); }},
    {"uuid", "UUID", 32, false, [](const DeviceInfo& device) { return device.uuid; }},
};
constexpr std::string_view default_fields = "name,major,minor,attr,open,segments,events,uuid";

// One device's number as a list shows it, "253:4" or "253, 4"; others have none here: their path stands for it.
std::string number(const Dependency& one, std::string_view between) {
    return one.minor ? fmt::format("{}{}{}", device_major, between, *one.minor) : one.name;
}

class Tree {
  public:
    Result<void> set(std::string_view options) {
        for (const std::string& option : split_at_commas(options)) {
            constexpr std::string_view known[] = {"device", "nodevice", "blkdevname", "active",   "open",    "rw",
                                                  "uuid",   "ascii",    "utf",        "inverted", "compact", "notrunc"};
            if (std::ranges::find(known, option) == std::end(known))
                return fail(ErrorKind::usage, "\"{}\" is none of {}", option, fmt::join(known, ", "));
            options_.insert(option);
        }
        return {};
    }

    std::string print(const std::vector<MappedDeviceView>& devices) {
        std::set<std::string> has_parent;
        for (const MappedDeviceView& device : devices)
            mapped_[device.info.name] = &device.info;
        for (const MappedDeviceView& device : devices) {
            for (const Dependency& below : device.dependencies) {
                const std::string name = below.minor ? below.name : " " + below.name;  // no device's name begins with a blank
                if (inverted()) {
                    children_[name].push_back(device.info.name);
                    has_parent.insert(device.info.name);
                } else {
                    children_[device.info.name].push_back(name);
                    has_parent.insert(name);
                }
            }
        }
        std::set<std::string> roots;
        for (const auto& [name, below] : children_)
            roots.insert(name);
        for (const auto& [name, info] : mapped_)
            roots.insert(name);
        std::string text;
        for (const std::string& root : roots)
            if (!has_parent.contains(root))
                add(root, "", text);
        return text;
    }

  private:
    bool has(std::string_view option) const { return options_.contains(std::string(option)); }
    bool inverted() const { return has("inverted"); }

    std::string label(const std::string& name) const {
        const auto mapped = mapped_.find(name);
        const DeviceInfo* info = mapped == mapped_.end() ? nullptr : mapped->second;
        const std::string plain = info != nullptr ? name : name.substr(1);
        std::string text = info != nullptr ? name : "";
        if (has("blkdevname"))
            text += fmt::format(" <{}>", info != nullptr ? fmt::format("dm-{}", info->minor) : plain.substr(plain.rfind('/') + 1));
        if (!has("nodevice"))
            text += fmt::format(" ({})", info != nullptr ? fmt::format("{}:{}", device_major, info->minor) : plain);
        std::vector<std::string> properties;
        if (info != nullptr) {
            if (has("active"))
                properties.emplace_back(info->suspended ? "SUSPENDED" : "ACTIVE");
            if (has("rw"))
                properties.emplace_back(info->read_only ? "RO" : "RW");
            if (has("open"))
                properties.push_back(fmt::to_string(info->open_count));
            if (has("uuid"))
                properties.push_back(info->uuid);
        }
        if (!properties.empty())
            text += fmt::format(" [{}]", fmt::join(properties, ", "));
        return text;
    }

    void add(const std::string& name, const std::string& indent, std::string& text) const {
        text += label(name) + "\n";
        const auto below = children_.find(name);
        if (below == children_.end())
            return;
        const bool ascii = has("ascii");
        for (const std::string& child : below->second) {
            const bool last = &child == &below->second.back();
            text += indent + (last ? ascii ? " `-" : " └─" : ascii ? " |-" : " ├─");
            add(child, indent + (last ? "   " : ascii ? " | " : " │ "), text);
        }
    }

    std::set<std::string> options_;
    std::map<std::string, const DeviceInfo*> mapped_;
    std::map<std::string, std::vector<std::string>> children_;
};

}  // namespace

std::string describe_device(const DeviceInfo& device) {
    std::string text;
    const auto add = [&text](std::string_view what, std::string_view value) { text += fmt::format("{:<19}{}\n", what, value); };
    add("Name:", device.name);
    add("State:", fmt::format("{}{}{}", device.suspended ? "SUSPENDED" : "ACTIVE", device.read_only ? " (READ-ONLY)" : "",
                              device.deferred_remove ? " (DEFERRED REMOVE)" : ""));
    add("Tables present:", device.live && device.inactive ? "LIVE & INACTIVE"
                           : device.live                  ? "LIVE"
                           : device.inactive              ? "INACTIVE"
                                                          : "None");
    add("Open count:", fmt::to_string(device.open_count));
    add("Event number:", fmt::to_string(device.event_number));
    add("Major, minor:", fmt::format("{}, {}", device_major, device.minor));
    add("Number of targets:", fmt::to_string(device.target_count));
    if (!device.uuid.empty())
        text += fmt::format("UUID: {}\n", device.uuid);
    return text + "\n";
}

Result<std::string> device_columns(const std::vector<MappedDeviceView>& devices, const DeviceColumns& columns) {
    std::string wanted(default_fields);
    if (columns.fields.starts_with('+'))
        wanted += "," + columns.fields.substr(1);
    else if (!columns.fields.empty())
        wanted = columns.fields;
    std::vector<const Field*> chosen;
    for (const std::string& name : split_at_commas(wanted)) {
        const auto found = std::ranges::find(fields, name, &Field::name);
        if (found == std::end(fields))
            return fail(ErrorKind::usage, "field \"{}\" is none of {}", name, default_fields);
        chosen.push_back(&*found);
    }
    std::string text;
    if (!columns.headings) {
        for (const MappedDeviceView& device : devices) {
            for (const Field* field : chosen)
                text += (field == chosen.front() ? "" : columns.separator) + field->value(device.info);
            text += "\n";
        }
        return text;
    }
    const auto line = [&](const auto& cell) {
        std::string cells;
        for (const Field* field : chosen) {
            std::size_t width = field->width;
            for (const MappedDeviceView& device : devices)
                width = std::max(width, field->value(device.info).size());
            cells += field->right ? fmt::format(" {:>{}}", cell(*field), width) : fmt::format(" {:<{}}", cell(*field), width);
        }
        cells.erase(0, 1);
        cells.erase(cells.find_last_not_of(' ') + 1);
        text += cells + "\n";
    };
    line([](const Field& field) { return fmt::format("{:<{}}", field.heading, field.right ? field.width : 0); });
    for (const MappedDeviceView& device : devices)
        line([&](const Field& field) { return field.value(device.info); });
    return text;
}

Result<DeviceWord> parse_device_word(std::string_view option) {
    if (option.empty() || option == "devno")
        return DeviceWord::number;
    if (option == "blkdevname")
        return DeviceWord::block_name;
    if (option == "devname")
        return DeviceWord::name;
    return fail(ErrorKind::usage, "\"{}\" is none of devno, blkdevname, devname", option);
}

std::string dependency_line(const MappedDeviceView& device, DeviceWord word, bool with_name) {
    std::string text =
        fmt::format("{}{}{} dependencies\t:", with_name ? device.info.name : "", with_name ? ": " : "", device.dependencies.size());
    for (const Dependency& one : device.dependencies) {
        std::string shown = number(one, ", ");
        if (word == DeviceWord::block_name && one.minor)
            shown = fmt::format("dm-{}", *one.minor);
        else if (word == DeviceWord::name)
            shown = one.name;
        text += fmt::format(" ({})", shown);
    }
    return text + "\n";
}

std::string list_line(const DeviceInfo& device, DeviceWord word, std::string_view between) {
    switch (word) {
    case DeviceWord::number: return fmt::format("{}\t({}{}{})\n", device.name, device_major, between, device.minor);
    case DeviceWord::block_name: return fmt::format("{}\t(dm-{})\n", device.name, device.minor);
    case DeviceWord::name: break;
    }
    return fmt::format("{}\t({})\n", device.name, device.name);
}

Result<std::string> device_tree(const std::vector<MappedDeviceView>& devices, std::string_view options) {
    Tree tree;
    TRY(tree.set(options));
    return tree.print(devices);
}

}  // namespace lamella::cli
