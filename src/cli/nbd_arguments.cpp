// SPDX-License-Identifier: Apache-2.0
#include "cli/nbd_arguments.h"

#include <cstdlib>

#include <unistd.h>

#include "base/files.h"

namespace lamella::cli {

namespace {

bool sockets_are_passed() {
    const char* process = std::getenv("LISTEN_PID");
    return std::getenv("LISTEN_FDS") && process && process == std::to_string(::getpid());
}

}  // namespace

void NbdArguments::define(CommandLine& line) {
    line.option("--listen", "ADDRESS:PORT", addresses, "TCP address to listen on; may be given several times");
    line.option("--tls-certificates", "DIR", certificates, "folder with ca-cert.pem, server-cert.pem, server-key.pem");
    line.option("--tls-psk", "FILE", psk, "file of pre-shared keys, as psktool makes it");
    line.option_choice("--tls", tls, {"none", "allow", "require"},
                       "whether clients must use TLS (default require, with either of the above)");
    line.flag("--tls-any-client", any_client, "clients need no certificate of their own");
    line.flag("--insecure", insecure, "allow other hosts without TLS");
    line.exclude("--tls-certificates", "--tls-psk");
    line.need("--tls-any-client", "--tls-certificates");
}

void NbdArguments::apply(nbd::ServerOptions& options) const {
    options.tcp_addresses = addresses;
    options.socket_activation = sockets_are_passed();
    options.allow_insecure_tcp = insecure;
    if (certificates.empty() && psk.empty())
        return;
    options.tls.certificates = certificates;
    options.tls.psk_file = psk;
    options.tls.verify_clients = !any_client;
    options.tls.mode = tls == "none" ? nbd::TlsMode::none : tls == "allow" ? nbd::TlsMode::selective : nbd::TlsMode::forced;
}

PidFile::~PidFile() {
    if (written_)
        ::unlink(path_.c_str());
}

Result<void> PidFile::write() {
    if (!path_.empty())
        TRY(write_file_aside(path_, fmt::format("{}\n", ::getpid()), 0644));
    written_ = !path_.empty();
    return {};
}

}  // namespace lamella::cli
