# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Names whose devices are called nearly alike, and names as long as LVM takes them; a thousand active thin volumes, of which each look at
# the group costs one command of LVM's and one call of the kernel for each.
source "$(dirname "$0")/../support/host-side.sh"

# Each round takes snapshots of all that there are.
group=$SCRATCH/many.img
quietly "$LAMELLA" init "$group" --vg many --size 256M --pool-size 64M --metadata-size 32M
quietly "$LAMELLA" create "$group:v1" --size 8M
serve "$group"
scatter v1 "$SEED" 5
number=1
while ((number < 1000)); do
    volumes=() names=()
    for ((i = 1; i <= number && number + i <= 1000; ++i)); do
        volumes+=("$group:v$i")
        names+=(--name "v$((number + i))")
    done
    quietly "$LAMELLA" snapshot "${volumes[@]}" "${names[@]}"
    number=$((number + ${#volumes[@]}))
done
stop_serving

truncate -s 64M one.img other.img
in_kernel many.img one.img other.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"

# --- a/b-c is a-b--c in the kernel, a-b/c is a--b-c
quietly vgcreate -s 1M a /dev/ubdb
quietly vgcreate -s 1M a-b /dev/ubdc
check "a volume" lamella create a/b-c --linear --size 8M
check "another" lamella create a-b/c --linear --size 8M
check_equal "their devices" "a--b-c a-b--c" "$(dmsetup ls | awk '{ print $1 }' | sort | xargs)"
for volume in a/b-c a-b/c; do echo "this is $volume" | dd of=/dev/$volume bs=512 conv=sync,fsync status=none; done
check "a classic snapshot of one" lamella snapshot a/b-c --name b-c-tpool --size 4M
echo "changed" | dd of=/dev/a/b-c bs=512 conv=sync,fsync status=none
check_equal "it has its usage" "1" "$(lamella list a --snapshots | awk '$1 == "b-c-tpool" && $3 == "valid" && $6 > 0' | wc -l)"
check_equal "the other group has none" "c" "$(lamella list a-b | awk 'NR > 1 { print $1 }')"
check "one goes" lamella deactivate a-b/c
check_equal "and no other" "a-b--c a-b--c--tpool a-b--c--tpool-cow a-b--c-real" "$(dmsetup ls | awk '{ print $1 }' | sort | xargs)"
check_equal "the snapshot has what was" "this is a/b-c" "$(dd if=/dev/a/b-c-tpool bs=512 count=1 status=none | tr -d '\0')"
check "activate" lamella activate a-b/c
check_equal "and what was written is there" "this is a-b/c" "$(dd if=/dev/a-b/c bs=512 count=1 status=none | tr -d '\0')"

# --- As long as it may be
long=$(printf 'n%.0s' {1..110})
quietly lvcreate -y -L 16M --poolmetadatasize 2M -T a-b/pool
for ((length = 110; ; ++length)); do
    lvcreate -qq -t -V 4M -T a-b/pool -n "$long" 2>/dev/null || break
    long+=n
done
check_status 2 "a name that LVM refuses ($((length + 3)) with the group's)" lamella create "a-b/$long" --size 4M
check "one that it takes" lamella create "a-b/${long%n}" --size 4M
check_equal "is shown whole" "${long%n}" "$(lamella list a-b | awk '/^nnn/ { print $1 }')"
check "it takes a write" dd if=/dev/urandom of="/dev/a-b/${long%n}" bs=64k count=4 oflag=direct status=none
check_equal "which is counted" "6.25" "$(lamella list a-b | awk '/^nnn/ { print $5 }')"
check "it is removed" lamella remove "a-b/${long%n}" --yes
deactivate a
deactivate a-b

# --- A thousand thin volumes, active
cp /usr/sbin/lvm /run/lvm-itself
cat >/run/lvm-counted <<'LVM'
#!/bin/bash
echo "$1" >>/run/commands
exec -a lvm /run/lvm-itself "$@"
LVM
chmod +x /run/lvm-counted
activate many
dd if=/dev/urandom of=/dev/many/v500 bs=1M count=4 oflag=direct status=none
lvs --noheadings -o lv_name,data_percent many | awk '{ print $1, $2 }' | sort >theirs
mount --bind /run/lvm-counted /usr/sbin/lvm
strace -o calls lamella list many >listed
umount /usr/sbin/lvm
check_equal "what LVM was asked" fullreport "$(</run/commands)"
check_equal "the kernel was asked for the status of each device once" "$(dmsetup ls | grep -c '^many-')" "$(grep -c DM_TABLE_STATUS calls)"
check "and for little else" test "$(grep -c '^ioctl(.*, DM_' calls)" -le "$(($(grep -c DM_TABLE_STATUS calls) + 5))"
check_equal "a thousand, and their pool" 1001 "$(wc -l <theirs)"
check_equal "all have data, and one more than the others" 3 "$(awk '$2 > 0 { print $2 }' theirs | sort -u | wc -l)"
awk 'NR > 1 { print $1, $5 }' listed | sort >ours
check_same "listed as LVM does" theirs ours
END
