# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# TLS with the files that qemu, nbdkit and libnbd use: pre-shared keys and certificates. Clients without them are refused.
source "$(dirname "$0")/../support/host-side.sh"

group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --pool-size 100%FREE --size 500M
quietly "$LAMELLA" create "$group:web" --size 100M
head -c 3M /dev/urandom >random.raw
truncate -s 100M random.raw

psktool --username=alice --pskfile=keys.psk >/dev/null 2>&1
psktool --username=alice --pskfile=wrong.psk >/dev/null 2>&1
serve "$group" --tls-psk keys.psk
check "nbdcopy with the key" nbdcopy --flush random.raw "nbds+unix://alice@/web?socket=$socket&tls-psk-file=keys.psk"
check "qemu-img with the key" qemu-img compare --object tls-creds-psk,id=psk,dir="$SCRATCH",endpoint=client,username=alice \
    --image-opts driver=file,filename=random.raw driver=nbd,export=web,server.type=unix,server.path="$socket",tls-creds=psk
check_status 1 "another key is refused" nbdinfo --size "nbds+unix://alice@/web?socket=$socket&tls-psk-file=wrong.psk"
check_status 1 "another user is refused" nbdinfo --size "nbds+unix://mallory@/web?socket=$socket&tls-psk-file=keys.psk"
check_status 1 "no TLS is refused" nbdinfo --size "nbd+unix:///web?socket=$socket"
check_status 1 "also a list, without TLS" nbdinfo --list "nbd+unix:///?socket=$socket"
stop_serving

# certificate FOLDER ROLE: signed by the authority in FOLDER, for 127.0.0.1
authority() {
    mkdir -p "$1"
    certtool --generate-privkey --key-type=ecdsa --outfile "$1/ca-key.pem"
    printf 'cn = authority of %s\nca\ncert_signing_key\nexpiration_days = 2\n' "$1" >template
    certtool --generate-self-signed --load-privkey "$1/ca-key.pem" --template template --outfile "$1/ca-cert.pem"
}
certificate() {
    certtool --generate-privkey --key-type=ecdsa --outfile "$1/$2-key.pem"
    printf 'cn = localhost\nip_address = 127.0.0.1\ntls_www_%s\nsigning_key\nencryption_key\nexpiration_days = 2\n' "$2" >template
    certtool --generate-certificate --load-privkey "$1/$2-key.pem" --load-ca-certificate "$1/ca-cert.pem" \
        --load-ca-privkey "$1/ca-key.pem" --template template --outfile "$1/$2-cert.pem"
}
for folder in ours theirs; do
    quietly authority $folder
    for role in server client; do quietly certificate $folder $role; done
done
# Over TCP: a name of a host is what a client checks a certificate against.
port=$(free_port)
serve "$group" --tls-certificates ours --listen "127.0.0.1:$port"
check "nbdcopy with certificates" bash -c "nbdcopy 'nbds://127.0.0.1:$port/web?tls-certificates=ours' - | cmp - random.raw"
check_status 1 "a client that trusts another authority goes away" nbdinfo --size "nbds://127.0.0.1:$port/web?tls-certificates=theirs"
check_status 1 "no TLS is refused here too" nbdinfo --size "nbd://127.0.0.1:$port/web"
check_status 1 "and on the other socket" nbdinfo --size "nbd+unix:///web?socket=$socket"
check "the server is still well" bash -c "nbdcopy 'nbds://127.0.0.1:$port/web?tls-certificates=ours' - | cmp - random.raw"
stop_serving
