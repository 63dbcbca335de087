# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the doctor prescribes for pools of a real LVM, carried out as it stands; a copy of the metadata put back by the commands that lie
# beside it; settings of a pool changed. The data is verified by sums, and the peer's thin_check has the last word.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 256M kernel.img
truncate -s 64M fast.img
in_kernel kernel.img fast.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"
mkdir bin
ln -s "$LAMELLA" bin/lamella
export PATH=$SCRATCH/bin:$PATH

cat >prescribed.py <<'PYTHON'
import json, subprocess, sys
kind, report = sys.argv[1], json.loads(subprocess.run(["lamella", "doctor", "vg0", "--json"], stdout=subprocess.PIPE).stdout)
for finding in report["findings"]:
    if finding["kind"] == kind:
        for command in finding["commands"]:
            # Nobody is there to be asked.
            words = command.split()
            asks = words[0] == "lamella" and b"--yes" in subprocess.run(words[:2] + ["--help"], stdout=subprocess.PIPE).stdout
            print(command + (" --yes" if asks else ""))
PYTHON
prescribed() { # KIND: does what the doctor says of it
    check "the doctor finds $1" bash -c "/usr/bin/python3 prescribed.py $1 >commands && test -s commands"
    while read -r command <&8; do check "$1: $command" bash -c "$command"; done 8<commands
}
found() { "$LAMELLA" doctor vg0 --json | grep -q "\"kind\": \"$1\""; }
isnt_found() { check "$1 is no longer found" eval '! found $1'; }
node() { /usr/bin/python3 "$support/find-node.py" /dev/mapper/metadata "$@"; }
zero() { dd if=/dev/zero of=/dev/mapper/metadata bs=4096 seek="$1" count="${2:-1}" conv=notrunc,fsync status=none; }
with_metadata() { # COMMAND...: while /dev/mapper/metadata is where the metadata lies of a pool that isn't active
    local place
    place=$(dmsetup table vg0-pool_tmeta)
    deactivate vg0
    dmsetup create metadata --table "$place"
    "$@"
    dmsetup remove metadata
}
field() { lvs -a --noheadings -o "$1" "$2" | xargs; }

quietly pvcreate /dev/ubda /dev/ubdb
quietly vgcreate vg0 /dev/ubda /dev/ubdb

# --- Metadata where nothing rotates, as nobody said where
exec 9</dev/ubda # each first opening makes it one that doesn't rotate
echo 1 >/sys/block/ubda/queue/rotational
echo 0 >/sys/block/ubdb/queue/rotational
check "a pool" bash -c '"$LAMELLA" pool create vg0/pool --size 80M --metadata-size 4M --extensions 0 >made'
exec 9<&-
check "says where its metadata is" grep -q "on /dev/ubdb: the others rotate" made
check_equal "and there it is" "/dev/ubdb(0)" "$(field devices vg0/pool_tmeta)"

quietly lvcreate -V 32M -T vg0/pool -n web
quietly lvcreate -V 32M -T vg0/pool -n db
scatter /dev/vg0/web "$SEED" 300
scatter /dev/vg0/db $((SEED + 1)) 300
sync
sums vg0 written
same_data() { sums vg0 read 2>/dev/null && sed -i /_meta/d read && check_same "the data is as it was: $1" written read; }

# --- A device in the pool that LVM doesn't know
dmsetup message vg0-pool-tpool 0 "create_thin 77"
check_status 4 "no volume of LVM's is deleted behind its back" "$LAMELLA" message vg0/pool delete 1
prescribed thin-id-leaked
isnt_found thin-id-leaked
check "LVM goes on" lvcreate -qq -V 8M -T vg0/pool -n more
check "and removes" lvremove -qq -y vg0/more

# --- Leaks
with_metadata /usr/bin/python3 "$support/set-count.py" /dev/mapper/metadata metadata 900 1
prescribed pool-leak
isnt_found pool-leak
check_equal "the old metadata is kept" "4.00m" "$(field lv_size vg0/pool_meta0)"
check "activate" "$LAMELLA" activate vg0
same_data "leaks given back"
check_status 4 "not while it is in use" "$LAMELLA" check vg0/pool --auto-repair
check "nor is anything left of it" eval '! lvs vg0/pool_meta1 2>/dev/null'
quietly lvremove -y vg0/pool_meta0

# --- Damage
with_metadata eval 'zero "$(node inner 1)"'
prescribed pool-metadata-damaged
same_data "below a bad inner node all was found"
isnt_found pool-metadata-damaged
quietly lvremove -y vg0/pool_meta0

