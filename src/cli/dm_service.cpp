// SPDX-License-Identifier: Apache-2.0
#include "cli/dm_service.h"

#include <bit>
#include <filesystem>
#include <fstream>

#include "cli/dm_control.h"

namespace lamella::cli {

namespace {

class MappedExport final : public Export {
  public:
    explicit MappedExport(std::unique_ptr<mapper::OpenDevice> device) : device_(std::move(device)) {}
    BlockDevice& device() override { return device_->device(); }
    bool read_only() const override { return device_->device().traits().read_only; }
    // A suspended device would keep new clients of all others out. What is left is flushed at the end of the service.
    bool flush_at_end() const override { return false; }
    std::uint32_t preferred_block_size() const override {
        return static_cast<std::uint32_t>(std::bit_floor(std::min<std::uint64_t>(device_->device().traits().preferred_io, 1 << 25)));
    }

  private:
    std::unique_ptr<mapper::OpenDevice> device_;
};

class MapperExports final : public ExportSource {
  public:
    explicit MapperExports(mapper::Mapper& mapper) : mapper_(mapper) {}
    std::vector<ExportInfo> list() override {
        std::vector<ExportInfo> all;
        for (const mapper::DeviceInfo& info : mapper_.devices())
            if (info.live && !info.deferred_remove)
                all.push_back({info.name, fmt::format("{}:{}", mapper::device_major, info.minor), info.size});
        return all;
    }
    Result<std::unique_ptr<Export>> open(std::string_view name, bool read_only) override {
        (void)read_only;  // the server refuses writes then
        if (!TRY(mapper_.info(name)).live)
            return fail(ErrorKind::refused, "device {}: it has no live table", name);
        return std::make_unique<MappedExport>(TRY(mapper_.open(name)));
    }

  private:
    mapper::Mapper& mapper_;
};

Result<std::string> read_table_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file)
        return fail_errno(path);
    std::string text(mapper::max_table_text + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (file.bad())
        return fail_errno(path, EIO);
    text.resize(static_cast<std::size_t>(file.gcount()));
    return text;
}

}  // namespace

Result<std::unique_ptr<MapperService>> MapperService::start(MapperServiceOptions options) {
    std::unique_ptr<MapperService> service(new MapperService(std::move(options)));
    TRY(service->start_here());
    return service;
}

MapperService::~MapperService() { (void)stop(); }

Result<void> MapperService::start_here() {
    if (options_.socket.empty()) {
        TRY(make_runtime_directory());
        options_.socket = default_mapper_socket();
    }
    TRY(load_files());
    nbd::ServerOptions& nbd = options_.nbd;
    if (nbd.unix_sockets.empty() && nbd.tcp_addresses.empty() && !nbd.socket_activation)
        nbd.unix_sockets.push_back(options_.socket + ".nbd");
    reactors_.emplace(TRY(ReactorGroup::start(options_.threads)));
    source_ = std::make_unique<MapperExports>(mapper_);
    server_ = TRY(nbd::Server::start(*reactors_, *source_, nbd));
    control_ = TRY(ControlServer::start_at(options_.socket, mapper_handlers(mapper_), mapper_waiting_handlers(mapper_)));
    mapper_.set_event_handler([this] { control_->wake(); });
    control_->wake();  // for what has happened before
    return {};
}

Result<void> MapperService::load_files() {
    struct Table {
        std::string path;
        mapper::NamedTable table;
    };
    std::vector<Table> tables;
    for (const std::string& path : options_.table_files) {
        const std::string stem = std::filesystem::path(path).stem().string();
        const std::string text = TRY(read_table_file(path));
        for (mapper::NamedTable& table : TRY_WITHIN(path, mapper::split_table_file(text, stem))) {
            TRY_WITHIN(path, mapper_.create(table.name, ""));
            tables.push_back({path, std::move(table)});
        }
    }
    std::error_code error;
    const std::string directory = std::filesystem::current_path(error).string();
    // A table may stand on a device whose table comes later: as long as one of them can be made live, the rest is tried again.
    while (!tables.empty()) {
        std::optional<Error> first;
        const std::size_t before = tables.size();
        std::erase_if(tables, [&](const Table& one) {
            const auto live = [&]() -> Result<void> {
                TRY(mapper_.load(one.table.name, one.table.text, directory, false));
                TRY(mapper_.resume(one.table.name));
                return {};
            };
            const Result<void> made = live();
            if (!made && !first)
                first = made.error().within(one.path);
            return made.has_value();
        });
        if (tables.size() == before)
            return std::unexpected(*first);
    }
    return {};
}

Result<void> MapperService::stop() {
    mapper_.set_event_handler({});
    control_.reset();
    mapper_.resume_all();
    Result<void> stopped;
    if (server_ != nullptr)
        stopped = server_->stop();
    server_.reset();
    source_.reset();
    reactors_.reset();
    for (const mapper::DeviceInfo& info : mapper_.devices()) {
        Result<std::unique_ptr<mapper::OpenDevice>> device = mapper_.open(info.name);
        if (!device || !info.live)
            continue;
        if (Result<void> flushed = flush_now((*device)->device()); !flushed && stopped)
            stopped = std::unexpected(flushed.error().within(info.name));
    }
    return stopped;
}

}  // namespace lamella::cli
