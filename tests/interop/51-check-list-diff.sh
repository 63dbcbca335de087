# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# thin_check, thin_ls, thin_delta and thin_rmap: ours under the peer's names beside the peer's own; then what the statuses of thin_check
# and lamella check tell, and the line with which LVM calls thin_check.
source "$(dirname "$0")/../support/host-side.sh"

mkdir ours
for name in thin_check thin_ls thin_delta thin_rmap thin_trim; do ln -s "$LAMELLA" "ours/$name"; done
set_count() { /usr/bin/python3 "$support/set-count.py" "$@"; }

fields=DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS,SHARED_BLOCKS,MAPPED_SECTORS,EXCLUSIVE_SECTORS,SHARED_SECTORS
fields+=,MAPPED_BYTES,EXCLUSIVE_BYTES,SHARED_BYTES,MAPPED,EXCLUSIVE,SHARED,TRANSACTION,CREATE_TIME,SNAP_TIME
for drawn in "$SEED" $((SEED + 1)) $((SEED + 2)); do
    /usr/bin/python3 "$support/thin-xml.py" --seed "$drawn" >random.xml
    # Blocks are shared at random there. That is safe where every volume was snapshotted after all mappings were made.
    time=$(($(sed -n 's/^<superblock .*[^_]time="\([0-9]*\)".*/\1/p' random.xml) + 1))
    sed "s/ snap_time=\"[0-9]*\"/ snap_time=\"$time\"/; /^<superblock/s/ time=\"[0-9]*\"/ time=\"$time\"/" random.xml >pool.xml
    truncate -s 0 pool.bin && truncate -s 8M pool.bin
    quietly thin_restore -i pool.xml -o pool.bin
    check "the peer accepts it (seed $drawn)" thin_check -q pool.bin
    check "so do we" ours/thin_check -q pool.bin
    same_output "thin_ls (seed $drawn)" thin_ls pool.bin
    same_output "thin_ls, all fields" thin_ls -o "$fields" --no-headers pool.bin
    mapfile -t ids < <(sed -n 's/.*dev_id="\([0-9]*\)".*/\1/p' pool.xml)
    for right in "${ids[@]}"; do
        same_output "thin_delta ${ids[0]} to $right" thin_delta --snap1 "${ids[0]}" --snap2 "$right" pool.bin
        same_output "thin_delta --verbose ${ids[0]} to $right" thin_delta --verbose --thin1 "$right" --thin2 "${ids[0]}" pool.bin
    done
done

# --- Statuses ---
cp pool.bin sound.bin
free=$(thin_ls --no-headers -o MAPPED_BLOCKS pool.bin | awk '{ sum += $1 } END { print sum }')
check_status 0 "lamella check: clean" "$LAMELLA" check --clear-needs-check-flag --auto-repair pool.bin
check_status 0 "and again" "$LAMELLA" check pool.bin
cp pool.bin sound.bin
last=$(($(sed -n 's/.*nr_data_blocks="\([0-9]*\)".*/\1/p' pool.xml) - 1))
[[ $free -le $last ]] || fail "the pool has a free block"
set_count pool.bin metadata 2000 1
before=$(sha256sum <pool.bin)
check_status 7 "lamella check: a leak" "$LAMELLA" check pool.bin
check_status 1 "the peer's thin_check of a leak" thin_check pool.bin
check_status 1 "our thin_check of a leak" ours/thin_check pool.bin
check_status 0 "--ignore-non-fatal-errors" ours/thin_check --ignore-non-fatal-errors pool.bin
check_equal "nothing was written" "$before" "$(sha256sum <pool.bin)"
set_count pool.bin flag
ours/thin_check -q --clear-needs-check-flag pool.bin >line.out 2>&1 || fail "LVM's line mends a leak"
check_equal "LVM's line says nothing" "" "$(cat line.out)"
check "the peer finds the leak mended" thin_check -q pool.bin
check "the flag is cleared, the dump the same" cmp <(thin_dump sound.bin) <(thin_dump pool.bin)

cp sound.bin pool.bin
set_count pool.bin metadata 0 0
before=$(sha256sum <pool.bin)
check_status 8 "lamella check: a block in use is counted as free" "$LAMELLA" check pool.bin
check_status 1 "our thin_check fails" ours/thin_check -q --clear-needs-check-flag pool.bin
check_status 1 "and with --auto-repair" ours/thin_check -q --auto-repair pool.bin
check_equal "nothing was written" "$before" "$(sha256sum <pool.bin)"
check_status 0 "--rebuild-space-maps" "$LAMELLA" check --rebuild-space-maps pool.bin
check "the peer accepts the result" thin_check -q pool.bin

dd if=/dev/urandom of=pool.bin bs=4096 count=1 conv=notrunc status=none
check_status 5 "lamella check: a lost superblock" "$LAMELLA" check pool.bin
check_status 1 "thin_check" ours/thin_check -q pool.bin
check_status 3 "no such file" "$LAMELLA" check absent.bin
check_status 1 "thin_check of XML" ours/thin_check pool.xml

# --- A pool within an image, and every sharer of a block ---
group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --size 256M --vg vms --pool pool --pool-size 80%VG --chunk-size 64K
quietly "$LAMELLA" create "$group:web" --size 20M
serve "$group"
scatter web "$SEED"
quietly "$LAMELLA" snapshot "$group:web" --name web-s1
scatter web $((SEED + 1)) 3
stop_serving
check_status 0 "lamella check of a group's pool" "$LAMELLA" check "$group:pool"
"$LAMELLA" rmap "$group:pool" --region 0..100000 >rmap.out
for volume in web web-s1; do check "rmap names $volume" grep -qw "$volume" rmap.out; done
"$LAMELLA" ls "$group:pool" --json >ls.json
check_equal "ls names them" "web web-s1" "$(sed -n 's/.*"volume": "\(.*\)",/\1/p' ls.json | xargs)"
