# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Groups and pools that came apart, made so for real: a text that is older than its pool and one that is newer, devices of a pool that the
# text doesn't name and volumes that the pool has lost, spare and metadata that are too small, a disk that was found by another path. And
# classic snapshots in the middle of their merge, and after a disk made it fail. Each is listed rightly and told by the doctor; what its
# commands, --fix or the text of the right time do makes it whole again: what was there before is there, and a write arrives.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 160M pools.img
truncate -s 6G wide.img
truncate -s 128M merges.img
truncate -s 32M moved.img
in_kernel pools.img wide.img merges.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"
"$run/modprobe" dm-delay
"$run/modprobe" dm-cache
kept=$((12 << 20))
fill() { dd if=/dev/urandom of="$1" bs=1M count=12 oflag=direct status=none; }

# --- A device that nobody names
quietly vgcreate -s 1M vg0 /dev/ubda
quietly lvcreate -y -L 64M --poolmetadatasize 2M -T vg0/pool
quietly lvcreate -V 16M -T vg0/pool -n web
quietly lvcreate -V 16M -T vg0/pool -n db
fill /dev/vg0/web
fill /dev/vg0/db
web=$(sum_of_head /dev/vg0/web $kept)
db=$(sum_of_head /dev/vg0/db $kept)
diagnosed vg0
dmsetup message vg0-pool-tpool 0 "create_thin 77"
diagnosed vg0 thin-id-leaked
says "$(finding evidence thin-id-leaked)" "device 77"
dmsetup message vg0-pool-tpool 0 "delete 77"

# --- A text that is older than the pool
check "the text of now" lamella group backup vg0 --file before
deactivate vg0
metadata=$(lvs --noheadings --nosuffix --units s -a -o seg_pe_ranges vg0/pool_tmeta | sed 's/.*:\([0-9]*\)-.*/\1/')
dmsetup create metadata --table "0 4096 linear /dev/ubda $((2048 + metadata * 2048))"
dd if=/dev/mapper/metadata of=metadata.before bs=1M iflag=direct status=none
quietly vgchange -ay vg0
quietly lvcreate -V 16M -T vg0/pool -n late
fill /dev/vg0/late
late=$(sum_of_head /dev/vg0/late $kept)
check "the text of then" lamella group backup vg0 --file after
deactivate vg0
quietly vgcfgrestore --force --file before vg0
diagnosed vg0 transaction-mismatch thin-id-leaked
says "$(finding why_not transaction-mismatch)" "the group's text is older than the pool"
check_status 1 "such a pool isn't activated" lamella activate vg0
check "the text that belongs to it" lamella group restore vg0 --file after --force --yes
diagnosed vg0
quietly vgchange -ay vg0
whole /dev/vg0/late $kept "$late"

# --- A pool that is older than the text
deactivate vg0
dd if=/dev/mapper/metadata of=metadata.after bs=1M iflag=direct status=none
dd if=metadata.before of=/dev/mapper/metadata bs=1M oflag=direct status=none
diagnosed vg0 transaction-mismatch thin-id-missing
says "$(finding why_not transaction-mismatch)" "the pool's metadata is older"
check_equal "whose volume it is" late "$(finding volume thin-id-missing)"
dd if=metadata.after of=/dev/mapper/metadata bs=1M oflag=direct status=none
diagnosed vg0
quietly vgchange -ay vg0

# --- A volume that the pool has lost, and that is in older metadata
quietly lvchange -an vg0/db
dmsetup message vg0-pool-tpool 0 "delete $(lvs --noheadings -o thin_id vg0/db | tr -d ' ')"
diagnosed vg0 thin-id-missing
check_equal "whose it was" db "$(finding volume thin-id-missing)"
says "$(finding why_not thin-id-missing)" "don't remove the volume"
deactivate vg0
dd if=metadata.after of=/dev/mapper/metadata bs=1M oflag=direct status=none
diagnosed vg0
quietly vgchange -ay vg0
whole /dev/vg0/db $kept "$db"

# --- A spare that is too small
quietly lvcreate -y -L 8M --poolmetadatasize 4M --poolmetadataspare n -T vg0/big
diagnosed vg0 spare-small
check "mended by --fix" lamella doctor vg0 --fix
diagnosed vg0
check_equal "as LVM sees it" "$(lvs --noheadings -o lv_metadata_size vg0/big)" "$(lvs -a --noheadings -o lv_size vg0/lvol0_pmspare)"
whole /dev/vg0/web $kept "$web"
deactivate vg0
dmsetup remove metadata

