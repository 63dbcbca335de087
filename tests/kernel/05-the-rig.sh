# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The rig itself: what the kernel tests rely on in in-kernel and in the shared functions, shown to be able to fail.
source "$(dirname "$0")/../support/host-side.sh"
runner=$support/../kernel/in-kernel

echo 'echo seen; exit 7' >status.sh
check_status 7 "the script's exit status comes out, also where no program is under test" env -u LAMELLA "$runner" status.sh
check_equal "its output comes out" seen "$output"
echo 'sleep infinity' >hang.sh
check_status 124 "a script that hangs is ended" "$runner" --timeout 5 hang.sh
echo 'echo c >/proc/sysrq-trigger' >crash.sh
check_status 125 "a kernel that crashes is not a success" "$runner" crash.sh

truncate -s 64M one.img two.img
in_kernel one.img two.img <<'END'
scatter /dev/ubda "$SEED" 30
scatter /dev/ubdb "$SEED" 30
sum_of /dev/ubda >"$SCRATCH/inside"
END
/usr/bin/python3 "$support/scatter.py" one.img --seed $((SEED + 1)) --count 1
sum_of two.img >outside
check_same "images hold what was written to the devices" inside outside
sum_of one.img >outside
check_status 1 "another byte gives another sum" cmp inside outside

truncate -s 256M one.img
in_kernel one.img <<'END'
quietly pvcreate -ff -y /dev/ubda
quietly vgcreate vg /dev/ubda
quietly lvcreate -L 64M -T vg/pool
quietly lvcreate -V 64M -T vg/pool -n thin
scatter /dev/vg/thin "$SEED"
check_clean vg "a healthy group"
# The same with a broken block in the middle of the pool's metadata: where LVM says that they lie.
start=$(lvs -a --noheadings -o seg_pe_ranges vg/pool_tmeta | sed 's/.*:\([0-9]*\)-.*/\1/')
offset=$(pvs --noheadings --nosuffix --units b -o pe_start /dev/ubda | tr -d ' ')
dd if=/dev/urandom of=/dev/ubda bs=4096 count=1 seek=$(((offset + start * 4194304) / 4096)) conv=notrunc,fsync status=none
status=0
(check_clean vg "a broken group") >/run/broken || status=$?
check_equal "check_clean sees broken metadata" 1 $status
check "and says so" grep -q '^FAILED: thin_check vg/pool: a broken group' /run/broken
END
shopt -s nullglob
left=0
for folder in "${TMPDIR:-/tmp}"/in-kernel.*/; do
    if grep -q "$SCRATCH" "$folder/init"; then left=$((left + 1)); fi
done
check_equal "nothing is left of a run" 0 $left
