# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# thin_migrate: volumes are copied out of a group, and out of a pool by its two devices, whole and since a snapshot; libnbd's nbdcopy, reading
# the same volumes through the server, says whether the copies are right.
source "$(dirname "$0")/../support/host-side.sh"

group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --size 600M --vg vms --pool pool --pool-size 400M
for volume in web db; do quietly "$LAMELLA" create "$group:$volume" --size 200M; done
quietly "$LAMELLA" create "$group:thick" --linear --size 8M
serve "$group"
scatter web "$SEED"
scatter db $((SEED + 1))
quietly "$LAMELLA" snapshot "$group:web" --name web-s1
scatter web $((SEED + 2)) 10
quietly nbdsh -u "$(uri web)" -c 'h.trim(50 << 20, 60 << 20)'
check_status 1 "a group that is being served" "$LAMELLA" thin_migrate --source-dev "$group:web" --dest-file early.raw
[[ ! -e early.raw ]] || fail "no file is made then"
pass "no file is made then"
for volume in web web-s1 db; do quietly nbdcopy "$(uri $volume)" $volume.nbd; done
stop_serving
ln -s "$LAMELLA" thin_migrate
migrate() { ./thin_migrate --source-dev "$@"; }
id_of() { "$LAMELLA" show "$group:$1" --json | /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)["volume"]["device_id"])'; }
cp --sparse=always "$group" before.img

# --- Of a group ---
check_status 0 "to a file that isn't there" migrate "$group:web-s1" --dest-file copy.raw
check_equal "nothing is said" "" "$output"
check "it is the volume" cmp copy.raw web-s1.nbd
check "and as sparse" test "$(stat -c %b copy.raw)" -lt $((150 * 2048))
check "what has changed since" migrate "$group:web" --dest-file copy.raw --delta-id "$(id_of web-s1)"
check "makes it the other volume" cmp copy.raw web.nbd
check_status 0 "over another file" migrate "$group:db" --dest-file copy.raw
check_equal "what is left there is told" 1 "$(grep -c "that the volume doesn't map are as they were" <<<"$output")"
check "and made zeros" migrate "$group:db" --dest-file copy.raw --zero-dest --buffer-size-meg 1
check "then it is that volume" cmp copy.raw db.nbd
truncate -s 300M larger.raw
check "a file that is too large" migrate "$group:db" --dest-file larger.raw -q
check "gets the volume's size" cmp larger.raw db.nbd
truncate -s 200M device.raw
device=$(loop device.raw)
check "to a device" migrate "$group:web" --dest-dev "$device"
check "it is the volume there" cmp "$device" web.nbd
truncate -s 201M device.raw
losetup --set-capacity "$device"
check_status 1 "to a device of another size" migrate "$group:web" --dest-dev "$device"

# --- Of a pool outside a group ---
lvm_alone "$group"
for part in pool_tmeta pool_tdata; do
    ln -s "$(loop "$group" --read-only --offset "$(place_of $part)" \
        --sizelimit "$(lvs -a --noheadings --nosuffix --units b -o lv_size vms/$part | tr -d ' ')")" $part
done
pool() { ./thin_migrate --metadata-dev pool_tmeta --data-dev pool_tdata --thin-id "$@"; }
truncate -s 200M of-pool.raw
check_status 0 "of a pool's two devices" pool "$(id_of web)" --dest-file of-pool.raw -q
check "the same" cmp of-pool.raw web.nbd
check_status 1 "a volume that there isn't" pool 77 --dest-file nothing.raw
check_status 1 "a metadata snapshot that there isn't" pool "$(id_of web)" -m --dest-file nothing.raw

# --- What is refused ---
check_status 1 "a device of the kernel's" migrate "$device" --dest-file nothing.raw
check_equal "the way is told" 1 "$(grep -c -e --metadata-dev <<<"$output")"
check_status 1 "a device that isn't there" migrate /dev/absent --dest-file nothing.raw
check_status 1 "a volume that isn't thin" migrate "$group:thick" --dest-file nothing.raw
check_status 1 "no such volume" migrate "$group:other" --dest-file nothing.raw
check_status 1 "no destination" migrate "$group:web"
check_status 1 "two of them" migrate "$group:web" --dest-file nothing.raw --dest-dev "$device"
check_status 1 "the group itself as a destination" migrate "$group:web" --dest-file "$group"
check_status 1 "a file where a device is asked for" migrate "$group:web" --dest-dev of-pool.raw
check_status 1 "zeros around a difference" migrate "$group:web" --dest-file copy.raw --zero-dest --delta-id "$(id_of web-s1)"
check_status 1 "a buffer of nothing" migrate "$group:web" --dest-file nothing.raw --buffer-size-meg 0
mkdir small
mount -t tmpfs -o size=2M tmpfs small
check_status 1 "a full disk" migrate "$group:db" --dest-file small/db.raw
[[ ! -e small/db.raw ]] || fail "the file that was made is gone again"
pass "the file that was made is gone again"
umount small
[[ ! -e nothing.raw ]] || fail "no file is made for what is refused"
pass "no file is made for what is refused"
check "the group is as it was" cmp "$group" before.img
