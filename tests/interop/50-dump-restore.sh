# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# thin_dump and thin_restore, and what goes wrong with them: ours under the peer's names beside the peer's own. Metadata made by the
# engine, by the peer's thin_restore and by ours; each dumped by both, byte for byte; what one restored is checked, dumped and compared by
# the other.
source "$(dirname "$0")/../support/host-side.sh"

mkdir ours
for name in thin_dump thin_restore; do ln -s "$LAMELLA" "ours/$name"; done
xml() { /usr/bin/python3 "$support/thin-xml.py" --seed "$SEED" "$@"; }

# --- Metadata of the peer's thin_restore ---
for turn in "$SEED" $((SEED + 1)) $((SEED + 2)); do
    xml --seed "$turn" >pool.xml
    truncate -s 0 peer.bin && truncate -s 8M peer.bin
    quietly thin_restore -i pool.xml -o peer.bin
    same_dumps "metadata made by thin_restore (seed $turn)" peer.bin

    truncate -s 0 our.bin && truncate -s 8M our.bin
    check "our thin_restore (seed $turn)" ours/thin_restore -i pool.xml -o our.bin -q
    thin_dump peer.bin >pool.xml
    check "thin_check of it" thin_check our.bin
    same_dumps "metadata made by our thin_restore (seed $turn)" our.bin
    thin_dump our.bin >again.xml
    check_same "the same pool" pool.xml again.xml
    mapfile -t ids < <(sed -n 's/.*dev_id="\([0-9]*\)".*/\1/p' pool.xml)
    thin_delta --snap1 "${ids[0]}" --snap2 "${ids[1]}" peer.bin >delta-peer.xml
    thin_delta --snap1 "${ids[0]}" --snap2 "${ids[1]}" our.bin >delta-our.xml
    check_same "thin_delta finds the same in both" delta-peer.xml delta-our.xml
    check_equal "thin_dump --dev-id" "$(thin_dump --dev-id "${ids[1]}" peer.bin)" "$(ours/thin_dump --dev-id "${ids[1]}" our.bin)"
done

# --- Definitions ---
definitions=0
for turn in "$SEED" $((SEED + 1)) $((SEED + 2)) $((SEED + 3)) $((SEED + 4)); do
    xml --seed "$turn" --definitions >shared.xml
    truncate -s 0 our.bin && truncate -s 8M our.bin
    check "definitions are restored (seed $turn)" "$LAMELLA" restore shared.xml our.bin --yes
    check "thin_check of them" thin_check our.bin
    same_dumps "metadata with shared leaves (seed $turn)" our.bin
    thin_dump our.bin >plain.xml
    quietly "$LAMELLA" dump our.bin --output dumped.xml
    definitions=$((definitions + $(grep -c '<def name=' dumped.xml || true)))
    truncate -s 0 again.bin && truncate -s 8M again.bin
    quietly "$LAMELLA" restore dumped.xml again.bin --yes
    check "thin_check of what is restored from it" thin_check again.bin
    thin_dump again.bin >again.xml
    check_same "the same pool" plain.xml again.xml
    quietly "$LAMELLA" dump our.bin --format json --output dumped.json
    truncate -s 0 again.bin && truncate -s 8M again.bin
    quietly "$LAMELLA" restore dumped.json again.bin --yes
    check "thin_check of what is restored from JSON" thin_check again.bin
    thin_dump again.bin >again.xml
    check_same "the same pool again" plain.xml again.xml
    # The peer from 1.0 on takes definitions; 0.9.0 what --plain writes.
    quietly "$LAMELLA" dump our.bin --plain --output dumped.xml
    truncate -s 0 again.bin && truncate -s 8M again.bin
    check "the peer's thin_restore takes a plain dump" thin_restore -i dumped.xml -o again.bin
    thin_dump again.bin >again.xml
    check_same "the same pool from the peer" plain.xml again.xml
done
check "dumps have definitions" test "$definitions" -gt 0

# --- Metadata of the engine, also while it is in use ---
group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --size 600M --vg vms --pool pool --pool-size 60%VG
quietly "$LAMELLA" create "$group:web" --size 100M
serve "$group"
scatter web "$SEED"
quietly "$LAMELLA" snapshot "$group:web" --name web-s1
scatter web $((SEED + 1))
quietly "$LAMELLA" metadata-snapshot "$group:pool" reserve
scatter web $((SEED + 2))
stop_serving
lvm_alone "$group"
metadata=$(loop "$group" --read-only --offset "$(place_of pool_tmeta)" \
    --sizelimit "$(lvs -a --noheadings --nosuffix --units b -o lv_size vms/pool_tmeta | tr -d ' ')")
