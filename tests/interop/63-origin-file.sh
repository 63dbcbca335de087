# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Thin volumes over a raw image outside of the group: they begin as the image, writes stay in the pool, also when the server is killed;
# the image is never written. LVM's tools find nothing wrong with the group. qemu compares.
source "$(dirname "$0")/../support/host-side.sh"
RANDOM=$((SEED % 32768))

mkdir images
group=$SCRATCH/images/vms.img
/usr/bin/python3 -c "import random; open('images/base 1.raw', 'wb').write(random.Random($SEED).randbytes(30000128))"
sum=$(sum_of "images/base 1.raw")
quietly "$LAMELLA" init "$group" --size 300M --pool-size 200M
check "a volume over an image" "$LAMELLA" create "$group:clone" --origin "images/base 1.raw"
check "a larger one" "$LAMELLA" create "$group:larger" --origin "images/base 1.raw" --size 64M
cp "images/base 1.raw" expected
truncate -s 32M expected # whole extents

serve "$group"
same() { check "$1" qemu-img compare -f raw -F raw "${3:-expected}" "$(uri "$2")"; }
same "the volume is the image, and zeros behind its end" clone
check "the larger one, too" nbdcopy "$(uri larger)" larger.out
cp expected larger.expected
truncate -s 64M larger.expected
check "byte for byte" cmp larger.out larger.expected
check "one made while the group is served" "$LAMELLA" create "$group:late" --origin "images/base 1.raw"
same "is the image" late
scatter clone "$SEED"
/usr/bin/python3 "$support/scatter.py" expected --seed "$SEED" --count 40
same "with what was written over it" clone
check "a snapshot of it" "$LAMELLA" snapshot "$group:clone" --name moment
cp expected moment.expected
scatter clone $((SEED + 1))
/usr/bin/python3 "$support/scatter.py" expected --seed $((SEED + 1)) --count 40
kill_server
serve "$group"
same "after a kill" clone
same "and the snapshot" moment moment.expected
same "others are still the image" late "images/base 1.raw"
check_equal "list names the image" "base 1.raw" "$("$LAMELLA" list "$group" --json | /usr/bin/python3 -c '
import json, sys
print(*{v["origin_file"] for v in json.load(sys.stdin)["volumes"] if v["name"] in ("clone", "larger", "late", "moment")})')"
stop_serving
check_equal "nobody has written to the image" "$sum" "$(sum_of "images/base 1.raw")"

mv images moved
group=$SCRATCH/moved/vms.img
serve "$group"
same "moved with its image" clone
stop_serving
mv "moved/base 1.raw" away.raw
serve "$group"
check_status 1 "without the image there is no content" qemu-io -f raw -r -c 'read 0 64k' "$(uri clone)"
check "and list says why" grep -q "base 1.raw: No such file" <("$LAMELLA" show "$group:clone")
stop_serving

lvm_alone "$group"
check "vgck finds nothing" vgck vms
check_equal "lvs sees thin volumes over a volume of errors" "clone base_1 thin skip activation" \
    "$(lvs --noheadings -o lv_name,origin,segtype,lv_skip_activation vms/clone 2>/dev/null | xargs)"
losetup --detach "$lvm_device"
check "the last volume takes what stood for the image with it" "$LAMELLA" remove --yes "$group:clone" "$group:larger" "$group:late" "$group:moment"
check_status 3 "which is gone" "$LAMELLA" show "$group:base_1"
