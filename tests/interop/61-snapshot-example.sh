# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The worked example of the kernel's documentation of snapshots (Documentation/admin-guide/device-mapper/snapshot.rst): LVM's four
# devices, their tables while there is a snapshot and while it merges, the numbers of its status lines and the percentages of its lvs.
# Its device 8:19 is an image here, and its devices 254:10 to 254:13 are 253:10 to 253:13.
source "$(dirname "$0")/../support/host-side.sh"

control=$SCRATCH/dm.sock
run_devices() {
    # shellcheck disable=SC2034  # uri() reads it
    socket=$control.nbd
    "$LAMELLA" dm run --socket "$control" >devices.log 2>&1 &
    # shellcheck disable=SC2034  # stop_serving ends it
    server=$!
    wait_for "$LAMELLA" dm ls --socket "$control"
}
dm() { "$LAMELLA" dm "$1" --socket "$control" "${@:2}"; }
# tables_are DESCRIPTION <<LINES: what dm table prints of the group.
tables_are() {
    sort | sed "s#8:19#$SCRATCH/disk.img#; s/\b254:/253:/g" >expected
    dm table | grep '^volumeGroup' | sort >found
    check_same "$1" expected found
}
merged() { dm status volumeGroup-base | grep -Eq ' ([0-9]+)/[0-9]+ \1$'; }
begin_merge() { # SECTORS CHUNK
    quietly dm suspend volumeGroup-base
    quietly dm remove volumeGroup-snap
    quietly dm rename volumeGroup-snap-cow volumeGroup-base-cow
    quietly dm reload volumeGroup-base --table "0 $1 snapshot-merge /dev/mapper/volumeGroup-base-real /dev/mapper/volumeGroup-base-cow P $2"
    quietly dm resume volumeGroup-base
}

run_devices
truncate -s 2G disk.img
for number in {0..9}; do quietly dm create "other$number" --table "0 8 zero"; done
quietly dm create volumeGroup-base --table "0 2097152 linear ./disk.img 384"
check "data before the snapshot" qemu-io -f raw -c 'write -P 1 0 8M' -c flush "$(uri volumeGroup-base)"
# lvcreate -L 100M --snapshot -n snap volumeGroup/base
quietly dm create volumeGroup-base-real --table "0 2097152 linear ./disk.img 384"
quietly dm create volumeGroup-snap-cow --table "0 204800 linear ./disk.img 2097536"
quietly dm suspend volumeGroup-base
quietly dm create volumeGroup-snap --table "0 2097152 snapshot 253:11 253:12 P 16"
quietly dm reload volumeGroup-base --table "0 2097152 snapshot-origin 253:11"
quietly dm resume volumeGroup-base
tables_are "the four tables of a volume with a snapshot" <<'LINES'
volumeGroup-base-real: 0 2097152 linear 8:19 384
volumeGroup-snap-cow: 0 204800 linear 8:19 2097536
volumeGroup-snap: 0 2097152 snapshot 254:11 254:12 P 16
volumeGroup-base: 0 2097152 snapshot-origin 254:11
LINES
check_equal "the devices have its numbers" "volumeGroup-base 10 volumeGroup-base-real 11 volumeGroup-snap 13 volumeGroup-snap-cow 12" \
    "$(dm info -c --noheadings --separator ' ' -o name,minor | grep '^volumeGroup' | xargs)"
check "the origin changes" qemu-io -f raw -c 'write -P 2 1M 4M' -c flush "$(uri volumeGroup-base)"
check "the snapshot doesn't" qemu-io -f raw -r -c 'read -P 1 0 8M' "$(uri volumeGroup-snap)"
# lvconvert --merge volumeGroup/snap
begin_merge 2097152 16
tables_are "the three tables of a volume whose snapshot merges" <<'LINES'
volumeGroup-base-real: 0 2097152 linear 8:19 384
volumeGroup-base-cow: 0 204800 linear 8:19 2097536
volumeGroup-base: 0 2097152 snapshot-merge 254:11 254:12 P 16
LINES
check "the merge ends" wait_for merged
check "the origin is what the snapshot was" qemu-io -f raw -r -c 'read -P 1 0 8M' "$(uri volumeGroup-base)"
stop_serving

# The practical example, "using a hybrid of lvm and dmsetup commands": a group's volume of 4 GiB and its snapshot, 1 GiB and chunks of 4 KiB.
# All its numbers have one rule. Of N exceptions, N + N/256 + 2 chunks are allocated: the header, N, their areas of 256, and the next area
# where all are full. Metadata are the header and the areas, without that next one in a merge; the first area is always there.
status_of() { echo "$((($1 + $1 / 256 + 2) * 8))/2097152 $((($1 > 0 ? ($1 + 255) / 256 + 1 : 2) * 8))"; }
check_equal "one rule for the example's four lines" "397896/2097152 1560, 281688/2097152 1104, 180480/2097152 712, 16/2097152 16" \
    "$(status_of 49542), $(status_of 35072), $(status_of 22471), $(status_of 0)"
