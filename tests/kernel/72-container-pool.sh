# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A pool for a container engine on a real LVM: its sizes leave room to extend it; the engine's devices, of which LVM knows nothing, are
# found by what they stand on and removed with the pool. And what the doctor says meanwhile. Last, a pool that LVM's dmeventd extends by
# itself, as the profile says that was made with it.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 512M kernel.img
in_kernel kernel.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"
finds() { # WORD: the doctor has such a finding
    kinds vg0 >found
    grep -qw -- "$1" found
}
kinds() { { "$LAMELLA" doctor "$1" --json || (($? == 5)); } | sed -n 's/^ *"kind": "\(.*\)",$/\1/p' | sort | tr '\n' ' '; }

quietly pvcreate /dev/ubda
quietly vgcreate vg0 /dev/ubda
check_status 6 "the guides' arithmetic doesn't add up" "$LAMELLA" pool create vg0/thinpool --size 95%VG
check "a pool for docker" "$LAMELLA" pool create vg0/thinpool --for docker --volumes 100
check_equal "chunks as the engine wants them, not zeroed" "512.00k" "$(lvs --noheadings -o chunk_size vg0/thinpool | tr -d ' ')"
check_equal "its profile" lamella-80-20 "$(lvs --noheadings -o lv_profile vg0/thinpool | tr -d ' ')"
size=$(lvs --noheadings --nosuffix --units b -o lv_size vg0/thinpool | tr -d ' ')
for _ in 1 2; do quietly lvextend -l +20%LV vg0/thinpool; done
check "it was extended twice" test "$(lvs --noheadings --nosuffix --units b -o lv_size vg0/thinpool | tr -d ' ')" -gt $((size * 14 / 10))
check_equal "the spare is as large as the metadata" "$(lvs --noheadings -o lv_metadata_size vg0/thinpool)" "$(lvs -a --noheadings -o lv_size vg0/lvol0_pmspare)"

# --- The engine's devices: one named like a volume, one on top of it
pool=/dev/mapper/vg0-thinpool
dmsetup message "$pool" 0 "create_thin 7"
dmsetup message "$pool" 0 "create_thin 9"
dmsetup create vg0-base --table "0 65536 thin $pool 7"
dmsetup create layer --table "0 65536 thin $pool 9"
dmsetup create top --table "0 65536 linear /dev/mapper/layer 0"
check "the doctor knows whose they are" finds pool-foreign
check_status 4 "the pool isn't removed" "$LAMELLA" pool remove vg0/thinpool --yes
check "what would go" bash -c '"$LAMELLA" pool remove vg0/thinpool --force-children --dry-run >order'
check_equal "in this order" "top layer" "$(grep -oE '^(top|layer)' order | tr '\n' ' ' | sed 's/ $//')"
exec 9</dev/mapper/vg0-base
check_status 4 "one is in use" "$LAMELLA" pool remove vg0/thinpool --force-children --yes
check "nothing is removed then" dmsetup info top
exec 9<&-
dmsetup create stranger --table "0 8 zero"
check "all of them" "$LAMELLA" pool remove vg0/thinpool --force-children --yes
check_equal "nothing is left of the pool" "stranger" "$(dmsetup ls | awk '{ print $1 }')"
check_equal "nor in LVM" "" "$(lvs -a --noheadings vg0)"
dmsetup remove stranger

# --- The doctor on states that are there for real
quietly lvcreate -y -L 32M -T vg0/pool
quietly lvcreate -V 64M -T vg0/pool -n web
quietly lvcreate -L 16M -n thick vg0
quietly lvcreate -y -s -L 4M -n snap vg0/thick
quietly dd if=/dev/zero of=/dev/vg0/thick bs=1M count=12 oflag=direct
quietly dd if=/dev/urandom of=/dev/vg0/web bs=1M count=28 oflag=direct
check "an invalid snapshot" finds snapshot-invalid
check "a pool that is nearly full" finds pool-near-full
check "more promised than there is" finds over-allocated
check_status 5 "mending it" "$LAMELLA" doctor vg0 --fix
check_status 1 "the pool has more room" finds pool-near-full
check "the snapshot is still invalid" finds snapshot-invalid
check "the metadata was kept before" test -s "$LAMELLA_STATE_DIR"/metadata-backup/vg0-*/*/pool.pack
check_equal "no metadata snapshot is left held" - "$(dmsetup status vg0-pool-tpool | awk '{ print $7 }')"

# --- LVM extends a pool by itself
sed -i 's/monitoring = 0/monitoring = 1/' /etc/lvm/lvm.conf
size_of() { lvs --noheadings --nosuffix --units m -o lv_size "$1" | tr -d ' '; }
extended() { [[ $(size_of vg0/auto) == 48.00 ]]; }
check "a pool that grows by itself" "$LAMELLA" pool create vg0/auto --size 32M --autoextend-threshold 70 --autoextend-percent 50
quietly lvcreate -V 64M -T vg0/auto -n grows
quietly dd if=/dev/urandom of=/dev/vg0/grows bs=1M count=20 oflag=direct
check_equal "below the threshold it stays as it is" "32.00" "$(size_of vg0/auto)"
sum=$(sum_of_head /dev/vg0/grows $((20 << 20)))
quietly dd if=/dev/urandom of=/dev/vg0/grows bs=1M seek=20 count=6 oflag=direct
check "dmeventd extends it by half, once" wait_for extended
check "nothing is left for LVM's policy" lvextend --use-policies vg0/auto
check_equal "it is as large as before" "48.00" "$(size_of vg0/auto)"
check_equal "the data is as it was" "$sum" "$(sum_of_head /dev/vg0/grows $((20 << 20)))"
quietly lvchange --monitor n vg0/auto
unwatched() { "$LAMELLA" doctor vg0 --json >diagnosis.json || (($? == 5)); finding evidence monitoring-off auto; }
check "the doctor sees that nobody watches it" unwatched
does monitoring-off auto
check_status 1 "now somebody does" unwatched
END
