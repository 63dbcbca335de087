# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Exception stores that lamella wrote, read and written on by a real kernel's dm-snapshot, and the reverse: persistent stores of several
# chunk sizes, nearly full, full (Overflow), invalid; merges begun by one and finished by the other. What a snapshot shows and the
# words of its status must be the same on both sides.
source "$(dirname "$0")/../support/host-side.sh"
tool=$(dirname "$LAMELLA")/tests/kernel/cow_tool

origin_mib=6
# name chunk type store-KiB writes
cases="one 1 P 4000 30
eight 8 PO 6000 40
sixteen 16 P 6000 40
many 128 PO 7000 40
small 8 P 640 0
over 8 PO 640 0
ours 8 PO 20000 200
theirs 8 P 20000 200"

# make_images: of all cases. Sets images.
make_images() {
    local name kib
    images=()
    while read -r name _ _ kib _; do
        truncate -s ${origin_mib}M "$name.origin"
        quietly /usr/bin/python3 "$support/scatter.py" "$name.origin" --seed "$SEED" --count 10
        truncate -s "${kib}K" "$name.store"
        images+=("$name.origin" "$name.store")
    done <<<"$cases"
    printf '%s\n' "$cases" >cases
}
make_images

# ours NAME VERB...
ours() {
    local chunk type
    read -r _ chunk type _ < <(grep "^$1 " <<<"$cases")
    "$tool" "$1.origin" "$1.store" "$type" "$chunk" "${@:2}"
}

# write_here NAME...
write_here() {
    local name count
    for name; do
        count=$(grep "^$name " <<<"$cases" | cut -d' ' -f5)
        ours "$name" "origin=$SEED,$count" "snapshot=$((SEED + 1)),$((count / 2))" "origin=$((SEED + 2)),$count" "dump=$name.shown" status >"$name.status"
    done
}
# check_here NAME...: what the kernel left in NAME.status-there and NAME.shown-there.
check_here() {
    local name
    for name; do
        check_equal "status of $name, which the kernel wrote on" "$(cat "$name.status-there")" "$(ours "$name" status)"
        ours "$name" "dump=$name.shown-here"
        check_same "lamella reads $name as the kernel does" "$name.shown-there" "$name.shown-here"
    done
}

# Ours first.
write_here one eight sixteen many
# The store has room for 158 chunks of data; nearly all of them are taken.
ours small fill=$((150 * 4096)) dump=small.shown status >small.status
ours over fill=$((157 * 4096)) dump=over.shown status >over.status
ours ours "origin=$SEED,200" "snapshot=$((SEED + 3)),60" dump=ours.shown status >ours.status
check "a merge is begun" ours ours merge-part
merged_of() { echo $(($(cut -d/ -f1 "$1.status") - $(ours "$1" status | cut -d/ -f1))); }
left_of() { ours "$1" status | sed 's,/.* , ,' | { read -r allocated metadata && echo $((allocated - metadata)); }; }
check "and stopped on its way: some chunks are merged" test "$(merged_of ours)" -ge $((100 * 8))
check "and some are left" test "$(left_of ours)" -gt 0
ours theirs "origin=$SEED,200" "snapshot=$((SEED + 3)),60" dump=theirs.shown status >theirs.status

cat >steps.sh <<'END'
letters=abcdefghijklmnop
index=0
while read -r name chunk type _; do
    origin=/dev/ubd${letters:index:1} store=/dev/ubd${letters:index+1:1}
    index=$((index + 2))
    eval "origin_$name=$origin store_$name=$store type_$name=$type chunk_$name=$chunk"
