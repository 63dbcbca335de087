# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A group that two hosts share through lvmlockd and sanlock: two kernels at the same images. What the one has active the other leaves alone,
# and says who has it; when it is free the other takes it, and finds the same data. Without lvmlockd nothing is changed.
source "$(dirname "$0")/../support/host-side.sh"

cat "$(dirname "$0")/../support/sharing-hosts.sh" - >sharing.sh <<'END'
# host NUMBER: of this kernel. The times by which sanlock counts are short; with udev there would be no need to retry: the first time
# lvmlockd looks for the volume with the leases before LVM has made its node.
host() {
    echo "local { host_id = $1 }" >"$LVM_SYSTEM_DIR/lvmlocal.conf"
    use_lvmlockd
    mkdir -p /run/sanlock
    sanlock daemon -U root -G root -w 0 -h 0 -l 0 -e "host-$1"
    wait_for sanlock client status >/dev/null
}
END

cat >one.sh <<'END'
source "$SCRATCH/sharing.sh"
mkdir "$SCRATCH/1" && cd "$SCRATCH/1"
host 1
start_lvmlockd -o 4
quietly vgcreate --shared -s 1M vg0 /dev/ubda /dev/ubdb
check "a pool in a shared group" lamella pool create vg0/pool --size 32M
check "a volume" lamella create vg0/web --size 16M
scatter /dev/vg0/web 1
sync
check "a snapshot" lamella snapshot vg0/web --name before
check "a linear volume" lamella create vg0/lin --linear --size 8M
check "it is extended" lamella extend vg0/lin --size +4M
check "the pool too" lamella extend vg0/pool --size +4M
check "a classic snapshot" lamella snapshot vg0/lin --name lin-old --size 4M
lamella group backup vg0 --file backup >/dev/null
check_equal "the text has the locks" 4 "$(grep -c 'lock_args = \|lock_type = ' backup)"
refused "locks the user-space engine doesn't take" serve vg0 --user-space
check "what the pool's metadata hold" lamella ls vg0/pool
says "$(lamella show vg0/web)" "held by this host"
check "a volume more" lamella create vg0/more --size 8M
check "in trial" lamella remove vg0/more --dry-run
check "removed" lamella remove vg0/more --yes
sum_of /dev/vg0/web >../sum
sum_of /dev/vg0/lin-old >../sum-lin-old
touch ../active

wait_for test -e ../refused
check_equal "all is as it was" "$(<../sum)" "$(sum_of /dev/vg0/web)"
check_equal "the classic snapshot too" "$(<../sum-lin-old)" "$(sum_of /dev/vg0/lin-old)"
check "rolled back" bash -c 'lamella deactivate vg0/web && lamella rollback vg0/web --to before --yes && lamella activate vg0/web'
check_equal "with the same data" "$(<../sum)" "$(sum_of /dev/vg0/web)"
check "given away" lamella deactivate vg0/pool --with-contents
check "the linear volume too" lamella deactivate vg0/lin
refused "another host may have it" repair vg0/pool --output vg0/pool
touch ../free

wait_for test -e ../taken
refused "LV locked by other host" activate vg0/web
says "$(<said)" "it is host-2 (host id 2)"
refused "is that of host-2 (host id 2)" remove vg0/web --yes
touch ../end
END

cat >two.sh <<'END'
source "$SCRATCH/sharing.sh"
mkdir "$SCRATCH/2" && cd "$SCRATCH/2"
host 2
wait_for test -e ../active
says "$(lamella show vg0)" "sanlock"
check_equal "listed without lvmlockd" "before lin lin-old pool web" "$(lamella list vg0 | awk 'NR > 1 { print $1 }' | xargs)"
refused "which doesn't answer on this host" create vg0/mine --linear --size 4M
start_lvmlockd -o 4
refused "aren't started on this host: vgchange --lockstart vg0" create vg0/mine --linear --size 4M
refused "aren't started on this host" activate vg0/web
vgchange --lockstart vg0 >/dev/null 2>&1 || quietly vgchange --lockstart vg0
check "a volume of its own" lamella create vg0/mine --linear --size 4M
holder="is that of host-1 (host id 1)"
refused "$holder" snapshot vg0/web
refused "$holder" create vg0/web2 --size 4M
refused "$holder" extend vg0/pool --size +4M
refused "$holder" resize vg0/web --size 20M
refused "$holder" rename vg0/web web2
refused "$holder" remove vg0/web --yes
refused "$holder" pool change vg0/pool --discards nopassdown
refused "it is host-1 (host id 1)" activate vg0/web
refused "it is host-1 (host id 1)" extend vg0/lin --size +4M
refused "$holder" remove vg0/lin --yes
refused "$holder" remove vg0/lin-old --yes
refused "$holder" rename vg0/lin-old other
refused "another host may have it" ls vg0/pool
refused "isn't active" metadata-snapshot vg0/pool reserve
refused "is in use: " create /dev/ubda,/dev/ubdb:other --linear --size 4M
says "$(lamella show vg0/web)" "not held by this host"
check "by its disks" bash -c 'lamella list /dev/ubda,/dev/ubdb >by-disks 2>warned'
says "$(<warned)" "another one may be writing to its pools"
check_equal "what the pool has is unknown" "null null" \
    "$(lamella show /dev/ubda,/dev/ubdb:pool --json | sed -n 's/^ *"\(data_used\|metadata_used\)": \(.*\),$/\2/p' | xargs)"
check_equal "none of it has made anything active" "vg0-lvmlock vg0-mine" "$(active)"
touch ../refused

wait_for test -e ../free
check "taken over" lamella activate vg0/web
check_equal "the same data" "$(<../sum)" "$(sum_of /dev/vg0/web)"
check "a snapshot" lamella snapshot vg0/web --name after
touch ../taken
wait_for test -e ../end
check_clean vg0 "after both"
END

truncate -s 512M one.img
truncate -s 128M two.img
running=()
for number in one two; do
    "${support:?}/../kernel/in-kernel" --timeout 400 --images shared $number.sh one.img two.img &
    running+=($!)
done
for kernel in "${running[@]}"; do
    wait "$kernel" || fail "inside a kernel (status $?)"
done
