# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Runs inside user-mode Linux (tests/kernel/in-kernel): the same work on snapshots of this kernel's and on lamella's, on the same disk, in
# turn. The caller sets program (bench_snapshot_load), origin, room (bytes of the origin, and of each store), rounds, depth, cases
# ("WHAT:CHUNK:SNAPSHOTS": touch, writes to the origin; snapshot, writes to the one snapshot; merge; as bench_snapshot_load has them; chunk
# in sectors). Prints lines "SIDE WHAT CHUNK SNAPSHOTS PHASE NUMBER".
disk=/dev/ubda
sectors=$((${origin:?} / 512)) store_sectors=$((${room:?} / 512))

writes() { echo $((sectors / $1 < 4096 ? sectors / $1 : 4096)); }

of_kernel() { # WHAT CHUNK SNAPSHOTS
    local number device=origin
    dmsetup create real --table "0 $sectors linear $disk 0"
    for ((number = 0; number < $3; number++)); do
        dmsetup create "cow$number" --table "0 $store_sectors linear $disk $((sectors + number * store_sectors))"
        dd if=/dev/zero of="/dev/mapper/cow$number" bs=4k count=1 conv=fsync status=none
        dmsetup create "snapshot$number" --table "0 $sectors snapshot /dev/mapper/real /dev/mapper/cow$number P $2"
    done
    dmsetup create origin --table "0 $sectors snapshot-origin /dev/mapper/real"
    [[ $1 != snapshot ]] || device=snapshot0
    "${program:?}" device "/dev/mapper/$device" "$origin" "$2" "$(writes "$2")" "${depth:?}" 0 >figures
    for ((number = 0; number < $3; number++)); do
        [[ $(dmsetup status "snapshot$number") != *Invalid* ]] || { echo "snapshot $number is invalid" >&2; return 1; }
        dmsetup remove "snapshot$number"
    done
    [[ $1 != merge ]] || merge_of_kernel "$2" >figures
    sed "s/^/kernel $1 $2 $3 /" figures
    dmsetup remove origin
    for ((number = 0; number < $3; number++)); do dmsetup remove "cow$number"; done
    dmsetup remove real
}
merge_of_kernel() { # CHUNK
    local begin end status sectors_left
    dmsetup suspend origin
    dmsetup load origin --table "0 $sectors snapshot-merge /dev/mapper/real /dev/mapper/cow0 P $1"
    begin=${EPOCHREALTIME/./}
    dmsetup resume origin
    while
        status=$(dmsetup status origin)
        [[ $status =~ \ ([0-9]+)/[0-9]+\ ([0-9]+)$ ]] || { echo "the merge: $status" >&2; return 1; }
        sectors_left=$((BASH_REMATCH[1] - BASH_REMATCH[2]))
        ((sectors_left > 0))
    do sleep 0.02; done
    end=${EPOCHREALTIME/./}
    echo "merge $(($(writes "$1") * $1 * 512 * 1000000 / (end - begin)))"
}
of_lamella() { "$program" "$1" "$disk" "$origin" "$2" "$(writes "$2")" "$depth" "$3" | sed "s/^/lamella $1 $2 $3 /"; }

cd /run
for ((round = 0; round < ${rounds:?}; round++)); do
    for case in ${cases:?}; do
        IFS=: read -r what chunk snapshots <<<"$case"
        if ((round % 2)); then
            of_kernel "$what" "$chunk" "$snapshots"
            of_lamella "$what" "$chunk" "$snapshots"
        else
            of_lamella "$what" "$chunk" "$snapshots"
            of_kernel "$what" "$chunk" "$snapshots"
        fi
    done
done
