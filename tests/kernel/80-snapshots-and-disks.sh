# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Stores of classic snapshots that are nearly full, full, overflowed and overrun; a pool striped over two of three disks, and its group
# without one of them; disks that take no discards of a chunk's size; a pool as containerd uses it; a group that is exported, and another
# host's. Each is made so for real, listed rightly and told by the doctor; what its commands or --fix do is carried out, and sums are the
# witness.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 96M classic.img one.img two.img three.img
truncate -s 128M containers.img
in_kernel classic.img one.img two.img three.img containers.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
cd "$SCRATCH"
# chunks DEVICE FIRST COUNT: so many of 64 KiB, each of which takes as much of a snapshot's store
chunks() { dd if=/dev/urandom of="$1" bs=64k seek="$2" count="$3" oflag=direct status=none; }
# agreeing KIND: what the finding tells is done at a terminal, where what can't be undone is asked for, and agreed to
agreeing() {
    local command commands
    commands=$(finding commands "$1")
    while read -r command <&8; do
        check "told by the doctor, and agreed to: $command" script --quiet --return --command "$command" /dev/null <<<y
    done 8<<<"$commands"
}
state_of() { # SNAPSHOT: and whether its usage is known
    lamella list vg0 --snapshots --json | /usr/bin/python3 -c 'import json, sys
print(*((one["state"], one["store_used"] is not None) for one in json.load(sys.stdin)["volumes"] if one["name"] == sys.argv[1]))' "$1"
}
# Of 64 chunks, one is the header and one has the table.
snapshot() { quietly lvcreate -y -s -L 4M --chunksize 64k -n "$1" vg0/boot && held=$(sum_of /dev/vg0/boot); }
holds() { check_equal "$1 holds its moment $2" "$held" "$(sum_of "/dev/vg0/$1")"; }

# --- Nearly full
quietly vgcreate -s 1M vg0 /dev/ubda
quietly lvcreate -y -L 16M -n boot vg0
chunks /dev/vg0/boot 0 256
snapshot near
chunks /dev/vg0/boot 0 54
check_equal "it is listed as" "('valid', True)" "$(state_of near)"
diagnosed vg0 snapshot-near-full
says "$(finding risk snapshot-near-full)" "the next write to boot makes it invalid"
check "mended by --fix" lamella doctor vg0 --fix
chunks /dev/vg0/boot 60 12
holds near "after more writes than there was room for"
quietly lvremove -y vg0/near

# --- Full
snapshot brim
chunks /dev/vg0/boot 0 62
check_equal "it is listed as" "('full', True)" "$(state_of brim)"
diagnosed vg0 snapshot-full
does snapshot-full
chunks /dev/vg0/boot 100 10
holds brim "after writes for which there was no room"
diagnosed vg0
quietly lvremove -y vg0/brim

# --- Overflowed: a write to the snapshot itself found no room. LVM's own tables make it Invalid then, "PO" doesn't
snapshot over
chunks /dev/vg0/boot 0 62
dmsetup suspend vg0-boot
dmsetup suspend vg0-over
dmsetup table vg0-over | sed 's/ P 128$/ PO 128/' | dmsetup reload vg0-over
dmsetup resume vg0-over
dmsetup resume vg0-boot
check "a write to the snapshot is refused" eval '! chunks /dev/vg0/over 200 1 2>/dev/null'
check_equal "it is listed as" "('overflow', False)" "$(state_of over)"
diagnosed vg0 snapshot-overflow
does snapshot-overflow
diagnosed vg0
chunks /dev/vg0/boot 100 10
holds over "after writes for which there was no room"
check "a write to the snapshot" chunks /dev/vg0/over 200 1

# --- Invalid: its origin overruns it
chunks /dev/vg0/boot 120 60
written=$(sum_of /dev/vg0/boot)
check_equal "it is listed as" "('invalid', False)" "$(state_of over)"
diagnosed vg0 snapshot-invalid
check_status 4 "it gets no more room" lamella extend vg0/over --size +4M
says "$output" "more room doesn't bring back what it lost"
check_status 5 "--fix leaves it" lamella doctor vg0 --fix
check_equal "and it is there" over "$(lvs --noheadings -o lv_name vg0/over | tr -d ' ')"
agreeing snapshot-invalid
diagnosed vg0
check_equal "its origin is unharmed" "$written" "$(sum_of /dev/vg0/boot)"
deactivate vg0

# --- A pool striped over two of three disks, which take discards, but none as large as a chunk
for disk in ubdb ubdd; do echo 32768 >/sys/block/$disk/queue/discard_max_bytes; done
quietly vgcreate -s 1M vg1 /dev/ubdb /dev/ubdc /dev/ubdd
check "a striped pool" lamella pool create vg1/pool --size 32M --extensions 0 --stripes 2 --data-on /dev/ubdb --data-on /dev/ubdd --metadata-on /dev/ubdb
check_equal "LVM has its data" "striped 2 64.00k /dev/ubdb /dev/ubdd" \
    "$(lvs -a --noheadings -o segtype,stripes,stripe_size,devices vg1/pool_tdata | sed 's/([0-9]*)//g; s/,/ /' | xargs)"
