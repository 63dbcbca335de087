# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A pool that LVM made in a real kernel, with snapshots and holes, becomes smaller: nothing of it is lost, and the kernel goes on with it.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 600M field.img
in_kernel field.img <<'END'
quietly pvcreate /dev/ubda
quietly vgcreate field /dev/ubda
quietly lvcreate -y -L 256M --chunksize 64k -T field/pool
quietly lvcreate -y -L 24M -n behind field
quietly lvextend -L 400M field/pool
for volume in gone web db; do quietly lvcreate -V 200M -T field/pool -n $volume; done
scatter /dev/field/web "$SEED"
quietly lvcreate -s -n web-s1 field/web
scatter /dev/field/web $((SEED + 1))
# What is written after this lies far behind.
quietly dd if=/dev/zero of=/dev/field/gone bs=1M count=140 oflag=direct
scatter /dev/field/db $((SEED + 2)) 60
quietly lvcreate -s -n db-s1 field/db
scatter /dev/field/db $((SEED + 3)) 20
scatter /dev/field/behind $((SEED + 4)) 10
quietly lvremove -y field/gone
activate field
sums field "$SCRATCH/written"
check_clean field "as LVM left it"
END

check "the pool becomes smaller" "$LAMELLA" shrink "$SCRATCH/field.img:pool" --size 160M --yes
in_kernel field.img <<'END'
check_clean field "as lamella left it"
check_equal "the pool has 160 MiB" 160.00m "$(lvs --noheadings --units m -o lv_size field/pool | tr -d ' ')"
activate field
sums field "$SCRATCH/read"
quietly lvcreate -s -n web-k1 field/web
scatter /dev/field/web $((SEED + 5)) 20
activate field
sums field "$SCRATCH/written-in-kernel"
check_clean field "after another turn of the kernel"
END
check_same "the kernel reads the same" written read
serve "$SCRATCH/field.img" --read-only
sums read-last
stop_serving
check_same "lamella reads what the kernel wrote then" written-in-kernel read-last
