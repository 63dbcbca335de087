# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The same verbs on the same tables, by dmsetup in a real kernel and by `lamella dm`: what table, status, info, deps, ls and targets print
# is the same, line for line, and so is what the devices hold.
#
# Made equal before the comparison: names of the devices below (98:0 and 98:16 there, paths here), the major number (254 there, 253
# here), error texts and statuses (said to have failed, or not), what only a kernel has (read ahead), blanks at the end of a line.
source "$(dirname "$0")/../support/host-side.sh"

for image in kernel-a.img kernel-b.img own-a.img own-b.img; do truncate -s 64M "$image"; done

# Run once there and once here. A and B are the devices below; dm is dmsetup or lamella; scattered writes to a device.
cat >"$SCRATCH/verbs.sh" <<'VERBS'
try() {
    echo "\$ dm $*"
    dm "$@" || echo failed
}
make() { # NAME LINE
    try create "$1" --table "${2//A /$A }" "${@:3}"
    try table "$1"
    try status "$1"
}
echo "--- plain targets"
make lin "0 2048 linear A 8"
printf '# two lines\n\n0 1024 linear %s 0\n1024 1024 linear %s 16\n' "$A" "$B" | try create two --uuid UUID-2
try table two
make striped "0 4096 striped 2 16 A 4096 $B 8192"
make three "0 4080 striped 3 8 A 4096 $B 8192 $B 20000"
make error "0 1000 error"
make error-words "0 1000 error a b"
make zero "0 1000 zero"
make delay "0 1000 delay A 0 100"
make delay-writes "0 1000 delay A 0 1 $B 8 20"
make delay-all "0 1000 delay A 0 1 $B 8 20 A 16 300"
make flakey "0 1000 flakey A 0 2 3"
make flakey-drop "0 1000 flakey A 0 2 3 1 drop_writes"
make flakey-error "0 1000 flakey A 0 2 3 1 error_writes"
make flakey-read "0 1000 flakey A 0 0 3 5 corrupt_bio_byte 32 r 1 0"
make flakey-both "0 1000 flakey A 0 0 3 6 drop_writes corrupt_bio_byte 224 r 0 32"
make read-only "0 1000 linear A 0" --readonly
make upper "0 1000 linear /dev/mapper/lin 8"
make upper-word "0 1000 linear /dev/mapper/upper 0"

echo "--- refused"
while IFS= read -r line; do
    try create refused --table "${line//A /$A }"
done <<LINES
0 4100 striped 2 16 A 4096 $B 8192
0 1000 flakey A 0 0 3 1 error_reads
0 1000 flakey A 0 0 0
0 1000 flakey A 0 2 3 2 drop_writes error_writes
0 1000 flakey A 0 0 3 6 drop_writes corrupt_bio_byte 224 w 0 32
0 1000 linear A
0 1000 linear A 0 extra
0 1000 linear A 131072
0 1000 linear A 131000
0 1000 linear A -1
8 1000 linear A 1
0 1000 nosuch A 1
0 0 linear A 1
0 1000 linear /dev/nosuch 1
0 1000 delay A 0
0 1000 delay A 0 1 A 0
LINES
try create lin --notable
try create other --uuid UUID-2 --notable

echo "--- looked at"
try deps
try deps upper
try deps -o devname upper upper-word
try info
try info lin two
try info -c
try info -c --noheadings -o name,open,segments,events,uuid,attr,major,minor
try ls
try ls --target striped
try ls --tree
try ls --tree -o ascii,uuid,open,active,rw
try status
try table
try table --target flakey

echo "--- changed"
try remove lin
try remove --deferred lin
try info lin
try message upper 0 @cancel_deferred_remove
try info lin
try suspend striped
try info striped
try reload striped --table "0 1000 zero"
try info striped
try table striped
try resume striped
try info striped
try table striped
try status striped
try load striped --table "0 16 zero"
try clear striped
try info striped
try rename striped renamed
try rename striped again
try rename error renamed
try rename error --setuuid UUID-2
try rename error --setuuid UUID-3
try rename error --setuuid UUID-4
try info error
try wait error
try create empty --notable
try info empty
try table empty
try status empty
try resume empty
try remove empty
try message zero 0 hello
try wait zero 5
try suspend --noflush zero
try suspend zero
try reload zero --table "0 1000 zero" --readonly
try resume zero
try info -c zero
try remove --force two
try remove nosuch
try remove_all
try ls
try info

