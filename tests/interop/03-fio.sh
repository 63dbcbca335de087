# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# fio writes with checksums, at depth, in jobs of their own connections, and verifies: first touch, overwriting, breaking of
# sharing, after a restart. Several chunk sizes.
source "$(dirname "$0")/../support/host-side.sh"

# verified NAME VOLUME OPTION...
verified() {
    local name=$1 volume=$2
    shift 2
    check "$name" fio --name=verify --ioengine=nbd "--uri=$(uri "$volume")" --randseed="$SEED" --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
        --size=48M --iodepth=32 --output-format=terse --group_reporting "$@"
}

for chunk in 64K 192K 1M; do
    group=$SCRATCH/$chunk.img
    quietly "$LAMELLA" init "$group" --pool-size 100%FREE --size 700M --chunk-size $chunk
    quietly "$LAMELLA" create "$group:web" --size 200M
    serve "$group"
    verified "$chunk: first touch, random 4 KiB" web --rw=randwrite --bs=4k
    verified "$chunk: overwriting, mixed sizes" web --rw=randrw --bsrange=512-256k --bs_unaligned=1 --offset=48M
    check "$chunk: snapshot" "$LAMELLA" snapshot "$group:web" --name web-s1
    verified "$chunk: breaking of sharing" web --rw=randwrite --bs=4k --offset=24M
    verified "$chunk: four connections" web --rw=randwrite --bs=16k --numjobs=4 --size=12M --offset_increment=12M --offset=100M
    sums before
    stop_serving
    serve "$group"
    sums after
    check_same "$chunk: the same after a restart" before after
    stop_serving
    rm -f "$group"
done
