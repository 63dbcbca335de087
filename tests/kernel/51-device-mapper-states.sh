# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What device mapper says and does while something is amiss or under way, by dmsetup in a real kernel and by `lamella dm`: I/O that waits,
# dead and flaky disks, pools that are full or failed, merges held half way or failed, snapshots that turn invalid, events and who waits
# for them, each kind of suspend. The same verbs, the same requests: status lines, event numbers, what requests end with (by errno) and
# what is read are the same.
source "$(dirname "$0")/../support/host-side.sh"

for image in kernel-a.img kernel-b.img own-a.img own-b.img; do truncate -s 96M "$image"; done

# Requests, sent past all caches to a device or an NBD export, told how they ended: one given as arguments, or one a line of input.
cat >request.py <<'PYTHON'
import errno, fcntl, mmap, os, struct, sys


def exported(uri, operation, offset, data):
    import nbd

    handle = nbd.NBD()
    handle.connect_uri(uri)
    if operation == "read":
        data[:] = handle.pread(len(data), offset)
    elif operation == "discard":
        handle.trim(len(data), offset)
    elif operation == "flush":
        handle.flush()
    else:
        handle.pwrite(data, offset, nbd.CMD_FLAG_FUA if operation == "durable" else 0)
    handle.shutdown()


def local(path, operation, offset, data):
    fd = os.open(path, os.O_RDWR | os.O_DIRECT | (os.O_DSYNC if operation == "durable" else 0))
    try:
        if operation == "read":
            os.preadv(fd, [data], offset)
        elif operation == "discard":
            fcntl.ioctl(fd, 0x1277, struct.pack("QQ", offset, len(data)))  # BLKDISCARD
        elif operation == "flush":
            os.fsync(fd)
        else:
            os.pwritev(fd, [data], offset)
    finally:
        os.close(fd)


def answer(target, operation, first="0", count="0", byte="0"):
    offset, length = int(first) * 512, int(count) * 512
    data = memoryview(mmap.mmap(-1, max(length, 4096)))[:length]
    data[:] = bytes([int(byte)]) * length
    try:
        (exported if "://" in target else local)(target, operation, offset, data)
    except Exception as error:  # libnbd's own, too
        return errno.errorcode.get(error.errno, error.errno) if isinstance(error, OSError) else error.errno
    found = set(data)
    return "ok" if operation != "read" else found.pop() if len(found) == 1 else "different bytes"


if len(sys.argv) > 1:
    print(answer(*sys.argv[1:]))
for line in sys.stdin if len(sys.argv) == 1 else []:
    print(answer(*line.split()), flush=True)
PYTHON

