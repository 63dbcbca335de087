# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# The kernel's own nbd client with ext4 on it, two connections a device: a tree copied, snapshotted while mounted, changed, trimmed;
# the snapshot mounts and holds the tree as it was. lamella runs in the same kernel, on a block device. Several chunk sizes.
source "$(dirname "$0")/../support/host-side.sh"

mkdir tree
for number in {1..40}; do
    head -c $((number * 3001)) /dev/urandom >"tree/file $number"
done
ln -s "file 1" tree/link
(cd tree && sha256sum -- file* >../tree.sums)

for chunk in 64K 192K 1M; do
    echo "--- $chunk"
    rm -f disk.img
    truncate -s 512M disk.img
    in_kernel disk.img <<END
chunk=$chunk
$(cat <<'SAME'
check "$chunk: init on a block device" "$LAMELLA" init /dev/ubda --pool-size 100%FREE --vg vms --pool pool --chunk-size $chunk
check "$chunk: create" "$LAMELLA" create /dev/ubda:web --size 200M
socket=/run/nbd.sock
"$LAMELLA" serve /dev/ubda --socket $socket >"$SCRATCH/serve.log" 2>&1 &
server=$!
ends_or_answers() { ! kill -0 $server || nbdinfo --list "nbd+unix:///?socket=$socket"; }
wait_for ends_or_answers
kill -0 $server 2>/dev/null || { cat "$SCRATCH/serve.log"; fail "$chunk: serve"; }

check "$chunk: the kernel connects" nbd-client -unix $socket /dev/nbd0 -N web -C 2
check "$chunk: mkfs" mkfs.ext4 -q /dev/nbd0
mkdir /run/origin /run/snapshot
mount /dev/nbd0 /run/origin
cp -a "$SCRATCH/tree" /run/origin/
sync -f /run/origin
fsfreeze --freeze /run/origin
snapshot_status=0
"$LAMELLA" snapshot /dev/ubda:web --name web-s1 || snapshot_status=$?
fsfreeze --unfreeze /run/origin
check_equal "$chunk: snapshot while mounted" 0 $snapshot_status
rm /run/origin/tree/file\ 1*
head -c 5000000 /dev/urandom >"/run/origin/tree/file 2"
sync -f /run/origin
check "$chunk: fstrim" fstrim /run/origin

check "$chunk: the kernel connects to the snapshot" nbd-client -unix $socket /dev/nbd1 -N web-s1
mount /dev/nbd1 /run/snapshot
check "$chunk: the snapshot holds the tree as it was" bash -c "cd /run/snapshot/tree && sha256sum --quiet -c '$SCRATCH/tree.sums'"
umount /run/snapshot
umount /run/origin
check "$chunk: fsck of the origin" fsck.ext4 -fn /dev/nbd0
check "$chunk: fsck of the snapshot" fsck.ext4 -fn /dev/nbd1
sum_of /dev/nbd0 >/run/sum
nbd-client -d /dev/nbd0 >/dev/null
nbd-client -d /dev/nbd1 >/dev/null
kill -TERM $server
server_status=0
wait $server || server_status=$?
check_equal "$chunk: clean close on SIGTERM" 0 $server_status

check_clean vms "$chunk, after the server's end"
activate vms
check_equal "$chunk: device mapper reads the same" "$(</run/sum)" "$(sum_of /dev/vms/web)"
deactivate vms
SAME
)
END
done
