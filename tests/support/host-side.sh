# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What test scripts on the host start with. run-scripts gives them SCRATCH (an empty folder of their own, removed afterwards with
# every process, mount and loop device that came from it), SEED and LAMELLA (the program under test).
# shellcheck source=checks.sh
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
: "${SCRATCH:?run this through tests/support/run-scripts}" "${SEED:?}" "${LAMELLA:?}"
cd "$SCRATCH"

serves=0
server=

# serve GROUP [OPTION...]: starts `lamella serve` and returns when it answers. Sets server (its process) and socket.
serve() {
    socket=$SCRATCH/nbd$((++serves)).sock
    "$LAMELLA" serve "$1" --socket "$socket" "${@:2}" >"$SCRATCH/serve$serves.log" 2>&1 &
    server=$!
    wait_for answers_or_ended
    kill -0 "$server" 2>/dev/null || { cat "$SCRATCH/serve$serves.log"; fail "lamella serve $*"; }
}
answers_or_ended() { ! kill -0 "$server" || /usr/bin/python3 "$support/answers.py" "$socket"; }
stop_serving() {
    local status=0
    kill -TERM "$server"
    wait "$server" || status=$?
    server=
    [[ $status == 0 ]] || { cat "$SCRATCH/serve$serves.log"; fail "lamella serve ends with status 0 on SIGTERM (was $status)"; }
}
kill_server() {
    kill -KILL "$server"
    wait "$server" 2>/dev/null || true
    server=
}

# uri VOLUME
uri() { echo "nbd+unix:///$1?socket=$socket"; }

exports() { nbdinfo --list --json "nbd+unix:///?socket=$socket" | sed -n 's/^[[:space:]]*"export-name": "\(.*\)",$/\1/p' | sort; }

# sums FILE: a line "name sha256" an export of the running server, read by libnbd's nbdcopy.
sums() {
    local volume volumes
    volumes=$(exports)
    for volume in $volumes; do
        echo "$volume $(nbdcopy "$(uri "$volume")" - | sha256sum | cut -d' ' -f1)"
    done >"$1"
}

# scatter VOLUME SEED [COUNT]: see scatter.py
scatter() { /usr/bin/python3 "$support/scatter.py" "$(uri "$1")" --seed "$2" --count "${3:-40}"; }

free_port() { /usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# in_kernel IMAGE... <<'END': the rest of the here-document runs inside a real kernel, with the images as /dev/ubda, ...
kernels=0
in_kernel() {
    local script=$SCRATCH/kernel$((++kernels)).sh
    cat >"$script"
    "$support/../kernel/in-kernel" "$script" "$@" || fail "inside the kernel (status $?)"
}

# loop FILE [OPTION...]: a loop device; run-scripts detaches it.
loop() { losetup --find --show "${@:2}" "$1"; }

# connect NAME URI: an export as a file (through FUSE) in the folder NAME, and a loop device on it. Sets device.
declare -A bridges devices
connect() {
    mkdir -p "$1"
    nbdfuse "$1/nbd" "$2" >>nbdfuse.log 2>&1 &
    bridges[$1]=$!
    wait_for test -f "$1/nbd"
    device=$(loop "$1/nbd")
    devices[$1]=$device
}
disconnect() {
    losetup --detach "${devices[$1]}"
    wait_for detached "${devices[$1]}"
    umount "$1" || umount -l "$1"
    wait "${bridges[$1]}" 2>/dev/null || true
}
detached() { ! losetup "$1"; }

# lvm_alone IMAGE: LVM's commands see this image, on a loop device that can't be written, and nothing else of this host. Sets lvm_device.
lvm_alone() {
    lvm_device=$(loop "$1" --read-only)
    export LVM_SYSTEM_DIR=$SCRATCH/lvm-system LVM_SUPPRESS_FD_WARNINGS=1
    mkdir -p "$LVM_SYSTEM_DIR"
    cat >"$LVM_SYSTEM_DIR/lvm.conf" <<CONF
devices { filter = [ "a|^$lvm_device\$|", "r|.*|" ] use_devicesfile = 0 }
global { locking_dir = "$SCRATCH/lvm-system" event_activation = 0 }
activation { monitoring = 0 udev_sync = 0 udev_rules = 0 }
backup { backup = 0 archive = 0 backup_dir = "$SCRATCH" archive_dir = "$SCRATCH" }
CONF
}

# place_of LV: where a volume in one piece begins on the device of lvm_alone, in bytes, as LVM sees it.
place_of() {
    local start first extent
    start=$(pvs --noheadings --nosuffix --units b -o pe_start "$lvm_device" | tr -d ' ')
    extent=$(vgs --noheadings --nosuffix --units b -o vg_extent_size | tr -d ' ')
    first=$(lvs -a --noheadings -o seg_pe_ranges "$(vgs --noheadings -o vg_name | tr -d ' ')/$1" | sed 's/.*:\([0-9]*\)-.*/\1/')
    echo $((start + first * extent))
}

# --- Metadata tools beside the peer's; ours is $LAMELLA under the peer's names ---
# same_output WHAT COMMAND...: both print the same.
same_output() {
    "${@:2}" >peer.out
    "$LAMELLA" "${@:2}" >our.out
    check_same "$1" peer.out our.out
}
# same_dumps WHAT METADATA: both print the same, in both forms.
same_dumps() {
    local form
    for form in "" "-f human_readable" "--skip-mappings"; do
        # shellcheck disable=SC2086  # words
        same_output "dump ${form:+$form }of $1" thin_dump $form "$2"
    done
}
# not_metadata WHAT FILE: neither program takes it for a pool, and the kernel would not format it as a new one.
not_metadata() {
    check_status 1 "thin_check refuses $1" thin_check -q "$2"
    check_status 1 "our thin_dump refuses $1" "$LAMELLA" thin_dump "$2"
    [[ $(head -c 4096 "$2" | tr -d '\0' | wc -c) -gt 0 ]] || fail "$1 doesn't begin with zeros"
    pass "$1 doesn't begin with zeros"
}