# Run once there and once here. A and B are the devices below. dm_exec becomes dmsetup or lamella; at NAME is the device for request.py.
cat >"$SCRATCH/verbs.sh" <<'VERBS'
dm() { (dm_exec "$@") 2>/dev/null; }
try() {
    echo "\$ dm $*"
    dm "$@" || echo failed
}
make() { # NAME LINE
    try create "$1" --table "$2"
    try status "$1"
}
# A client that has just gone may still be counted.
gone() { local name; for name; do wait_for dm remove "$name"; done; }
# Another table for a device that others stand on, whatever they do.
under() {
    dm suspend --noflush --nolockfs "$1" && dm load "$1" --table "$2" && dm resume "$1" || echo "failed: under $*"
}
mkfifo "$out/asked" "$out/answered"
/usr/bin/python3 "$SCRATCH/request.py" <"$out/asked" >"$out/answered" &
exec {asked}>"$out/asked" {answered}<"$out/answered"
request() {
    local answer
    echo "$(at "$1") ${*:2}" >&"$asked"
    read -r answer <&"$answered"
    echo "$answer"
}
# io NAME read|write|durable|discard|flush [SECTOR COUNT [BYTE]]
io() { echo "$*: $(request "$@")"; }
# The same in the background; ended tells of all of them, in order, once they have.
begun=()
io_begins() {
    /usr/bin/python3 "$SCRATCH/request.py" "$(at "$1")" "${@:2}" >"$out/begun-${#begun[@]}" &
    begun+=("$!" "$*")
}
# A command in the background, which has come to where it waits.
dm_begins() {
    dm_exec "$@" >"$out/begun-${#begun[@]}" 2>&1 &
    begun+=("$!" "dm $*")
    wait_for waits_or_ended $!
}
has_ended() { ! kill -0 "$1"; }
waits_or_ended() { has_ended "$1" || grep -q '^State:[[:space:]]*[SDZ]' "/proc/$1/status"; }
still() { # How many there are that haven't ended.
    local index count=0
    for ((index = 0; index < ${#begun[@]}; index += 2)); do ! kill -0 "${begun[index]}" 2>/dev/null || ((++count)); done
    echo "still under way: $count"
}
ended() {
    local index
    for ((index = 0; index < ${#begun[@]}; index += 2)); do
        wait_for has_ended "${begun[index]}"
        wait "${begun[index]}" || echo "status $?"
        echo "${begun[index + 1]}: $(<"$out/begun-$index")"
    done
    begun=()
}
# Who has just gone may still be counted: no open counts.
look_at() { try info -c --noheadings -o name,attr,segments,events "$@"; }
opened() { [[ $(dm info -c --noheadings -o open "$1") == "$2" ]]; } # NAME CLIENTS
events() { local name; for name; do echo "events of $name: $(events_of "$name")"; done; }
events_of() { dm info -c --noheadings -o events "$1"; }
has_events() { [[ $(events_of "$1") == "$2" ]]; }
says() { [[ $(dm status --noflush "$1") =~ $2 ]]; }
# Pools, in chunks.
block=128
sectors() { echo $(($1 * block)); }
pool() { echo "0 $1 thin-pool /dev/mapper/meta /dev/mapper/data $block ${*:2}"; }

echo "--- waiting"
make slow "0 2048 delay $A 0 3600000 $B 0 3600000 $A 0 3600000"
io_begins slow read 0 8
wait_for says slow 'delay 1 0 0'
io_begins slow write 0 8 7
wait_for says slow 'delay 1 1 0'
io_begins slow flush
wait_for says slow 'delay 1 1 1'
io_begins slow read 1024 8
wait_for says slow 'delay 2 1 1'
try status slow
look_at slow
still
try suspend slow
ended
try status slow
look_at slow
try resume slow
io_begins slow read 0 8
wait_for says slow 'delay 1 0 0'
still
try load slow --table "0 2048 linear $B 0"
try resume slow
ended
io slow read 0 8
events slow
gone slow

echo "--- errors"
make error "0 2048 error"
io error read 0 8
io error write 0 8 1
io error flush
make zero "0 2048 zero"
io zero write 0 8 1
io zero read 0 8
io zero flush
make disk "0 2048 linear $A 2048"
io disk write 0 2048 5
make flaky "0 2048 flakey $A 2048 0 1000"
while IFS= read -r features; do
    try load flaky --table "0 2048 flakey $A 2048 0 1000 $features"
    try resume flaky
    try table flaky
    try status flaky
    io flaky read 0 8
    io flaky write 0 8 6
    io flaky flush
    io disk read 0 8
    io disk write 0 8 5
done <<FEATURES
0
1 drop_writes
1 error_writes
5 corrupt_bio_byte 1 w 9 0
FEATURES
# Up for a while, and then not.
try load flaky --table "0 2048 flakey $A 2048 10 1000"
try resume flaky
io flaky read 0 8
down() { [[ $(request flaky read 0 8) == EIO ]]; }
wait_for down
io flaky write 0 8 6
io disk read 0 8
try status flaky
events error zero flaky
gone error zero flaky disk

echo "--- stripes"
make one "0 8192 linear $A 4096"
make two "0 8192 linear $B 4096"
make stripes "0 16384 striped 4 16 /dev/mapper/one 0 /dev/mapper/two 0 /dev/mapper/one 4096 /dev/mapper/two 4096"
io stripes write 0 64 3
try status stripes
under two "0 8192 error"
io stripes read 0 16
try status stripes
events stripes
for ((errors = 1; errors <= 17; ++errors)); do
    io stripes read 16 8
    # Somebody raises it after the request has ended. No more than these.
    wait_for has_events stripes $((errors < 14 ? errors : 14))
done
io stripes write 56 8 4
try status stripes
events stripes
try wait stripes 13
under two "0 8192 linear $B 4096"
io stripes read 16 8
io stripes flush
try status stripes
try reload stripes --table "0 16384 striped 4 16 /dev/mapper/one 0 /dev/mapper/two 0 /dev/mapper/one 4096 /dev/mapper/two 4096"
try resume stripes
try status stripes
under one "0 8192 flakey $A 4096 0 1000 1 error_writes"
io stripes read 0 8
try status stripes
io stripes write 0 8 4
wait_for has_events stripes 15
try status stripes
gone stripes one two

echo "--- suspended"
make plain "0 2048 linear $A 0"
io plain write 0 2048 1
make real "0 2048 linear $A 16384"
io real write 0 2048 2
make store "0 2048 linear $B 16384"
io store write 0 8 0
make snap "0 2048 snapshot /dev/mapper/real /dev/mapper/store P 8"
make origin "0 2048 snapshot-origin /dev/mapper/real"
for name in plain origin snap; do
    for option in '' --noflush --nolockfs '--noflush --nolockfs'; do
        # shellcheck disable=SC2086  # two words
        try suspend $option $name
        io_begins $name write 0 8 3
        io_begins $name read 1024 8
        # They may not have come yet (no client is counted of a suspended device here); what is sure is that they don't end.
        try status $name
        look_at $name
        still
        try resume $name
        ended
        try status $name
        io $name read 0 8
    done
done
events plain real store snap origin
gone plain origin snap store real

echo "--- invalid"
make real "0 8192 linear $A 16384"
make store "0 56 linear $B 16384"
make other-store "0 64 linear $B 16896"
io store write 0 8 0
io other-store write 0 8 0
make snap "0 8192 snapshot /dev/mapper/real /dev/mapper/store P 8"
make over "0 8192 snapshot /dev/mapper/real /dev/mapper/other-store PO 8"
make origin "0 8192 snapshot-origin /dev/mapper/real"
dm_begins wait snap 0
io origin write 0 8 1
io origin write 8 32 1
io over read 0 8
still
events snap over
io over write 4096 8 2
try status over
io over write 4104 8 2
try status over
events over
io over read 4096 8
io over read 0 8
still
io origin write 64 8 1
ended
try status snap
try status over
events snap over origin
io snap read 0 8
io snap write 0 8 1
io snap flush
io origin write 72 8 1
events snap over origin
try wait snap 0
dm_begins wait snap 1
try suspend snap
try resume snap
try status snap
still
gone snap
ended
gone over origin store other-store real

echo "--- merging"
# Of eight chunks each second one is merged, and the second of those has a target of its own below. Chunks of 4 MiB that don't follow
# each other both merge one at a time, the last first.
chunk=8192
pieces() { # TARGET [WORD...]: of the third chunk, DEVICE START for every @
    local third="$A $((2 * chunk))"
    printf '%s\n' "0 $((2 * chunk)) linear $A 0" "$((2 * chunk)) $chunk ${*//@/$third}"
    echo "$((3 * chunk)) $((5 * chunk)) linear $A $((3 * chunk))"
}
snapshot() { echo "0 $((8 * chunk)) $1 /dev/mapper/real /dev/mapper/store P $chunk"; }
origin() { echo "0 $((8 * chunk)) snapshot-origin /dev/mapper/real"; }
layout() {
    io real write 0 $((8 * chunk)) 9
    make store "0 $((10 * chunk)) linear $B 0"
    io store write 0 8 0
    make snap "$(snapshot snapshot)"
    make origin "$(origin)"
    for number in 0 2 4 6; do io origin write $((number * chunk)) 8 $((number + 1)); done
    io snap write $((2 * chunk + 32)) 8 17
    try status snap
}
# What it shows of each chunk.
look() {
    for number in 0 1 2 4 6; do io "$1" read $((number * chunk)) 8; done
    io "$1" read $((2 * chunk + 32)) 8
}
merge_begins() {
    try suspend snap
    try suspend origin
    try reload origin --table "$(snapshot snapshot-merge)"
    try resume origin
}
merged() {
    local allocated metadata
    read -r _ _ _ allocated metadata <<<"$(dm status origin)"
    [[ ${allocated%/*} == "$metadata" ]]
}
make real "$(pieces linear @)"
layout
under real "$(pieces delay @ 0 @ 3600000 @ 0)"
merge_begins
wait_for says origin 'snapshot-merge 32768/81920 16384'
wait_for says real 'delay 0 [1-9]'
try status origin
try table origin
try status snap
look origin
try load origin --table "$(snapshot snapshot-merge)"
try table --inactive origin
try clear origin
# Writes to what is being merged wait, others don't.
io_begins origin write $((2 * chunk + 16)) 8 21
wait_for opened origin 1
io origin write $((4 * chunk)) 8 22
io origin write 0 8 23
io origin write $((7 * chunk)) 8 24
still
dm_begins suspend origin
# Nothing else waits for that.
try status real | sed 's/ delay 0 [1-9][0-9]* / delay 0 SOME /'
look_at store real
still
under real "$(pieces linear @)"
wait_for has_ended "${begun[2]}"
try status origin
look_at origin
try resume origin
ended
wait_for merged
try status origin
look origin
io origin read $((2 * chunk + 16)) 8
io origin read $((7 * chunk)) 8
events origin snap
gone snap
try reload origin --table "$(origin)"
try resume origin
gone origin
look real
gone store real

echo "--- merge fails"
chunk=64
make real "$(pieces linear @)"
layout
under real "$(pieces flakey @ 0 1000 1 error_writes)"
merge_begins
wait_for says origin 'Merge failed'
events origin snap
look origin
io origin write $((2 * chunk + 16)) 8 31
io origin write $((6 * chunk)) 8 32
io origin read $((2 * chunk + 16)) 8
io origin flush
try status origin
under real "$(pieces linear @)"
try suspend origin
try status origin
gone snap
gone origin
try create origin --table "$(snapshot snapshot-merge)"
wait_for merged
try status origin
look origin
io origin read $((2 * chunk + 16)) 8
gone origin store
# The store can't be written to, and then not read.
for dead in "flakey $B 0 0 1000 1 error_writes" error; do
    layout
    under store "0 $((10 * chunk)) $dead"
    merge_begins
    wait_for says origin 'Merge failed'
    look origin
    io origin write $((1 * chunk)) 8 33
    io origin flush
    try status origin
    events origin
    gone snap
    gone origin
    under store "0 $((10 * chunk)) linear $B 0"
    try create origin --table "$(snapshot snapshot-merge)"
    wait_for merged
    try status origin
    look origin
    gone origin store
done
# An invalid snapshot isn't merged.
make store "0 $((4 * chunk)) linear $B 0"
io store write 0 8 0
make snap "$(snapshot snapshot)"
make origin "$(origin)"
for number in 1 3 5; do io origin write $((number * chunk)) 8 $((40 + number)); done
try status snap
merge_begins
try status origin
look origin
io origin write 0 8 43
events snap origin
gone snap origin store real

echo "--- full"
make meta "0 8192 linear $A 0"
io meta write 0 8 0
make data "0 $(sectors 16) linear $A 8192"
make pool "$(pool "$(sectors 16)" 4)"
try message pool 0 create_thin 0
try message pool 0 create_thin 1
make thin "0 $(sectors 64) thin /dev/mapper/pool 0"
make other "0 $(sectors 64) thin /dev/mapper/pool 1"
events pool
dm_begins wait pool 0
for ((number = 0; number < 12; ++number)); do io thin write $(sectors $number) 8 $((number + 1)); done
still
events pool
io thin write $(sectors 12) 8 13
ended
events pool
try status pool
try status thin
try status other
for ((number = 13; number < 16; ++number)); do io thin write $(sectors $number) 8 $((number + 1)); done
events pool
try status pool
dm_begins wait pool 1
io_begins thin write $(sectors 16) 8 17
wait_for says pool out_of_data_space
io_begins other write 0 8 18
try status pool
try status thin
try status other
events pool
# What needs no room goes on.
io thin read $(sectors 3) 8
io thin read $(sectors 20) 8
io thin write $(sectors 3) 8 33
io thin flush
still
for name in thin other; do
    try suspend --noflush $name
    look_at $name
    try status $name
    try resume $name
    look_at $name
done
try suspend --noflush pool
look_at pool thin
try status pool
try status thin
try resume pool
still
events pool
try reload data --table "0 $(sectors 32) linear $A 8192"
try suspend --noflush data
try resume data
try reload pool --table "$(pool "$(sectors 32)" 4)"
try suspend --noflush pool
try resume pool
ended
events pool
try status pool
try status thin
try status other
io thin read $(sectors 16) 8
io other read 0 8
# Never waiting.
try reload pool --table "$(pool "$(sectors 32)" 4 1 error_if_no_space)"
try resume pool
try table pool
for ((number = 1; number < 15; ++number)); do io other write $(sectors $number) 8 $((number + 50)); done
events pool
io other write $(sectors 20) 8 70
io other write $(sectors 20) 8 70
try status pool
events pool
io other read $(sectors 20) 8
io thin read $(sectors 3) 8
io thin write $(sectors 3) 8 34
try message pool 0 create_thin 2
try message pool 0 create_snap 3 2
io thin write $(sectors 16) $((2 * block)) 35
try status pool
# Room that comes from a discard.
io other discard $(sectors 4) $(sectors 2)
wait_for says pool ' rw '
events pool
io other write $(sectors 20) 8 71
io other write $(sectors 21) 8 72
io other write $(sectors 22) 8 73
try status pool
events pool
# From a volume that is deleted.
gone other
try message pool 0 delete 1
wait_for says pool ' rw '
try status pool
events pool
io thin write $(sectors 40) 8 74
# A longer pool, once more.
try reload data --table "0 $(sectors 40) linear $A 8192"
try resume data
try reload pool --table "$(pool "$(sectors 40)" 0 1 error_if_no_space)"
try resume pool
try status pool
events pool
gone thin pool data meta

echo "--- metadata"
# Each volume takes a block of it. How many more a change needs on its way is each side's affair: so is when precisely it says so.
used() { dm status pool | sed -E 's#.*thin-pool [0-9]+ ([0-9]+)/.*#\1#'; }
some_used() { sed -E 's#(thin-pool [0-9]+) [0-9]+/#\1 SOME/#'; }
make meta "0 1024 linear $A 0"
io meta write 0 8 0
make data "0 $(sectors 64) linear $A 8192"
make pool "$(pool "$(sectors 64)" 0)"
try message pool 0 create_thin 0
try create thin --table "0 $(sectors 64) thin /dev/mapper/pool 0"
io thin write 0 8 1
io thin flush
events pool
dm_begins wait pool 0
number=0
until [[ $(events_of pool) != 0 ]]; do dm message pool 0 create_thin $((++number)) || break; done
# The mark is at 32 free blocks, beside the reserve of 12, and those that the last volume took on its way.
found=$(used)
((found > 98 && found <= 108)) && echo "an event as the mark is reached" || echo "an event at $found"
ended
try status pool | some_used
while dm message pool 0 create_thin $((++number)); do :; done
# What needs room in the metadata fails from now on, if not before.
((number > 90)) && echo "many volumes" || echo "$number volumes"
for ((full = 1; full < 64; ++full)); do [[ $(request thin write $(sectors $full) 8 2) == ok ]] || break; done
io thin write $(sectors $full) 8 2
io thin write $(sectors 63) 8 2
try status pool | some_used
io thin read 0 8
io thin write 0 8 3
io thin read 0 8
io thin read $(sectors 63) 8
io thin discard 0 $block
io thin read 0 8
try message pool 0 create_thin 200
try message pool 0 create_snap 200 0
try message pool 0 delete 1
try status pool | some_used
# Longer metadata.
try reload meta --table "0 2048 linear $A 0"
try suspend --noflush meta
try resume meta
try reload pool --table "$(pool "$(sectors 64)" 0)"
try resume pool
try status pool | some_used
io thin write $(sectors 63) 8 4
io thin flush
try message pool 0 create_thin 200
try message pool 0 delete 1
try status pool | some_used
gone thin pool data meta

echo "--- broken"
make meta "0 8192 linear $A 0"
io meta write 0 8 0
make data "0 $(sectors 64) linear $A 8192"
make pool "$(pool "$(sectors 64)" 0)"
try message pool 0 create_thin 0
make thin "0 $(sectors 64) thin /dev/mapper/pool 0"
io thin write 0 $((2 * block)) 1
io thin flush
events pool
# The superblock can be written, nothing else.
under meta "$(printf '%s\n' "0 8 linear $A 0" "8 8184 flakey $A 8 0 1000 1 error_writes")"
dm_begins wait pool 0
io thin durable $(sectors 2) 8 2
ended
try status pool
# A kernel's count of an open volume's sectors stays what it was before the pool went back.
gone_back() { sed 's/ thin 384 255/ thin 256 255/'; }
try status thin | gone_back
events pool
io thin read 0 8
io thin read $(sectors 2) 8
io thin write 0 8 3
io thin read 0 8
io thin write $(sectors 3) 8 4
io thin discard 0 $block
io thin read 0 8
try message pool 0 create_thin 1
try message pool 0 delete 0
# It stays so.
under meta "0 8192 linear $A 0"
try reload pool --table "$(pool "$(sectors 64)" 0)"
try resume pool
try status pool
try table pool
io thin write $(sectors 3) 8 4
# No flush: lamella's say until the pool is opened again that writes were lost, a kernel's once.
try suspend thin
try resume thin
try status thin | gone_back
events pool
gone thin pool
make pool "$(pool "$(sectors 64)" 0)"
make thin "0 $(sectors 64) thin /dev/mapper/pool 0"
io thin read 0 8
io thin write $(sectors 3) 8 4
try message pool 0 create_thin 1
try status pool
events pool
gone thin pool
# Nothing can be written, and nothing read.
io meta write 0 8 0
make pool "$(pool "$(sectors 64)" 0)"
try message pool 0 create_thin 0
make thin "0 $(sectors 64) thin /dev/mapper/pool 0"
io thin write 0 $((2 * block)) 1
io thin flush
under meta "0 8192 error"
dm_begins wait pool 0
io thin durable $(sectors 2) 8 2
ended
try status pool
try status thin
events pool thin
io thin read 0 8
io thin write 0 8 3
io thin flush
io thin discard 0 $block
try message pool 0 create_thin 1
try table pool
try suspend thin
try resume thin
under meta "0 8192 linear $A 0"
try suspend pool
try resume pool
try status pool
try status thin
io thin read 0 8
make second "0 $(sectors 64) thin /dev/mapper/pool 0"
try remove second
try reload pool --table "$(pool "$(sectors 64)" 0)"
try resume pool
try status pool
events pool
gone thin pool
make pool "$(pool "$(sectors 64)" 0)"
make thin "0 $(sectors 64) thin /dev/mapper/pool 0"
io thin read 0 8
io thin read $(sectors 2) 8
io thin write $(sectors 3) 8 4
io thin flush
try status pool
gone thin pool
gone data meta
VERBS

# Where a side stops it has told why in what is compared.
trap '[[ $? == 0 ]] || tail -n 4 kernel.out own.out' EXIT
in_kernel kernel-a.img kernel-b.img <<'END'
for module in dm-delay dm-flakey dm-zero; do "$run/modprobe" "$module"; done
A=/dev/ubda B=/dev/ubdb out=/run
dm_exec() { exec dmsetup "$@"; }
at() { echo "/dev/mapper/$1"; }
source "$SCRATCH/verbs.sh" >"$SCRATCH/kernel.out"
pass "dmsetup's verbs in a kernel"
END

control=$SCRATCH/dm.sock
# shellcheck disable=SC2034  # uri() reads it
socket=$control.nbd
"$LAMELLA" dm run --socket "$control" >serve0.log 2>&1 &
# shellcheck disable=SC2034  # stop_serving ends it
server=$!
wait_for "$LAMELLA" dm ls --socket "$control"
(
    # shellcheck disable=SC2034  # the verbs read them
    A=$SCRATCH/own-a.img B=$SCRATCH/own-b.img out=$SCRATCH
    dm_exec() { exec "$LAMELLA" dm "$1" --socket "$control" "${@:2}"; }
    at() { uri "$1"; }
    source "$SCRATCH/verbs.sh"
) >own.out
stop_serving

# The kernel's data device here has no discards to pass down.
made_equal() {
    sed -E -e "s#$SCRATCH/own-a\.img#A#g; s#$SCRATCH/own-b\.img#B#g; s#/dev/ubda#A#g; s#/dev/ubdb#B#g" \
        -e 's/\b98:0\b/A/g; s/\b98:16\b/B/g; s/\b254:/253:/g; s/ 254 / 253 /; s/no_discard_passdown/discard_passdown/; s/ +$//' "$1"
}
made_equal kernel.out >kernel.lines
made_equal own.out >own.lines
sections=$(sed -n 's/^--- //p' kernel.lines)
while IFS= read -r section; do
    for side in kernel own; do
        sed -n "/^--- $section\$/,/^--- /p" "$side.lines" | sed '1d; /^--- /d' >"$side.section"
    done
    check_same "dm states, $section: as the kernel's ($(wc -l <kernel.section) lines)" kernel.section own.section
done <<<"$sections"
