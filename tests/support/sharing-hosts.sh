# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What each of two hosts does that share a group, in its own kernel. They reach the images by the same names.

# This host's LVM asks lvmlockd. Local settings beside lvm.conf are found, too.
use_lvmlockd() {
    echo 'global { use_lvmlockd = 1 }' >>"$LVM_SYSTEM_DIR/lvm.conf"
    mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
}

# start_lvmlockd OPTION...
start_lvmlockd() {
    lvmlockd "$@" 2>/dev/null
    wait_for lvmlockctl --info >/dev/null
}

# refused WORDS COMMAND...: lamella refuses it, and says so.
refused() {
    local status=0
    lamella "${@:2}" >said 2>&1 || status=$?
    check_equal "refused: ${*:2}" 4 "$status"
    says "$(<said)" "$1"
}

# The devices of this kernel.
active() { dmsetup ls | awk '/^No devices/ { next } { print $1 }' | sort | xargs; }
