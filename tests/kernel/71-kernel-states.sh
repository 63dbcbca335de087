# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the kernel engine makes of states that are there for real: a pool in use whose metadata is read through a metadata snapshot,
# a process killed while it held one, an overrun classic snapshot, a pool that is full, volumes in use, volumes that a container engine
# made, a group that is exported or another host's, a backup put back.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 256M kernel.img
in_kernel kernel.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"
says() { # WHAT WORD COMMAND...
    "${@:3}" >said 2>&1 || true
    check "$1" grep -qF -- "$2" said || cat said
}
held() { dmsetup status vg0-pool-tpool | awk '{ print $7 }'; }

quietly pvcreate /dev/ubda
quietly vgcreate vg0 /dev/ubda
check_status 3 "a group that isn't there" "$LAMELLA" list nowhere
quietly lvcreate -y -L 32M -T vg0/pool
quietly lvcreate -V 16M -T vg0/pool -n web
scatter /dev/vg0/web 1 20
sync
quietly lvcreate -s -n web-s1 vg0/web
scatter /dev/vg0/web 2 20
sync

# --- A pool in use, through its metadata snapshot
check "ls" bash -c '"$LAMELLA" ls vg0/pool >listed'
check_equal "ls knows the volumes by their names" "web web-s1" "$(awk 'NR > 1 { print $2 }' listed | tr '\n' ' ' | sed 's/ $//')"
check_equal "nothing is held afterwards" - "$(held)"
check "dump" bash -c '"$LAMELLA" dump vg0/pool >ours.xml'
check "diff" bash -c '"$LAMELLA" diff vg0/pool --left 2 --right 1 >difference && grep -q differ difference'
check_equal "nothing is held afterwards" - "$(held)"
dmsetup message vg0-pool-tpool 0 reserve_metadata_snap
thin_dump -m /dev/mapper/vg0-pool_tmeta | grep -c '<device' >theirs
check "dump, through the snapshot of somebody else" bash -c '"$LAMELLA" dump vg0/pool >again.xml 2>said'
check "it says so" grep -q "held already" said
check "theirs is left alone" test "$(held)" != -
dmsetup message vg0-pool-tpool 0 release_metadata_snap
check_equal "as many devices as the peer sees" "$(<theirs)" "$(grep -c '<device' ours.xml)"
check_same "both dumps" ours.xml again.xml

# --- Killed while it held one: the next command lets go
mkfifo pipe
"$LAMELLA" dump --plain vg0/pool --output pipe &
reader=$!
wait_for bash -c 'grep -q "^[0-9]" /run/lamella/metadata-snapshot-*'
kill -KILL $reader
wait $reader || true
check "a killed command leaves its metadata snapshot" test "$(held)" != -
says "the next one says that it released it" "released" "$LAMELLA" list vg0
check_equal "nothing is held afterwards" - "$(held)"

# --- Killed before it knew the number: unless somebody has the metadata open, whose it may be
dmsetup message vg0-pool-tpool 0 reserve_metadata_snap
mark=$(echo /run/lamella/metadata-snapshot-*)
printf '?' >"$mark"
exec 9</dev/mapper/vg0-pool_tmeta
says "while somebody has the metadata open it is told of" "metadata-snapshot vg0/pool release" "$LAMELLA" doctor vg0
check "and held" test "$(held)" != -
exec 9<&-
says "then it is released" "released" "$LAMELLA" list vg0
check_equal "nothing is held afterwards" - "$(held)"

# --- Released by somebody else while it is read
"$LAMELLA" dump --plain vg0/pool --output pipe 2>said &
reader=$!
wait_for bash -c 'grep -q "^[0-9]" /run/lamella/metadata-snapshot-*'
check_status 4 "not by us" "$LAMELLA" metadata-snapshot vg0/pool release
dmsetup message vg0-pool-tpool 0 release_metadata_snap
cat pipe >/dev/null
status=0
wait $reader || status=$?
check_equal "what was read then is worth nothing" 4 "$status"
check "it says why" grep -q "was released while it was read" said
check_equal "nothing is held afterwards" - "$(held)"
check_equal "and nothing is remembered" 0 "$(stat -c %s "$mark")"

# --- In use
exec 9</dev/vg0/web
check_status 4 "what is in use isn't removed" "$LAMELLA" remove vg0/web --yes
check_status 4 "nor put back to a snapshot" "$LAMELLA" rollback vg0/web --to web-s1 --yes
check_status 4 "nor snapshot in a set" "$LAMELLA" snapshot vg0/web vg0/web-s1
exec 9<&-

# --- Suspended by somebody else: lvcreate would end with 0 and leave the pool without the snapshot
dmsetup suspend vg0-web
check_status 4 "no snapshot of a suspended volume" "$LAMELLA" snapshot vg0/web
dmsetup resume vg0-web
check "group check finds nothing wrong with the pool" "$LAMELLA" group check vg0

