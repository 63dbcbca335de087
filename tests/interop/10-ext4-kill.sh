# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# ext4 on a volume (as a file through FUSE, a loop device on it), written with fsync while the server is killed at a moment that the
# seed draws. After every kill: the journal replays, fsck is clean, and every file whose fsync had returned is there, whole.
source "$(dirname "$0")/../support/host-side.sh"
RANDOM=$((SEED % 32768))

connect() { # the volume as a file, a loop device on it: sets bridge, device
    mkdir -p volume
    nbdfuse volume/nbd "$(uri "$1")" >>nbdfuse.log 2>&1 &
    bridge=$!
    wait_for 20 test -f volume/nbd
    device=$(loop volume/nbd)
}
disconnect() {
    losetup --detach "$device"
    wait_for 20 gone "$device"
    umount volume || umount -l volume
    wait "$bridge" 2>/dev/null || true
}
gone() { ! losetup "$1"; }

# Files with what they must hold in a log outside; a line is added after the fsync of file and folder returned.
cat >writer.py <<'PYTHON'
import hashlib, os, random, sys
folder, log, seed = sys.argv[1], open(sys.argv[2], "a"), int(sys.argv[3])
generator = random.Random(seed)
directory = os.open(folder, os.O_DIRECTORY)
number = 0
try:
    while True:
        number += 1
        name = f"{seed}-{number % 60}" if number % 3 == 0 else f"{seed}-{number}"
        data = generator.randbytes(generator.choice([100, 5000, 70000, 300000]))
        with open(f"{folder}/{name}.new", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        print("writing", name, file=log, flush=True)
        os.rename(f"{folder}/{name}.new", f"{folder}/{name}")
        os.fsync(directory)
        print("synced", name, hashlib.sha256(data).hexdigest(), file=log, flush=True)
        if number % 40 == 0:
            for old in sorted(os.listdir(folder))[:20]:
                print("removing", old, file=log, flush=True)
                os.unlink(f"{folder}/{old}")
            os.fsync(directory)
except OSError as error:
    print("ended by", error, file=sys.stderr)
PYTHON
# A name whose last word is "synced" must hold that; one that was being replaced or removed when the end came may hold either.
cat >judge.py <<'PYTHON'
import hashlib, os, sys
folder, log = sys.argv[1:]
certain, open_ended = {}, set()
for line in open(log):
    words = line.split()
    if words[0] == "synced":
        certain[words[1]] = words[2]
        open_ended.discard(words[1])
    else:
        open_ended.add(words[1])
bad = judged = 0
for name, digest in certain.items():
    if name in open_ended:
        continue
    judged += 1
    try:
        actual = hashlib.sha256(open(f"{folder}/{name}", "rb").read()).hexdigest()
    except OSError as error:
        actual = str(error)
    if actual != digest:
        print(name, "is not what was synced:", actual)
        bad += 1
print(judged, "files judged")
sys.exit(bad > 0 or judged == 0)
PYTHON

group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --pool-size 100%FREE --size 1G
quietly "$LAMELLA" create "$group:web" --size 400M
serve "$group"
connect web
quietly mkfs.ext4 -q "$device"
disconnect
stop_serving
mkdir -p mnt
: >log

for round in {1..5}; do
    serve "$group"
    connect web
    mount "$device" mnt
    before=$(wc -l <log)
    /usr/bin/python3 writer.py mnt log "$((SEED + round))" 2>writer.err &
    writer=$!
    if ((round == 3)); then
        wait_for 60 bash -c "((\$(wc -l <log) > $((before + 20))))"
        check "snapshot under the writer" "$LAMELLA" snapshot "$group:web" --name "web-s$round"
    fi
    wait_for 60 bash -c "((\$(wc -l <log) > $((before + 40 + RANDOM % 200))))"
    kill_server
    wait "$writer" || true
    umount mnt || umount -l mnt
    disconnect

    serve "$group"
    connect web
    check "round $round: ext4 mounts after the kill" mount "$device" mnt
    check "round $round: every synced file is whole" /usr/bin/python3 judge.py mnt log
    umount mnt
    check "round $round: fsck is clean" fsck.ext4 -fn "$device"
    disconnect
    stop_serving
done
