# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The doctor on groups that really are in the state that it has to tell; and what it keeps of their metadata brings them back.
source "$(dirname "$0")/../support/host-side.sh"

export LAMELLA_STATE_DIR=$SCRATCH/state
group=$SCRATCH/vms.img
doctor() { "$LAMELLA" doctor "$group" --json || (($? == 5)); }
kinds() { doctor | sed -n 's/^ *"kind": "\(.*\)",$/\1/p' | sort | tr '\n' ' '; }
fill() { quietly qemu-io -f raw "$(uri "$1")" -c "write -P $2 $3 $4"; }

quietly "$LAMELLA" init "$group" --size 400M --pool-size 80M
quietly "$LAMELLA" create "$group:web" --size 64M
quietly "$LAMELLA" create "$group:thick" --size 40M --linear
check_equal "a sound group" "" "$(kinds)"
check_status 0 "says so" "$LAMELLA" doctor "$group"

# --- What fills ---
quietly "$LAMELLA" snapshot "$group:thick" --size 8M --name before
serve "$group"
fill web 7 0 60M
quietly "$LAMELLA" snapshot "$group:web" --name kept
fill web 8 0 10M
fill thick 7 0 7M
check_equal "a pool and a store that are nearly full" "over-allocated pool-near-full snapshot-near-full " "$(kinds)"
check "a trial of mending" "$LAMELLA" doctor "$group" --fix --dry-run
check_equal "mends nothing" "over-allocated pool-near-full snapshot-near-full " "$(kinds)"
check "and keeps no metadata" test ! -e state/metadata-backup
check "mending" "$LAMELLA" doctor "$group" --fix
check_equal "both have room now" "over-allocated " "$(kinds)"
check "the metadata was kept before" test -s state/metadata-backup/vms-*/*/pool.pack
fill thick 9 0 40M
check_equal "a snapshot without room for its origin's data" "over-allocated snapshot-invalid " "$(kinds)"
check_status 5 "that is critical" "$LAMELLA" doctor "$group"
check_status 5 "nothing can be done about it" "$LAMELLA" doctor "$group" --fix
check_equal "it is as it was" "over-allocated snapshot-invalid " "$(kinds)"
quietly "$LAMELLA" remove "$group:before" --yes
sums at-backup
check "a copy of the metadata while the group is served" "$LAMELLA" metadata-backup "$group" --folder copies
stop_serving

# --- The copy brings back what is lost ---
copy=$(echo copies/vms-*/2*)
check "the text is gzip's" bash -c "gzip -dc '$copy/group.txt.gz' | grep -q '^vms {'"
check "thin_metadata_unpack's format" "$LAMELLA" unpack "$copy/pool.pack" pool.bin
check "with a metadata snapshot that is whole" "$LAMELLA" check --metadata-snapshot pool.bin
lvm_alone "$group"
place=$(place_of pool_tmeta)
losetup --detach "$lvm_device"
cp --sparse=always "$group" sound.img
dd if=/dev/urandom of="$group" bs=4096 seek=$((place / 4096)) count=16 conv=notrunc status=none
check_equal "metadata overwritten" "over-allocated pool-metadata-damaged " "$(kinds)"
"$LAMELLA" snapshot "$group:thick" --size 8M --name late >/dev/null 2>&1
serve "$group"
fill thick 9 0 7M  # as before
stop_serving
check_equal "and a store that is nearly full" "over-allocated pool-metadata-damaged snapshot-near-full " "$(kinds)"
check "which isn't mended" grep -q 'nothing is mended.*pool' <("$LAMELLA" doctor "$group" --fix 2>&1)
check_equal "as not all metadata can be kept before" "over-allocated pool-metadata-damaged snapshot-near-full " "$(kinds)"
quietly "$LAMELLA" remove "$group:late" --yes
check_status 5 "a copy of what is left" "$LAMELLA" metadata-backup "$group" --folder copies
check "the text is in it all the same" gzip -t "$(printf '%s\n' copies/vms-*/2* | tail -n 1)/group.txt.gz"
"$LAMELLA" dump --metadata-snapshot pool.bin >pool.xml
check "the way back, as the copy says" "$LAMELLA" restore pool.xml "$group:pool" --yes
check_equal "sound again" "over-allocated " "$(kinds)"
serve "$group"
sums restored
stop_serving
check_same "every volume is as it was" at-backup restored

