# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Free chunks of a pool are discarded while fio writes to its volumes and verifies what it wrote; and of a pool that nobody uses.
source "$(dirname "$0")/../support/host-side.sh"

taken() { echo $(($(stat -c '%b' "$group") / 2048)); } # MiB
group=$SCRATCH/vms.img
fallocate -l 700M "$group"
quietly "$LAMELLA" init "$group" --pool-size 100%FREE
quietly "$LAMELLA" create "$group:web" --size 200M
check "the image takes all of its room at first" test "$(taken)" -ge 690
cp "$group" whole.img
check "a trial" "$LAMELLA" trim "$group:pool" --dry-run
check "changes nothing" cmp "$group" whole.img

serve "$group"
fio --name=verify --ioengine=nbd "--uri=$(uri web)" --randseed="$SEED" --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
    --size=190M --rw=randwrite --bs=4k --iodepth=16 --output-format=terse >fio.log 2>&1 &
fio=$!
trims=0
while [[ -e /proc/$fio ]] && ! grep -q '^State:.Z' "/proc/$fio/status"; do
    quietly "$LAMELLA" trim "$group:pool"
    trims=$((trims + 1))
    [[ $trims == 2 ]] && quietly "$LAMELLA" snapshot "$group:web" --name web-s1
done
status=0
wait "$fio" || status=$?
[[ $status == 0 ]] || cat fio.log
check_equal "fio finds what it wrote while the pool was trimmed" 0 "$status"
check "that was more than once" test "$trims" -ge 2
sums written
stop_serving
check "what nothing maps is gone from the image" test "$(taken)" -lt 500
check_status 0 "lamella check" "$LAMELLA" check "$group:pool"
serve "$group"
sums read
stop_serving
check_same "the same after a restart" written read

# --- Nobody uses it ---
quietly "$LAMELLA" remove "$group:web-s1" --yes
fallocate -l 700M "$group"
check "holes are filled" test "$(taken)" -ge 690
check "trim" "$LAMELLA" trim "$group:pool"
check "the image is small again" test "$(taken)" -lt 300
serve "$group"
check "the volume is as it was" cmp <(nbdcopy "$(uri web)" - | sha256sum) <(sed -n 's/^web \(.*\)/\1  -/p' written)
stop_serving
lvm_alone "$group"
place=$(place_of pool_tmeta)
losetup --detach "$lvm_device"
before=$(stat -c %b "$group")
dd if=/dev/zero of="$group" bs=4096 seek=$((place / 4096 + 1)) count=2 conv=notrunc status=none
check_status 5 "metadata that isn't sound" "$LAMELLA" trim "$group:pool"
check_equal "nothing is discarded then" "$before" "$(stat -c %b "$group")"
check_status 3 "a pool that there isn't" "$LAMELLA" trim "$group:other"
check_status 2 "a volume is no pool" "$LAMELLA" trim "$group:web"