echo "--- thin"
make meta "0 16384 linear A 0"
make data "0 65536 linear A 16384"
make pool "0 65536 thin-pool /dev/mapper/meta /dev/mapper/data 128 4"
try message pool 0 create_thin 0
try message pool 0 create_thin 0
make thin "0 20480 thin /dev/mapper/pool 0"
scattered thin 1
try suspend thin
try message pool 0 create_snap 1 0
try resume thin
make snap "0 20480 thin /dev/mapper/pool 1"
scattered thin 2
try message pool 0 create_thin 2
make external "0 20480 thin /dev/mapper/pool 2 $B"
scattered external 3
make nothing "0 20480 thin /dev/mapper/pool 77"
make second "0 65536 thin-pool /dev/mapper/meta /dev/mapper/data 128 4"
try message pool 0 delete 1
try message pool 0 set_transaction_id 0 5
try message pool 0 set_transaction_id 0 6
try message pool 0 reserve_metadata_snap
try message pool 0 nonsense
try status
try table
try info
try info -c
try ls --tree
try reload data --table "0 81920 linear $A 16384"
try suspend data
try resume data
try reload pool --table "0 81920 thin-pool /dev/mapper/meta /dev/mapper/data 128 0 2 skip_block_zeroing error_if_no_space"
try resume pool
try status pool
try table pool
try reload pool --table "0 81920 thin-pool /dev/mapper/meta /dev/mapper/data 128 0 3 skip_block_zeroing error_if_no_space read_only"
try table pool
try resume pool
try status pool
try table pool
try message pool 0 create_thin 7
summed thin
try reload pool --readonly --table "0 81920 thin-pool /dev/mapper/meta /dev/mapper/data 128 0 2 skip_block_zeroing error_if_no_space"
try resume pool
try status pool
try table pool
try info -c pool
try reload pool --table "0 81920 thin-pool /dev/mapper/meta /dev/mapper/data 128 0 2 skip_block_zeroing error_if_no_space"
try resume pool
try status pool
try table pool
try message pool 0 create_thin 7
try message pool 0 delete 7
try info -c pool
try reload pool --table "0 81920 linear $A 0"
try reload thin --table "0 40960 thin /dev/mapper/pool 0"
try resume thin
try status thin
summed thin
summed snap
summed external
try remove snap
try message pool 0 release_metadata_snap
try message pool 0 delete 1
try status pool
try remove pool
try remove_all
try remove_all

echo "--- snapshots"
make real "0 16384 linear A 98304"
scattered real 4
make store "0 24576 linear $B 16384"
make transient-store "0 24576 linear $B 49152"
make origin "0 16384 snapshot-origin /dev/mapper/real"
make snapshot "0 16384 snapshot /dev/mapper/real /dev/mapper/store P 8"
make transient "0 16384 snapshot /dev/mapper/real /dev/mapper/transient-store N 16"
make overflow "0 16384 snapshot /dev/mapper/real $B PO 7"
make nothing "0 16384 snapshot /dev/mapper/real"
scattered origin 5
try status
try table
try info -c
try deps
try ls --tree
summed snapshot
scattered snapshot 6
try status snapshot
summed snapshot
try remove transient
try suspend snapshot
try suspend origin
try reload origin --table "0 16384 snapshot-merge /dev/mapper/real /dev/mapper/store P 8"
try resume origin
try resume snapshot
merged() { dm status origin | grep -Eq ' ([0-9]+)/[0-9]+ \1 *$'; }
wait_for merged
try status origin
try table origin
summed origin
VERBS

in_kernel kernel-a.img kernel-b.img <<'END'
for module in dm-delay dm-flakey dm-zero; do "$run/modprobe" "$module"; done
A=/dev/ubda B=/dev/ubdb
dm() { dmsetup "$@" 2>/dev/null; }
scattered() { scatter "/dev/mapper/$1" "$2" 60; }
summed() { echo "$1 $(sum_of "/dev/mapper/$1")"; }
source "$SCRATCH/verbs.sh" >"$SCRATCH/kernel.out"
dmsetup targets >"$SCRATCH/kernel-targets.out"
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
    scattered() { /usr/bin/python3 "$support/scatter.py" "$(uri "$1")" --seed "$2" --count 60; }
    summed() { echo "$1 $(nbdcopy "$(uri "$1")" - | sha256sum | cut -d' ' -f1)"; }
    source "$SCRATCH/verbs.sh"
) >own.out
"$LAMELLA" dm targets >own-targets.out
stop_serving

# The kernel's data device here has no discards to pass down. Which metadata block a metadata snapshot takes is the allocator's affair.
made_equal() {
    sed -E -e "s#$SCRATCH/own-a\.img#A#g; s#$SCRATCH/own-b\.img#B#g; s#/dev/ubda#A#g; s#/dev/ubdb#B#g" \
        -e 's/\b98:0\b/A/g; s/\b98:16\b/B/g; s/\(98, 0\)/(A)/g; s/\(98, 16\)/(B)/g; s/\(ubda\)/(A)/g; s/\(ubdb\)/(B)/g' \
        -e 's/\b254:/253:/g; s/\b254, /253, /g; s/ 254 / 253 /; s/:254:/:253:/' \
        -e '/^Read Ahead:/d; s/no_discard_passdown/discard_passdown/; s#(thin-pool [0-9]+ [0-9/]+ [0-9/]+) [0-9]+ #\1 HELD #' -e 's/ +$//' "$1"
}
made_equal kernel.out >kernel.lines
made_equal own.out >own.lines
for section in "plain targets" refused "looked at" changed thin snapshots; do
    for side in kernel own; do
        sed -n "/^--- $section\$/,/^--- /p" "$side.lines" | sed '1d; /^--- /d' >"$side.section"
    done
    check_same "dm verbs, $section: as the kernel's ($(grep -c '^\$' kernel.section))" kernel.section own.section
done

while read -r name version; do
    check "the kernel's target $name has the version that ours tells, $version" grep -Eq "^$name +$version\$" kernel-targets.out
done <own-targets.out
