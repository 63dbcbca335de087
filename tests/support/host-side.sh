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
    wait_for 30 answers_or_ended
    kill -0 "$server" 2>/dev/null || { cat "$SCRATCH/serve$serves.log"; fail "lamella serve $*"; }
}
answers_or_ended() { ! kill -0 "$server" || nbdinfo --list "nbd+unix:///?socket=$socket"; }
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

exports() { nbdinfo --list --json "nbd+unix:///?socket=$socket" | sed -n 's/^ *"export-name": "\(.*\)",$/\1/p' | sort; }

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

# in_kernel IMAGE... <<'END': the rest of the here-document runs inside a real kernel, with the images as /dev/ubda, ...
kernels=0
in_kernel() {
    local script=$SCRATCH/kernel$((++kernels)).sh
    cat >"$script"
    "$support/../kernel/in-kernel" --timeout "${KERNEL_SECONDS:-180}" "$script" "$@" || fail "inside the kernel (status $?)"
}

# loop FILE [OPTION...]: a loop device; run-scripts detaches it.
loop() { losetup --find --show "${@:2}" "$1"; }
