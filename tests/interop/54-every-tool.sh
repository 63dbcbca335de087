# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What all of the peer's commands have in common under our program (help, version, wrong options, inputs and outputs that won't do), and
# the options of each that the other scripts don't use.
source "$(dirname "$0")/../support/host-side.sh"

ours() { "$LAMELLA" "$@"; }
set_count() { /usr/bin/python3 "$support/set-count.py" "$@"; }
node() { /usr/bin/python3 "$support/find-node.py" "$@"; }
says() { grep -Eq -e "$1" <<<"$output" || { echo "$output"; fail "it says: $1"; }; }
fresh() { rm -f "$1" && truncate -s "${2:-8M}" "$1"; }

/usr/bin/python3 "$support/thin-xml.py" --seed "$SEED" >pool.xml
sed -i 's/ snap_time="[0-9]*"/ snap_time="21"/; /^<superblock/s/ time="[0-9]*"/ time="21"/' pool.xml
fresh pool.bin
quietly thin_restore -i pool.xml -o pool.bin
# The peer's thin_restore leaves stale totals in the metadata's space map for some pools; what mends them would show as a change below.
quietly ours thin_check --auto-repair pool.bin
thin_dump pool.bin >pool.xml
mapfile -t ids < <(sed -n 's/.*dev_id="\([0-9]*\)".*/\1/p' pool.xml)
ours thin_metadata_pack -i pool.bin -o pool.pack
cp pool.bin sound.bin
fresh out.bin
fresh data.bin 4G
xml_of() { ours thin_dump "$1"; }

# command WORD... INPUT OUTPUT: a sound call of that command.
call() {
    case $1 in
    thin_check | thin_dump | thin_ls) ours "$1" "$2" ;;
    thin_delta) ours "$1" --snap1 "${ids[0]}" --snap2 "${ids[1]}" "$2" ;;
    thin_rmap) ours "$1" --region 0..100 "$2" ;;
    thin_trim) ours "$1" --metadata-dev "$2" --data-dev data.bin ;;
    thin_metadata_pack | thin_metadata_unpack | thin_repair | thin_restore) ours "$1" -i "$2" -o "$3" ;;
    esac
}
# --- Completion, under either name ---
ours completion bash >completion.bash
completed() {
    bash -c 'source ./completion.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _lamella; printf "%s\n" "${COMPREPLY[@]}"' _ "$@"
}
check_equal "options of thin_check are completed" --auto-repair "$(completed thin_check --au)"
check_equal "and as a command of ours" --auto-repair "$(completed lamella thin_check --au)"
check_equal "and by its path" --clear-needs-check-flag "$(completed /usr/sbin/thin_check -q --clear)"
check_equal "and the words of an option" xml "$(completed thin_dump --format x)"

readers=(thin_check thin_dump thin_ls thin_delta thin_rmap thin_trim thin_repair)  # of metadata; thin_metadata_pack takes damaged ones
writers=(thin_repair thin_restore)

# --- What every command has ---
for command in "${readers[@]}" thin_restore thin_metadata_pack thin_metadata_unpack thin_metadata_size thin_shrink thin_migrate; do
    check_status 0 "$command -h" ours "$command" -h
    says "^Usage: $command "
    help=$output
    check_status 0 "$command --help" ours "$command" --help
    check_equal "the same" "$help" "$output"
    for option in -V --version; do
        check_status 0 "$command $option" ours "$command" "$option"
        says '^[0-9]+\.[0-9]+\.[0-9]+'
    done
    check_status 1 "$command --hedgehogs-only" ours "$command" --hedgehogs-only
    says "unrecognized option '--hedgehogs-only'"
    check_status 1 "$command without anything" ours "$command"
done

