// SPDX-License-Identifier: Apache-2.0
#include "cli/serving.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "cli/attachment.h"
#include "cli/end_signals.h"
#include "cli/environment.h"
#include "serve/fuse/fuse_export.h"
#include "serve/nbd/kernel_client.h"
#include "volumes/control.h"
#include "volumes/kernel_group.h"

namespace lamella::cli {

Result<std::vector<std::string>> paths_to_serve(const GroupAddress& group, bool user_space, EngineOptions& engine) {
    if (!group.paths.empty()) {
        if (user_space)
            return fail(ErrorKind::usage, "--user-space is for groups that this host's LVM runs; one on paths is opened here anyway");
        if (!engine.read_only)
            engine.lvm_locks = TRY(lvm_locks(group.paths));
        return group.paths;
    }
    if (!user_space)
        return fail(ErrorKind::unsupported,
                    "group {}: LVM activates the groups of this host; with --user-space lamella opens its disks while LVM has it inactive",
                    group.name);
    HostDisks disks = TRY(TRY(open_kernel_group(group.name))->inactive_disks());
    engine.system_id = std::move(disks.system_id);
    engine.claim_read_only = true;
    engine.lvm_locks = std::move(disks.lock_directory);
    return std::move(disks.paths);
}

class Serving::Implementation {
  public:
    explicit Implementation(ServingOptions options) : options_(std::move(options)) {}
    ~Implementation();

    Result<void> start();
    void wait();
    Result<void> stop();

    GroupInfo opened;
    std::vector<std::string> uris;

  private:
    // A volume as a file, or as a device of the kernel's nbd client.
    struct Attached {
        bool read_only = false;
        std::unique_ptr<Export> volume;
        std::unique_ptr<fuse::FuseExport> file;  // gone before the volume
        std::string device;
        std::unique_ptr<ExportSource> source;  // of this volume alone
        std::unique_ptr<nbd::Server> server;   // nobody but the kernel can connect to it; gone before the source
    };

    Result<void> start_nbd();
    // Control methods, on the control server's thread.
    Result<Json> describe();
    Result<Json> attach(const std::string& volume, bool read_only, bool device_wanted);
    Result<Attached> attach_file(const std::string& volume, bool read_only);
    // Errors: unsupported where there is no nbd client.
    Result<Attached> attach_device(const std::string& volume, bool read_only);
    Result<Json> detach(const std::string& volume);
    // What was unmounted or disconnected from outside.
    void forget_detached();

