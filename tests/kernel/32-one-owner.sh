# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# One owner: a disk whose group the kernel has active is not opened for writing, and the refusal names who holds it; nor is a group
# that belongs to another host. Once it is given up it opens.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 256M disk.img
in_kernel disk.img <<'IN'
refused_naming() { # NAME HOLDER COMMAND...
    local name=$1 holder=$2 status=0
    shift 2
    "$@" >"$SCRATCH/said" 2>&1 || status=$?
    cat "$SCRATCH/said"
    check_equal "$name" 4 "$status"
    check "$name, and says why" grep -q "$holder" "$SCRATCH/said"
}

check "init" "$LAMELLA" init /dev/ubda --vg vms --pool pool
check "create" "$LAMELLA" create /dev/ubda:web --size 50M
activate vms
refused_naming "a disk whose group is active" 'vms-' "$LAMELLA" create /dev/ubda:more --size 50M
deactivate vms
check "create once it is not active" "$LAMELLA" create /dev/ubda:more --size 50M

# A file is held by what stands on its loop device, too.
truncate -s 128M "$SCRATCH/held.img"
check "init of a file" "$LAMELLA" init "$SCRATCH/held.img" --vg held --pool pool
check "create in a file" "$LAMELLA" create "$SCRATCH/held.img:web" --size 20M
loop=$(losetup --find --show "$SCRATCH/held.img")
check "a file under a loop device that nothing stands on" "$LAMELLA" create "$SCRATCH/held.img:more" --size 20M
activate held
refused_naming "a file under a group that is active" 'held-' "$LAMELLA" create "$SCRATCH/held.img:third" --size 20M
refused_naming "the loop device of such a file" 'held-' "$LAMELLA" create "$loop:third" --size 20M
deactivate held
losetup -d "$loop"
check "create once it is not active" "$LAMELLA" create "$SCRATCH/held.img:third" --size 20M

vgchange -qq -y --systemid elsewhere vms
refused_naming "a group of another host" elsewhere "$LAMELLA" create /dev/ubda:third --size 50M
check "it is listed all the same" "$LAMELLA" list /dev/ubda
IN