# --- Metadata too small for what the data may need, and more promised than there is
quietly vgcreate -s 1M vg1 /dev/ubdb
quietly lvcreate -y -c 64k -L 4500M --poolmetadatasize 2M -T vg1/pool
quietly lvcreate -V 8G -T vg1/pool -n web
fill /dev/vg1/web
web=$(sum_of_head /dev/vg1/web $kept)
diagnosed vg1 pool-metadata-small
says "$(finding evidence over-allocated)" "1.82 times the pool"
does pool-metadata-small
diagnosed vg1
whole /dev/vg1/web $kept "$web"
deactivate vg1

# --- A disk that is found by another path than LVM wrote down
losetup /dev/loop0 moved.img
quietly vgcreate -s 1M vg2 /dev/loop0
losetup -d /dev/loop0
losetup /dev/loop1 moved.img
diagnosed vg2
says "$(finding evidence device-hint-stale)" "/dev/loop0 for physical volume /dev/loop1"
quietly lvcreate -y -n any -l 1 vg2
diagnosed vg2
check_status 1 "LVM wrote it anew" finding evidence device-hint-stale
deactivate vg2
losetup -d /dev/loop1

# --- A merge while it goes on: until all has been seen, the disk doesn't write where the snapshot's store is
on() { dmsetup suspend --noflush --nolockfs disk && dmsetup load disk <<<"$1" && dmsetup resume disk; }
sound="0 260096 linear /dev/ubdc 2048"
dmsetup create disk --table "$sound"
quietly vgcreate -s 1M vg3 /dev/mapper/disk
for volume in boot root; do
    quietly lvcreate -y -L 16M -n $volume vg3
    fill /dev/vg3/$volume
done
boot=$(sum_of_head /dev/vg3/boot $kept)
root=$(sum_of_head /dev/vg3/root $kept)
# below VOLUME FROM-SECTOR TARGET: from that sector of the volume on, which is in one piece, the disk is something else
below() {
    local at end
    at=$((2048 + $(lvs --noheadings -o seg_pe_ranges "vg3/$1" | sed 's/.*:\([0-9]*\)-.*/\1/') * 2048))
    end=$((at + 8 * 2048))
    at=$((at + $2))
    printf '0 %d linear /dev/ubdc 2048\n%d %d %s\n%d %d linear /dev/ubdc %d\n' $at $at $((end - at)) "${3//PLACE/$((at + 2048))}" \
        $end $((260096 - end)) $((end + 2048))
}
check "a store larger than its origin can ever need" lamella snapshot vg3/boot --name wide --size 64M
check_equal "is as large as LVM made it" "$(lvs --noheadings --nosuffix --units b -o lv_size vg3/wide | tr -d ' ')" \
    "$(lamella show vg3/wide --json | sed -n 's/^ *"store_size": \([0-9]*\),$/\1/p')"
check "which is less" test "$(lvs --noheadings --nosuffix --units m -o lv_size vg3/wide | tr -d ' ' | cut -d. -f1)" -lt 32
quietly lvremove -y vg3/wide
quietly lvcreate -y --type cache-pool -L 8M -n fast vg3
check_equal "a cache pool is no thin pool" "fast cache-pool" "$(lamella list vg3 --all | awk '$1 == "fast" { print $1, $2 }')"
quietly lvcreate -y -s -L 8M -c 64k -n before vg3/boot
scatter /dev/vg3/boot 1 15
sync
on "$(below before 0 "delay /dev/ubdc PLACE 0 /dev/ubdc PLACE 1000000")"
lamella rollback vg3/boot --to before --yes >merge.out 2>&1 &
merge=$!
merging() { lamella list vg3 --snapshots | grep -q '^.before. .* merging '; }
wait_for merging || fail "the snapshot is listed as merging"
diagnosed vg3
check_equal "LVM says so too" merging "$(lvs -a --noheadings -o lv_merging vg3/before | tr -d ' ')"
check_status 4 "no snapshot meanwhile" lamella snapshot vg3/boot --name another --size 4M
on "$sound"
wait $merge || { cat merge.out; fail "the merge came to its end"; }
whole /dev/vg3/boot $kept "$boot"
check_equal "the snapshot is gone" "" "$(lvs --noheadings -o lv_name vg3 | grep before || true)"

# --- A merge that a disk made fail
quietly lvcreate -y -s -L 8M -c 64k -n earlier vg3/root
scatter /dev/vg3/root 1 15
sync
on "$(below earlier 256 error)"
check_status 1 "a merge that fails" lamella rollback vg3/root --to earlier --yes
says "$(lamella list vg3 --snapshots)" "merge failed"
diagnosed vg3 merge-failed
on "$sound"
does merge-failed
check "and the merge goes on" wait_for bash -c '! lvs vg3/earlier'
whole /dev/vg3/root $kept "$root"
END
