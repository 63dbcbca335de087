# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A pool set up with the commands of docker's direct-lvm guide (a pool converted from two ordinary volumes, 512K chunks, no
# zeroing, nothing left for a spare unless there is room), used as docker uses it: thin devices made by messages to the pool, which
# LVM's metadata know nothing of.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 1G disk.img
in_kernel disk.img <<'END'
quietly pvcreate /dev/ubda
quietly vgcreate docker /dev/ubda
quietly lvcreate --wipesignatures y -n thinpool docker -l 90%VG
quietly lvcreate --wipesignatures y -n thinpoolmeta docker -l 5%VG
quietly lvconvert -y --zero n -c 512K --thinpool docker/thinpool --poolmetadata docker/thinpoolmeta
quietly lvcreate -V 256M -T docker/thinpool -n image
scatter /dev/docker/image "$SEED"

# docker's own: device ids from above, invisible to LVM.
pool=/dev/mapper/docker-thinpool-tpool
dmsetup message $pool 0 "create_thin 1000"
dmsetup create foreign --table "0 $((64 * 2048)) thin $pool 1000"
dmsetup mknodes
scatter /dev/mapper/foreign $((SEED + 1))
sum_of /dev/mapper/foreign >"$SCRATCH/foreign"
dmsetup remove foreign
sums docker "$SCRATCH/written"
check_clean docker "as the guide leaves it"
END

serve "$SCRATCH/disk.img"
sums read
check_same "lamella reads the volume" written read
scatter image $((SEED + 2))
check "snapshot in a pool with foreign devices" "$LAMELLA" snapshot "$SCRATCH/disk.img:image" --name image-s1
scatter image $((SEED + 3))
sums written-by-lamella
stop_serving

in_kernel disk.img <<'END'
check_clean docker "as lamella left it"
activate docker
sums docker "$SCRATCH/read-in-kernel"
dmsetup create foreign --table "0 $((64 * 2048)) thin /dev/mapper/docker-thinpool-tpool 1000"
dmsetup mknodes
sum_of /dev/mapper/foreign >"$SCRATCH/foreign-after"
dmsetup remove foreign
END
check_same "the kernel reads what lamella wrote" written-by-lamella read-in-kernel
check_same "the foreign device is as it was" foreign foreign-after
