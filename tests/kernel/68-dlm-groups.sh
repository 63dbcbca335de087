# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A group that two hosts share through lvmlockd and dlm: two kernels at the same images, with a cluster of corosync over a link between them.
# What the one has active the other leaves alone, and says who has it or may have it: this kernel has no debugfs, in which it would stand.
# When it is free the other takes it, and finds the same data. See 69-shared-groups.sh.
source "$(dirname "$0")/../support/host-side.sh"

cat "$(dirname "$0")/../support/sharing-hosts.sh" - >sharing.sh <<'END'
# host NUMBER: of this kernel, a node of the cluster. Nothing of the host's own folders is written: what the daemons write is in memory.
host() {
    hostname "host-$1"
    ip link set lo up
    ip link set vec0 up
    ip address add "10.0.0.$1/24" dev vec0
    mkdir -p /dev/shm
    ln -s . /dev/misc # as udev names dlm's devices
    for folder in /dev/shm /var/lib/corosync /var/log; do mount -t tmpfs tmpfs "$folder"; done
    "$(</proc/sys/kernel/modprobe)" dlm
    mount -t configfs configfs /sys/kernel/config
    cat >/run/corosync.conf <<'CONF'
totem {
    version: 2
    cluster_name: two
    transport: udpu
}
quorum {
    provider: corosync_votequorum
    two_node: 1
}
logging {
    to_syslog: no
}
nodelist {
    node {
        name: host-1
        nodeid: 1
        ring0_addr: 10.0.0.1
    }
    node {
        name: host-2
        nodeid: 2
        ring0_addr: 10.0.0.2
    }
}
CONF
    corosync -f -c /run/corosync.conf >/run/corosync.log 2>&1 &
    wait_for in_quorum
    dlm_controld --foreground 1 --enable_fencing 0 >/run/dlm_controld.log 2>&1 &
    wait_for dlm_tool status
    use_lvmlockd
}
in_quorum() { corosync-quorumtool -s | grep -q '^Quorate: *Yes'; }
END

cat >one.sh <<'END'
source "$SCRATCH/sharing.sh"
mkdir "$SCRATCH/1" && cd "$SCRATCH/1"
host 1
start_lvmlockd -g dlm
quietly vgcreate --shared -s 1M vg0 /dev/ubda /dev/ubdb
check "a pool in a shared group" lamella pool create vg0/pool --size 32M
check "a volume" lamella create vg0/web --size 16M
scatter /dev/vg0/web 1
sync
check "a snapshot" lamella snapshot vg0/web --name before
check "a linear volume" lamella create vg0/lin --linear --size 8M
check "it is extended" lamella extend vg0/lin --size +4M
check "the pool too" lamella extend vg0/pool --size +4M
check "a classic snapshot of it" lamella snapshot vg0/lin --name lin-old --size 4M
check_equal "the lock manager is told" '"lock_type": "dlm",' "$(lamella show vg0 --json | grep -o '"lock_type": "dlm",')"
refused "locks the user-space engine doesn't take" serve vg0 --user-space
check "what the pool's metadata hold" lamella ls vg0/pool
says "$(lamella show vg0/web)" "held by this host"
says "$(lamella show vg0/lin-old)" "held by this host"
check "a volume more" lamella create vg0/more --size 8M
check "in trial" lamella remove vg0/more --dry-run
check "removed" lamella remove vg0/more --yes
sum_of /dev/vg0/web >../sum
sum_of /dev/vg0/lin >../sum-lin
sum_of /dev/vg0/lin-old >../sum-lin-old
touch ../active

wait_for test -e ../refused
check_equal "all is as it was" "$(<../sum)" "$(sum_of /dev/vg0/web)"
check_equal "the classic snapshot too" "$(<../sum-lin-old)" "$(sum_of /dev/vg0/lin-old)"
check "and it takes more" dd if=/dev/urandom of=/dev/vg0/lin bs=1M count=1 oflag=direct status=none
check_equal "without being changed" "$(<../sum-lin-old)" "$(sum_of /dev/vg0/lin-old)"
sum_of /dev/vg0/lin >../sum-lin
check "rolled back" bash -c 'lamella deactivate vg0/web && lamella rollback vg0/web --to before --yes && lamella activate vg0/web'
check_equal "with the same data" "$(<../sum)" "$(sum_of /dev/vg0/web)"
check "given away" lamella deactivate vg0/pool --with-contents
check "the linear volume too" lamella deactivate vg0/lin
refused "another host may have it" repair vg0/pool --output vg0/pool
touch ../free

