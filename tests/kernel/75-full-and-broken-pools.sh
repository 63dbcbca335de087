# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Pools that are full, and pools whose metadata the kernel could not change any more, made so for real: out of data while writers wait and
# after they failed, out of metadata, needs_check after a disk refused to be written, failed. Each is listed rightly and told by the
# doctor; what its commands or --fix do makes it whole again: what was there before is there, and a write arrives.
source "$(dirname "$0")/../support/host-side.sh"

# 4 KiB into each STEPth chunk of 64 KiB, on an NBD export or a device; a write that fails ends it, with status 9.
cat >touch.py <<'PYTHON'
import mmap, os, sys
target, first, step, end, byte = sys.argv[1], *map(int, sys.argv[2:])
block = mmap.mmap(-1, 4096)
block[:] = bytes([byte]) * 4096
if "://" in target:
    import nbd
    handle = nbd.NBD()
    handle.connect_uri(target)
    write, flush = handle.pwrite, handle.flush
else:
    fd = os.open(target, os.O_WRONLY | os.O_DIRECT)
    write, flush = (lambda data, at: os.pwrite(fd, data, at)), (lambda: os.fsync(fd))
try:
    for chunk in range(first, end, step):
        write(block, chunk << 16)
    flush()
except OSError:
    sys.exit(9)
PYTHON

# A pool whose metadata is nearly full: a volume, snapshots that share little of their mappings with it, and some that share all.
group=$SCRATCH/mappings.img
quietly "$LAMELLA" init "$group" --vg vg0 --size 1G --extent-size 1M --pool-size 640M --metadata-size 2M --no-zero
quietly "$LAMELLA" create "$group:web" --size 376M
serve "$group"
/usr/bin/python3 touch.py "$(uri web)" 0 1 6000 1
used() { "$LAMELLA" show "$group:pool" --json | sed -n 's/^ *"metadata_used": \([0-9]*\),$/\1/p'; }
for ((round = 1; $(used) < 425 * 4096; ++round)); do
    quietly "$LAMELLA" snapshot "$group:web" --name "s$round"
    /usr/bin/python3 touch.py "$(uri web)" "$round" 120 6000 "$round"
done
for number in 1 2 3 4; do quietly "$LAMELLA" snapshot "$group:web" --name "same$number"; done
stop_serving

truncate -s 128M data.img
in_kernel mappings.img data.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"
"$run/modprobe" dm-flakey
member() { lamella show "$1" --json | sed -n "s/^ *\"$2\": \"\?\([^\",]*\)\"\?,\?\$/\1/p"; }
touch_chunks() { /usr/bin/python3 touch.py "$@"; }
no_space_timeout=/sys/module/dm_thin_pool/parameters/no_space_timeout

# --- Out of data: who writes waits, for as long as what follows may take
echo 1000 >$no_space_timeout
quietly vgcreate -s 1M vg1 /dev/ubdb
quietly lvcreate -y -L 16M --poolmetadatasize 2M -T vg1/pool
quietly lvcreate -V 64M -T vg1/pool -n web
kept=$((14 << 20))
dd if=/dev/urandom of=/dev/vg1/web bs=1M count=14 oflag=direct status=none
sum=$(sum_of_head /dev/vg1/web "$kept")
touch_chunks /dev/vg1/web 512 1 560 7 &
writer=$!
wait_for bash -c 'dmsetup status vg1-pool-tpool | grep -q "out_of_data_space.*queue_if_no_space"'
diagnosed vg1 pool-out-of-data
says "$(finding risk pool-out-of-data)" "wait, and fail after a while"
says "$(lamella list vg1)" "16.00 MiB  100.00"
check_equal "it is shown" "out_of_data_space false" "$(member vg1/pool pool_mode) $(member vg1/pool error_when_full)"
kill -0 $writer || fail "the writer still waits"
check "mended by --fix" lamella doctor vg1 --fix
wait $writer || fail "the write that waited is done"
check_equal "the write that waited is there" 7777 "$(dd if=/dev/vg1/web bs=64k skip=559 count=1 status=none | head -c 4 | od -An -to1 | tr -d '0 ')"
check_equal "the pool takes writes" "rw" "$(member vg1/pool pool_mode)"
whole /dev/vg1/web "$kept" "$sum"