# --- Snapshots, and who they are of after a merge of LVM's makes it forget
of_snapshots() { # FILE MEMBER: of web's snapshots
    /usr/bin/python3 -c 'import json, sys
print([one[sys.argv[2]] for one in json.load(open(sys.argv[1]))["volumes"] if "web-s" in str(one.get("name", one.get("volume")))])' "$@"
}
check "two more" bash -c '"$LAMELLA" snapshot vg0/web --name web-s2 --tag keep && "$LAMELLA" snapshot vg0/web --name web-s3'
check "what each has to itself" bash -c '"$LAMELLA" list vg0 --snapshots --exclusive --json >snapshots.json && "$LAMELLA" ls vg0/pool --json >listed.json'
check_equal "is what ls says" "$(of_snapshots listed.json exclusive_bytes)" "$(of_snapshots snapshots.json exclusive)"
check_equal "their states" "['inactive', 'inactive', 'inactive']" "$(of_snapshots snapshots.json state)"
check "a merge" "$LAMELLA" rollback vg0/web --to web-s3 --yes
check_equal "LVM forgets" "" "$(lvs --noheadings -o origin vg0/web-s1 vg0/web-s2 | tr -d ' \n')"
"$LAMELLA" list vg0 --snapshots --json >snapshots.json
check_equal "we don't" "['web', 'web']" "$(of_snapshots snapshots.json former_origin)"
check_equal "the tags that were there stay" "keep,lamella.origin=web" "$(lvs --noheadings -o lv_tags vg0/web-s2 | tr -d ' ')"
"$LAMELLA" list vg0 --snapshots
check "one less" "$LAMELLA" remove vg0/web-s2 --yes
check "what is left" bash -c '"$LAMELLA" ls vg0/pool >listed'

# --- An overrun classic snapshot
quietly lvcreate -y -n boot -L 12M vg0
quietly lvcreate -s -n small -L 4M vg0/boot
dd if=/dev/urandom of=/dev/vg0/boot bs=1M count=12 status=none
sync
says "it is Invalid, not full" Invalid "$LAMELLA" list vg0
check_status 4 "an invalid snapshot is not rescued by more room" "$LAMELLA" extend vg0/small --size +4M
check_status 4 "nor merged" "$LAMELLA" rollback vg0/boot --to small --yes
check_status 4 "an origin isn't removed without asking" "$LAMELLA" remove vg0/boot
check_equal "and is there" boot "$(lvs --noheadings -o lv_name vg0/boot | tr -d ' ')"
check "the snapshot is removed" "$LAMELLA" remove vg0/small --yes

# --- Full to its last chunk (1024, less the header and four areas of the table), and overrun where its table says that it may be
quietly lvcreate -s -n small -L 4M --chunksize 4k vg0/boot
dd if=/dev/urandom of=/dev/vg0/boot bs=4k count=1019 oflag=direct status=none
state_of_small() { "$LAMELLA" list vg0 --snapshots --json | /usr/bin/python3 -c 'import json, sys
print(*(one["state"] for one in json.load(sys.stdin)["volumes"] if one["name"] == "small"))'; }
check_equal "not a chunk is left" "8192/8192" "$(dmsetup status vg0-small | awk '{ print $4 }')"
check_equal "it is full, and not invalid" full "$(state_of_small)"
dmsetup suspend vg0-boot
dmsetup suspend vg0-small
dmsetup table vg0-small | sed 's/ P 8$/ PO 8/' | dmsetup reload vg0-small
dmsetup resume vg0-small
dmsetup resume vg0-boot
dd if=/dev/urandom of=/dev/vg0/small bs=4k seek=2000 count=1 oflag=direct status=none 2>/dev/null || true
check_equal "it has overflowed" overflow "$(state_of_small)"
check "the snapshot is removed" "$LAMELLA" remove vg0/small --yes

# --- A set of snapshots, while nobody writes
check "two at one moment" "$LAMELLA" snapshot vg0/web vg0/boot --name w2 --name b2
check "and gone again" "$LAMELLA" remove vg0/w2 vg0/b2 --yes

# --- A full pool
quietly lvcreate -V 64M -T vg0/pool -n wide
quietly lvchange --errorwhenfull y vg0/pool
dd if=/dev/zero of=/dev/vg0/wide bs=1M count=40 oflag=direct status=none 2>/dev/null || true
says "the pool is full" out_of_data_space "$LAMELLA" show vg0/pool
check_status 6 "nothing more goes into it" "$LAMELLA" create vg0/more --size 4M
check "it is extended" "$LAMELLA" extend vg0/pool --size +24M
says "and takes writes again" '"rw"' "$LAMELLA" show vg0/pool --json

# --- Volumes that LVM doesn't know
quietly lvcreate -y -L 16M -T vg0/containers
dmsetup message vg0-containers 0 "create_thin 7"
dmsetup message vg0-containers 0 "set_transaction_id 0 5"
dmsetup create docker-7 --table "0 8192 thin /dev/mapper/vg0-containers 7"
says "group check tells of them" "external program" "$LAMELLA" group check vg0
says "a pool with them isn't removed" docker-7 "$LAMELLA" remove vg0/containers --with-contents --yes
dmsetup remove docker-7
check "it is, without them" "$LAMELLA" remove vg0/containers --with-contents --yes

# --- The group's text
check "backup" "$LAMELLA" group backup vg0 --file backup
check_status 4 "no restore while volumes are active" "$LAMELLA" group restore vg0 --file backup --force --yes
check "one volume less" "$LAMELLA" remove vg0/boot --yes
deactivate vg0
check_status 4 "no restore of pools without force" "$LAMELLA" group restore vg0 --file backup --yes
check "ls of a pool that isn't active" bash -c '"$LAMELLA" ls vg0/pool >inactive'
for file in listed inactive; do awk '/web/ { print $2, $3 }' $file >$file.web; done
check_same "it has mapped what it had" listed.web inactive.web
check "restore" "$LAMELLA" group restore vg0 --file backup --force --yes
check_equal "it is back" boot "$(lvs --noheadings -o lv_name vg0/boot | tr -d ' ')"

# --- Exported, and another host's
quietly vgexport vg0
says "an exported group is listed" exported "$LAMELLA" list vg0
check_status 4 "and not changed" "$LAMELLA" rename vg0/web www
quietly vgimport vg0
vgchange -qq -y --systemid elsewhere vg0
check_status 4 "another host's is left alone" "$LAMELLA" list vg0
END