wait_for test -e ../taken
refused "LV locked by other host" activate vg0/web
says "$(<said)" "it is 10.0.0.2 (node id 2)"
refused "that of 10.0.0.2 (node id 2)" remove vg0/web --yes
refused "that of 10.0.0.2 (node id 2)" remove vg0/lin --yes
refused "it is 10.0.0.2 (node id 2)" activate vg0/mine
touch ../end
wait_for test -e ../ended
END

cat >two.sh <<'END'
source "$SCRATCH/sharing.sh"
mkdir "$SCRATCH/2" && cd "$SCRATCH/2"
host 2
wait_for test -e ../active
says "$(lamella show vg0)" "dlm"
check_equal "listed without lvmlockd" "before lin lin-old pool web" "$(lamella list vg0 | awk 'NR > 1 { print $1 }' | xargs)"
refused "which doesn't answer on this host" create vg0/mine --linear --size 4M
start_lvmlockd -g dlm
refused "aren't started on this host: vgchange --lockstart vg0" create vg0/mine --linear --size 4M
refused "aren't started on this host" activate vg0/web
quietly vgchange --lockstart vg0
check "a volume of its own" lamella create vg0/mine --linear --size 4M
perhaps="is free or that of 10.0.0.1 (node id 1)"
refused "$perhaps" snapshot vg0/web
refused "$perhaps" create vg0/web2 --size 4M
refused "$perhaps" extend vg0/pool --size +4M
refused "$perhaps" resize vg0/web --size 20M
refused "$perhaps" rename vg0/web web2
refused "$perhaps" remove vg0/web --yes
refused "$perhaps" pool change vg0/pool --discards nopassdown
refused "$perhaps" remove vg0/lin --yes
refused "$perhaps" remove vg0/lin-old --yes
refused "$perhaps" rename vg0/lin-old other
refused "$perhaps" extend vg0/lin-old --size +1M
holder="it is 10.0.0.1 (node id 1)"
refused "$holder" activate vg0/web
refused "$holder" activate vg0/lin
refused "$holder" activate vg0/lin-old
refused "$holder" extend vg0/lin --size +4M
refused "$holder" rename vg0/lin other
refused "$holder" snapshot vg0/lin --name lin-new --size 4M
refused "another host may have it" ls vg0/pool
refused "isn't active" metadata-snapshot vg0/pool reserve
refused "is in use: " create /dev/ubda,/dev/ubdb:other --linear --size 4M
says "$(lamella show vg0/web)" "not held by this host"
check "by its disks" bash -c 'lamella list /dev/ubda,/dev/ubdb >by-disks 2>warned'
says "$(<warned)" "another one may be writing to its pools"
check_equal "none of it has made anything active" "vg0-mine" "$(active)"
touch ../refused

wait_for test -e ../free
check "taken over" lamella activate vg0/web
check_equal "the same data" "$(<../sum)" "$(sum_of /dev/vg0/web)"
check "a snapshot" lamella snapshot vg0/web --name after
check "the linear volume" lamella activate vg0/lin
check_equal "the same data there" "$(<../sum-lin)" "$(sum_of /dev/vg0/lin)"
check_equal "and in its snapshot" "$(<../sum-lin-old)" "$(sum_of /dev/vg0/lin-old)"
touch ../taken
wait_for test -e ../end
check "the snapshot is removed" lamella remove vg0/lin-old --yes
check_clean vg0 "after both"
touch ../ended
END

truncate -s 512M one.img
truncate -s 128M two.img
running=()
for ends in one:two two:one; do
    script=${ends%:*}.sh
    "${support:?}/../kernel/in-kernel" --timeout 400 --images shared --link "$SCRATCH/${ends%:*}.link:$SCRATCH/${ends#*:}.link" "$script" one.img two.img &
    running+=($!)
done
for kernel in "${running[@]}"; do
    wait "$kernel" || fail "inside a kernel (status $?)"
done