# --- Out of data: the kernel has enough of waiting
echo 1 >$no_space_timeout
check_status 9 "a write that finds no room fails in the end" touch_chunks /dev/vg1/web 600 1 1000 7
check_equal "the kernel's word, not the text's" "queue true" "$(lvs --noheadings -o lv_when_full vg1/pool | tr -d ' ') $(member vg1/pool error_when_full)"
diagnosed vg1 pool-out-of-data
says "$(finding risk pool-out-of-data)" "need a new chunk fail"
echo 1000 >$no_space_timeout
texts=$(vgs --noheadings -o vg_seqno vg1)
check "what the text says is asked for once more" lamella pool change vg1/pool --when-full queue
check_equal "the kernel waits again" "false queue_if_no_space" \
    "$(member vg1/pool error_when_full) $(dmsetup status vg1-pool-tpool | grep -o '[a-z]*_if_no_space')"
check_equal "without another text" "$texts" "$(vgs --noheadings -o vg_seqno vg1)"
does pool-out-of-data
check_equal "the pool takes writes" "rw false" "$(member vg1/pool pool_mode) $(member vg1/pool error_when_full)"
whole /dev/vg1/web "$kept" "$sum"

# --- Out of data, never waiting, and no room to extend it
quietly lvchange --errorwhenfull y vg1/pool
quietly lvcreate -y -l 100%FREE -n rest vg1
check_status 9 "a write that finds no room fails" touch_chunks /dev/vg1/web 600 1 1000 7
diagnosed vg1 pool-out-of-data
says "$(finding risk pool-out-of-data)" "need a new chunk fail"
check_equal "it can't be mended" False "$(finding fixable pool-out-of-data)"
says "$(finding evidence group-full)" "no room left"
check_status 5 "--fix says so" lamella doctor vg1 --fix
says "$output" "add a physical volume"
deactivate vg1

# --- Out of metadata
quietly vgchange -ay vg0
quietly lvchange -ay -K vg0/same1 vg0/same2 vg0/same3 vg0/same4
kept=$((16 << 20))
sum=$(sum_of_head /dev/vg0/web "$kept")
diagnosed vg0 pool-metadata-near-full
for number in 1 2 3 4; do
    touch_chunks "/dev/vg0/same$number" 0 120 5880 9 || break
done
check_equal "the kernel made it read-only" "ro" "$(dmsetup status vg0-pool-tpool | awk '{ print $8 }')"
check_equal "LVM says why" metadata_read_only "$(lvs --noheadings -o lv_health_status vg0/pool | tr -d ' ')"
check_equal "it is shown" ro "$(member vg0/pool pool_mode)"
says "$(lamella list vg0 2>&1)" "the pool is read-only"
diagnosed vg0 pool-read-only
check "mended by --fix" lamella doctor vg0 --fix
check_equal "it is no more" rw "$(member vg0/pool pool_mode)"
whole /dev/vg0/web "$kept" "$sum"

# --- needs_check: a disk that refuses to be written where the metadata is (but takes the superblock)
under() { dmsetup suspend --noflush --nolockfs vg0-pool_tmeta && dmsetup load vg0-pool_tmeta "$1" && dmsetup resume vg0-pool_tmeta; }
dmsetup table vg0-pool_tmeta >sound
awk '$1 == 0 { print 0, 8, $3, $4, $5; $1 = 8; $2 -= 8; $5 += 8 } { print $1, $2, "flakey", $4, $5, "0 1 1 error_writes" }' sound >refusing
under refusing
check_status 9 "a write that needs a change of the metadata" touch_chunks /dev/vg0/web 5890 1 5990 9
check_equal "the kernel set needs_check" "ro needs_check" "$(dmsetup status vg0-pool-tpool | awk '{ print $8, $11 }')"
check_equal "it is shown" "true" "$(member vg0/pool needs_check)"
diagnosed vg0 pool-needs-check
under sound
check_equal "what was there can be read" "$sum" "$(sum_of_head /dev/vg0/web "$kept")"
deactivate vg0
diagnosed vg0 pool-needs-check
quietly vgchange -ay --config 'global { thin_check_options = [ "-q", "--clear-needs-check-flag" ] }' vg0
check_equal "it is gone" "false rw" "$(member vg0/pool needs_check) $(member vg0/pool pool_mode)"
whole /dev/vg0/web "$kept" "$sum"

# --- Failed: nothing of the metadata can be written
echo "0 $(blockdev --getsz /dev/mapper/vg0-pool_tmeta) error" >broken
under broken
check_status 9 "a write" touch_chunks /dev/vg0/web 5890 1 5990 9
check_equal "the kernel gave up" Fail "$(dmsetup status vg0-pool-tpool | awk '{ print $4 }')"
check_equal "it is shown" Fail "$(member vg0/pool pool_mode)"
diagnosed vg0 pool-failed
says "$(lamella list vg0 --json)" "its pool has failed"
under sound
deactivate vg0
diagnosed vg0
quietly vgchange -ay vg0
whole /dev/vg0/web "$kept" "$sum"
check_clean vg0 "in the end"
END
