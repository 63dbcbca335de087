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

# says TEXT WORDS: the words are in the text.
says() { grep -qF -- "$2" <<<"$1" || { echo "$1"; fail "it says \"$2\""; }; }

# sum_of_head DEVICE BYTES
sum_of_head() { head -c "$2" "$1" | sha256sum | cut -d' ' -f1; }

# whole DEVICE BYTES SUM: so many bytes are what they were, and a write behind them arrives, another place each time.
writes=0
whole() {
    local place=$(($2 / 65536 + ++writes))
    check_equal "what was on $1 is there" "$3" "$(sum_of_head "$1" "$2")"
    head -c 65536 /dev/urandom >written
    check "a write to it" dd if=written of="$1" bs=64k seek=$place oflag=direct status=none
    check_equal "arrives" "$(sum_of written)" "$(dd if="$1" bs=64k skip=$place count=1 iflag=direct status=none | sha256sum | cut -d' ' -f1)"
}

# --- The doctor; `lamella` in its commands is the program under test
export PATH=/run/under-test:$PATH
mkdir -p /run/under-test
[[ -z ${LAMELLA-} ]] || ln -sf "$LAMELLA" /run/under-test/lamella

# diagnosed GROUP [KIND...]: the doctor finds this and nothing else that is more than advice, and its exit status says whether any of it
# is critical. The answer is left in diagnosis.json.
diagnosed() {
    local group=$1 status=0 expected=0
    shift
    lamella doctor "$group" --json >diagnosis.json || status=$?
    check_equal "the doctor finds: ${*:-nothing}" "$*" "$(finding kinds)"
    ! grep -q '"urgency": "critical"' diagnosis.json || expected=5
    check_equal "its exit status" "$expected" "$status"
}
# finding MEMBER KIND [VOLUME]: of diagnosis.json
finding() { /usr/bin/python3 "$support/findings.py" diagnosis.json "$@"; }
# does KIND [VOLUME]: carries out the commands that the finding tells, as they stand.
does() {
    local command commands
    commands=$(finding commands "$@")
    [[ -n $commands ]] || fail "the finding $* tells commands"
    while IFS= read -r command; do
        check "told by the doctor: $command" bash -c "$command"
    done <<<"$commands"
}
