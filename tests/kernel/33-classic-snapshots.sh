# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Classic snapshots of LVM's, both ways: made, written to, grown, half merged and merged by one side and taken over by the other.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 400M disk.img
group=$SCRATCH/disk.img
in_kernel disk.img <<'END'
quietly pvcreate /dev/ubda
quietly vgcreate classic /dev/ubda
quietly lvcreate -y -L 64M -n thick classic
quietly lvcreate -y -L 32M -T classic/pool
quietly lvcreate -V 24M -T classic/pool -n thin
scatter /dev/classic/thick "$SEED"
scatter /dev/classic/thin "$SEED"
echo "thick-at-first $(sum_of /dev/classic/thick)" >"$SCRATCH/moments"
echo "thin-at-first $(sum_of /dev/classic/thin)" >>"$SCRATCH/moments"
quietly lvcreate -y -s -l 100%ORIGIN -n first classic/thick
quietly lvcreate -y -s -L 24M -c 64k -n second classic/thick
quietly lvcreate -y -s -L 4M -n small classic/thick
quietly lvcreate -y -s -L 20M -n of-thin classic/thin
scatter /dev/classic/thick $((SEED + 1))
scatter /dev/classic/thin $((SEED + 1))
scatter /dev/classic/second $((SEED + 2)) 10
dd if=/dev/urandom of=/dev/classic/thick bs=1M seek=20 count=6 conv=fsync status=none
check_equal "the small one is full" I "$(lvs --noheadings -o lv_attr classic/small | tr -d ' ' | cut -c5)"
sums classic "$SCRATCH/written"
dmsetup status classic-first | cut -d: -f2- >"$SCRATCH/status-first"
deactivate classic
END
# What LVM calls invalid has no content any more.
sed -i '/^small /d' written

"$LAMELLA" status "$group:first" >status-here
check_same "the store is as full as the kernel says" status-first status-here
serve "$group" --snapshot-autoextend-threshold 60
sums read
sed -i '/^small /d' read
check_same "lamella reads origins and snapshots that the kernel wrote" written read
moment_of() { awk -v name="$1" '$1 == name { print $2 }' "$2"; }
check_equal "the first snapshot holds its moment" "$(moment_of thick-at-first moments)" "$(moment_of first read)"
check_equal "a thin volume's classic snapshot, too" "$(moment_of thin-at-first moments)" "$(moment_of of-thin read)"
check_equal "the full one is invalid here, too" "0 131072 snapshot Invalid" "$("$LAMELLA" status "$group:small")"
scatter thick $((SEED + 3))
scatter first $((SEED + 4)) 10
scatter of-thin $((SEED + 5)) 10
check "a snapshot while the origin is served" "$LAMELLA" snapshot "$group:thick" --name third --size 100%ORIGIN --chunk-size 16K
scatter thick $((SEED + 6))
scatter thin $((SEED + 6))
sums written-by-lamella
sed -i '/^small /d' written-by-lamella
stop_serving

in_kernel disk.img <<'END'
check "vgck: as lamella left it" vgck classic
activate classic
sums classic "$SCRATCH/read-in-kernel"
sed -i '/^small /d' "$SCRATCH/read-in-kernel"
for snapshot in first second third; do
    dmsetup status "classic-$snapshot" | cut -d: -f2- >"$SCRATCH/kernel-status-$snapshot"
done
deactivate classic
END
check_same "the kernel reads what lamella wrote" written-by-lamella read-in-kernel
for snapshot in first second third; do
    "$LAMELLA" status "$group:$snapshot" >"status-$snapshot"
    check_same "and counts the chunks of $snapshot the same" "kernel-status-$snapshot" "status-$snapshot"
done

# A merge that LVM has begun and not carried out.
in_kernel disk.img <<'END'
quietly lvconvert --merge classic/third
END
check "lamella sees the merge" grep -q snapshot-merge <("$LAMELLA" status "$group:third")
check "and carries it out" "$LAMELLA" rollback --yes "$group:thick" --to third
check_status 3 "the snapshot is gone then" "$LAMELLA" show "$group:third"
serve "$group" --read-only
sums after-merge
stop_serving
check_equal "the origin is what third was" "$(moment_of third written-by-lamella)" "$(moment_of thick after-merge)"
check_equal "first is as it was" "$(moment_of first written-by-lamella)" "$(moment_of first after-merge)"
check_equal "second is as it was" "$(moment_of second written-by-lamella)" "$(moment_of second after-merge)"

# A merge that lamella was killed in, when some of it was done and some wasn't: once more if it was too quick.
left_to_merge() { "$LAMELLA" status "$group:second" 2>/dev/null | sed -n 's,^0 131072 [a-z-]* \([0-9]*\)/[0-9]* \([0-9]*\)$,\1 - \2,p'; }
all_of_it=$(($(left_to_merge)))
cp --sparse=always disk.img before-the-merge.img
killed_in_a_merge() {
    cp --sparse=always before-the-merge.img disk.img
    serve "$group"
    "$LAMELLA" rollback --yes "$group:thick" --to second >rollback.log 2>&1 &
    local rollback=$! left=$all_of_it end=$((SECONDS + 30))
    while [[ $left == "$all_of_it" && $SECONDS -lt $end ]] && kill -0 "$rollback"; do left=$(($(left_to_merge))); done
    kill_server
    wait "$rollback" || true
    left=$(($(left_to_merge)))
    [[ $left -gt 0 && $left -lt $all_of_it ]]
}
wait_for killed_in_a_merge
pass "a merge was killed half way"
in_kernel disk.img <<'END'
check "vgck: as a kill in a merge left it" vgck classic
activate classic
# The kernel merges in the background; LVM takes the snapshot out of the text when that is done.
merged() { [[ $(lvs -a --noheadings -o lv_name -S 'lv_name=second' classic) == "" ]] || ! vgchange -qq --poll y classic; }
wait_for merged
pass "the kernel finished the merge"
check_equal "the origin is what second was" "$(awk '$1 == "second" { print $2 }' "$SCRATCH/after-merge")" "$(sum_of /dev/classic/thick)"
check_equal "first is as it was" "$(awk '$1 == "first" { print $2 }' "$SCRATCH/after-merge")" "$(sum_of /dev/classic/first)"
deactivate classic
END

check_status 4 "an origin isn't removed from under its snapshots unasked" "$LAMELLA" remove "$group:thick"
check "origin and snapshots go together when confirmed" "$LAMELLA" remove --yes "$group:thick"
in_kernel disk.img <<'END'
check "vgck: after the removal" vgck classic
check_equal "what is left" "of-thin pool thin" "$(lvs --noheadings -o lv_name classic | tr -d ' ' | sort | tr '\n' ' ' | sed 's/ $//')"
END
