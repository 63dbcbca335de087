# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The worked example of the kernel's documentation of snapshots (Documentation/admin-guide/device-mapper/snapshot.rst) as LVM and a real
# kernel carry it out today, and lamella's words beside theirs at each of its moments; the merge goes from the kernel to lamella and back
# on its way. (What lamella's own devices print in it: interop/61.)
#
# The document's device 8:19 is 98:0 here. It shows six letters of lvs' ten, and an LVM that took the snapshot's device away when a merge
# began and named its store after the origin: today's leaves an error device, and the name.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 2G small.img
# The large group: a volume of 4 GiB and its snapshot of 1 GiB, in chunks of 4 KiB; something is in the volume.
# Exceptions are merged from the last to the first, and those with the numbers 22471, 35072 and 44990, where the document's lines are
# printed, are of chunks that wait below LVM's devices.
truncate -s 6G large.img
group=$SCRATCH/large.img
changed_bytes=$((62001 * 4096))
head -c $changed_bytes /dev/urandom >before
dd if=before of=large.img bs=1M seek=$((384 * 512)) oflag=seek_bytes conv=notrunc status=none

# state_of GROUP: how its one snapshot is and how full, in lamella's words; on both sides.
cat >words.sh <<'END'
state_of() { "$LAMELLA" list "$1" --snapshots | awk '$1 ~ /snap$|snap]$/ { print $3, $8 }'; }
END
source ./words.sh

cat >steps.sh <<'END'
source "$SCRATCH/words.sh"
for module in dm-delay dm-zero; do "$run/modprobe" "$module"; done
# only DEVICE: of two disks, the other isn't LVM's.
only() { sed -i -E "s#^devices \{ (global_filter = [^]]*\] )?#devices { global_filter = [ \"a|^$1\$|\", \"r|.*|\" ] #" "$LVM_SYSTEM_DIR/lvm.conf"; }
# The device below LVM's.
sectors=$(blockdev --getsz /dev/ubdb)
plain="0 $sectors linear /dev/ubdb 0"
# waits FROM COUNT: writes to these chunks of the origin wait until they are let go.
waits() {
    local from=$((384 + $1 * 8)) end=$((384 + ($1 + $2) * 8))
    printf '%s\n' "0 $from linear /dev/ubdb 0" \
        "$from $((end - from)) delay /dev/ubdb $from 0 /dev/ubdb $from 1000000 /dev/ubdb $from 0" \
        "$end $((sectors - end)) linear /dev/ubdb $end"
}
disk_is() { dmsetup reload disk --table "$1" && dmsetup suspend disk && dmsetup resume disk; }
let_go() { dmsetup suspend disk && dmsetup resume disk; }
prepare() { "${@}" >prepare.log 2>&1 || { cat prepare.log; fail "$*"; }; }
# rows: of lvs, as the document has them.
rows() {
    lvs --noheadings -o lv_name,vg_name,lv_attr,lv_size,origin,snap_percent | awk '{ $3 = substr($3, 1, 6); print }' | paste -sd, | sed 's/,/, /g'
}
status_of() { dmsetup status "volumeGroup-$1" | sed 's/ *$//'; }
is_at() { [[ $(status_of base) == "0 8388608 snapshot-merge $1" ]]; }
# LVM's polling in the background takes the snapshot out of the group.
polled() { vgchange -qq --poll y volumeGroup; wait_for is_alone; }
is_alone() { [[ $(rows) == "base volumeGroup -wi-a- "?.00g ]]; }
merged() { status_of base | grep -Eq ' ([0-9]+)/[0-9]+ \1$'; }
END

in_kernel small.img large.img <<'END'
source "$SCRATCH/steps.sh"
only /dev/ubda
for number in {0..9}; do dmsetup create "other$number" --table "0 8 zero"; done
tables() { dmsetup table | grep ^volumeGroup | sed 's/ *$//; s/\b98:0\b/8:19/' | sort; }
numbers() { dmsetup info -c --noheadings --separator ' ' -o name,major,minor | grep ^volumeGroup | xargs; }
prepare pvcreate --metadatasize 128k --dataalignment 192k /dev/ubda
prepare vgcreate volumeGroup /dev/ubda
prepare lvcreate -L 1G -n base volumeGroup
prepare lvcreate -L 100M -c 8k --snapshot -n snap volumeGroup/base
sort >expected <<'LINES'
volumeGroup-base-real: 0 2097152 linear 8:19 384
volumeGroup-snap-cow: 0 204800 linear 8:19 2097536
volumeGroup-snap: 0 2097152 snapshot 254:11 254:12 P 16
volumeGroup-base: 0 2097152 snapshot-origin 254:11
LINES
tables >found
check_same "LVM's four tables of a volume with a snapshot" expected found
check_equal "and their numbers" "volumeGroup-base 254 10 volumeGroup-base-real 254 11 volumeGroup-snap 254 13 volumeGroup-snap-cow 254 12" "$(numbers)"
scatter /dev/volumeGroup/base "$SEED"
# Polling that doesn't come before the group is gone leaves the devices of the merge.
prepare lvconvert --merge -b -i +600 volumeGroup/snap
sort >expected <<'LINES'
volumeGroup-base-real: 0 2097152 linear 8:19 384
volumeGroup-snap-cow: 0 204800 linear 8:19 2097536
volumeGroup-snap: 0 2097152 error
volumeGroup-base: 0 2097152 snapshot-merge 254:11 254:12 P 16
LINES
tables >found
check_same "LVM's tables of a volume whose snapshot merges" expected found
check_equal "LVM's words for that" "Merging of volume volumeGroup/snap started." "$(grep Merging prepare.log | xargs)"
wait_for merged
polled
pass "lvs, after it: base volumeGroup -wi-a- 1.00g"
prepare vgremove -ff -y volumeGroup
prepare pvremove /dev/ubda
for number in {0..9}; do dmsetup remove "other$number"; done