same_dumps "metadata made by the engine" "$metadata"
"$LAMELLA" dump "$group:pool" --plain --skip-mappings >named.xml
check_same "a pool inside its group needs no loop device" peer.out named.xml
thin_dump -m "$metadata" >peer.xml
ours/thin_dump -m "$metadata" >our.xml
check_equal "the peer's dump of a metadata snapshot lacks the number of data blocks" 'nr_data_blocks="0"' "$(grep -o 'nr_data_blocks="[0-9]*"' peer.xml)"
sed -i "s/nr_data_blocks=\"0\"/$(grep -o 'nr_data_blocks="[0-9]*"' our.xml)/" peer.xml
check_same "with it ours is the same" peer.xml our.xml
truncate -s 0 our.bin && truncate -s 8M our.bin
check "a dump of the metadata snapshot is restored as it is" ours/thin_restore -i our.xml -o our.bin
check "thin_check of that" thin_check our.bin
thin_dump our.bin >again.xml
check_same "the same pool as in the snapshot" our.xml again.xml
check_status 1 "a metadata snapshot at another block is refused" ours/thin_dump -m0 "$metadata"

# --- What LVM asks of these commands ---
cat >convert.xml <<'XML'
<superblock uuid="" time="1" transaction="2" data_block_size="128" nr_data_blocks="1600">
 <device dev_id="1" mapped_blocks="1600" transaction="1" creation_time="0" snap_time="1">
  <range_mapping origin_begin="0" data_begin="0" length="1600" time="1"/>
 </device>
</superblock>
XML
exec 9<convert.xml
rm convert.xml
truncate -s 0 our.bin && truncate -s 8M our.bin
check "thin_restore \"\" -i /proc/PID/fd/N of a deleted file" ours/thin_restore "" -i "/proc/$$/fd/9" -o our.bin
exec 9<&-
check "thin_check of it" thin_check our.bin
check_equal "the first line has the transaction" 2 "$(ours/thin_dump our.bin | head -n 1 | sed -n 's/.* transaction="\([0-9]*\)".*/\1/p')"
check "a version for LVM to read" grep -Eq '^[0-9]+\.[0-9]+\.[0-9]+' <(ours/thin_dump -V)
xml --mappings 300000 --longest 1 --devices 1 >large.xml
truncate -s 0 large.bin && truncate -s 32M large.bin
quietly ours/thin_restore -i large.xml -o large.bin
set +o pipefail
check_equal "a reader that goes away is no cause for words" "" "$( { ours/thin_dump large.bin | head -n 1 >/dev/null; } 2>&1)"
set -o pipefail

# --- Damage ---
cp large.bin damaged.bin
dd if=/dev/zero of=damaged.bin bs=4096 seek=100 count=1 conv=notrunc status=none
check_status 1 "a dump stops at a damaged leaf" ours/thin_dump -o damaged.xml damaged.bin
check "and names it" grep -q 'metadata block 100 of damaged.bin' <(printf '%s' "$output")
ours/thin_dump --repair damaged.bin >repaired.xml
check "thin_dump --repair loses that leaf and no more" test "$(grep -c mapping repaired.xml)" -gt 299700
truncate -s 0 our.bin && truncate -s 32M our.bin
"$LAMELLA" dump damaged.bin --repair --plain >repaired-again.xml
check_same "lamella dump --repair prints the same" repaired.xml repaired-again.xml
check "what it prints can be restored" ours/thin_restore -i repaired.xml -o our.bin
check "thin_check of it" thin_check -q our.bin

