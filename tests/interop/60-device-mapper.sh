# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# lamella dm run with real clients: tables are suspended, reloaded and resumed under fio, which verifies; a file system on stripes of
# linear devices; what a client uses isn't removed; kill -9 leaves a socket that the next one takes.
source "$(dirname "$0")/../support/host-side.sh"

control=$SCRATCH/dm.sock
socket=$control.nbd
dm() { "$LAMELLA" dm "$1" --socket "$control" "${@:2}"; }
run_mapper() {
    "$LAMELLA" dm run --socket "$control" "$@" >serve0.log 2>&1 &
    server=$!
    wait_for answers_or_ended
    kill -0 "$server" || { cat serve0.log; fail "lamella dm run $*"; }
}
truncate -s 128M a.img b.img

run_mapper
check "create a device from standard input" dm create low <<<"0 131072 linear ./a.img 0"
check "create a device on it" dm create disk --table "0 131072 linear low 0"
check_status 4 "what another one stands on isn't removed" dm remove low

# Clients see one disk, whatever stands behind it.
fio --name=verify --ioengine=nbd "--uri=$(uri disk)" --randseed="$SEED" --verify=crc32c --verify_fatal=1 --verify_state_save=0 --rw=randrw \
    --bs=4k --size=64M --iodepth=32 --output-format=terse >fio.out 2>&1 &
fio=$!
in_use() { [[ $(dm info -c --noheadings -o open disk) == 1 ]]; }
wait_for in_use
check_status 4 "what a client uses isn't removed" dm remove disk
swaps=0
while kill -0 "$fio" 2>/dev/null; do
    for table in "0 65536 linear ./a.img 0
65536 65536 linear low 65536" "0 131072 striped 1 16 ./a.img 0" "0 131072 delay low 0 1" "0 131072 linear low 0"; do
        if ((swaps % 3 == 0)); then quietly dm suspend disk; fi
        quietly dm reload disk <<<"$table"
        quietly dm resume disk
        swaps=$((swaps + 1))
    done
    if ((swaps % 5 == 0)); then quietly dm suspend low && quietly dm resume low; fi
done
wait "$fio" || { cat fio.out; fail "fio verifies all it wrote, tables changing under it"; }
pass "fio verifies all it wrote, tables changing under it ($swaps times)"
((swaps >= 8)) || fail "only $swaps tables were swapped"
# A client that leaves a suspended device keeps nobody else out.
quietly dm create idle --table "0 8 zero"
check "a client leaves a suspended device" /usr/bin/python3 - "$(uri disk)" "$LAMELLA" "$control" <<'PYTHON'
import subprocess, sys, nbd
handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
handle.pwrite(bytes(512), 0)
subprocess.run([sys.argv[2], "dm", "suspend", "disk", "--socket", sys.argv[3]], check=True)
handle.shutdown()
PYTHON
check "another device can be opened meanwhile" timeout 20 nbdinfo --size "$(uri idle)"
quietly dm resume disk
wait_for dm remove idle
wait_for dm remove disk
check "a removed device is no export" dm remove low

check "stripes over two images" dm create fs --table "0 262144 striped 2 128 ./a.img 0 ./b.img 0"
stop_serving
for name in a b; do check "image $name is free again" flock --nonblock "$name.img" true; done

# The same as one command, from what dm table printed.
echo "fs: 0 262144 striped 2 128 $SCRATCH/a.img 0 $SCRATCH/b.img 0" >tables
run_mapper tables
check "table prints what was loaded" test "$(dm table)" == "$(<tables)"
mke2fs -q -F -t ext4 -E root_owner=0:0 tree.img 64M
cp tree.img written.img
nbdcopy --flush tree.img "$(uri fs)"
kill_server
rm -f "$socket"
run_mapper tables
nbdcopy "$(uri fs)" read.img
truncate -s 64M read.img
check "a file system comes back through stripes, after kill -9" cmp read.img written.img
check "it is sound" e2fsck -fn read.img
stop_serving
