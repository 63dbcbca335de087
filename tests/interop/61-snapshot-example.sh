# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The worked example of the kernel's documentation of snapshots (Documentation/admin-guide/device-mapper/snapshot.rst): LVM's four
# devices, their tables while there is a snapshot and while it merges, and the numbers of its status lines.
# Its device 8:19 is an image here, and its devices 254:10 to 254:13 are 253:10 to 253:13.
source "$(dirname "$0")/../support/host-side.sh"

control=$SCRATCH/dm.sock
# shellcheck disable=SC2034  # uri() reads it
socket=$control.nbd
"$LAMELLA" dm run --socket "$control" >serve0.log 2>&1 &
# shellcheck disable=SC2034  # stop_serving ends it
server=$!
wait_for 30 "$LAMELLA" dm ls --socket "$control"
dm() { "$LAMELLA" dm "$1" --socket "$control" "${@:2}"; }
# tables_are DESCRIPTION <<LINES: what dm table prints of the group.
tables_are() {
    sort | sed "s#8:19#$SCRATCH/disk.img#; s/\b254:/253:/g" >expected
    dm table | grep '^volumeGroup' | sort >found
    check_same "$1" expected found
}
merged() { dm status volumeGroup-base | grep -Eq ' ([0-9]+)/[0-9]+ \1$'; }
merge() {
    quietly dm suspend volumeGroup-base
    quietly dm remove volumeGroup-snap
    quietly dm rename volumeGroup-snap-cow volumeGroup-base-cow
    quietly dm reload volumeGroup-base --table "0 $1 snapshot-merge /dev/mapper/volumeGroup-base-real /dev/mapper/volumeGroup-base-cow P $2"
    quietly dm resume volumeGroup-base
}

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
merge 2097152 16
tables_are "the three tables of a volume whose snapshot merges" <<'LINES'
volumeGroup-base-real: 0 2097152 linear 8:19 384
volumeGroup-base-cow: 0 204800 linear 8:19 2097536
volumeGroup-base: 0 2097152 snapshot-merge 254:11 254:12 P 16
LINES
check "the merge ends" wait_for 60 merged
check "the origin is what the snapshot was" qemu-io -f raw -r -c 'read -P 1 0 8M' "$(uri volumeGroup-base)"
wait_for 30 dm remove volumeGroup-base
for name in base-real base-cow; do quietly dm remove "volumeGroup-$name"; done

# The practical example: 4 GiB with a snapshot of 1 GiB, 18.97 % full. 397896 sectors of which 1560 are metadata: chunks of 4 KiB, 49542 of
# them, in 194 areas.
truncate -s 6G large.img
quietly dm create volumeGroup-base-real --table "0 8388608 linear ./large.img 384"
quietly dm create volumeGroup-snap-cow --table "0 2097152 linear ./large.img 8389632"
quietly dm create volumeGroup-snap --table "0 8388608 snapshot /dev/mapper/volumeGroup-base-real /dev/mapper/volumeGroup-snap-cow P 8"
quietly dm create volumeGroup-base --table "0 8388608 snapshot-origin /dev/mapper/volumeGroup-base-real"
head -c $((49542 * 4096)) /dev/zero | tr '\0' '\3' >change
check "49542 chunks of the origin change" nbdcopy --flush change "$(uri volumeGroup-base)"
check_equal "dmsetup status volumeGroup-snap" "0 8388608 snapshot 397896/2097152 1560" "$(dm status volumeGroup-snap)"
merge 8388608 8
check "status lines fall meanwhile, and the merge ends" wait_for 120 merged
check_equal "dmsetup status volumeGroup-base, merging has finished" "0 8388608 snapshot-merge 16/2097152 16" "$(dm status volumeGroup-base)"
check "nothing of the change is left" qemu-io -f raw -r -c 'read -P 0 0 200M' "$(uri volumeGroup-base)"
stop_serving