# --- Inputs ---
head -c 1024 pool.bin >tiny.bin
fresh zeros.bin
mkdir folder
for command in "${readers[@]}" thin_restore thin_metadata_pack thin_metadata_unpack; do
    check_status 1 "$command of what isn't there" call "$command" absent out.bin
    says absent
    check_status 1 "$command of a folder" call "$command" folder out.bin
    case $command in thin_restore | thin_metadata_unpack) continue ;; esac
    refused=1
    [[ $command != thin_trim ]] || refused=65
    check_status $refused "$command of 1 KiB" call "$command" tiny.bin out.bin
    [[ $command != thin_metadata_pack ]] || continue
    check_status $refused "$command of XML" call "$command" pool.xml out.bin
    check_status $refused "$command of zeros" call "$command" zeros.bin out.bin
    check_equal "nothing is written there" 0 "$(tr -d '\0' <zeros.bin | wc -c)"
done
readonly_input=$(loop pool.bin --read-only)
for command in "${readers[@]}" thin_metadata_pack; do
    fresh out.bin
    check_status 0 "$command of a device that can't be written" call "$command" "$readonly_input" out.bin
done
losetup --detach "$readonly_input"
check_same "the input is as it was" sound.bin pool.bin
head -c 36864 /dev/zero >tiny.bin
for command in "${writers[@]}"; do
    input=pool.xml
    [[ $command != thin_repair ]] || input=pool.bin
    for output_file in absent folder tiny.bin; do
        check_status 1 "$command to $output_file" call "$command" "$input" "$output_file"
    done
    check_equal "nothing is written there" 0 "$(tr -d '\0' <tiny.bin | wc -c)"
    [[ ! -e absent ]] || fail "it is not made"
    for word in -i -o; do
        check_status 1 "$command with nothing but $word" ours "$command" "$word" "$input"
    done
done

# --- thin_check ---
for others in "--auto-repair --ignore-non-fatal-errors" "--auto-repair -m" "--auto-repair --override-mapping-root 5" \
    "--auto-repair --override-details-root 5" "--auto-repair --super-block-only" "--auto-repair --skip-mappings" \
    "--clear-needs-check-flag -m" "--clear-needs-check-flag --override-mapping-root 5" "--clear-needs-check-flag --override-details-root 5"; do
    # shellcheck disable=SC2086  # words
    check_status 1 "thin_check $others don't go together" ours thin_check $others pool.bin
done
check_status 0 "thin_check" ours thin_check pool.bin
says '^TRANSACTION_ID=7$'
says '^METADATA_FREE_BLOCKS=[0-9]+$'
for quiet in -q --quiet; do check_equal "thin_check $quiet says nothing" "" "$(ours thin_check $quiet pool.bin 2>&1)"; done
head -c 4096 pool.bin >super.bin
check_status 0 "--super-block-only needs no more than 4 KiB" ours thin_check --super-block-only super.bin
check_status 0 "other roots, which are the same" ours thin_check --override-mapping-root "$(node pool.bin devices)" --override-details-root "$(node pool.bin details)" pool.bin
check_status 1 "no metadata snapshot to check" ours thin_check -m pool.bin
set_count pool.bin flag
flagged=$(sum_of pool.bin)
for options in "" "--skip-mappings" "--super-block-only" "--ignore-non-fatal-errors"; do
    # shellcheck disable=SC2086
    check_status 0 "thin_check $options of a pool with the flag" ours thin_check $options pool.bin
    check_equal "nothing is written" "$flagged" "$(sum_of pool.bin)"
done
for options in "" "--skip-mappings" "--super-block-only" "--ignore-non-fatal-errors"; do
    set_count pool.bin flag
    # shellcheck disable=SC2086
    check_status 0 "--clear-needs-check-flag $options" ours thin_check --clear-needs-check-flag $options pool.bin
    check_same "the flag is gone, and no other byte has changed" sound.bin pool.bin
done

