# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# lamella killed with SIGKILL before and after each of the commands of a real LVM that a change takes: LVM's commands go on. The next change
# finds all of it there, or nothing, or makes it so and says it; and what isn't the change's is as it was.
#
# EVERY_KILL=1 in the environment: all of them, which takes many minutes; else one of each change.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 128M slow.img fast.img
[[ -z ${EVERY_KILL-} ]] || touch every-kill
in_kernel slow.img fast.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"
RANDOM=$SEED
mkdir /run/itself
cp /usr/sbin/lvm /run/itself/lvm
itself() { /run/itself/lvm "$@"; }

quietly pvcreate /dev/ubda /dev/ubdb
quietly vgcreate -s 1M vg0 /dev/ubda /dev/ubdb
quietly lvcreate -L 16M --poolmetadatasize 2M -T vg0/pool
for volume in web db; do
    quietly lvcreate -V 8M -T vg0/pool -n "$volume"
    scatter "/dev/vg0/$volume" "$SEED" 10
done
quietly lvcreate -y -L 4M -n data vg0
quietly lvcreate -y -L 2M -n meta vg0
sync
sum=$(sum_of /dev/vg0/web)

# An lvm that ends its parent before or after the change with the number in `left`.
cat >/run/lvm-that-kills <<'LVM'
#!/bin/bash
case $1 in fullreport | pvs | vgs | lvmconfig) exec -a lvm /run/itself/lvm "$@" ;; esac
left=$(($(<left) - 1))
echo $left >left
[[ $left != 0 || $(<when) != before ]] || kill -KILL $PPID
status=0
/run/itself/lvm "$@" || status=$?
[[ $left != 0 || $(<when) != after ]] || kill -KILL $PPID
echo ended >>ended
exit $status
LVM
chmod +x /run/lvm-that-kills
echo 0 >left
mount --bind /run/lvm-that-kills /usr/sbin/lvm

# All of the group but the ids and times of what is made.
picture() {
    itself lvs -a --noheadings -o lv_name,segtype,lv_size,origin,pool_lv,lv_tags,lv_profile,discards,lv_when_full,lv_active -O lv_name vg0
    itself vgs --noheadings -o vg_tags,vg_free_count vg0
}
ended() { [[ $(grep -c ended ended) -ge $1 ]]; }

# killed WHAT UNDO -- COMMAND...: at a command of LVM's that the seed chooses, or all. UNDO makes what was before of what the change made.
killed() {
    local what=$1 undo=$2 when number status=0 before after found said now commands choices
    shift 3
    before=$(picture)
    echo 0 >left
    quietly lamella "$@"
    commands=$((-$(<left)))
    after=$(picture)
    quietly bash -c "$undo"
    check_equal "$what: its undoing" "$before" "$(picture)"
    choices=()
    for ((number = 1; number <= commands; ++number)); do choices+=("before $number" "after $number"); done
    [[ -e every-kill ]] || choices=("${choices[RANDOM % ${#choices[@]}]}")
    for choice in "${choices[@]}"; do
        read -r when number <<<"$choice"
        echo "$when" >when
        echo "$number" >left
        : >ended
        status=0
        lamella "$@" >/dev/null 2>&1 || status=$?
        check_equal "$what: killed $when command $number of $commands" 137 "$status"
        wait_for ended "$number"
        echo 0 >left
        found=$(picture)
        said=$(lamella tag vg0/web --add killed 2>&1 >/dev/null)
        quietly itself lvchange --deltag killed vg0/web
        now=$(picture)
        [[ $now == "$before" || $now == "$after" || $said == *"still there, as a removal of"* ]] || fail "$what: all or nothing: $now; $said"
        [[ $found == "$before" || $found == "$after" || $said == *"broken off"* ]] || fail "$what: it says so: $said"
        [[ $now == "$before" ]] || quietly bash -c "$undo"
        check_equal "$what: nothing is left" "" "$(lamella list vg0 2>&1 >/dev/null)"
    done
}

killed "a pool with a profile" "/run/itself/lvm lvremove -qq -y vg0/made" -- \
    pool create vg0/made --size 8M --metadata-size 2M --extensions 0 --tag fast --autoextend-threshold 80 --data-on /dev/ubda
killed "one in parts" "/run/itself/lvm lvremove -qq -y vg0/made" -- \
    pool create vg0/made --size 8M --metadata-size 2M --extensions 0 --autoextend-threshold 80 --data-on /dev/ubda --metadata-on /dev/ubdb
killed "a set of snapshots" "/run/itself/lvm lvremove -qq -y vg0/web-s1 vg0/db-s1" -- snapshot vg0/web vg0/db
killed "settings" "/run/itself/lvm lvchange -qq --discards passdown --errorwhenfull n --detachprofile vg0/pool" -- \
    pool change vg0/pool --discards nopassdown --when-full error --autoextend-threshold 70
killed "a conversion" "/run/itself/lvm lvremove -qq -y vg0/data; /run/itself/lvm lvcreate -qq -y -Zn -L 4M -n data vg0; /run/itself/lvm lvcreate -qq -y -Zn -L 2M -n meta vg0" -- \
    pool convert vg0/data --metadata vg0/meta --chunk-size 64K --autoextend-threshold 80 --yes
made_if_absent='name=$1; shift; /run/itself/lvm lvs "vg0/$name" >/dev/null 2>&1 || /run/itself/lvm lvcreate -qq -y -n "$name" "$@"'
remake="bash -c '$made_if_absent' - old-db -s vg0/db; bash -c '$made_if_absent' - gone -Zn -L 2M vg0"
quietly bash -c "$remake"
# Snapshots before the others: one of the two may be gone, and the other is named then.
killed "a removal" "$remake" -- remove vg0/gone vg0/old-db --yes
quietly itself lvchange -an vg0/web
quietly itself lvcreate -s -n old-web vg0/web
killed "a rollback" "/run/itself/lvm lvcreate -qq -s -n old-web vg0/web" -- rollback vg0/web --to old-web --yes
quietly itself vgchange -an vg0
quietly itself lvchange --addtag empty vg0/meta # by which a picture tells the two
killed "metadata that change places" "/run/itself/lvm lvconvert -qq -y --swapmetadata --poolmetadata vg0/meta vg0/pool" -- \
    pool swap-metadata vg0/pool vg0/meta --yes
quietly itself vgchange -ay vg0
umount /usr/sbin/lvm
check_equal "the data is as it was" "$sum" "$(sum_of /dev/vg0/web)"
quietly vgchange -an vg0
check_clean vg0 "after all of it"
END