# --- A copy put back, by what lies beside it
check "a copy" bash -c '"$LAMELLA" metadata-backup vg0 --json >kept.json'
folder=$(/usr/bin/python3 -c 'import json; print(json.load(open("kept.json"))["folder"])')
quietly lvrename vg0/web vg0/renamed
deactivate vg0
check "its text, made plain by gzip" bash -c "gzip -dc '$folder/group.txt.gz' >plain.txt"
check "is what vgcfgrestore takes" vgcfgrestore -qq --force --yes --file plain.txt vg0
activate vg0
same_data "with the names of the copy, by LVM alone"
check "a volume that the copy doesn't have" lvcreate -qq -V 8M -T vg0/pool -n later
with_metadata zero 0 512
check "the pool isn't activated" eval '! vgchange -qq -ay vg0 || ! lvs --noheadings -o lv_active_locally vg0/pool | grep -q active'
/usr/bin/python3 -c 'import json; print("\n".join(json.load(open("'"$folder"'/backup.json"))["restore"]))' >commands
while read -r command <&8; do check "$command" bash -c "cd $folder && $command"; done 8<commands
same_data "from the copy"
check "what was the metadata is kept" lvs vg0/pool_meta0
check "the pool takes writes" dd if=/dev/urandom of=/dev/vg0/web bs=1M count=4 oflag=direct status=none
check "and new volumes" lvcreate -qq -V 8M -T vg0/pool -n later
check_status 4 "metadata of another time are refused" bash -c '"$LAMELLA" deactivate vg0 && "$LAMELLA" restore '"$folder"'/pool.xml vg0/pool --yes'
check "nothing is left of them" eval '! lvs vg0/pool_meta1 2>/dev/null'
quietly lvremove -y vg0/pool_meta0
check_clean vg0 "after all that"

# --- Settings
check "discards and when-full" "$LAMELLA" pool change vg0/pool --discards ignore --when-full error
check_equal "as LVM has them" "ignore error" "$(field discards,lv_when_full vg0/pool)"
texts=$(vgs --noheadings -o vg_seqno vg0)
check "the same again" "$LAMELLA" pool change vg0/pool --discards ignore --when-full error
check_equal "changes nothing" "$texts" "$(vgs --noheadings -o vg_seqno vg0)"
check "activate" "$LAMELLA" activate vg0
check_status 4 "not in use" "$LAMELLA" pool change vg0/pool --discards passdown
prescribed discards-ignored
isnt_found discards-ignored
check_equal "as LVM has them" "passdown error" "$(field discards,lv_when_full vg0/pool)"
check "what the kernel does with discards is told" bash -c '"$LAMELLA" pool change vg0/pool --when-full queue --json 2>said >answer'
check_equal "as it is" "$(field kernel_discards vg0/pool | sed 's/^passdown$//')" \
    "$(/usr/bin/python3 -c 'import json
print(*[one.split("kernel does ")[1].split(":")[0] for one in json.load(open("answer"))["warnings"] if "kernel does" in one])')"
prescribed profile-missing
check_equal "it has a profile" lamella-80-20 "$(field lv_profile vg0/pool)"
isnt_found profile-missing
rm /etc/lvm/profile/lamella-80-20.profile
prescribed profile-unreadable
isnt_found profile-unreadable

# --- Damage, and no room for new metadata beside the old
sums vg0 written
quietly lvcreate -y -n filler -l 100%FREE vg0
# Of this thin_repair 0.9 makes all whole; below a bad inner node it loses data.
with_metadata eval 'zero "$(node data-map)"'
prescribed pool-metadata-damaged
check "by LVM" grep -qx "lvconvert --repair vg0/pool" commands
quietly lvremove -y vg0/filler
same_data "LVM's repair"
isnt_found pool-metadata-damaged
quietly lvremove -y vg0/pool_meta0
check "with a spare for the next" "$LAMELLA" doctor vg0 --fix

# --- Metadata that grow take the spare along
check "in a trial" bash -c '"$LAMELLA" extend vg0/pool --metadata --size +4M --dry-run | grep "the spare takes 4.00 MiB more"'
quietly lvcreate -y -n filler -l 100%FREE vg0
quietly lvreduce -y -f -L -4M vg0/filler
check "too little room for both is told" bash -c '"$LAMELLA" extend vg0/pool --metadata --size +4M 2>said; grep "not for the spare" said'
END
