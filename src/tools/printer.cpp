// SPDX-License-Identifier: Apache-2.0
#include "tools/printer.h"

#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

namespace lamella::tools {

namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 20;
// More than the longest line takes: five numbers, a uuid.
constexpr std::size_t line_bytes = 512;

// Text that grows until it is worth a system call.
class Text {
  public:
    explicit Text(TextSink& sink) : sink_(sink), bytes_(std::make_unique_for_overwrite<char[]>(piece_bytes)) {}

    // Before a line.
    Result<void> make_room() {
        if (piece_bytes - size_ < line_bytes)
            TRY(flush());
        return {};
    }
    Text& operator<<(std::string_view text) {
        std::memcpy(bytes_.get() + size_, text.data(), text.size());
        size_ += text.size();
        return *this;
    }
    Text& operator<<(std::uint64_t number) {
        char* begin = bytes_.get() + size_;
        size_ += static_cast<std::size_t>(std::to_chars(begin, begin + 20, number).ptr - begin);
        return *this;
    }
    Result<void> flush() { return sink_.write({bytes_.get(), std::exchange(size_, 0)}); }

  private:
    TextSink& sink_;
    std::unique_ptr<char[]> bytes_;
    std::size_t size_ = 0;
};

bool continues(const Mapping& run, const Mapping& next) {
    return run.virtual_begin + run.length == next.virtual_begin && run.data_begin + run.length == next.data_begin && run.time == next.time;
}

// Puts runs together; the forms say how a line looks. `Form` has a static function for each kind of line.
template <typename Form>
class Printer final : public PoolVisitor {
  public:
    explicit Printer(TextSink& sink) : text_(sink) {}

    Result<void> superblock_begin(const PoolHeader& header) override {
        TRY(text_.make_room());
        Form::superblock_begin(text_, header);
        return text_.flush();
    }
    Result<void> superblock_end() override {
        TRY(text_.make_room());
        Form::superblock_end(text_);
        return text_.flush();
    }
    Result<void> definition_begin(DefinitionId id) override {
        TRY(text_.make_room());
        Form::definition_begin(text_, id.value());
        return {};
    }
    Result<void> definition_end() override {
        TRY(end_run());
        Form::definition_end(text_);
        return {};
    }
    Result<void> device_begin(const DeviceHeader& header) override {
        TRY(text_.make_room());
        Form::device_begin(text_, header);
        return {};
    }
    Result<void> device_end() override {
        TRY(end_run());
        Form::device_end(text_);
        return {};
    }
    Result<void> map(std::span<const Mapping> mappings) override {
        Mapping run = run_;
        for (const Mapping& mapping : mappings) {
            if (continues(run, mapping) && run.length != 0) {
                run.length += mapping.length;
                continue;
            }
            if (run.length != 0) {
                TRY(text_.make_room());
                Form::map(text_, run);
            }
            run = mapping;
        }
        run_ = run;
        return {};
    }
    Result<void> reference(DefinitionId id) override {
        TRY(end_run());
        Form::reference(text_, id.value());
        return {};
    }

  private:
    // Leaves room for another line.
    Result<void> end_run() {
        TRY(text_.make_room());
        if (run_.length != 0)
            Form::map(text_, run_);
        run_ = {};
        return text_.make_room();
    }

