# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# ext4 on a volume, files written with fsync all the time, and snapshots taken at three moments meanwhile: each mounts, is clean, holds
# what had been synced at its moment and nothing that came later. A linear volume with classic snapshots, a thin one with thin and
# classic ones, and the tables of lamella dm.
source "$(dirname "$0")/../support/host-side.sh"

lines_of() { wc -l <"$1.log"; }
more_lines() { (($(lines_of "$1") > $2)); }
declare -A writers moments

# begin VOLUME URI: a file system on it, and a writer.
begin() {
    connect "$1" "$2"
    quietly mkfs.ext4 -q "$device"
    mkdir -p "$1.mnt"
    mount "$device" "$1.mnt"
    : >"$1.log"
    /usr/bin/python3 "$support/synced-writer.py" "$1.mnt" "$1.log" "$((SEED % 100000))" 2>>writer.err &
    writers[$1]=$!
}
# at_a_moment VOLUME SNAPSHOT COMMAND...: the command makes the snapshot, after some more files.
at_a_moment() {
    local before
    wait_for more_lines "$1" $(($(lines_of "$1") + 30))
    before=$(lines_of "$1")
    check "$2 of $1 is taken under the writer" "${@:3}"
    moments[$2]="$1.log $before $(lines_of "$1")"
}
end() {
    wait_for more_lines "$1" $(($(lines_of "$1") + 60))
    kill -TERM "${writers[$1]}"
    wait "${writers[$1]}" 2>/dev/null || true
    check "$1 holds what was written last" /usr/bin/python3 "$support/synced-judge.py" "$1.mnt" "$1.log"
    umount "$1.mnt"
    check "$1 is clean" fsck.ext4 -fn "${devices[$1]}"
    disconnect "$1"
}
# holds_its_moment SNAPSHOT URI
holds_its_moment() {
    connect "$1" "$2"
    mkdir -p snapshot.mnt
    check "$1 mounts" mount "$device" snapshot.mnt
    # shellcheck disable=SC2086  # words
    check "$1 holds its moment" /usr/bin/python3 "$support/synced-judge.py" snapshot.mnt ${moments[$1]}
    umount snapshot.mnt
    check "$1 is clean" fsck.ext4 -fn "$device"
    disconnect "$1"
}

group=$SCRATCH/vms.img
snapshot() { "$LAMELLA" snapshot "$group:$1" --name "$2" "${@:3}"; }
quietly "$LAMELLA" init "$group" --pool-size 300M --size 1G
quietly "$LAMELLA" create "$group:thick" --size 100M --linear
quietly "$LAMELLA" create "$group:thin" --size 100M
serve "$group"
begin thick "$(uri thick)"
begin thin "$(uri thin)"
for moment in 1 2 3; do
    at_a_moment thick "thick-$moment" snapshot thick "thick-$moment" --size 100%ORIGIN
    if ((moment == 2)); then
        at_a_moment thin "thin-$moment" snapshot thin "thin-$moment" --size 100%ORIGIN
    else
        at_a_moment thin "thin-$moment" snapshot thin "thin-$moment"
    fi
done
end thick
end thin
for moment in 1 2 3; do
    holds_its_moment "thick-$moment" "$(uri "thick-$moment")"
    holds_its_moment "thin-$moment" "$(uri "thin-$moment")"
done
stop_serving

control=$SCRATCH/dm.sock
# shellcheck disable=SC2034  # uri() reads it
socket=$control.nbd
"$LAMELLA" dm run --socket "$control" >serve0.log 2>&1 &
# shellcheck disable=SC2034  # stop_serving ends it
server=$!
wait_for "$LAMELLA" dm ls --socket "$control"
dm() { "$LAMELLA" dm "$1" --socket "$control" "${@:2}"; }
sectors=$((100 << 11))
dm_snapshot() { # SNAPSHOT NUMBER
    dm create "$1-cow" --table "0 $sectors linear ./stores.img $(($2 * sectors))" &&
        dm suspend base && dm create "$1" --table "0 $sectors snapshot base-real $1-cow P 16" &&
        dm reload base --table "0 $sectors snapshot-origin base-real" && dm resume base
}
truncate -s 100M disk.img
truncate -s 300M stores.img
quietly dm create base-real --table "0 $sectors linear ./disk.img 0"
quietly dm create base --table "0 $sectors linear base-real 0"
begin base "$(uri base)"
for moment in 1 2 3; do at_a_moment base "base-$moment" dm_snapshot "base-$moment" "$((moment - 1))"; done
end base
for moment in 1 2 3; do holds_its_moment "base-$moment" "$(uri "base-$moment")"; done
stop_serving
