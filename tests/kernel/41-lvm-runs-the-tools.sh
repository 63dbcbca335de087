# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# LVM in a real kernel, told by its configuration to run lamella as thin_check, thin_repair and thin_dump: activation, lvconvert --repair
# of pools that are really damaged, metadata that is swapped by hand, a pool made of ordinary volumes. What LVM calls is written
# down, the data is verified by sums, and the peer's thin_check has the last word on the result.
source "$(dirname "$0")/../support/host-side.sh"

mkdir tools
for name in thin_check thin_dump thin_repair; do
    printf '#!/bin/bash\necho "%s $*" >>%q\nexec -a %s %q "$@"\n' "$name" "$SCRATCH/calls" "$name" "$LAMELLA" >"tools/$name"
    chmod +x "tools/$name"
done

truncate -s 600M vms.img
in_kernel vms.img <<'END'
tools=$SCRATCH/tools
cat >>"$LVM_SYSTEM_DIR/lvm.conf" <<CONF
global {
    thin_check_executable = "$tools/thin_check"
    thin_check_options = [ "-q", "--clear-needs-check-flag" ]
    thin_dump_executable = "$tools/thin_dump"
    thin_repair_executable = "$tools/thin_repair"
}
CONF
volumes_of() { lvs --noheadings -o lv_name -S 'segtype=thin' "$1" | sed 's/ //g' | sort; }
calls() { sed 's/ *$//' "$SCRATCH/calls"; : >"$SCRATCH/calls"; }
node() { /usr/bin/python3 "$support/find-node.py" /dev/mapper/metadata "$@"; }
zero() { dd if=/dev/zero of=/dev/mapper/metadata bs=4096 seek="$1" count=1 conv=notrunc,fsync status=none; }
# with_metadata COMMAND...: deactivates the group, and runs it while /dev/mapper/metadata is where the pool's metadata lie.
with_metadata() {
    local place
    place=$(dmsetup table field-pool_tmeta)
    deactivate field
    dmsetup create metadata --table "$place"
    "$@"
    dmsetup remove metadata
}
refused_to_activate() { ! vgchange -qq -ay -K field && ! lvs --noheadings -o lv_active_locally field/pool | grep -q active; }

quietly pvcreate /dev/ubda
quietly vgcreate field /dev/ubda
quietly lvcreate -y -L 120M --chunksize 64k --poolmetadatasize 4M -T field/pool
quietly lvcreate -V 32M -T field/pool -n web
quietly lvcreate -V 32M -T field/pool -n db
scatter /dev/field/web "$SEED" 400
scatter /dev/field/db $((SEED + 1)) 400
quietly lvcreate -s -n web-s1 field/web
activate field
scatter /dev/field/web $((SEED + 2)) 40
sums field "$SCRATCH/written"
cp /dev/field/db "$SCRATCH/db.raw"

# --- Activation ---
deactivate field
: >"$SCRATCH/calls"
activate field
check_equal "activation runs our thin_check" "thin_check -q --clear-needs-check-flag /dev/mapper/field-pool_tmeta" "$(calls | tail -n 1)"
leak() {
    /usr/bin/python3 "$support/set-count.py" /dev/mapper/metadata metadata 900 1
    /usr/bin/python3 "$support/set-count.py" /dev/mapper/metadata flag
    check_status 1 "the peer finds a leak" thin_check -q /dev/mapper/metadata
}
with_metadata leak
check "a pool that leaks and asks for a check is activated" activate field
check "it is in order then" bash -c "dmsetup status field-pool-tpool | grep -q ' rw .* - '"
sums field "$SCRATCH/read"
check_same "with all of its data" "$SCRATCH/written" "$SCRATCH/read"
mended() { check "the peer finds the leak mended" thin_check -q /dev/mapper/metadata; }

