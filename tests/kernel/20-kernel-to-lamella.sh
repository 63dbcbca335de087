# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Groups made by LVM in a real kernel, with what is found in the field: data striped over two physical volumes, several
# snapshots, tags, volumes that activation skips, ordinary volumes beside the pool, two pools, a metadata snapshot held.
# lamella opens them, reads the same bytes, writes and snapshots; the kernel reads that.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 500M left.img right.img
in_kernel left.img right.img <<'END'
quietly pvcreate /dev/ubda
quietly pvcreate --metadatacopies 2 /dev/ubdb
quietly vgcreate field /dev/ubda /dev/ubdb
quietly lvcreate -y -i 2 -I 64 -L 256M --chunksize 64k -T field/pool
quietly lvcreate -V 160M -T field/pool -n web
quietly lvcreate -V 96M -T field/pool -n db --addtag prod --addtag tier=1
quietly lvcreate -y -L 24M -n plain field
quietly lvcreate -y -i 2 -L 32M -n striped field
quietly lvcreate -y -L 64M --chunksize 192k -Z n --discards nopassdown -T field/other-pool
quietly lvcreate -V 1G -T field/other-pool -n over-allocated

for volume in web db plain striped; do scatter /dev/field/$volume "$SEED"; done
scatter /dev/field/over-allocated "$SEED" 20
quietly lvcreate -s -n web-s1 field/web
scatter /dev/field/web $((SEED + 1))
quietly lvcreate -s -n web-s2 field/web
quietly lvcreate -s -n web-s1-s1 field/web-s1
activate field
scatter /dev/field/web-s1-s1 $((SEED + 2))
scatter /dev/field/web $((SEED + 3))
quietly lvchange -p r field/web-s2
blkdiscard --offset $((16 << 20)) --length $((32 << 20)) /dev/field/web
# A snapshot that is gone leaves blocks that look shared and are not.
quietly lvcreate -s -n web-gone field/web
quietly lvremove -y field/web-gone
scatter /dev/field/web $((SEED + 4))
sync
dmsetup message field-pool-tpool 0 reserve_metadata_snap
scatter /dev/field/db $((SEED + 5))
check "a metadata snapshot is held" bash -c "dmsetup status field-pool-tpool | awk '{ exit \$7 == \"-\" }'"
sums field "$SCRATCH/written"
# While the pool is in use: a volume that doesn't change. The pool's metadata don't have its size.
truncate -s 160M "$SCRATCH/web-s2.copy"
check "thin_migrate through the metadata snapshot" "$LAMELLA" thin_migrate -m --metadata-dev /dev/mapper/field-pool_tmeta \
    --data-dev /dev/mapper/field-pool_tdata --thin-id "$(lvs --noheadings -o thin_id field/web-s2 | tr -d ' ')" --dest-file "$SCRATCH/web-s2.copy"
check "copies it" cmp /dev/field/web-s2 "$SCRATCH/web-s2.copy"
check_clean field "as LVM left it"
for pool in pool other-pool; do
    quietly lvchange -qq -y -ay "field/${pool}_tmeta"
    cp "/dev/field/${pool}_tmeta" "$SCRATCH/$pool.bin"
    quietly lvchange -qq -an "field/${pool}_tmeta"
done
lvs -a -o lv_name,lv_attr,lv_size,pool_lv,origin,lv_tags,segtype field
END
check_equal "eight volumes were made" 8 "$(wc -l <written)"

group=$SCRATCH/left.img,$SCRATCH/right.img
# Our check looks at more than thin_check does: none of it may be what a kernel's pool never had.
for pool in pool other-pool; do
    check_status 0 "lamella check of $pool, which the kernel wrote" "$LAMELLA" check "$group:$pool"
