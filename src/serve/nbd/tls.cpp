// SPDX-License-Identifier: Apache-2.0
#include "serve/nbd/tls.h"

#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve/nbd/transport.h"

namespace lamella::nbd {

struct TlsCredentials::Handles {
    gnutls_certificate_credentials_t certificates = nullptr;
    gnutls_psk_server_credentials_t psk = nullptr;
    gnutls_priority_t priorities = nullptr;
    bool verify_clients = false;

    ~Handles() {
        if (priorities != nullptr)
            gnutls_priority_deinit(priorities);
        if (certificates != nullptr)
            gnutls_certificate_free_credentials(certificates);
        if (psk != nullptr)
            gnutls_psk_free_server_credentials(psk);
    }
};

namespace {

std::unexpected<Error> fail_tls(const std::string& what, int code) {
    return fail(ErrorKind::failed, "{}: {}", what, gnutls_strerror(code));
}

Result<void> check_readable(const std::string& path, bool secret) {
    struct stat status;
    if (::stat(path.c_str(), &status) != 0)
        return fail_errno(path);
    if (secret && (status.st_mode & S_IRWXO) != 0)
        return fail(ErrorKind::refused, "{}: a key that every user of this host may read; run chmod o= on it", path);
    if (::access(path.c_str(), R_OK) != 0)
        return fail_errno(path);
    return {};
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

class TlsTransport final : public Transport {
  public:
    TlsTransport(gnutls_session_t session, std::shared_ptr<const TlsCredentials> credentials)
        : session_(session), credentials_(std::move(credentials)) {}
    ~TlsTransport() override { gnutls_deinit(session_); }

    int handshake(bool& wants_to_send) override {
        int code;
        do {
            code = gnutls_handshake(session_);
        } while (code == GNUTLS_E_INTERRUPTED || (code < 0 && code != GNUTLS_E_AGAIN && gnutls_error_is_fatal(code) == 0));
        wants_to_send = gnutls_record_get_direction(session_) == 1;
        return code == GNUTLS_E_SUCCESS ? 0 : code == GNUTLS_E_AGAIN ? -EAGAIN : -EPROTO;
    }

    ssize_t receive(std::span<const iovec> into) override {
        ssize_t total = 0;
        for (const iovec& vector : into) {
            for (std::size_t filled = 0; filled < vector.iov_len;) {
                const ssize_t got =
                    gnutls_record_recv(session_, static_cast<std::byte*>(vector.iov_base) + filled, vector.iov_len - filled);
                if (got > 0) {
                    filled += static_cast<std::size_t>(got);
                    total += got;
                } else if (got == GNUTLS_E_INTERRUPTED) {
                    continue;
                } else if (total > 0 || got == GNUTLS_E_AGAIN) {
                    return total > 0 ? total : -EAGAIN;  // an error shows again in the next call
                } else if (got == 0 || got == GNUTLS_E_PREMATURE_TERMINATION) {
                    return 0;
                } else {
                    return got == GNUTLS_E_PULL_ERROR ? -ECONNRESET : -EPROTO;
                }
            }
        }
        return total;
    }

    ssize_t send(std::span<const iovec> from) override {
        ssize_t total = 0;
        std::size_t vector = 0;
        std::size_t within = 0;
        while (true) {
            ssize_t sent;
            if (unsent_ > 0) {
                sent = gnutls_record_send(session_, nullptr, 0);  // goes on with the record that it holds
            } else {
                const std::size_t size = gather(from, vector, within);
                if (size == 0)
                    return total;
                sent = gnutls_record_send(session_, record_.data(), size);
                unsent_ = size;
            }
            if (sent == GNUTLS_E_INTERRUPTED)
                continue;
            if (sent == GNUTLS_E_AGAIN)
                return total > 0 ? total : -EAGAIN;
            if (sent <= 0)
                return sent == GNUTLS_E_PUSH_ERROR ? -EPIPE : -EPROTO;
            total += sent;
            unsent_ = 0;
            skip(from, vector, within, static_cast<std::size_t>(sent));
        }
    }

    bool holds_bytes_back() const override { return true; }

    void finish() override { gnutls_bye(session_, GNUTLS_SHUT_WR); }

  private:
    // Small replies share a record.
    std::size_t gather(std::span<const iovec> from, std::size_t vector, std::size_t within) {
        std::size_t size = 0;
        for (; vector < from.size() && size < record_.size(); ++vector, within = 0) {
            const std::size_t part = std::min(from[vector].iov_len - within, record_.size() - size);
            std::memcpy(record_.data() + size, static_cast<const std::byte*>(from[vector].iov_base) + within, part);
            size += part;
        }
        return size;
    }

    static void skip(std::span<const iovec> from, std::size_t& vector, std::size_t& within, std::size_t bytes) {
        while (bytes > 0) {
            const std::size_t part = std::min(from[vector].iov_len - within, bytes);
            bytes -= part;
            within += part;
            if (within == from[vector].iov_len) {
                ++vector;
                within = 0;
            }
        }
    }

    gnutls_session_t session_;
    std::shared_ptr<const TlsCredentials> credentials_;
    std::size_t unsent_ = 0;  // of a record that the socket didn't take whole
    std::array<std::byte, 16384> record_;
};

}  // namespace

TlsCredentials::TlsCredentials(std::unique_ptr<Handles> handles) : handles_(std::move(handles)) {}
TlsCredentials::~TlsCredentials() = default;

Result<std::shared_ptr<const TlsCredentials>> TlsCredentials::load(const TlsOptions& options) {
    if (options.certificates.empty() == options.psk_file.empty())
        return fail(ErrorKind::usage, "TLS needs either a folder of certificates or a file of pre-shared keys");
    auto handles = std::make_unique<Handles>();
    int code = 0;
    if (!options.certificates.empty()) {
        const auto in_folder = [&](const char* name) { return options.certificates + "/" + name; };
        const std::string certificate = in_folder("server-cert.pem");
        const std::string key = in_folder("server-key.pem");
        const std::string authority = in_folder("ca-cert.pem");
        const std::string revoked = in_folder("ca-crl.pem");
        TRY(check_readable(certificate, false));
        TRY(check_readable(key, true));
        if ((code = gnutls_certificate_allocate_credentials(&handles->certificates)) < 0)
            return fail_tls("TLS", code);
        if ((code = gnutls_certificate_set_x509_key_file(handles->certificates, certificate.c_str(), key.c_str(), GNUTLS_X509_FMT_PEM)) < 0)
            return fail_tls(certificate + " with " + key, code);
        if (options.verify_clients) {
            TRY_WITHIN("verifying clients", check_readable(authority, false));
            if ((code = gnutls_certificate_set_x509_trust_file(handles->certificates, authority.c_str(), GNUTLS_X509_FMT_PEM)) < 0)
                return fail_tls(authority, code);
            if (code == 0)
                return fail(ErrorKind::damaged, "{}: no certificate in it", authority);
            if (exists(revoked) &&
                (code = gnutls_certificate_set_x509_crl_file(handles->certificates, revoked.c_str(), GNUTLS_X509_FMT_PEM)) < 0)
                return fail_tls(revoked, code);
            handles->verify_clients = true;
        }
        gnutls_certificate_set_known_dh_params(handles->certificates, GNUTLS_SEC_PARAM_MEDIUM);
    } else {
        TRY(check_readable(options.psk_file, true));
        if ((code = gnutls_psk_allocate_server_credentials(&handles->psk)) < 0)
            return fail_tls("TLS", code);
        if ((code = gnutls_psk_set_server_credentials_file(handles->psk, options.psk_file.c_str())) < 0)
            return fail_tls(options.psk_file, code);
        gnutls_psk_set_server_known_dh_params(handles->psk, GNUTLS_SEC_PARAM_MEDIUM);
    }
    // The host's defaults, TLS 1.2 at least; pre-shared keys aren't among the defaults.
    const char* const priorities =
        options.psk_file.empty() ? "-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2" : "-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:+ECDHE-PSK:+DHE-PSK:+PSK";
    code = gnutls_priority_init2(&handles->priorities, priorities, nullptr, GNUTLS_PRIORITY_INIT_DEF_APPEND);
    if (code < 0)
        return fail_tls("TLS priorities", code);
    return std::shared_ptr<const TlsCredentials>(new TlsCredentials(std::move(handles)));
}

Result<std::unique_ptr<Transport>> make_tls_transport(int fd, std::shared_ptr<const TlsCredentials> credentials) {
    const TlsCredentials::Handles& handles = credentials->handles();
    gnutls_session_t session;
    int code = gnutls_init(&session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    if (code < 0)
        return fail_tls("TLS", code);
    auto transport = std::make_unique<TlsTransport>(session, std::move(credentials));
    code = gnutls_priority_set(session, handles.priorities);
    if (code >= 0 && handles.certificates != nullptr)
        code = gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, handles.certificates);
    if (code >= 0 && handles.psk != nullptr)
        code = gnutls_credentials_set(session, GNUTLS_CRD_PSK, handles.psk);
    if (code < 0)
        return fail_tls("TLS", code);
    if (handles.verify_clients) {
        gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
        gnutls_session_set_verify_cert(session, nullptr, 0);
    }
    gnutls_handshake_set_timeout(session, GNUTLS_INDEFINITE_TIMEOUT);  // the connection has its own
    gnutls_transport_set_int(session, fd);
    return transport;
}

}  // namespace lamella::nbd
