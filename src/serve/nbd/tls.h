// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "base/result.h"

namespace lamella::nbd {

enum class TlsMode {
    none,       // STARTTLS is refused
    selective,  // a client may use TLS
    forced,     // nothing but STARTTLS is answered before TLS is up
};

struct TlsOptions {
    TlsMode mode = TlsMode::none;
    // A folder as qemu, libnbd and nbdkit use: server-cert.pem, server-key.pem, ca-cert.pem, and ca-crl.pem if there is one.
    std::string certificates;
    // Clients must show a certificate that ca-cert.pem has signed. Without this, ca-cert.pem may be missing.
    bool verify_clients = true;
    // A file of pre-shared keys as psktool writes it: USER:HEX in each line. Either this or `certificates`.
    std::string psk_file;
};

// The server's side of TLS, made once and used by every connection. Any thread.
class TlsCredentials {
  public:
    // Refuses key files that others may read.
    static Result<std::shared_ptr<const TlsCredentials>> load(const TlsOptions& options);
    ~TlsCredentials();

    struct Handles;
    const Handles& handles() const { return *handles_; }

  private:
    explicit TlsCredentials(std::unique_ptr<Handles> handles);
    std::unique_ptr<Handles> handles_;
};

}  // namespace lamella::nbd
