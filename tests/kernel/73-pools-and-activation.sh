# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Volumes of a real LVM made devices and taken away; pools made of volumes, with their metadata on another disk; metadata and a volume
# changing places, and the data there after both; the spare made; changes killed between their commands; all groups looked at.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 192M kernel.img fast.img
truncate -s 64M other.img
in_kernel kernel.img fast.img other.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"
field() { lvs -a --noheadings -o "$1" "$2" | tr -d ' '; }
active() { lvs --noheadings -o lv_name -S 'active=active' vg0 | tr -d ' ' | tr '\n' ' ' | sed 's/ $//'; }

quietly pvcreate /dev/ubda /dev/ubdb
quietly vgcreate vg0 /dev/ubda /dev/ubdb

# --- A pool whose metadata and spare lie on another disk
check "a pool in parts" "$LAMELLA" pool create vg0/pool --size 32M --extensions 0 --chunk-size 128K --when-full error --tag fast \
    --autoextend-threshold 80 --data-on /dev/ubda --metadata-on /dev/ubdb
check_equal "its data" /dev/ubda "$(field devices vg0/pool_tdata | sed 's/(.*//')"
check_equal "its metadata" /dev/ubdb "$(field devices vg0/pool_tmeta | sed 's/(.*//')"
check_equal "the spare" /dev/ubdb "$(field devices vg0/lvol0_pmspare | sed 's/(.*//')"
check_equal "its settings" "128.00k error lamella-80-20 fast" "$(lvs --noheadings -o chunk_size,lv_when_full,lv_profile,lv_tags vg0/pool | xargs)"
check_equal "no tag of the making is left" "" "$(lvs -a --noheadings -o lv_tags vg0 | grep unfinished; vgs --noheadings -o vg_tags vg0 | tr -d ' ')"

# --- Activation
quietly lvcreate -V 16M -T vg0/pool -n web
scatter /dev/vg0/web 1 20
sync
sum=$(sum_of /dev/vg0/web)
quietly lvcreate -s -n web-s1 vg0/web
mkdir -p mnt
quietly lvcreate -y -n data -L 16M vg0
quietly mkfs.ext4 -q /dev/vg0/data
mount /dev/vg0/data mnt
check_status 4 "what is mounted stays" "$LAMELLA" deactivate vg0
[[ $output == *"mounted at"*mnt* ]] || fail "it says where: $output"
check_equal "all of it" "data pool web" "$(active)"
umount mnt
check "deactivate" "$LAMELLA" deactivate vg0
check_equal "nothing is active" "" "$(active)"
check_equal "nor a device of the group there" "" "$(dmsetup ls | grep vg0 || true)"
check "activate" "$LAMELLA" activate vg0
check_equal "all but the snapshot" "data pool web" "$(active)"
check_status 4 "a snapshot that is to be skipped" "$LAMELLA" activate vg0/web-s1
check "unless told" "$LAMELLA" activate vg0/web-s1 --ignore-skip
check_equal "it is" "data pool web web-s1" "$(active)"
check_status 4 "a pool under its volumes" "$LAMELLA" deactivate vg0/pool

# --- Metadata and a volume change places
quietly lvcreate -y -n copy -L 4M vg0
check_status 4 "not while it is active" "$LAMELLA" pool swap-metadata vg0/pool vg0/copy --yes
check "deactivate" "$LAMELLA" deactivate vg0
# The ids go with the extents or with the names, by the version of LVM.
before=$(field seg_pe_ranges vg0/pool_tmeta)
check "swap" "$LAMELLA" pool swap-metadata vg0/pool copy --yes
check_equal "what was the metadata is a volume" "$before" "$(field seg_pe_ranges vg0/copy)"
check "it can be looked at" "$LAMELLA" activate vg0/copy
check "and is sound" thin_check /dev/vg0/copy
check "the same undoes it" "$LAMELLA" pool swap-metadata vg0/pool vg0/copy --yes
check "activate" "$LAMELLA" activate vg0
check_equal "the data is as it was" "$sum" "$(sum_of /dev/vg0/web)"

# --- Pools of volumes
check_status 4 "not without asking" "$LAMELLA" pool convert vg0/data
mount /dev/vg0/data mnt
check_status 4 "nor of what is in use" "$LAMELLA" pool convert vg0/data --yes
umount mnt
check "of two volumes" "$LAMELLA" pool convert vg0/data --metadata vg0/copy --chunk-size 256K --when-full error --yes
check_equal "as asked for" "thin-pool 256.00k error" "$(lvs --noheadings -o segtype,chunk_size,lv_when_full vg0/data | xargs)"
quietly lvcreate -V 8M -T vg0/data -n small
check "it takes writes" dd if=/dev/urandom of=/dev/vg0/small bs=1M count=4 oflag=direct status=none
quietly lvremove -y vg0/data