done <"$SCRATCH/cases"
# up NAME: its snapshot, and its origin.
up() {
    local origin=origin_$1 store=store_$1 type=type_$1 chunk=chunk_$1 sectors
    sectors=$(blockdev --getsz "${!origin}")
    dmsetup create "$1" --table "0 $sectors snapshot ${!origin} ${!store} ${!type} ${!chunk}"
    dmsetup create "$1-origin" --table "0 $sectors snapshot-origin ${!origin}"
}
down() { dmsetup remove "$1-origin"; dmsetup remove "$1"; }
# merge NAME: its origin, the snapshot merging into it.
merge() {
    local origin=origin_$1 store=store_$1 type=type_$1 chunk=chunk_$1
    dmsetup create "$1-origin" --table "0 $(blockdev --getsz "${!origin}") snapshot-merge ${!origin} ${!store} ${!type} ${!chunk}"
}
words() { dmsetup status "$1" | cut -d' ' -f4-; }
merged() { local allocated metadata; read -r allocated metadata <<<"$(words "$1-origin")"; [[ ${allocated%/*} == "$metadata" ]]; }
check_up() {
    local name
    for name; do
        up "$name"
        check_equal "status of $name, which lamella wrote" "$(cat "$SCRATCH/$name.status")" "$(words "$name")"
        check "the kernel reads $name as lamella does" cmp "/dev/mapper/$name" "$SCRATCH/$name.shown"
    done
}
write_there() {
    local name
    for name; do
        scatter "/dev/mapper/$name-origin" $((SEED + 5)) 8
        scatter "/dev/mapper/$name" $((SEED + 6)) 8
        scatter "/dev/mapper/$name-origin" $((SEED + 7)) 8
    done
}
# look_and_down NAME...: notes what they show, for check_here.
look_and_down() {
    local name
    for name; do
        words "$name" >"$SCRATCH/$name.status-there"
        [[ $(words "$name") == Invalid ]] || dd if="/dev/mapper/$name" of="$SCRATCH/$name.shown-there" bs=1M iflag=direct status=none
        down "$name"
    done
}
END

in_kernel "${images[@]}" <<'END'
source "$SCRATCH/steps.sh"
check_up one eight sixteen many small over
write_there one eight sixteen many
# The last chunk that fits, and one more.
dd if=/dev/zero of=/dev/mapper/small-origin bs=4096 seek=1000 count=20 oflag=direct conv=notrunc status=none
check_equal "an origin's write beyond the store makes it invalid" Invalid "$(words small)"
! dd if=/dev/zero of=/dev/mapper/over bs=4096 seek=1000 count=20 oflag=direct conv=notrunc status=none 2>/dev/null || fail "the store overflows"
check_equal "a snapshot's write beyond the store makes it overflow" Overflow "$(words over)"
sync
look_and_down one eight sixteen many small over
# What lamella began to merge is there to its end.
merge ours
wait_for merged ours
check_equal "status of a merge that is done" "16/40000 16" "$(words ours-origin)"
check "the kernel finishes lamella's merge" cmp /dev/mapper/ours-origin "$SCRATCH/ours.shown"
dmsetup remove ours-origin
# And one that lamella will finish.
check_equal "status of theirs before the merge" "$(cat "$SCRATCH/theirs.status")" "$(up theirs; words theirs; down theirs)"
sectors=$(blockdev --getsz $origin_theirs)
dmsetup create slow --table "0 $sectors delay $origin_theirs 0 0 $origin_theirs 0 100"
dmsetup create theirs-origin --table "0 $sectors snapshot-merge /dev/mapper/slow $store_theirs $type_theirs $chunk_theirs"
begun() { [[ $(words theirs-origin) != "$(cat "$SCRATCH/theirs.status")" ]]; }
wait_for begun
dmsetup suspend theirs-origin
words theirs-origin >"$SCRATCH/theirs.status-there"
dmsetup remove theirs-origin
dmsetup remove slow
END

check_here one eight sixteen many
check_equal "the kernel's invalid store is invalid" Invalid "$(ours small status)"
check_equal "an overflow ends with the use; the store is full" "1280/1280 16" "$(ours over status)"
ours over dump=over.shown-here
check_same "lamella reads what the kernel filled as the kernel does" over.shown-there over.shown-here
check_equal "status of the merge that the kernel began" "$(cat theirs.status-there)" "$(ours theirs status)"
check "the kernel's merge was stopped on its way" test "$(cut -d/ -f1 theirs.status-there)" != 16
ours theirs merge dump-origin=theirs.merged status >theirs.status-here
check_equal "lamella's end of it" "16/40000 16" "$(cat theirs.status-here)"
check_same "lamella finishes the kernel's merge" theirs.shown theirs.merged

# Chunks, and so areas, of 512 KiB and 2 MiB: read in several pieces. Area 1 of `far` lies behind 131072 chunks of data, and isn't zeros.
cases="half 1024 P 8000 20
large 4096 PO 12000 10
far 4096 P 272629760 10
back 4096 P 12000 20
bad 8 P 640 0
full 8 PO 640 0
near 8 P 640 0"
make_images
area=$((131074 * 2 << 20))
head -c 4M /dev/zero | tr '\0' '\377' | dd of=far.store bs=2M seek=$((area >> 21)) iflag=fullblock conv=notrunc status=none
write_here half large far
check_equal "lamella zeroes the next area, and nothing behind it" "0 2097152" \
    "$(for skip in 0 1; do dd if=far.store bs=2M count=1 skip=$(((area >> 21) + skip)) status=none | tr -d '\0' | wc -c; done | xargs)"
ours back "origin=$SEED,20" "snapshot=$((SEED + 3)),20" dump=back.shown status >back.status
check "a merge of large chunks is begun" ours back merge-part
check "and stopped on its way: some of them are merged" test "$(merged_of back)" -ge 4096
check "and one is left" test "$(left_of back)" -gt 0
check_equal "an origin's write beyond the store makes it invalid here, too" Invalid "$(ours bad fill=$((159 * 4096)) status)"
ours full fill=$((158 * 4096)) dump=full.shown status >full.status
check_equal "a store that is full to its last chunk" "1280/1280 16" "$(<full.status)"
in_kernel "${images[@]}" <<'END'
source "$SCRATCH/steps.sh"
check_up half large far full
write_there half large far
up bad
check_equal "lamella's invalid store is invalid" Invalid "$(words bad)"
down bad
up near
dd if=/dev/zero of=/dev/mapper/near-origin bs=4096 count=150 oflag=direct conv=notrunc status=none
check_equal "a store that the kernel nearly filled" "1216/1280 16" "$(words near)"
look_and_down half large far full near
merge back
wait_for merged back
check_equal "status of a merge of large chunks that is done" "8192/24000 8192" "$(words back-origin)"
check "the kernel finishes lamella's merge of large chunks" cmp /dev/mapper/back-origin "$SCRATCH/back.shown"
dmsetup remove back-origin
END
check_here half large far full near
for name in half large; do
    ours $name merge dump-origin=$name.merged
    check_same "lamella merges $name, which both wrote" $name.shown-there $name.merged
done

# How many exceptions a flush may cover depends on what no crash tears: the physical blocks of disks.
truncate -s 16M small.img
truncate -s 16M sectors.img
in_kernel small.img sectors.img <<'END'
"$(</proc/sys/kernel/modprobe)" brd rd_nr=1 rd_size=16384 max_part=4
large=/dev/ram0
losetup /dev/loop0 /dev/ubda
small=/dev/loop0
losetup --sector-size 4096 /dev/loop1 /dev/ubdb
truncate -s 1M "$SCRATCH/any"
# torn NAME EXPECTED DEVICE
torn() { check_equal "never torn: $1" "$2" "$("$(dirname "$LAMELLA")/tests/kernel/cow_tool" "$SCRATCH/any" "$3" P 8 physical-block)"; }
sysfs() { cat "/sys/block/$1/queue/physical_block_size"; }
check_equal "the kernel's own words" "4096 512 4096" "$(sysfs ram0) $(sysfs loop0) $(sysfs loop1)"
torn "a disk with blocks of 4096" 4096 $large
torn "one with blocks of 512" 512 $small
torn "one that says what it was told" 512 /dev/loop1
addpart $large 1 8 16384
addpart $large 2 16395 8192
torn "a partition" 4096 ${large}p1
torn "one that begins within a block" 512 ${large}p2
delpart $large 1
delpart $large 2
# The kernel doesn't see that the second piece lies across blocks.
printf '0 1 linear %s 0\n1 8191 linear %s 8\n' $large $large | dmsetup create shifted
check_equal "the kernel's word for a stack" "4096 0" \
    "$(sysfs "$(dmsetup info -c --noheadings -o blkdevname shifted)") $(cat "/sys/block/$(dmsetup info -c --noheadings -o blkdevname shifted)/alignment_offset")"
torn "a stack of devices" 512 /dev/mapper/shifted
dmsetup remove shifted
for block in 4096 1024; do
    mkfs.ext4 -q -F -b $block $large
    mkdir -p "$SCRATCH/mounted"
    mount $large "$SCRATCH/mounted"
    truncate -s 1M "$SCRATCH/mounted/store"
    torn "a file of ext4 with blocks of $block" $block "$SCRATCH/mounted/store"
    umount "$SCRATCH/mounted"
done
truncate -s 1M /run/store
torn "a file in memory" 512 /run/store
losetup -D
END