group=$SCRATCH/large.img
quietly "$LAMELLA" init "$group" --size 6G --vg volumeGroup --no-pool
quietly "$LAMELLA" create "$group:base" --size 4G --linear
quietly "$LAMELLA" snapshot "$group:base" --name snap --size 1G
lvm_alone "$group"
base_at=$(($(place_of base) / 512)) snap_at=$(($(place_of snap) / 512))
losetup --detach "$lvm_device"
percent() { "$LAMELLA" list "$group" --snapshots | sed -n 's/^snap .* \([0-9]*\.[0-9]*\)  *base .*/\1/p'; }
create_devices() { # as they are while there is a snapshot
    quietly dm create volumeGroup-base-real --table "0 8388608 linear $group $base_at"
    quietly dm create volumeGroup-snap-cow --table "0 2097152 linear $group $snap_at"
    quietly dm create volumeGroup-snap --table "0 8388608 snapshot /dev/mapper/volumeGroup-base-real /dev/mapper/volumeGroup-snap-cow P 8"
    quietly dm create volumeGroup-base --table "0 8388608 snapshot-origin /dev/mapper/volumeGroup-base-real"
}
# change FIRST END: these chunks of the origin
change() { qemu-io -f raw -c "write -P 3 $(($1 * 4096)) $((($2 - $1) * 4096))" -c flush "$(uri volumeGroup-base)"; }

# Flushes of a slow device wait until they are let go. In each of its steps a merge flushes first the origin, then the store that has the
# merged exceptions no more: it stands in between, and after.
switch() { quietly dm reload "volumeGroup-$1" --table "0 $2" && quietly dm resume "volumeGroup-$1"; }
slow() { switch "$1" "$2 delay $group $3 0 $group $3 0 $group $3 1000000"; }
flush_waits() { [[ $(dm status "volumeGroup-$1") == *" 1" ]]; }
let_go() { quietly dm suspend "volumeGroup-$1" && quietly dm resume "volumeGroup-$1"; }
begin_slow_merge() {
    slow base-real 8388608 "$base_at"
    slow snap-cow 2097152 "$snap_at"
    begin_merge 8388608 8
    wait_for flush_waits base-real
}
in_step=1024 # exceptions
step() {
    let_go base-real
    wait_for flush_waits base-cow
    let_go base-cow
    wait_for flush_waits base-real
}

# The lines on the way are of moments between commands typed by hand. A merge stands there after a step, is killed, and the store is a
# snapshot's again that fills up to what the next one needs: the last chunks changed may be the origin's own again.
changed=0
stand_at() { # EXCEPTIONS
    local end=$(($1 + in_step))
    run_devices
    create_devices
    check "$end chunks of the origin are changed" change $((changed > 16384 ? changed - 16384 : 0)) $end
    changed=$end
    begin_slow_merge
    step
}
for line in "180480/2097152 712 22471" "281688/2097152 1104 35072"; do
    stand_at "${line##* }"
    check_equal "dmsetup status volumeGroup-base: ${line% *}" "0 8388608 snapshot-merge ${line% *}" "$(dm status volumeGroup-base)"
    kill_server
done
stand_at 44990
kill_server
check_equal "lvs volumeGroup/snap: 17.23, of what is left to merge" 17.23 "$(percent)"

run_devices
create_devices
check "49542 chunks of the origin are changed" change $((changed - 16384)) 49542
check_equal "dmsetup status volumeGroup-snap" "0 8388608 snapshot 397896/2097152 1560" "$(dm status volumeGroup-snap)"
stop_serving
check_equal "lvs: Snap% 18.97" 18.97 "$(percent)"
run_devices
create_devices
begin_slow_merge
for steps in 0 1 2 3; do
    check_equal "dmsetup status volumeGroup-base, after $steps steps" "0 8388608 snapshot-merge $(status_of $((49542 - steps * in_step)))" \
        "$(dm status volumeGroup-base | tee -a samples)"
    step
done
sample() { dm status volumeGroup-base >>samples && merged; }
switch base-real "8388608 linear $group $base_at"
switch base-cow "2097152 linear $group $snap_at"
check "the merge ends" wait_for sample
# shellcheck disable=SC2016  # awk's
check "status lines fall meanwhile, all their numbers" awk -F '[ /]' '
    NR > 1 && ($4 > allocated || $6 > metadata) { print "after " allocated, metadata ": " $0; exit 1 }
    { allocated = $4; metadata = $6 }' samples
check_equal "dmsetup status volumeGroup-base, merging has finished" "0 8388608 snapshot-merge 16/2097152 16" "$(dm status volumeGroup-base)"
check "nothing of the change is left" qemu-io -f raw -r -c "read -P 0 0 $((49542 * 4096))" "$(uri volumeGroup-base)"
stop_serving
check "the merge that is done is ended for the group, too" "$LAMELLA" rollback "$group:base" --to snap --yes
check_equal "and there is no snapshot" "" "$("$LAMELLA" list "$group" --snapshots | grep '^snap ' || true)"
