# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# qemu-img and qemu-io as clients.
source "$(dirname "$0")/../support/host-side.sh"

group=$SCRATCH/vms.img
check "init" "$LAMELLA" init "$group" --pool-size 100%FREE --size 1G
check "create" "$LAMELLA" create "$group:web" --size 200M
check "create a second" "$LAMELLA" create "$group:copy" --size 200M
serve "$group"

check_equal "qemu-img sees the size" 209715200 "$(qemu-img info --output=json "$(uri web)" | sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p')"
check "an untouched volume reads as zeros" qemu-io -f raw -r -c 'read -P 0 0 64M' "$(uri web)"
check "patterns at odd places, written and read" qemu-io -f raw -c 'write -P 1 0 64k' -c 'write -P 2 32k 64k' -c 'write -P 3 1048064 1024' \
    -c 'write -z 128k 64k' -c 'aio_write -P 4 5M 3M' -c aio_flush -c flush -c 'write -P 5 -f 100M 512' \
    -c 'read -P 1 0 32k' -c 'read -P 2 32k 64k' -c 'read -P 3 1048064 1024' -c 'read -P 0 128k 64k' -c 'read -P 4 5M 3M' -c 'read -P 5 100M 512' "$(uri web)"
check "they are there for a second client" qemu-io -f raw -r -c 'read -P 2 32k 64k' -c 'read -P 4 5M 3M' -c 'read -P 0 8M 90M' "$(uri web)"
check_status 1 "a pattern that isn't there is missed" qemu-io -f raw -r -c 'read -P 9 0 64k' "$(uri web)"
check "discarded chunks read as zeros" qemu-io -f raw -c 'discard 5M 2M' -c 'read -P 0 5M 2M' -c 'read -P 4 7M 1M' "$(uri web)"

head -c 50M /dev/urandom >random.raw
truncate -s 200M random.raw
check "qemu-img convert into a volume" qemu-img convert -n -f raw -O raw random.raw "$(uri copy)"
check "qemu-img compare agrees" qemu-img compare -f raw -F raw random.raw "$(uri copy)"
qemu-img convert -f raw -O qcow2 "$(uri copy)" out.qcow2
check "a copy out of the volume is the same" qemu-img compare -f raw -F qcow2 random.raw out.qcow2
check "the copy left holes out" test "$(stat -c '%b' out.qcow2)" -lt $((60 * 2048))
qemu-img map --output=json -f raw "$(uri copy)" >extents.json
check "the map has data" grep -q '"data": true' extents.json
check "the map has holes" grep -q '"data": false' extents.json
stop_serving

serve "$group" --read-only
check_status 1 "a read-only server refuses a writer" qemu-io -f raw -c 'write 0 512' "$(uri web)"
check "after a restart all is there" qemu-img compare -f raw -F raw random.raw "$(uri copy)"
stop_serving
