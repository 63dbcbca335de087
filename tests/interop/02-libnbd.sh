# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# libnbd's tools and its Python module: the list of exports, flags, contexts, errors, copies.
source "$(dirname "$0")/../support/host-side.sh"

group=$SCRATCH/vms.img
check "init" "$LAMELLA" init "$group" --size 1G --pool-size 80%VG --chunk-size 64K
for volume in web db; do quietly "$LAMELLA" create "$group:$volume" --size 100M; done
quietly "$LAMELLA" create "$group:flat" --size 20M --linear
serve "$group"

check_equal "nbdinfo lists the volumes" "db flat web" "$(exports | tr '\n' ' ' | sed 's/ $//')"
check_equal "nbdinfo tells sizes" 104857600 "$(nbdinfo --size "$(uri web)")"
check_status 1 "an export that isn't there is refused" nbdinfo --size "$(uri nobody)"

cat >flags.py <<'PYTHON'
import errno, os, sys, nbd
uri = sys.argv[1]
def expect(what, holds):
    print(("ok: " if holds else "FAILED: ") + what)
    if not holds:
        sys.exit(1)

h = nbd.NBD()
h.add_meta_context("base:allocation")
h.add_meta_context("qemu:allocation-depth")
h.connect_uri(uri)
expect("structured replies are agreed on", h.get_structured_replies_negotiated())
expect("flush, FUA, trim, zero, fast zero, cache, DF are offered",
       all([h.can_flush(), h.can_fua(), h.can_trim(), h.can_zero(), h.can_fast_zero(), h.can_cache(), h.can_df()]))
expect("several connections may be used", h.can_multi_conn())
expect("both contexts are agreed on", h.can_meta_context("base:allocation") and h.can_meta_context("qemu:allocation-depth"))
preferred = h.get_block_size(nbd.SIZE_PREFERRED)
expect("the preferred size is a power of two of 4 KiB or more", preferred >= 4096 and preferred & (preferred - 1) == 0)

def extents(context, offset=0, length=4 << 20):
    found = []
    h.block_status(length, offset, lambda name, start, entries, error: found.extend(entries) if name == context else None)
    return list(zip(found[::2], found[1::2]))

h.pwrite(b"a" * 65536, 1 << 20)
h.pwrite(b"b" * 100, (2 << 20) + 17)
h.flush()
allocation = extents("base:allocation")
expect("holes and data alternate at chunks", [flags & 1 for _, flags in allocation][:4] == [1, 0, 1, 0] and allocation[0][0] == 1 << 20 and allocation[1][0] == 65536)
expect("a hole reads as zeros", all(flags & 3 == 3 for _, flags in allocation if flags & 1))
expect("the rest of a new chunk is zeros", h.pread(65536, 2 << 20) == b"\0" * 17 + b"b" * 100 + b"\0" * (65536 - 117))
expect("bytes at odd places", h.pread(100, (2 << 20) + 17) == b"b" * 100)

def refused(number, action):
    try:
        action()
    except nbd.Error as error:
        return error.errnum == number
    return False

h.set_strict_mode(0)
size = h.get_size()
expect("a read beyond the end is EINVAL", refused(errno.EINVAL, lambda: h.pread(512, size)))
expect("a write beyond the end is ENOSPC", refused(errno.ENOSPC, lambda: h.pwrite(b"x" * 512, size - 256)) )
expect("a trim beyond the end is EINVAL", refused(errno.EINVAL, lambda: h.trim(1 << 20, size)))
expect("the connection lives on", h.pread(65536, 1 << 20) == b"a" * 65536)
big = os.urandom(32 << 20)
h.pwrite(big, 8 << 20, nbd.CMD_FLAG_FUA)
expect("32 MiB in one request", h.pread(32 << 20, 8 << 20) == big)
h.zero(1 << 20, 9 << 20)
expect("zeroes", h.pread(1 << 20, 9 << 20) == bytes(1 << 20) and h.pread(4096, 10 << 20) == big[2 << 20:(2 << 20) + 4096])
h.zero(1 << 20, 11 << 20, nbd.CMD_FLAG_NO_HOLE)
expect("zeroes that stay allocated", h.pread(1 << 20, 11 << 20) == bytes(1 << 20) and not any(flags & 1 for _, flags in extents("base:allocation", 11 << 20, 1 << 20)))
h.trim(2 << 20, 12 << 20)
expect("a trimmed range is a hole", all(flags & 1 for _, flags in extents("base:allocation", 12 << 20, 2 << 20)))
depth = extents("qemu:allocation-depth", 8 << 20, 1 << 20)
expect("a volume's own chunks have depth 1", all(flags == 1 for _, flags in depth))
h.shutdown()
PYTHON
/usr/bin/python3 flags.py "$(uri web)" || fail "libnbd in Python"

check "snapshot" "$LAMELLA" snapshot "$group:web" --name web-s1
check "shared chunks have depth 2" bash -c "nbdinfo --map=qemu:allocation-depth '$(uri web)' | awk '\$3 == 2 { found = 1 } END { exit !found }'"

head -c 60M /dev/urandom >random.raw
truncate -s 100M random.raw
check "nbdcopy in, many requests in flight" nbdcopy --flush --requests=64 random.raw "$(uri db)"
nbdcopy "$(uri db)" out.raw
check "nbdcopy out is the same" cmp random.raw out.raw
check "nbdcopy from volume to volume" nbdcopy "$(uri db)" "$(uri web)"
check "and it is the same" bash -c "nbdcopy '$(uri web)' - | cmp - random.raw"
check_status 1 "the snapshot isn't" bash -c "nbdcopy '$(uri web-s1)' - | cmp -s - random.raw"

# A client that goes away in the middle of a request, or says nonsense, takes nobody along.
check "half a client" /usr/bin/python3 - "$socket" <<'PYTHON'
import socket, sys, os
for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), bytes(4) + b"IHAVEOPT" + b"\0\0\0\7" + b"\xff" * 4 + b"x" * 100):
    for _ in range(20):
        client = socket.socket(socket.AF_UNIX)
        client.connect(sys.argv[1])
        try:
            client.sendall(garbage)
        except OSError:
            pass
        client.close()
PYTHON
check "the others are served" bash -c "nbdcopy '$(uri web)' - | cmp - random.raw"
stop_serving
