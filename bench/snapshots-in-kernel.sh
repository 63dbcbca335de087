# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Runs inside user-mode Linux (tests/kernel/in-kernel): the same writes to an origin with snapshots of this kernel's and with lamella's, on
# the same disk, in turn. The caller sets program (bench_snapshot_load), origin, room (bytes of the origin, and of each store), rounds,
# depth, cases ("CHUNK:SNAPSHOTS", chunk in sectors). Prints lines "SIDE CHUNK SNAPSHOTS PHASE NUMBER".
disk=/dev/ubda
sectors=$((${origin:?} / 512)) store_sectors=$((${room:?} / 512))

writes() { echo $((sectors / $1 < 4096 ? sectors / $1 : 4096)); }

of_kernel() { # CHUNK SNAPSHOTS
    local number
    dmsetup create real --table "0 $sectors linear $disk 0"
    for ((number = 0; number < $2; number++)); do
        dmsetup create "cow$number" --table "0 $store_sectors linear $disk $((sectors + number * store_sectors))"
        dd if=/dev/zero of="/dev/mapper/cow$number" bs=4k count=1 conv=fsync status=none
        dmsetup create "snapshot$number" --table "0 $sectors snapshot /dev/mapper/real /dev/mapper/cow$number P $1"
    done
    dmsetup create origin --table "0 $sectors snapshot-origin /dev/mapper/real"
    "${program:?}" device /dev/mapper/origin "$origin" "$1" "$(writes "$1")" "${depth:?}" 0 | sed "s/^/kernel $1 $2 /"
    dmsetup remove origin
    for ((number = 0; number < $2; number++)); do
        [[ $(dmsetup status "snapshot$number") != *Invalid* ]] || { echo "snapshot $number is invalid" >&2; return 1; }
        dmsetup remove "snapshot$number"
        dmsetup remove "cow$number"
    done
    dmsetup remove real
}
of_lamella() { "$program" touch "$disk" "$origin" "$1" "$(writes "$1")" "$depth" "$2" | sed "s/^/lamella $1 $2 /"; }

for ((round = 0; round < ${rounds:?}; round++)); do
    for case in ${cases:?}; do
        if ((round % 2)); then
            of_kernel "${case%:*}" "${case#*:}"
            of_lamella "${case%:*}" "${case#*:}"
        else
            of_lamella "${case%:*}" "${case#*:}"
            of_kernel "${case%:*}" "${case#*:}"
        fi
    done
done