# --- A leaf ---
with_metadata eval 'mended; zero "$(node leaf 2 1)"'
check "a pool with a bad leaf is not activated" refused_to_activate
: >"$SCRATCH/calls"
check "lvconvert --repair" lvconvert -y --repair field/pool
calls >"$SCRATCH/repair-calls"
check "ran our thin_repair, with an empty word as LVM gives it" grep -qE '^thin_repair  ?-i /dev/mapper/field-.* -o /dev/mapper/field-' "$SCRATCH/repair-calls"
check "and our thin_dump" grep -q '^thin_dump /dev/mapper/field-' "$SCRATCH/repair-calls"
check "the pool is activated" activate field
sums field "$SCRATCH/read"
check_equal "volumes beside the bad leaf have all their data" "$(grep -v '^db ' "$SCRATCH/written")" "$(grep -v '^db ' "$SCRATCH/read")"
cat >"$SCRATCH/compare.py" <<'PYTHON'
import sys
CHUNK = 65536
before, after = open(sys.argv[1], "rb").read(), open(sys.argv[2], "rb").read()
assert len(before) == len(after)
lost = [at // CHUNK for at in range(0, len(before), CHUNK) if before[at:at + CHUNK] != after[at:at + CHUNK]]
assert all(not any(after[at * CHUNK:(at + 1) * CHUNK]) for at in lost), "what isn't lost has changed"
assert 0 < len(lost) <= 252, f"{len(lost)} chunks are lost"
assert lost[-1] - lost[0] < 600, "what is lost lies apart"
PYTHON
cp /dev/field/db "$SCRATCH/db-after.raw"
check "the volume itself lost one leaf's range, and no other byte" /usr/bin/python3 "$SCRATCH/compare.py" "$SCRATCH/db.raw" "$SCRATCH/db-after.raw"
scatter /dev/field/db $((SEED + 3)) 40
sums field "$SCRATCH/written"
check "the damaged metadata are kept beside" lvs field/pool_meta0
quietly lvremove -qq -y field/pool_meta0

# --- An inner node, and the tree of details ---
with_metadata eval 'zero "$(node inner 1)"; zero "$(node details)"'
check "a pool with bad inner nodes is not activated" refused_to_activate
check "lvconvert --repair of that" lvconvert -y --repair field/pool
check "activated again" activate field
sums field "$SCRATCH/read"
check_same "with all of its data, for each leaf was found" "$SCRATCH/written" "$SCRATCH/read"

# --- The superblock, of which a metadata snapshot has a copy ---
transaction=$(lvs --noheadings -o transaction_id field/pool | tr -d ' ')
dmsetup message field-pool-tpool 0 reserve_metadata_snap
check_status 1 "the metadata of a pool in use are not checked" "$tools/thin_check" -q /dev/mapper/field-pool_tmeta
check "but their snapshot is" "$tools/thin_check" -q -m /dev/mapper/field-pool_tmeta
check_equal "its dump has the number of data blocks, so that it can be restored" 'nr_data_blocks="1920"' \
    "$("$tools/thin_dump" -m /dev/mapper/field-pool_tmeta | grep -o 'nr_data_blocks="[0-9]*"')"
quietly lvremove -qq -y field/pool_meta0
# Not by zeros: those LVM and the kernel take for a pool that is to be made.
scribble() { printf 'no superblock' | dd of=/dev/mapper/metadata bs=1 seek=64 conv=notrunc,fsync status=none; }
with_metadata scribble
check "a pool without a superblock is not activated" refused_to_activate
check "lvconvert --repair of that" lvconvert -y --repair --config "global/thin_repair_options = [ \"--transaction-id\", \"$transaction\" ]" field/pool
check "activated again" activate field
sums field "$SCRATCH/read"
check_same "with all of its data" "$SCRATCH/written" "$SCRATCH/read"

# --- By hand, under our own name, as lvmthin(7) tells it ---
with_metadata eval 'zero "$(node inner 3)"'
quietly lvcreate -y -L 4M -n out field
quietly lvcreate -y -L 8M -n larger field
quietly lvconvert -y --thinpool field/pool --poolmetadata field/out
quietly lvchange -ay field/out
check "lamella repair of metadata that were swapped out" "$LAMELLA" repair /dev/field/out --output /dev/field/larger --yes
quietly lvchange -an field/out field/larger
check "larger metadata that were repaired by hand are swapped in" lvconvert -y --thinpool field/pool --poolmetadata field/larger
check "and activated" activate field
sums field "$SCRATCH/read"
check_same "with all of the pool's data" "$SCRATCH/written" "$SCRATCH/read"
scatter /dev/field/web-s1 $((SEED + 4)) 10
check_clean field "as repairs left it"
END