# --- needs_check ---
device=$(losetup --show --find --offset "$place" --sizelimit 4M "$group")
/usr/bin/python3 "$support/set-count.py" "$device" flag
losetup --detach "$device"
check_equal "needs_check" "over-allocated pool-needs-check " "$(kinds)"
read -r -a remedy < <("$LAMELLA" doctor "$group" | sed -n 's/^  [$] lamella check/check/p')
check "its remedy" "$LAMELLA" "${remedy[@]}"
check_equal "is gone by the command that was told" "over-allocated " "$(kinds)"

# --- The spare ---
quietly "$LAMELLA" create "$group:filler" --linear --size 100%FREE
quietly "$LAMELLA" resize "$group:filler" --size -4M --shrink --yes
quietly "$LAMELLA" extend "$group:pool" --metadata --size +4M
check "a spare that couldn't grow along" grep -q spare-small <(kinds)
quietly "$LAMELLA" remove "$group:filler" --yes
check "is made larger" "$LAMELLA" doctor "$group" --fix
check_equal "and is large enough then" "over-allocated " "$(kinds)"

# --- What grows along with data: metadata, and the spare ---
quietly "$LAMELLA" init large.img --size 6G --pool-size 4G
quietly "$LAMELLA" create large.img:filler --linear --size 100%FREE
quietly "$LAMELLA" resize large.img:filler --size -824M --shrink --yes
check_status 6 "no room for what grows along" "$LAMELLA" extend large.img:pool --size +820M
quietly "$LAMELLA" resize large.img:filler --size -4M --shrink --yes
check "room for all" grep -q 'to 4.80 GiB; its metadata takes 4.00 MiB more, and the spare 4.00 MiB, if there is room$' \
    <("$LAMELLA" extend large.img:pool --size +820M)
group=large.img
check_equal "nothing is left, and the spare is large enough" "group-full " "$(kinds)"
group=$SCRATCH/vms.img
rm large.img

# --- Group and pool that came apart ---
cp --sparse=always "$group" sound.img
again() { cp --sparse=always sound.img "$group"; }
# The pool's metadata through an editor: messages that would do this are refused.
edit_pool() {
    quietly "$LAMELLA" dump "$group:pool" --plain --output pool.xml
    sed -i "$1" pool.xml
    quietly "$LAMELLA" restore pool.xml "$group:pool" --yes
}
edit_pool '/<\/superblock>/i <device dev_id="77" mapped_blocks="0" transaction="0" creation_time="0" snap_time="0"></device>'
check_equal "a device that the group doesn't know" "over-allocated thin-id-leaked " "$(kinds)"
again
web=$("$LAMELLA" show "$group:web" --json | sed -n 's/^ *"device_id": \([0-9]*\),$/\1/p')
check_status 4 "nobody deletes a volume behind the group's back" "$LAMELLA" message "$group:pool" "delete $web"
edit_pool "/dev_id=\"$web\"/,/<\/device>/d"
check "a volume that the pool doesn't know" grep -q thin-id-missing <(kinds)
again
now=$("$LAMELLA" show "$group:pool" --json | sed -n 's/^ *"transaction_id": \([0-9]*\),$/\1/p')
edit_pool "s/ transaction=\"$now\" / transaction=\"$((now + 5))\" /"
check "another transaction id" grep -q transaction-mismatch <(kinds)
check_status 5 "nothing is done about that" "$LAMELLA" doctor "$group" --fix
check "still so" grep -q transaction-mismatch <(kinds)
again

# --- Bad input ---
check_status 3 "a group that there isn't" "$LAMELLA" doctor "$SCRATCH/absent.img"
check_status 2 "two of them" "$LAMELLA" doctor ./one.img ./two.img
check_status 2 "no copies at all" "$LAMELLA" metadata-backup "$group" --keep 0
check_status 1 "a folder that is a file" "$LAMELLA" metadata-backup "$group" --folder "$group"