check_equal "it is shown" "2 65536 ['/dev/ubdb', '/dev/ubdd']" "$(lamella show vg1/pool_tdata --json | /usr/bin/python3 -c 'import json, sys
one = json.load(sys.stdin)["volume"]
print(one["stripes"], one["stripe_size"], one["physical_volumes"])')"
quietly lvcreate -V 32M -T vg1/pool -n web
quietly lvcreate -y -L 16M -n left vg1 /dev/ubdb
quietly lvcreate -y -L 16M -n right vg1 /dev/ubdd
quietly lvcreate -y -L 16M -n both -i 2 vg1 /dev/ubdb /dev/ubdc
for volume in web left right both; do scatter "/dev/vg1/$volume" "$SEED" 30; done
sync
sums vg1 "$SCRATCH/sums-before"
diagnosed vg1
check_equal "LVM says what is done with discards" "passdown nopassdown" "$(lvs --noheadings -o discards,kernel_discards vg1/pool | xargs)"
check_equal "so does the doctor" "discards=passdown, but the kernel does nopassdown: the disks below don't take discards of that size" \
    "$(finding evidence discards-not-passed-down pool)"
deactivate vg1

# --- Exported, and another host's
quietly vgexport vg1
says "$(lamella list vg1 2>&1)" "the group is exported: vgimport makes it usable"
check_status 4 "nothing of it is activated" lamella activate vg1/left
diagnosed vg1
does group-exported
quietly vgchange -y --systemid elsewhere vg1
check_status 4 "nothing of another host's group" lamella activate vg1/left
says "$output" "system ID elsewhere"
quietly vgchange -y --config 'global { system_id_source = "lvmlocal" } local { system_id = "elsewhere" }' --systemid "" vg1

# --- A pool for containerd, and devices as its snapshotter makes them
quietly vgcreate vg2 /dev/ubde
check "a pool" bash -c 'lamella pool create vg2/thin-pool --for containerd --volumes 100 >made'
check "the text for containerd" grep -F 'io.containerd.snapshotter.v1.devmapper' made
check_equal "its chunks, which aren't zeroed" "64.00k" "$(lvs --noheadings -o chunk_size,zero vg2/thin-pool | xargs)"
pool=$(sed -n 's/^ *pool_name = "\(.*\)"/\1/p' made)
check "the name that it gives" dmsetup message "$pool" 0 "create_thin 1"
dmsetup create "$pool-snap-1" --table "0 32768 thin /dev/mapper/$pool 1"
scatter "/dev/mapper/$pool-snap-1" "$SEED" 20
sync
dmsetup suspend "$pool-snap-1"
dmsetup message "$pool" 0 "create_snap 2 1"
dmsetup resume "$pool-snap-1"
dmsetup create "$pool-snap-2" --table "0 32768 thin /dev/mapper/$pool 2"
check_equal "a snapshot has what its origin has" "$(sum_of "/dev/mapper/$pool-snap-1")" "$(sum_of "/dev/mapper/$pool-snap-2")"
diagnosed vg2
says "$(finding evidence pool-foreign)" "2 devices and transaction id 0 in the pool, none in the group"
check_equal "ls has both" "1 2" "$(lamella ls vg2/thin-pool | awk 'NR > 1 { print $1 }' | xargs)"
check_status 4 "the pool isn't removed" lamella pool remove vg2/thin-pool --yes
says "$output" "vg2-thin--pool-snap-1"
dmsetup remove "$pool-snap-1"
dmsetup remove "$pool-snap-2"
deactivate vg2
END

# --- Without one of its disks, which are found by other paths, too
in_kernel one.img two.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"
says "$(lamella list vg1 2>&1 >listed)" "is missing"
check_equal "what lies on it" "pool right web" "$(awk '/refused/ { print $1 }' listed | sort | xargs)"
says "$(lamella show vg1 2>&1)" "(missing)"
says "$(lamella show vg1/web)" "a physical volume of it is missing"
diagnosed vg1 physical-volume-missing
says "$(finding evidence physical-volume-missing)" "last seen as /dev/ubdd"
says "$(finding evidence physical-volume-missing)" "; on it: "
check_status 5 "--fix leaves it" lamella doctor vg1 --fix
for command in "snapshot vg1/web" "extend vg1/left --size +4M" "remove vg1/right --yes"; do
    # shellcheck disable=SC2086  # words
    check_status 4 "no change: $command" lamella $command
    says "$output" "group vg1: physical volumes are missing"
done
for volumes in vg1 vg1/web; do
    # shellcheck disable=SC2086  # words
    check_status 4 "it isn't activated: $volumes" lamella activate $volumes
    says "$output" "a physical volume of it is missing; name the others"
done
check "the others are" lamella activate vg1/left vg1/both
for volume in left both; do echo "$volume $(sum_of /dev/vg1/$volume)"; done | sort >whole
grep -e ^left -e ^both sums-before >whole-before
check_same "what is on them is as it was" whole-before whole
check "the pool's metadata is kept" lamella metadata-backup vg1
deactivate vg1
END

group=./one.img,./two.img
says() { grep -qF -- "$2" <<<"$1" || { echo "$1"; fail "it says \"$2\""; }; }
says "$("$LAMELLA" list $group 2>&1 >listed)" "is missing"
check_equal "the user-space engine says as much" "pool right web" "$(awk '/refused/ { print $1 }' listed | sort | xargs)"
check_status 5 "the user-space engine's doctor" "$LAMELLA" doctor $group
says "$output" "physical-volume-missing"
check_status 4 "no change there, either" "$LAMELLA" create $group:new --linear --size 4M

# --- And with it
in_kernel one.img two.img three.img <<'END'
cd "$SCRATCH"
diagnosed vg1
quietly vgchange -ay vg1
sums vg1 sums-after
check_same "with the disk back all is as it was" sums-before sums-after
check_clean vg1 "with the disk back"
END
