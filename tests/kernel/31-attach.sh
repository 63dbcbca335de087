# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# `lamella attach` with the kernel's own nbd client, inside the kernel: formatted, filled, snapshotted while mounted, the snapshot
# attached read-only beside it; refusals; a serving process that is killed; and nothing is left of any of it.
source "$(dirname "$0")/../support/host-side.sh"

mkdir tree
for number in {1..30}; do
    head -c $((number * 3001)) /dev/urandom >"tree/file $number"
done
(cd tree && sha256sum -- file* >../tree.sums)

in_kernel <<'END'
cd "$SCRATCH"
export LAMELLA_RUNTIME_DIR=/run/lamella
image=$SCRATCH/vms.img
mkdir /run/origin /run/snapshot
connected() { cat /sys/block/nbd*/backend 2>/dev/null | wc -l; }
process_of() { "$LAMELLA" attach "$@" --json | sed -n 's/^ *"process": \([0-9]*\).*/\1/p'; }
nothing_is_left() {
    [[ $(connected) == 0 && $(cat /sys/block/nbd[0-3]/size | sort -u) == 0 ]] && ! pgrep -x lamella && ! ls /run/lamella/*.sock /run/lamella/*.control
}

check "init" "$LAMELLA" init "$image" --pool-size 100%FREE --vg vms --pool pool --size 512M
check "create" "$LAMELLA" create "$image:web" --size 200M
device=$("$LAMELLA" attach "$image:web")
check_equal "attach prints an nbd device" /dev/nbd0 "$device"
check_equal "of the volume's size" $((200 * 1024 * 1024)) "$(blockdev --getsize64 "$device")"
check_equal "with blocks of 512 bytes" 512 "$(blockdev --getss "$device")"
check_equal "and the same again" "$device" "$("$LAMELLA" attach "$image:web")"
check_status 4 "no file beside it" "$LAMELLA" attach "$image:web" --file
check_status 4 "not the other way round" "$LAMELLA" attach "$image:web" --read-only
check "mkfs" mkfs.ext4 -q "$device"
mount "$device" /run/origin
cp -a tree /run/origin/
sync -f /run/origin
fsfreeze --freeze /run/origin
status=0
"$LAMELLA" snapshot "$image:web" --name web-s1 || status=$?
fsfreeze --unfreeze /run/origin
check_equal "snapshot while mounted" 0 $status
rm /run/origin/tree/file\ 1*
head -c 5000000 /dev/urandom >"/run/origin/tree/file 2"
(cd /run/origin/tree && sha256sum -- file* >/run/changed.sums)
check "fsync" sync "/run/origin/tree/file 2"
check "fstrim" fstrim /run/origin

check "resize while mounted" "$LAMELLA" resize "$image:web" --size +40M
check_equal "the device is larger at once" $((240 * 1024 * 1024)) "$(blockdev --getsize64 "$device")"
check "so that the file system can grow" resize2fs "$device"
check "and be filled" dd if=/dev/urandom of=/run/origin/filler bs=1M count=190 conv=fsync status=none
rm /run/origin/filler
check_status 4 "it doesn't shrink while it is in use" "$LAMELLA" resize "$image:web" --size 100M --shrink --yes
check_equal "nor its device" $((240 * 1024 * 1024)) "$(blockdev --getsize64 "$device")"

snapshot=$("$LAMELLA" attach "$image:web-s1" --read-only)
check_equal "the snapshot is the next device" /dev/nbd1 "$snapshot"
check_equal "which is read-only" 1 "$(blockdev --getro "$snapshot")"
check_status 1 "and takes no write" dd if=/dev/zero of="$snapshot" bs=4096 count=1 oflag=direct
check "mount the snapshot" mount -o ro,noload "$snapshot" /run/snapshot
check "the snapshot holds the tree as it was" bash -c "cd /run/snapshot/tree && sha256sum --quiet -c '$SCRATCH/tree.sums'"
check_equal "both are known" 2 "$(connected)"

check_status 4 "detach is refused while it is mounted" "$LAMELLA" detach "$image:web"
check_equal "and names where" yes "$([[ $output == *"$device is in use: mounted at /run/origin"* ]] && echo yes)"
check_status 4 "remove is refused as well" "$LAMELLA" remove "$image:web" --yes
umount /run/origin
exec 9<"$device"
check_status 4 "detach is refused while somebody has it open" "$LAMELLA" detach "$image:web"
holder=$BASHPID
check_equal "and names who" yes "$([[ $output == *"process $holder ("* ]] && echo yes)"
exec 9<&-
check "a trial of detach" "$LAMELLA" detach "$image:web" --dry-run
check_equal "changes nothing" 2 "$(connected)"
check "fsck" fsck.ext4 -fn "$device"
check "detach" "$LAMELLA" detach "$image:web"
check_equal "leaves the other" "$(printf 'lamella/%s/web-s1' "$(stat -c 'file-%Hd-%Ld-%i' "$image")")" "$(cat /sys/block/nbd1/backend)"
umount /run/snapshot
check "detach the last" "$LAMELLA" detach "$image:web-s1"
check "nothing is left" nothing_is_left
check_status 3 "detach once more" "$LAMELLA" detach "$image:web"

echo "--- a serving process that is killed"
process=$(process_of "$image:web")
mount /dev/nbd0 /run/origin
check "what was changed is there" bash -c "cd /run/origin/tree && sha256sum --quiet -c /run/changed.sums"
kill -KILL "$process"
wait_for bash -c "! kill -0 $process"
check_status 4 "a dead device isn't detached while it is mounted" "$LAMELLA" detach "$image:web"
check_status 4 "nor attached beside itself" "$LAMELLA" attach "$image:web"
umount /run/origin 2>/dev/null
check "detach clears it" "$LAMELLA" detach "$image:web"
check "nothing is left" nothing_is_left
process=$(process_of "$image:web")
kill -KILL "$process"
wait_for bash -c "! kill -0 $process"
check_equal "attach takes a dead one's place" /dev/nbd0 "$("$LAMELLA" attach "$image:web")"
check_equal "which is one device" 1 "$(connected)"
mount /dev/nbd0 /run/origin
check "what was changed is still there" bash -c "cd /run/origin/tree && sha256sum --quiet -c /run/changed.sums"

echo "--- a serving process that is told to end"
process=$(process_of "$image:web")
umount /run/origin
kill -TERM "$process"
wait_for bash -c "! kill -0 $process"
check "nothing is left" nothing_is_left

echo "--- disconnected from outside"
check "attach" "$LAMELLA" attach "$image:web"
nbd-client -d /dev/nbd0 >/dev/null
check "detach knows" check_status 3 "not attached" "$LAMELLA" detach "$image:web"
check_equal "attach makes it anew" /dev/nbd0 "$("$LAMELLA" attach "$image:web")"
check "fsck" fsck.ext4 -fn /dev/nbd0
check "detach" "$LAMELLA" detach "$image:web"
check "nothing is left" nothing_is_left
check "the group is sound" "$LAMELLA" group check "$image"
END
