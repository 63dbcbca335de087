# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# ext4 on a volume (as a file through FUSE, a loop device on it), written with fsync while the server is killed at a moment that the
# seed draws. After every kill: the journal replays, fsck is clean, and every file whose fsync had returned is there, whole.
source "$(dirname "$0")/../support/host-side.sh"
RANDOM=$((SEED % 32768))

group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --pool-size 100%FREE --size 1G
quietly "$LAMELLA" create "$group:web" --size 400M
serve "$group"
connect volume "$(uri web)"
quietly mkfs.ext4 -q "$device"
disconnect volume
stop_serving
mkdir -p mnt
: >log

for round in {1..5}; do
    serve "$group"
    connect volume "$(uri web)"
    mount "$device" mnt
    before=$(wc -l <log)
    /usr/bin/python3 "$support/synced-writer.py" mnt log "$((SEED + round))" 2>writer.err &
    writer=$!
    if ((round == 3)); then
        wait_for bash -c "((\$(wc -l <log) > $((before + 20))))"
        check "snapshot under the writer" "$LAMELLA" snapshot "$group:web" --name "web-s$round"
    fi
    wait_for bash -c "((\$(wc -l <log) > $((before + 40 + RANDOM % 200))))"
    kill_server
    wait "$writer" || true
    umount mnt || umount -l mnt
    disconnect volume

    serve "$group"
    connect volume "$(uri web)"
    check "round $round: ext4 mounts after the kill" mount "$device" mnt
    check "round $round: every synced file is whole" /usr/bin/python3 "$support/synced-judge.py" mnt log
    umount mnt
    check "round $round: fsck is clean" fsck.ext4 -fn "$device"
    disconnect volume
    stop_serving
done