# --- thin_dump and thin_restore ---
for option in "--transaction-id 99" "--data-block-size 256" "--nr-data-blocks 999999"; do
    # shellcheck disable=SC2086
    ours thin_dump $option pool.bin >changed.xml
    name=${option#--} value=${option#* }
    name=${name% *} name=${name//-/_} name=${name/transaction_id/transaction}
    check_equal "thin_dump $option" "$name=\"$value\"" "$(head -n 1 changed.xml | grep -o "\b$name=\"$value\"")"
    fresh out.bin
    # shellcheck disable=SC2086
    check_status 0 "thin_restore $option" ours thin_restore $option -i pool.xml -o out.bin
    check_equal "says nothing else" "$(sum_of changed.xml)" "$(xml_of out.bin | sha256sum | cut -d' ' -f1)"
done
mkfifo pipe.xml
ours thin_dump -o pipe.xml pool.bin &
check_equal "thin_dump into a pipe" "$(sum_of pool.xml)" "$(sha256sum <pipe.xml | cut -d' ' -f1)"
wait
check_equal "nothing on standard error" "" "$(ours thin_dump pool.bin 2>&1 >/dev/null)"
for quiet in -q --quiet; do check_equal "thin_restore $quiet says nothing" "" "$(ours thin_restore $quiet -i pool.xml -o out.bin 2>&1)"; done

# --- thin_rmap ---
for region in "" 0 0.. ..7 0...7 7..0 7..7 a..b 0..7..9 -1..7; do
    check_status 1 "thin_rmap --region '$region'" ours thin_rmap --region "$region" pool.bin
done
check_equal "regions of one call are as those of several" "$(ours thin_rmap --region 0..50 pool.bin && ours thin_rmap --region 50..900 pool.bin)" \
    "$(ours thin_rmap --region 0..50 --region 50..900 pool.bin)"

# --- thin_ls: fields that the peer has since 1.0 ---
highest=$(ours thin_dump --dev-id "${ids[0]}" pool.bin | tail -n 3 | sed -n 's/.*origin_b[a-z]*="\([0-9]*\)".* length="\([0-9]*\)".*/\1 \2/p; s/.*origin_block="\([0-9]*\)".*/\1 1/p' | awk '{ print $1 + $2 - 1 }')
check_equal "the highest mapped block, sector and byte" "$highest $((highest * 128 + 127)) $((highest * 65536 + 65535))" \
    "$(ours thin_ls --no-headers -o HIGHEST_BLOCK,HIGHEST_SECTOR,HIGHEST_BYTE pool.bin | head -n 1 | xargs)"

# --- thin_delta ---
for sides in "--snap1 ${ids[0]}" "--thin2 ${ids[0]}" "--snap1 ${ids[0]} --thin1 ${ids[0]} --snap2 ${ids[1]}" "--snap1 ${ids[0]} --snap2 1001"; do
    # shellcheck disable=SC2086
    check_status 1 "thin_delta $sides" ours thin_delta $sides pool.bin
done
same_output "thin_delta of a device to itself" thin_delta --snap1 "${ids[0]}" --snap2 "${ids[0]}" pool.bin
root=$(node pool.bin inner "${ids[0]}")
check_equal "roots do as well as ids" "$(ours thin_delta --snap1 "${ids[0]}" --snap2 "${ids[1]}" pool.bin | sed 1,2d)" \
    "$(ours thin_delta --root1 "$root" --snap2 "${ids[1]}" pool.bin | sed 1,2d)"

# --- thin_trim ---
dd if=/dev/urandom of=data.bin bs=1M count=16 conv=notrunc status=none
cp pool.bin damaged.bin
dd if=/dev/zero of=damaged.bin bs=4096 seek="$(node pool.bin leaf "${ids[0]}")" count=1 conv=notrunc status=none
before=$(head -c 16M data.bin | sha256sum)
check_status 65 "thin_trim of damaged metadata" call thin_trim damaged.bin
check_equal "discards nothing" "$before" "$(head -c 16M data.bin | sha256sum)"
