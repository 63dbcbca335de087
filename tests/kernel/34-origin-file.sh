# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A thin volume over an image outside of the group, in the hands of LVM: skipped when everything is activated; activated all the same, it
# shows what was written to it, and errors, never zeros, where the image's content belongs. What the kernel writes, lamella reads.
source "$(dirname "$0")/../support/host-side.sh"

head -c 20000256 /dev/urandom >base.raw
group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --size 200M --pool-size 100M
quietly "$LAMELLA" create "$group:clone" --origin base.raw --size 32M
quietly "$LAMELLA" create "$group:plain" --size 8M
quietly "$LAMELLA" snapshot "$group:clone" --name before
cp base.raw expected
truncate -s 32M expected
serve "$group"
scatter clone "$SEED" 10
/usr/bin/python3 "$support/scatter.py" expected --seed "$SEED" --count 10
quietly qemu-io -f raw -c 'write -P 7 1M 1M' -c flush "$(uri clone)"
stop_serving
/usr/bin/python3 -c 'f = open("expected", "r+b"); f.seek(1 << 20); f.write(b"\7" * (1 << 20))'

in_kernel vms.img <<'END'
check "vgck" vgck vms
quietly vgchange -ay vms
check_equal "only the others are activated" "plain pool" "$(lvs --noheadings -o lv_name -S 'lv_active=active' vms | xargs)"
quietly lvchange -ay -K vms/clone vms/before
others() { dd "if=/dev/vms/$1" bs=1M "skip=$2" count=1 status=none | tr -d "$3" | wc -c; }
check_equal "what was written is there" 0 "$(others clone 1 '\7')"
check_status 1 "what wasn't, in the image's place, is an error" dd if=/dev/vms/before of=/dev/null bs=64k count=1 status=none
check_equal "behind the image there are zeros" 0 "$(others before 24 '\0')"
dd if=/dev/zero of=/dev/vms/clone bs=64k seek=100 count=4 oflag=direct conv=notrunc status=none
quietly lvcreate -y -s -n from-lvm vms/clone
deactivate vms
END
dd if=/dev/zero of=expected bs=64k seek=100 count=4 conv=notrunc status=none
serve "$group"
check "lamella reads both" qemu-img compare -f raw -F raw expected "$(uri clone)"
check "LVM's snapshot falls through as well" qemu-img compare -f raw -F raw expected "$(uri from-lvm)"
check "the older one is the image" qemu-img compare -f raw -F raw base.raw "$(uri before)"
stop_serving

# Over a read-only volume of the group itself: LVM's, which lamella reads through and writes to; then lamella's, in LVM's hands.
truncate -s 160M inside.img
group=$SCRATCH/inside.img
in_kernel inside.img <<'END'
quietly pvcreate /dev/ubda
quietly vgcreate inside /dev/ubda
quietly lvcreate -y -L 24M -n ro inside
scatter /dev/inside/ro "$SEED"
quietly lvchange -an inside/ro
quietly lvchange -pr inside/ro
quietly lvcreate -y -L 48M -c 64k -T inside/pool
quietly lvcreate -y -s --thinpool inside/pool -n clone inside/ro
activate inside
check_equal "LVM's clone shows the volume below" "$(sum_of /dev/inside/ro)" "$(sum_of /dev/inside/clone)"
scatter /dev/inside/clone $((SEED + 1)) 10
sums inside "$SCRATCH/inside-there"
deactivate inside
END
serve "$group"
sums inside-here
check_same "lamella reads through to a volume of the group" inside-there inside-here
check "and takes its own clone of it" "$LAMELLA" create "$group:own" --external-origin ro --size 24M
check_equal "which shows it" "$(awk '$1 == "ro" { print $2 }' inside-there)" "$(nbdcopy "$(uri own)" - | sha256sum | cut -d' ' -f1)"
scatter clone $((SEED + 2)) 10
scatter own $((SEED + 3)) 10
sums inside-here
stop_serving
in_kernel inside.img <<'END'
check "vgck: as lamella left it" vgck inside
activate inside
check_equal "LVM sees both clones" "clone ro own ro" "$(lvs --noheadings --sort lv_name -o lv_name,origin -S 'origin=ro' inside | xargs)"
sums inside "$SCRATCH/inside-there"
deactivate inside
END
check_same "the kernel reads what lamella wrote to both" inside-here inside-there
check_equal "the volume below is as it was" "$(awk '$1 == "ro" { print $2 }' inside-here)" "$(awk '$1 == "ro" { print $2 }' inside-there)"
