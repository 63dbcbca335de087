# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A pool becomes smaller: in its group, with LVM and thin_check looking on, every volume's bytes compared; and outside of one, as XML and
# as metadata, under the peer's name. Killed in the middle it is as it was.
source "$(dirname "$0")/../support/host-side.sh"

group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --size 600M --vg vms --pool pool --pool-size 400M
for volume in gone web db; do quietly "$LAMELLA" create "$group:$volume" --size 200M; done
serve "$group"
scatter web "$SEED"
quietly "$LAMELLA" snapshot "$group:web" --name web-s1
scatter web $((SEED + 1))
# What is written after this lies far behind.
quietly dd if=/dev/zero of=zeros bs=1M count=150
quietly nbdcopy --allocated zeros "$(uri gone)"
scatter db $((SEED + 2)) 60
quietly "$LAMELLA" snapshot "$group:db" --name db-s1
scatter db $((SEED + 3)) 20
stop_serving
quietly "$LAMELLA" remove "$group:gone" --yes
serve "$group"
sums written
stop_serving
# The metadata as a file.
lvm_alone "$group"
quietly dd if="$lvm_device" of=old.bin bs=1M iflag=skip_bytes,count_bytes skip="$(place_of pool_tmeta)" \
    count="$(lvs -a --noheadings --nosuffix --units b -o lv_size vms/pool_tmeta | tr -d ' ')"
losetup --detach "$lvm_device"

cp --sparse=always "$group" before.img
check_status 6 "what is in use doesn't fit into 12 MiB" "$LAMELLA" shrink "$group:pool" --size 12M --yes
check_status 2 "it doesn't become larger" "$LAMELLA" shrink "$group:pool" --size 500M --yes
check_status 4 "not without being told to" "$LAMELLA" shrink "$group:pool" --size 160M
check "a trial" "$LAMELLA" shrink "$group:pool" --size 160M --dry-run
check "so far nothing has changed" cmp "$group" before.img

serve "$group"
check "a pool that nobody uses at the moment becomes smaller" "$LAMELLA" shrink "$group:pool" --size 160M --yes
sums smaller
scatter web $((SEED + 4)) 10
sums written-again
# Somebody has a volume open: there is no moment at which nothing is in use.
mkfifo hold
/usr/bin/python3 -c 'import nbd, sys
h = nbd.NBD(); h.connect_uri(sys.argv[1]); print("ready", flush=True); sys.stdin.readline()' "$(uri web)" <hold >holding &
holder=$!
exec 8>hold
wait_for grep -q ready holding
check_status 4 "a pool with a volume in use stays as it is" "$LAMELLA" shrink "$group:pool" --size 150M --yes
exec 8>&-
wait "$holder"
stop_serving
check_same "nothing has changed in any volume" written smaller
check_status 0 "lamella check" "$LAMELLA" check "$group:pool"
check_status 0 "lamella group check" "$LAMELLA" group check "$group"
lvm_alone "$group"
check "vgck" vgck vms
check_equal "LVM sees 160 MiB" 160.00m "$(lvs --noheadings --units m -o lv_size vms/pool | tr -d ' ')"
metadata=$(loop "$group" --read-only --offset "$(place_of pool_tmeta)" \
    --sizelimit "$(lvs -a --noheadings --nosuffix --units b -o lv_size vms/pool_tmeta | tr -d ' ')")
check "thin_check" thin_check "$metadata"
serve "$group"
sums read-last
stop_serving
check_same "it goes on" written-again read-last

# --- Under the peer's name ---
ln -s "$LAMELLA" thin_shrink
thin_dump old.bin >old.xml
blocks=$(grep -o 'nr_data_blocks="[0-9]*"' old.xml | tr -dc 0-9)
truncate -s $((blocks * 65536)) data.raw
wanted=$((blocks / 2))
check "XML to XML" ./thin_shrink -i old.xml -o new.xml --data data.raw --nr-blocks $wanted
truncate -s 8M restored.bin binary.bin ours.bin
check "thin_restore of it" thin_restore -i new.xml -o restored.bin
check "thin_check of that" thin_check restored.bin
check "metadata to metadata" ./thin_shrink -i old.bin -o binary.bin --binary --data data.raw --nr-blocks $wanted
check "thin_check of that too" thin_check binary.bin
thin_dump restored.bin >restored.xml
thin_dump binary.bin >binary.xml
check_same "both ways lead to the same" restored.xml binary.xml
check_equal "the new size is there" "nr_data_blocks=\"$wanted\"" "$(grep -o 'nr_data_blocks="[0-9]*"' binary.xml)"
check "under our own name" "$LAMELLA" shrink old.bin --output ours.bin --data data.raw --nr-blocks $wanted --yes
check "the same again" cmp binary.bin ours.bin
check "without copying, the data need not be there" ./thin_shrink -i old.xml -o again.xml --data nowhere --nr-blocks $wanted --no-copy
check_same "the same once more" new.xml again.xml
check_status 1 "input and output the same file" ./thin_shrink -i old.bin -o old.bin --binary --data data.raw --nr-blocks $wanted
check_status 1 "too small" ./thin_shrink -i old.xml -o small.xml --data data.raw --nr-blocks 100
[[ ! -e small.xml ]] || fail "nothing is made then"
pass "nothing is made then"
dd if=/dev/zero of=old.bin bs=4096 seek=1 count=1 conv=notrunc status=none
check_status 1 "metadata that isn't sound" ./thin_shrink -i old.bin -o binary.bin --binary --data data.raw --nr-blocks $wanted
