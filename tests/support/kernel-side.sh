# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What scripts inside the kernel find defined; see tests/kernel/in-kernel.
# shellcheck source=checks.sh
source "${support:?}/checks.sh"

# The volumes of a group that hold users' data, pools and their parts left out.
# Once each: lvs says a volume of several segments as often.
volumes_of() { lvs --noheadings -o lv_name -S 'segtype!=thin-pool' "$1" | sed 's/ //g' | sort -u; }

activate() { vgchange -qq -ay -K "$1"; }
deactivate() { vgchange -qq -an "$1"; }

# sums GROUP FILE: a line "name sha256" a volume.
sums() {
    local volume volumes
    volumes=$(volumes_of "$1")
    for volume in $volumes; do
        echo "$volume $(sum_of "/dev/$1/$volume")"
    done >"$2"
}

# scatter DEVICE SEED [COUNT]: deterministic data at deterministic places.
scatter() { /usr/bin/python3 "$support/scatter.py" "$1" --seed "$2" --count "${3:-40}"; }

# A group in rest: LVM finds nothing wrong, and every pool's metadata, seen through LVM, passes thin_check.
check_clean() {
    local group=$1 pool pools metadata
    deactivate "$group"
    check "vgck $group: $2" vgck "$group"
    pools=$(lvs --noheadings -o lv_name -S 'segtype=thin-pool' "$group")
    for pool in $pools; do
        metadata=$(lvs --noheadings -o metadata_lv "$group/$pool" | tr -d '[] ')
        lvchange -qq -y -ay "$group/$metadata"
        check "thin_check $group/$pool: $2" thin_check "/dev/$group/$metadata"
        lvchange -qq -an "$group/$metadata"
    done
}
