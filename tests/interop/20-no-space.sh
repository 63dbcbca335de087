# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# No room: in the pool, and in the file system that the sparse image lies on. Writers get ENOSPC, readers and what was flushed are
# not hurt, and with room again all goes on.
source "$(dirname "$0")/../support/host-side.sh"

cat >fill.py <<'PYTHON'
"""fill.py URI SEED: writes a MiB after another, flushing each, until one fails; prints how many were flushed and the errno."""
import random, sys, nbd
generator = random.Random(int(sys.argv[2]))
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for done in range(h.get_size() >> 20):
    try:
        h.pwrite(generator.randbytes(1 << 20), done << 20)
        h.flush()
    except nbd.Error as error:
        print(done, error.errno)
        break
else:
    print(done + 1, "none")
PYTHON
cat >verify.py <<'PYTHON'
"""verify.py URI SEED COUNT: the first COUNT MiB hold what fill.py flushed there."""
import random, sys, nbd
generator = random.Random(int(sys.argv[2]))
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for number in range(int(sys.argv[3])):
    if h.pread(1 << 20, number << 20) != generator.randbytes(1 << 20):
        sys.exit(f"MiB {number} is not what was flushed")
PYTHON

echo "--- the pool"
group=$SCRATCH/full.img
quietly "$LAMELLA" init "$group" --pool-size 100%FREE --size 120M
quietly "$LAMELLA" create "$group:web" --size 400M
serve "$group"
# A full pool queues writes for a minute first, in the hope of being extended.
read -r flushed reason < <(timeout 150 /usr/bin/python3 fill.py "$(uri web)" "$SEED")
check_equal "a full pool says ENOSPC" ENOSPC "$reason"
check "there was room for most" test "$flushed" -gt 80
check "what was flushed reads back" /usr/bin/python3 verify.py "$(uri web)" "$SEED" "$flushed"
stop_serving

echo "--- the file system below"
truncate -s 150M small.fs
quietly mkfs.ext4 -q -m 0 small.fs
mkdir small
mount -o loop small.fs small
head -c 20M /dev/zero | tr '\0' 'x' >small/ballast
sync -f small
group=$SCRATCH/small/vms.img
quietly "$LAMELLA" init "$group" --pool-size 100%FREE --size 1G
quietly "$LAMELLA" create "$group:web" --size 400M
serve "$group"
read -r flushed reason < <(/usr/bin/python3 fill.py "$(uri web)" "$SEED")
check_equal "a full file system says ENOSPC" ENOSPC "$reason"
check "there was room for most of it" test "$flushed" -gt 60
check "the server still reads what was flushed" /usr/bin/python3 verify.py "$(uri web)" "$SEED" "$flushed"
rm small/ballast
sync -f small
kill_server
serve "$group"
check "it is there after kill -9, with room again" /usr/bin/python3 verify.py "$(uri web)" "$SEED" "$flushed"
check "and writing goes on" qemu-io -f raw -c 'write -P 7 390M 1M' -c flush -c 'read -P 7 390M 1M' "$(uri web)"
stop_serving