# --- The spare
quietly lvremove -y vg0/lvol0_pmspare
check "the doctor makes the spare" "$LAMELLA" doctor vg0 --fix
check_equal "as large as the metadata" "$(field lv_metadata_size vg0/pool)" "$(field lv_size vg0/lvol0_pmspare)"

# --- Killed between the commands of a change: lvm is one that ends its parent after so many changes
cat >/run/lvm-that-kills <<'LVM'
#!/bin/bash
status=0
/run/itself/lvm "$@" || status=$?
case $1 in fullreport | pvs | vgs) exit $status ;; esac
left=$(($(<left) - 1))
echo $left >left
((left > 0)) || kill -KILL $PPID
exit $status
LVM
chmod +x /run/lvm-that-kills
mkdir /run/itself
cp /usr/sbin/lvm /run/itself/lvm
mount --bind /run/lvm-that-kills /usr/sbin/lvm
itself() { /run/itself/lvm "$@"; }
killed() { # AFTER COMMAND...: so many of LVM's changes
    echo "$1" >left
    check_status 137 "killed after $1 commands: $3" "$LAMELLA" "${@:2}"
    echo 1000 >left
}
volumes() { itself lvs -a --noheadings -o lv_name vg0 | tr -d ' []' | grep -e "$1" | sort | xargs; }
list_says() { "$LAMELLA" list vg0 2>&1 >/dev/null | grep -q "broken off.*$1"; }
change_says() { "$LAMELLA" tag vg0/web --add "t$RANDOM" 2>&1 >/dev/null | grep -q "$1"; }

killed 2 pool create vg0/parts --size 16M --extensions 0 --data-on /dev/ubda --metadata-on /dev/ubdb
check "who looks is told" list_says "parts, parts-metadata"
check_equal "and changes nothing" "parts parts-metadata" "$(volumes parts)"
check "the next change undoes it" change_says "parts-metadata, parts: .*removed again"
check_equal "nothing is left of it" "" "$(volumes parts)"
killed 5 pool create vg0/parts --size 16M --extensions 0 --tag fast --data-on /dev/ubda --metadata-on /dev/ubdb
check "the next change ends it" change_says "parts: .*all was done but its end"
check_equal "with its tag" "fast" "$(itself lvs --noheadings -o lv_tags vg0/parts | tr -d ' ')"
check_equal "and none of the group's" "" "$(itself vgs --noheadings -o vg_tags vg0 | tr -d ' ')"

quietly itself lvcreate -V 8M -T vg0/pool -n db
killed 1 snapshot vg0/web vg0/db
check "a set of one of two goes" change_says "web-s2: .*removed again"
check_equal "all of it" "web-s1" "$(volumes -s)"
killed 2 snapshot vg0/web vg0/db
quietly itself lvremove -y vg0/db-s1
check "one of two that were there stays, if somebody removed the other" change_says "broken off that was at web-s2"
killed 1 snapshot vg0/db vg0/web
rm /run/lamella/change-*
check "so does what nothing is known of but the tag" change_says "broken off that was at db-s1, web-s2"
check_equal "both" "db-s1 web-s1 web-s2" "$(volumes -s)"
check "the doctor tells what to do" bash -c '"$LAMELLA" doctor vg0 --quick | grep -F "$ lamella tag vg0/web-s2 --remove lamella.unfinished=set.2."'
check "and takes the tags away" "$LAMELLA" doctor vg0 --quick --fix
check_equal "both are kept" "db-s1 web-s1 web-s2" "$(volumes -s)"
check_equal "without the tag" "" "$(itself lvs --noheadings -o lv_tags vg0 | grep unfinished)"
umount /usr/sbin/lvm
check "vgck" vgck vg0

# --- All groups; one of another host; a disk there twice
quietly pvcreate /dev/ubdc
quietly vgcreate vg1 /dev/ubdc
quietly vgchange -y --systemid elsewhere vg1
check "the doctor looks at all groups" bash -c '"$LAMELLA" doctor >all'
check "and says which" grep -q "^group vg0" all
check "and which not" grep -A1 "^group vg1" all
check "and why" grep -q "not looked at: .*elsewhere" all
check "the group's disk a second time" bash -c 'dd if=/dev/ubdb of=twin.img bs=1M status=none && losetup /dev/loop6 twin.img'
check_status 5 "is told of" "$LAMELLA" doctor vg0 --quick
[[ $output == *physical-volume-duplicate* ]] || fail "by name: $output"
losetup -d /dev/loop6
END