# --- Packed metadata ---
for name in thin_metadata_pack thin_metadata_unpack; do ln -s "$LAMELLA" "ours/$name"; done
check "pack" ours/thin_metadata_pack -i large.bin -o large.pack
check "it is much smaller" test "$(stat -c %s large.pack)" -lt $(($(stat -c %s large.bin) / 4))
check "unpack" ours/thin_metadata_unpack -i large.pack -o unpacked.bin
check "the same bytes" cmp large.bin unpacked.bin
check_status 1 "metadata is not overwritten unasked" ours/thin_metadata_unpack -i large.pack -o unpacked.bin
check "but if forced" ours/thin_metadata_unpack -f -i large.pack -o unpacked.bin
check "thin_check of it" thin_check -q unpacked.bin
ours/thin_dump large.pack >packed.xml
ours/thin_dump large.bin >large-again.xml
check_same "a pack is dumped as it is" large-again.xml packed.xml
head -c 100000 large.pack >cut.pack
check_status 1 "a pack that is cut short" ours/thin_metadata_unpack -i cut.pack -o cut.bin
not_metadata "what it leaves" cut.bin
check_status 1 "not a pack" ours/thin_metadata_unpack -i large.xml -o cut.bin
check_equal "thin_metadata_size" "1064 sectors" "$("$LAMELLA" thin_metadata_size -b 128 -s 2097152 -m 1)"
check_equal "metadata-size says the same" "{\"metadata_bytes\":544768}" "$("$LAMELLA" metadata-size --size 1G --json | tr -d " \n")"
for size in 0 64 127 2097153 2097280 4194304; do
    check_status 1 "chunks of $size sectors" "$LAMELLA" thin_metadata_size -b "$size" -s 4194304000 -m 1
done

# --- Refusals ---
cp our.bin before.bin
check_status 1 "input and output the same file" ours/thin_restore -i our.bin -o our.bin
check_status 2 "likewise under our own name" "$LAMELLA" dump our.bin --output our.bin
check_status 1 "no input" ours/thin_restore -i nowhere.xml -o our.bin
check_status 1 "no XML" ours/thin_restore -i before.bin -o our.bin
check_status 1 "an option that there isn't" ours/thin_restore --hedgehogs-only -i large.xml -o our.bin
check_status 1 "no output named" ours/thin_restore -i large.xml
check_status 4 "not without being told to" "$LAMELLA" restore large.xml our.bin
check_same "the output is as it was" before.bin our.bin
check_status 1 "an output that isn't there" ours/thin_restore -i large.xml -o nowhere.bin
[[ ! -e nowhere.bin ]] || fail "it is not made"
truncate -s 36K tiny.bin
check_status 1 "an output of 36 KiB" ours/thin_restore -i large.xml -o tiny.bin
readonly_device=$(loop our.bin --read-only)
check_status 1 "an output that can't be written" ours/thin_restore -i large.xml -o "$readonly_device"
losetup --detach "$readonly_device"
for change in 's/mapped_blocks="300000"/mapped_blocks="299999"/' "\$d" 's/time="20" transaction/time="1" transaction/'; do
    cp before.bin our.bin
    sed "$change" large.xml >wrong.xml
    check_status 1 "XML changed by $change" ours/thin_restore -i wrong.xml -o our.bin
    check "its line is named" grep -Eq 'wrong.xml:[0-9]+: ' <(printf '%s' "$output")
    not_metadata "what that leaves behind ($change)" our.bin
done

# --- No room, and no time ---
truncate -s 1M small.bin
check_status 1 "metadata that is too small" ours/thin_restore -i large.xml -o small.bin
not_metadata "metadata that was too small" small.bin

mkdir full
mount -t tmpfs -o size=3m tmpfs full
truncate -s 32M full/md.bin
check_status 1 "a restore onto a full file system" ours/thin_restore -i large.xml -o full/md.bin
not_metadata "what a full file system leaves of a restore" full/md.bin
rm full/md.bin
check_status 6 "a dump onto a full file system" "$LAMELLA" dump large.bin --output full/dump.xml
truncate -s 0 our.bin && truncate -s 32M our.bin
check_status 1 "what it leaves is not restored" ours/thin_restore -i full/dump.xml -o our.bin
umount full

mkfifo half.xml
for signal in INT KILL; do
    cp large.bin our.bin
    # Half of the XML goes into the pipe, which then stays open: the restore has taken all of it but waits for more.
    { head -c 10000000 large.xml; exec tail -f /dev/null; } >half.xml &
    writer=$!
    (exec "$SCRATCH/ours/thin_restore" -i half.xml -o our.bin) >restore.log 2>&1 &
    restore=$!
    wait_for bash -c 'head -c 4096 our.bin | grep -aq "restore onto it began"'
    # Asked a second time it doesn't wait for the pipe.
    wait_for bash -c "kill -s $signal $restore; [[ ! -e /proc/$restore ]] || grep -q '^State:.Z' /proc/$restore/status"
    status=0
    wait "$restore" || status=$?
    kill "$writer" 2>/dev/null || true  # the end of its reader may have ended it
    wait "$writer" 2>/dev/null || true
    [[ $status != 0 ]] || fail "a restore ended by $signal says so"
    pass "a restore ended by $signal says so"
    not_metadata "what a restore ended by $signal leaves" our.bin
done
