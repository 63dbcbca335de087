# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What test scripts say with, on the host and inside the kernel. A script is a row of checks; the first that fails ends it.
# run-scripts counts the lines "ok: ..." and "FAILED: ...", so every check needs a description that stands alone.
set -euo pipefail

pass() { echo "ok: $1"; }

fail() {
    echo "FAILED: $1"
    exit 1
}

# check DESCRIPTION COMMAND...: the command succeeds. Its output is shown when it doesn't.
check() {
    local description=$1 output status=0
    shift
    output=$("$@" 2>&1) || status=$?
    if [[ $status != 0 ]]; then
        printf '%s\n' "\$ $*" "$output" "(exit status $status)"
        fail "$description"
    fi
    pass "$description"
}

# quietly COMMAND...: runs it; shows its output only when it fails. For what prepares a check.
quietly() {
    local output
    output=$("$@" 2>&1) || { printf '%s\n' "\$ $*" "$output"; return 1; }
}

# check_status STATUS DESCRIPTION COMMAND...: the command ends with exactly this exit status; what it printed is left in $output.
check_status() {
    local expected=$1 description=$2 status=0
    shift 2
    output=$("$@" 2>&1) || status=$?
    if [[ $status != "$expected" ]]; then
        printf '%s\n' "\$ $*" "$output" "(exit status $status, expected $expected)"
        fail "$description"
    fi
    pass "$description"
}

# check_same DESCRIPTION FILE FILE
check_same() {
    [[ -s $2 ]] || { echo "$2 is empty"; fail "$1"; }
    diff "$2" "$3" || fail "$1"
    pass "$1"
}

# check_equal DESCRIPTION EXPECTED ACTUAL
check_equal() {
    [[ $2 == "$3" ]] || { printf 'expected: %s\nactual:   %s\n' "$2" "$3"; fail "$1"; }
    pass "$1"
}

# wait_for COMMAND...: until the command succeeds. The limit is for what never happens; a machine that is busy with other things stays
# far below it.
wait_for() {
    local end=$((SECONDS + 200)) pause=0.05
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "waited in vain for: $*"; return 1; }
        sleep "$pause"
    done
}

# sha256 of all bytes of a device or file.
sum_of() { sha256sum <"$1" | cut -d' ' -f1; }

support=${support:-$(readlink -e "$(dirname "${BASH_SOURCE[0]}")")}