only /dev/mapper/disk
dmsetup create disk --table "$plain"
prepare pvcreate --metadatasize 128k --dataalignment 192k /dev/mapper/disk
prepare vgcreate volumeGroup /dev/mapper/disk
prepare lvcreate -Zn -Wn -L 4G -n base volumeGroup
prepare lvcreate -L 1G --snapshot -n snap volumeGroup/base
change() { dd if=/dev/urandom of=/dev/volumeGroup/base bs=4k seek="$1" count="$2" oflag=direct conv=notrunc iflag=fullblock status=none; }
while read -r chunk count; do change "$chunk" "$count"; done <<'CHUNKS'
0 22470
60000 1
22470 12600
61000 1
35070 9917
62000 1
44987 4552
CHUNKS
check_equal "lvs" "base volumeGroup owi-a- 4.00g, snap volumeGroup swi-a- 1.00g base 18.97" "$(rows)"
check_equal "dmsetup status volumeGroup-snap" "0 8388608 snapshot 397896/2097152 1560" "$(status_of snap)"
check_equal "lamella says that, too" "$(status_of snap), valid 18.97" "$("$LAMELLA" status volumeGroup/snap), $(state_of volumeGroup)"

# merges_to NUMBERS PERCENT
merges_to() {
    wait_for is_at "$1"
    pass "dmsetup status volumeGroup-base: 0 8388608 snapshot-merge $1"
    check_equal "lvs" "base volumeGroup Owi-a- 4.00g $2" "$(rows)"
    check_equal "lamella says that, too" "0 8388608 snapshot-merge $1, merging $2" "$("$LAMELLA" status volumeGroup/base), $(state_of volumeGroup)"
}
disk_is "$(waits 60000 2001)"
prepare lvconvert --merge -b -i +600 volumeGroup/snap
check_equal "lvconvert --merge -b volumeGroup/snap" "Merging of volume volumeGroup/snap started." "$(grep Merging prepare.log | xargs)"
merges_to "361336/2097152 1416" 17.23
let_go
merges_to "281688/2097152 1104" 13.43
let_go
merges_to "180480/2097152 712" 8.61
END

# The kernel is gone with the merge as it was; lamella goes on with it, and is killed on its way.
status_here() { "$LAMELLA" status "$group:base" | cut -d' ' -f3-; }
check_equal "lamella finds the merge where the kernel left it" "snapshot-merge 180480/2097152 712, merging 8.61" \
    "$(status_here), $(state_of "$group")"
left_to_merge() { status_here | sed -n 's,^snapshot-merge \([0-9]*\)/[0-9]* \([0-9]*\)$,\1 - \2,p'; }
cp --sparse=always large.img as-the-kernel-left-it.img
killed_on_its_way() {
    cp --sparse=always as-the-kernel-left-it.img large.img
    local all left end=$((SECONDS + 30))
    all=$(($(left_to_merge)))
    left=$all
    serve "$group"
    while [[ $left == "$all" && $SECONDS -lt $end ]]; do left=$(($(left_to_merge))); done
    kill_server
    left=$(($(left_to_merge)))
    [[ $left -gt 0 && $left -lt $all ]]
}
wait_for killed_on_its_way
pass "lamella was killed when some of the rest was merged and some wasn't"
rm as-the-kernel-left-it.img
status_here >status-here
state_of "$group" >state-here
serve "$group" --read-only
check_status 1 "the origin isn't served where its merge can't go on" nbdinfo --size "$(uri base)"
stop_serving

in_kernel small.img large.img <<'END'
source "$SCRATCH/steps.sh"
only /dev/mapper/disk
dmsetup create disk --table "$(waits 0 22470)"
prepare vgchange --poll n -ay volumeGroup
check_equal "the kernel finds it where lamella was killed" "$(<"$SCRATCH/status-here")" "$(status_of base | cut -d' ' -f3-)"
check_equal "and LVM" "base volumeGroup Owi-a- 4.00g $(cut -d' ' -f2 "$SCRATCH/state-here")" "$(rows)"
disk_is "$plain"
wait_for is_at "16/2097152 16"
pass "dmsetup status volumeGroup-base: 0 8388608 snapshot-merge 16/2097152 16"
polled
pass "lvs: base volumeGroup -wi-a- 4.00g"
check "the origin is what it was" cmp -n "$(stat -c %s "$SCRATCH/before")" /dev/volumeGroup/base "$SCRATCH/before"
check "vgck: after all that" vgck volumeGroup
END
check_equal "lamella shows the volume, and no snapshot" "base linear" "$("$LAMELLA" list "$group" --all | awk 'NR > 1 { print $1, $2 }')"