    ServingOptions options_;
    EndSignals signals_;
    int end_ = -1;  // eventfd: an automatic one has nothing left to do
    std::unique_ptr<EngineGroup> group_;
    std::unique_ptr<ExportSource> nbd_source_;
    std::unique_ptr<ExportSource> attach_source_;
    std::optional<ReactorGroup> reactors_;
    std::unique_ptr<nbd::Server> server_;
    std::map<std::string, Attached> attached_;  // the control thread's, while that runs
    std::unique_ptr<ControlServer> control_;
};

Serving::Implementation::~Implementation() {
    (void)stop();
    if (end_ >= 0)
        ::close(end_);
}

Result<void> Serving::Implementation::start() {
    TRY(signals_.block());
    end_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (end_ < 0)
        return fail_errno("eventfd");

    group_ = TRY(EngineGroup::open(options_.paths, options_.engine));
    opened = TRY(group_->info());
    for (const std::string& name : options_.exports)
        TRY_WITHIN("--export", group_->volume(name));
    TRY(start_nbd());
    attach_source_ = group_->exports();

    ControlHandlers handlers = group_handlers(*group_);
    handlers["serving"] = [this](const Json&, const ReportProgress&) { return describe(); };
    handlers["attach"] = [this](const Json& params, const ReportProgress&) -> Result<Json> {
        return attach(TRY(member<std::string>(params, "volume", "params")), TRY(member<bool>(params, "read_only", "params")),
                      params.contains("device") && TRY(member<bool>(params, "device", "params")));
    };
    handlers["detach"] = [this](const Json& params, const ReportProgress&) -> Result<Json> {
        return detach(TRY(member<std::string>(params, "volume", "params")));
    };
    control_ = TRY(ControlServer::start(options_.paths, std::move(handlers)));
    return {};
}

Result<void> Serving::Implementation::start_nbd() {
    nbd::ServerOptions& options = options_.nbd;
    options.read_only = options.read_only || options_.engine.read_only;
    if (options.unix_sockets.empty() && options.tcp_addresses.empty() && !options.socket_activation)
        options.unix_sockets.push_back(fmt::format("{}/{}.nbd.sock", TRY(make_runtime_directory()), opened.name));
    reactors_.emplace(TRY(ReactorGroup::start(options_.threads)));
    nbd_source_ = group_->exports(options_.exports);
    server_ = TRY(nbd::Server::start(*reactors_, *nbd_source_, options));
    uris = server_->uris();
    return {};
}

void Serving::Implementation::wait() { signals_.wait(end_); }

Result<void> Serving::Implementation::stop() {
    // In this order nobody can ask for anything that is gone already. The first error is the one that tells why.
    Result<void> outcome;
    auto keep = [&](Result<void> result) {
        if (!result && outcome)
            outcome = std::move(result);
    };
    std::unique_ptr<ControlServer> control = std::move(control_);
    control.reset();
    for (auto& [name, attached] : attached_) {
        if (attached.server) {
            // Who still uses it loses it with this process in any case.
            keep(nbd::disconnect_kernel_device(attached.device, nbd::InUse::disconnect));
            keep(attached.server->stop());
            continue;
        }
        std::string mount_point = mount_point_of(opened.name, name);
        if (!attached.file->unmount() && !attached.read_only)
            keep(flush_now(attached.volume->device()));
        attached.file.reset();
        remove_mount_point(mount_point);
    }
    attached_.clear();
    if (server_)
        keep(server_->stop());
    server_.reset();
    reactors_.reset();
    nbd_source_.reset();
    attach_source_.reset();
    if (group_)
        keep(group_->close());
    group_.reset();
    return outcome;
}

Result<Json> Serving::Implementation::describe() {
    forget_detached();
    std::vector<std::string> volumes;
    for (const auto& entry : attached_)
        volumes.push_back(entry.first);
    return Json{{"group", opened.name}, {"process", ::getpid()}, {"automatic", options_.automatic}, {"uris", uris}, {"attached", volumes}};
}

Result<Json> Serving::Implementation::attach(const std::string& volume, bool read_only, bool device_wanted) {
    forget_detached();
    read_only = read_only || options_.engine.read_only;
    auto found = attached_.find(volume);
    if (found != attached_.end() && found->second.read_only != read_only)
        return fail(ErrorKind::refused, "volume {}: attached already, {}", volume, read_only ? "for writing" : "read-only");
    if (found != attached_.end() && found->second.server && !device_wanted)
        return fail(ErrorKind::refused, "volume {}: attached already, as {}", volume, found->second.device);
    if (found == attached_.end()) {
        Result<Attached> attached = fail(ErrorKind::unsupported, "no device wanted");
        if (device_wanted)
            attached = attach_device(volume, read_only);
        if (!attached && attached.error().kind() == ErrorKind::unsupported)
            attached = attach_file(volume, read_only);
        found = attached_.emplace(volume, TRY(std::move(attached))).first;
    }
    const Attached& attached = found->second;
    return Json{{"volume", volume},
                {"path", attached.file ? Json(attached.file->path()) : Json()},
                {"device", attached.server ? Json(attached.device) : Json()},
                {"read_only", attached.read_only}};
}

Result<Serving::Implementation::Attached> Serving::Implementation::attach_file(const std::string& volume, bool read_only) {
    Attached attached;
    attached.volume = TRY(attach_source_->open(volume, read_only));
    attached.read_only = read_only || attached.volume->read_only();
    std::string mount_point = TRY(make_mount_point(opened.name, volume));
    Result<std::unique_ptr<fuse::FuseExport>> file =
        fuse::FuseExport::mount(attached.volume->device(), {mount_point, volume, attached.read_only});
    if (!file) {
        remove_mount_point(mount_point);
        return std::unexpected(file.error());
    }
    attached.file = std::move(*file);
    return attached;
}

Result<Serving::Implementation::Attached> Serving::Implementation::attach_device(const std::string& volume, bool read_only) {
    std::string identifier = TRY(nbd_identifier(options_.paths.front(), volume));
    // This process alone serves the group: these are of one that is dead.
    for (const std::string& device : TRY(nbd_devices_of(options_.paths, volume)))
        TRY(remove_nbd_device(device));
    Attached attached;
    attached.read_only = read_only || TRY(group_->volume(volume)).read_only;
    attached.source = group_->exports({volume});
    nbd::ServerOptions options;
    options.read_only = attached.read_only;
    attached.server = TRY(nbd::Server::start(*reactors_, *attached.source, options));
    attached.device =
        TRY(nbd::connect_kernel_device(*attached.server, volume, {identifier, attached.read_only, std::clamp(reactors_->size(), 2u, 4u)}));
    return attached;
}

Result<Json> Serving::Implementation::detach(const std::string& volume) {
    forget_detached();
    auto found = attached_.find(volume);
    if (found != attached_.end()) {
        Attached& attached = found->second;
        if (attached.server) {
            TRY(remove_nbd_device(attached.device));
            Result<void> stopped = attached.server->stop();
            attached_.erase(found);
            TRY(std::move(stopped));
        } else {
            TRY(attached.file->unmount());
            remove_mount_point(mount_point_of(opened.name, volume));
            attached_.erase(found);
        }
    }
    bool ending = options_.automatic && attached_.empty() && server_->connections() == 0;
    if (ending)
        ::eventfd_write(end_, 1);
    return Json{{"ending", ending}};
}

void Serving::Implementation::forget_detached() {
    for (auto entry = attached_.begin(); entry != attached_.end();) {
        const Attached& attached = entry->second;
        bool lives = true;
        if (attached.file) {
            lives = attached.file->mounted();
        } else if (auto devices = nbd_devices_of(options_.paths, entry->first)) {
            lives = std::ranges::find(*devices, attached.device) != devices->end();
        }
        if (lives) {
            ++entry;
            continue;
        }
        std::string mount_point = mount_point_of(opened.name, entry->first);
        entry = attached_.erase(entry);
        remove_mount_point(mount_point);
    }
}

Serving::Serving(std::unique_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}
Serving::~Serving() = default;

Result<std::unique_ptr<Serving>> Serving::start(ServingOptions options) {
    auto implementation = std::make_unique<Implementation>(std::move(options));
    TRY(implementation->start());
    return std::unique_ptr<Serving>(new Serving(std::move(implementation)));
}

const std::string& Serving::group_name() const { return implementation_->opened.name; }

const std::vector<std::string>& Serving::uris() const { return implementation_->uris; }

const GroupInfo& Serving::opened() const { return implementation_->opened; }

void Serving::wait() { implementation_->wait(); }

Result<void> Serving::stop() { return implementation_->stop(); }

}  // namespace lamella::cli
