# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Groups made and written by lamella, in layouts that differ, activate in a real kernel with the same bytes; the kernel writes
# and snapshots in turn, and lamella reads what it left. vgck and thin_check at every hand-over.
source "$(dirname "$0")/../support/host-side.sh"

# layout NAME GROUP-PATH IMAGES INIT-OPTION...
layout() {
    local name=$1 group=$2 images=$3
    shift 3
    echo "--- $name"
    check "$name: init" "$LAMELLA" init "$group" --vg vms --pool pool --pool-size 420M "$@"
    check "$name: create a thin volume" "$LAMELLA" create "$group:web" --size 160M
    check "$name: create a second, tagged" "$LAMELLA" create "$group:db" --size 96M --tag prod
    check "$name: create a linear volume" "$LAMELLA" create "$group:plain-lv" --size 24M --linear

    serve "$group"
    scatter web "$SEED"
    scatter db $((SEED + 1))
    scatter plain-lv $((SEED + 2))
    check "$name: snapshot of a served volume" "$LAMELLA" snapshot "$group:web" --name web-s1
    scatter web $((SEED + 3))
    check "$name: two volumes in one atomic snapshot" "$LAMELLA" snapshot "$group:web" "$group:db"
    scatter db $((SEED + 4))
    check "$name: snapshot of a snapshot" "$LAMELLA" snapshot "$group:web-s1" --name web-s1-copy
    scatter web-s1-copy $((SEED + 5))
    sums written
    stop_serving

    # shellcheck disable=SC2086  # the images are a list
    in_kernel $images <<'END'
check_clean vms "as lamella left it"
activate vms
sums vms "$SCRATCH/read"
scatter /dev/vms/web $((SEED + 6))
quietly lvcreate -y -s -n web-k1 vms/web
scatter /dev/vms/web $((SEED + 7))
scatter /dev/vms/plain-lv $((SEED + 8))
quietly lvremove -y vms/web-s1
quietly lvcreate -y -V 64M -T vms/pool -n fresh
activate vms
scatter /dev/vms/fresh $((SEED + 9))
sums vms "$SCRATCH/written-in-kernel"
check_clean vms "as the kernel left it"
END
    check_same "$name: the kernel reads what lamella wrote" written read

    serve "$group"
    sums read-again
    scatter fresh $((SEED + 10))
    check "$name: snapshot of a volume that the kernel made" "$LAMELLA" snapshot "$group:fresh" --name fresh-s1
    scatter fresh $((SEED + 11))
    sums written-again
    stop_serving
    check_same "$name: lamella reads what the kernel wrote" written-in-kernel read-again

    # shellcheck disable=SC2086
    in_kernel $images <<'END'
check_clean vms "after the second turn of lamella"
activate vms
sums vms "$SCRATCH/read-last"
END
    check_same "$name: the kernel reads the second turn" written-again read-last
    # shellcheck disable=SC2086
    rm -f $images
}

layout "one image, 64K chunks" "$SCRATCH/one.img" "$SCRATCH/one.img" --size 600M --chunk-size 64K

truncate -s 400M left.img right.img
layout "two images, striped, 192K chunks" "$SCRATCH/left.img,$SCRATCH/right.img" "$SCRATCH/left.img $SCRATCH/right.img" \
    --stripes 2 --stripe-size 64K --chunk-size 192K

layout "1M chunks, small extents, no zeroing" "$SCRATCH/large.img" "$SCRATCH/large.img" \
    --size 600M --chunk-size 1M --extent-size 1M --no-zero
