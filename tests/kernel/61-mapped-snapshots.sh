# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# snapshot, snapshot-origin and snapshot-merge by dmsetup in a real kernel and by `lamella dm`: the same verbs on the same tables, in LVM's
# layout of four devices, with several snapshots, a store that grows, a merge beside another snapshot and stores that are full, print the
# same and leave the same bytes.
source "$(dirname "$0")/../support/host-side.sh"

for image in kernel-a.img kernel-b.img own-a.img own-b.img; do truncate -s 48M "$image"; done

cat >"$SCRATCH/verbs.sh" <<'VERBS'
try() {
    echo "\$ dm $*"
    dm "$@" || echo failed
}
make() {
    try create "$1" --table "$2"
    try table "$1"
    try status "$1"
}
# A client that has just gone may still be counted.
gone() { wait_for dm remove "$1" && echo "removed $1"; }
merged() {
    local allocated metadata
    read -r _ _ _ allocated metadata <<<"$(dm status "$1")"
    [[ ${allocated%/*} == "$metadata" ]]
}
echo "--- layout"
make vg-base-real "0 16384 linear $A 0"
scattered vg-base-real 1
make vg-snap-cow "0 12288 linear $B 0"
make vg-snap "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-snap-cow P 16"
make vg-base "0 16384 snapshot-origin /dev/mapper/vg-base-real"
scattered vg-base 2
try status
summed vg-base
summed vg-snap
scattered vg-snap 3
try status vg-snap
summed vg-base
summed vg-snap

echo "--- second"
make vg-other-cow "0 20480 linear $B 57344"
try suspend vg-base
make vg-other "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-other-cow PO 8 1 discard_zeroes_cow"
try resume vg-base
scattered vg-base 4
try status
try table
try deps
try info -c --noheadings -o name,open,segments,attr
summed vg-base
summed vg-snap
summed vg-other
make vg-third-cow "0 12288 linear $B 79872"
make vg-third "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-third-cow N 32"
scattered vg-third 5
scattered vg-base 6
try status
summed vg-third
gone vg-third
gone vg-third-cow

echo "--- grows"
try reload vg-snap-cow --table "0 16384 linear $B 32768"
try reload vg-snap-cow --table "0 12288 linear $B 0
12288 4096 linear $B 32768"
try suspend vg-snap
try suspend vg-snap-cow
try resume vg-snap-cow
try resume vg-snap
try status vg-snap
scattered vg-base 7
try status
summed vg-snap

echo "--- merges"
summed vg-other
try suspend vg-snap
try suspend vg-base
try reload vg-base --table "0 16384 snapshot-merge /dev/mapper/vg-base-real /dev/mapper/vg-snap-cow P 16"
try resume vg-base
wait_for merged vg-base
try status vg-base
try table vg-base
summed vg-base
summed vg-other
scattered vg-base 8
gone vg-snap
try reload vg-base --table "0 16384 snapshot-origin /dev/mapper/vg-base-real"
try resume vg-base
gone vg-snap-cow
try status
summed vg-base
summed vg-other

echo "--- full"
make vg-small-cow "0 160 linear $B 40960"
make vg-small "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-small-cow P 8"
make vg-over-cow "0 160 linear $B 41984"
make vg-over "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-over-cow PO 8"
refused vg-over
try status vg-over
scattered vg-base 9
try status
gone vg-small
make vg-small "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-small-cow P 8"
gone vg-over
try reload vg-over-cow --table "0 160 error"

echo "--- refused"
make refused "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-over-cow P 7"
make refused "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-over-cow X 8"
make refused "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-over-cow N 0"
make refused "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-base-real P 8"
make refused "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-over-cow P 8 1 discard_passdown_origin"
make refused "0 16384 snapshot /dev/mapper/vg-base-real /dev/mapper/vg-over-cow P 8 1 nonsense"
make refused "0 16384 snapshot /dev/mapper/vg-base-real"
make refused "0 16384 snapshot-origin"
make refused "0 16384 snapshot-origin /dev/mapper/vg-base-real extra"
VERBS

in_kernel kernel-a.img kernel-b.img <<'END'
A=/dev/ubda B=/dev/ubdb
dm() { dmsetup "$@" 2>/dev/null; }
scattered() { scatter "/dev/mapper/$1" "$2" 12; }
summed() { echo "$1 $(sum_of "/dev/mapper/$1")"; }
refused() { ! dd if=/dev/zero "of=/dev/mapper/$1" bs=1M count=1 oflag=direct conv=notrunc status=none 2>/dev/null || echo "not refused"; }
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
    A=$SCRATCH/own-a.img B=$SCRATCH/own-b.img
    dm() { "$LAMELLA" dm "$1" --socket "$control" "${@:2}" 2>/dev/null; }
    scattered() { /usr/bin/python3 "$support/scatter.py" "$(uri "$1")" --seed "$2" --count 12; }
    summed() { echo "$1 $(nbdcopy "$(uri "$1")" - | sha256sum | cut -d' ' -f1)"; }
    refused() { ! nbdsh -u "$(uri "$1")" -c 'h.zero(1 << 20, 0, nbd.CMD_FLAG_NO_HOLE)' 2>/dev/null || echo "not refused"; }
    source "$SCRATCH/verbs.sh"
) >own.out
stop_serving

made_equal() {
    sed -E -e "s#$SCRATCH/own-a\.img#A#g; s#$SCRATCH/own-b\.img#B#g; s#/dev/ubda#A#g; s#/dev/ubdb#B#g" \
        -e 's/\b98:0\b/A/g; s/\b98:16\b/B/g; s/\(98, 0\)/(A)/g; s/\(98, 16\)/(B)/g; s/\b254:/253:/g; s/\b254, /253, /g; s/ +$//' "$1"
}
made_equal kernel.out >kernel.lines
made_equal own.out >own.lines
for section in layout second grows merges full refused; do
    for side in kernel own; do
        sed -n "/^--- $section\$/,/^--- /p" "$side.lines" | sed '1d; /^--- /d' >"$side.section"
    done
    check_same "snapshots by dm verbs, $section: as the kernel's ($(grep -c '^\$' kernel.section))" kernel.section own.section
done