done
# The peer's tools and ours read the same in it, and restore the same from it.
for pool in pool other-pool; do
    thin_dump "$pool.bin" >kernel.xml
    for restored in peer our; do truncate -s 0 "$restored.bin" && truncate -s "$(stat -c %s "$pool.bin")" "$restored.bin"; done
    quietly thin_restore -i kernel.xml -o peer.bin
    check "our thin_restore of it" "$LAMELLA" thin_restore -i kernel.xml -o our.bin
    check "the peer's thin_check of what ours restored" thin_check -q our.bin
    check "our thin_check of what the peer's restored" "$LAMELLA" thin_check -q peer.bin
    mapfile -t ids < <(sed -n 's/.*dev_id="\([0-9]*\)".*/\1/p' kernel.xml)
    for made in "$pool" peer our; do
        same_dumps "$pool, made by $made" "$made.bin"
        same_output "thin_ls of $pool, made by $made" thin_ls "$made.bin"
        for right in "${ids[@]}"; do
            same_output "thin_delta ${ids[0]} to $right of $pool, made by $made" thin_delta --snap1 "${ids[0]}" --snap2 "$right" "$made.bin"
        done
    done
done
same_output "thin_ls of the metadata snapshot" thin_ls -m pool.bin
# It doesn't hang on the pool's own trees.
cp pool.bin damaged.bin
dd if=/dev/zero of=damaged.bin bs=4096 seek="$(/usr/bin/python3 "$support/find-node.py" pool.bin devices)" count=1 conv=notrunc status=none
check_status 1 "our thin_check of a pool whose tree of devices is lost" "$LAMELLA" thin_check -q damaged.bin
check "our thin_check of its metadata snapshot" "$LAMELLA" thin_check -q -m damaged.bin
"$LAMELLA" thin_dump -m pool.bin >sound.out
"$LAMELLA" thin_dump -m damaged.bin >our.out
check_same "its dump is what it was" sound.out our.out
# The peer's don't know the number of data blocks of a metadata snapshot.
for command in thin_dump "thin_delta --snap1 1 --snap2 3"; do
    # shellcheck disable=SC2086  # words
    { $command -m pool.bin | sed '1s/nr_data_blocks="0"/nr_data_blocks="4096"/' >peer.out; "$LAMELLA" $command -m pool.bin >our.out; }
    check_same "$command of the metadata snapshot" peer.out our.out
done

serve "$group" --read-only
sums read
stop_serving
check_same "lamella reads what the kernel wrote" written read

serve "$group"
scatter web $((SEED + 6))
scatter striped $((SEED + 7))
check "snapshot of a volume that LVM made" "$LAMELLA" snapshot "$group:web" --name web-l1
scatter web $((SEED + 8))
scatter over-allocated $((SEED + 9)) 10
check "remove a snapshot that LVM made" "$LAMELLA" remove --yes "$group:web-s1"
sums written-by-lamella
stop_serving

in_kernel left.img right.img <<'END'
check_clean field "as lamella left it"
activate field
sums field "$SCRATCH/read-in-kernel"
check_equal "tags are kept" prod,tier=1 "$(lvs --noheadings -o lv_tags field/db | tr -d ' ')"
check_equal "the permission is kept" r "$(lvs --noheadings -o lv_attr field/web-s2 | tr -d ' ' | cut -c2)"
check "the metadata snapshot is still held" bash -c "dmsetup status field-pool-tpool | awk '{ exit \$7 == \"-\" }'"
dmsetup message field-pool-tpool 0 release_metadata_snap
quietly lvcreate -s -n web-k2 field/web
scatter /dev/field/web $((SEED + 10))
activate field
sums field "$SCRATCH/written-in-kernel"
check_clean field "after the kernel's second turn"
END
check_same "the kernel reads what lamella wrote" written-by-lamella read-in-kernel
check_status 0 "lamella check after both had a turn" "$LAMELLA" check "$group:pool"

serve "$group"
sums read-last
stop_serving
check_same "lamella reads the kernel's second turn" written-in-kernel read-last
