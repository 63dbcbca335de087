# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What is not a sound image is refused with a message and the right status, quickly, and not one byte of it is changed.
source "$(dirname "$0")/../support/host-side.sh"

good=$SCRATCH/good.img
quietly "$LAMELLA" init "$good" --pool-size 100%FREE --size 200M
quietly "$LAMELLA" create "$good:web" --size 100M
serve "$good"
scatter web "$SEED"
stop_serving

# overwrite FILE OFFSET LENGTH: random bytes
overwrite() { head -c "$3" /dev/urandom | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# refused STATUS|... NAME FILE: by a reading and by a writing command
refused() {
    local before status output command
    before=$(sum_of "$3")
    for command in list serve create; do
        local arguments=("$3")
        case $command in
        serve) arguments+=(--socket "$SCRATCH/bad.sock") ;;
        create) arguments=("$3:new" --size 10M) ;;
        esac
        status=0
        output=$(timeout 30 "$LAMELLA" "$command" "${arguments[@]}" 2>&1) || status=$?
        if [[ ! $status =~ ^($1)$ || -z $output ]]; then
            printf '%s\n' "\$ lamella $command" "$output" "(exit status $status, expected $1)"
            fail "$2: refused by $command"
        fi
        pass "$2: refused by $command"
    done
    check_equal "$2: not a byte is changed" "$before" "$(sum_of "$3")"
    rm -f "$3"
}

before=$(sum_of "$good")
check_status 4 "a trial of making a group where one is says so" "$LAMELLA" init "$good" --dry-run
[[ $output == *"is a physical volume already"*--overwrite* ]] || fail "and names the option to lose it: $output"
pass "and names the option to lose it"
check "a trial with that option" "$LAMELLA" init "$good" --dry-run --overwrite
check_equal "trials don't change a byte" "$before" "$(sum_of "$good")"

: >bad.img
refused "3|5" "an empty file" "$SCRATCH/bad.img"
truncate -s 10M bad.img
refused "3|5" "zeros" "$SCRATCH/bad.img"
head -c 10M /dev/urandom >bad.img
refused "3|5" "noise" "$SCRATCH/bad.img"
cp "$0" bad.img
refused "3|5" "a text" "$SCRATCH/bad.img"

cp --sparse=always good.img bad.img
overwrite bad.img 600 20
refused 5 "label with a wrong checksum" "$SCRATCH/bad.img"
cp --sparse=always good.img bad.img
overwrite bad.img 4100 8
refused 5 "metadata area header with a wrong magic" "$SCRATCH/bad.img"
cp --sparse=always good.img bad.img
overwrite bad.img 4608 1000000
refused 5 "metadata text overwritten" "$SCRATCH/bad.img"
cp --sparse=always good.img bad.img
truncate -s 900 bad.img
refused "3|5" "cut off within the label" "$SCRATCH/bad.img"
cp --sparse=always good.img bad.img
truncate -s 500000 bad.img
refused 5 "cut off within the metadata area" "$SCRATCH/bad.img"

check_status 3 "a path that isn't there" "$LAMELLA" list "$SCRATCH/nowhere.img"

# The pool's superblock: damage is contained. The group is sound and can be looked at; the pool and what is in it can't be used.
lvm_alone good.img
place=$(place_of pool_tmeta)
cp --sparse=always good.img bad.img
overwrite bad.img $((place + 40)) 64
before=$(sum_of bad.img)
check "a group with a broken pool can be listed" "$LAMELLA" list "$SCRATCH/bad.img"
check_status 5 "its pool isn't changed" timeout 30 "$LAMELLA" create "$SCRATCH/bad.img:new" --size 10M
check "and the message names the superblock" grep -qi superblock <<<"$output"
serve "$SCRATCH/bad.img"
check_status 1 "its volumes aren't served" qemu-io -f raw -r -c 'read 0 512' "$(uri web)"
check "and the client is told why" grep -qi superblock <<<"$output"
stop_serving
check_equal "not a byte is changed" "$before" "$(sum_of bad.img)"