    Text text_;
    Mapping run_;  // length 0: none
};

struct XmlForm {
    static void superblock_begin(Text& text, const PoolHeader& header) {
        text << "<superblock uuid=\"" << std::string_view(header.uuid) << "\" time=\"" << header.time << "\" transaction=\""
             << header.transaction_id << "\" flags=\"" << header.flags << "\" version=\"" << header.version << "\" data_block_size=\""
             << header.data_block_sectors << "\" nr_data_blocks=\"" << header.data_blocks << "\">\n";
    }
    static void superblock_end(Text& text) { text << "</superblock>\n"; }
    static void definition_begin(Text& text, std::uint64_t id) { text << "  <def name=\"" << id << "\">\n"; }
    static void definition_end(Text& text) { text << "  </def>\n"; }
    static void device_begin(Text& text, const DeviceHeader& header) {
        text << "  <device dev_id=\"" << header.id.value() << "\" mapped_blocks=\"" << header.mapped_blocks << "\" transaction=\""
             << header.transaction_id << "\" creation_time=\"" << header.creation_time << "\" snap_time=\"" << header.snapshotted_time
             << "\">\n";
    }
    static void device_end(Text& text) { text << "  </device>\n"; }
    static void map(Text& text, const Mapping& mapping) {
        if (mapping.length == 1)
            text << "    <single_mapping origin_block=\"" << mapping.virtual_begin.value() << "\" data_block=\""
                 << mapping.data_begin.value() << "\" time=\"" << mapping.time << "\"/>\n";
        else
            text << "    <range_mapping origin_begin=\"" << mapping.virtual_begin.value() << "\" data_begin=\""
                 << mapping.data_begin.value() << "\" length=\"" << mapping.length << "\" time=\"" << mapping.time << "\"/>\n";
    }
    static void reference(Text& text, std::uint64_t id) { text << "    <ref name=\"" << id << "\"/>\n"; }
};

struct JsonForm {
    static void superblock_begin(Text& text, const PoolHeader& header) {
        text << "{\"superblock\":{\"uuid\":\"" << std::string_view(header.uuid) << "\",\"time\":" << header.time
             << ",\"transaction\":" << header.transaction_id << ",\"flags\":" << header.flags << ",\"version\":" << header.version
             << ",\"data_block_size\":" << header.data_block_sectors << ",\"nr_data_blocks\":" << header.data_blocks << "}}\n";
    }
    static void superblock_end(Text& text) { text << "{\"end\":true}\n"; }
    static void definition_begin(Text& text, std::uint64_t id) { text << "{\"definition\":" << id << "}\n"; }
    static void definition_end(Text&) {}
    static void device_begin(Text& text, const DeviceHeader& header) {
        text << "{\"device\":{\"dev_id\":" << header.id.value() << ",\"mapped_blocks\":" << header.mapped_blocks
             << ",\"transaction\":" << header.transaction_id << ",\"creation_time\":" << header.creation_time
             << ",\"snap_time\":" << header.snapshotted_time << "}}\n";
    }
    static void device_end(Text&) {}
    static void map(Text& text, const Mapping& mapping) {
        text << "{\"map\":[" << mapping.virtual_begin.value() << "," << mapping.data_begin.value() << "," << mapping.length << ","
             << mapping.time << "]}\n";
    }
    static void reference(Text& text, std::uint64_t id) { text << "{\"reference\":" << id << "}\n"; }
};

struct HumanForm {
    static void superblock_begin(Text& text, const PoolHeader& header) {
        text << "begin superblock: \"" << std::string_view(header.uuid) << "\", " << header.time << ", " << header.transaction_id << ", "
             << header.flags << ", " << header.version << ", " << header.data_block_sectors << ", " << header.data_blocks << "\n";
    }
    static void superblock_end(Text& text) { text << "end superblock\n"; }
    static void definition_begin(Text& text, std::uint64_t id) { text << "def: " << id << "\n"; }
    static void definition_end(Text& text) { text << "\n"; }
    static void device_begin(Text& text, const DeviceHeader& header) {
        text << "device: " << header.id.value() << "\nmapped_blocks: " << header.mapped_blocks << "\ntransaction: " << header.transaction_id
             << "\ncreation time: " << header.creation_time << "\nsnap time: " << header.snapshotted_time << "\n";
    }
    static void device_end(Text& text) { text << "\n"; }
    static void map(Text& text, const Mapping& mapping) {
        std::uint64_t first = mapping.virtual_begin.value();
        std::uint64_t data = mapping.data_begin.value();
        if (mapping.length == 1)
            text << "    " << first << " -> " << data;
        else
            text << "    (" << first << ".." << first + mapping.length - 1 << ") -> (" << data << ".." << data + mapping.length - 1 << ")";
        text << ", " << mapping.time << "\n";
    }
    static void reference(Text& text, std::uint64_t id) { text << "    ref: " << id << "\n"; }
};

}  // namespace

std::unique_ptr<PoolVisitor> make_printer(DumpFormat format, TextSink& sink) {
    switch (format) {
    case DumpFormat::xml: return std::make_unique<Printer<XmlForm>>(sink);
    case DumpFormat::json: return std::make_unique<Printer<JsonForm>>(sink);
    case DumpFormat::human: return std::make_unique<Printer<HumanForm>>(sink);
    }
    __builtin_unreachable();
}

}  // namespace lamella::tools
