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
