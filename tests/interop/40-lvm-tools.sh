# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# LVM's own commands read an image on a loop device, without any device mapper: they find nothing wrong, and see what lamella says is
# there. thin_check and thin_dump read the pool's metadata where LVM says that they lie.
source "$(dirname "$0")/../support/host-side.sh"

group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --size 1G --vg vms --pool pool --pool-size 80%VG --chunk-size 128K
quietly "$LAMELLA" create "$group:web" --size 100M --tag prod
quietly "$LAMELLA" create "$group:flat" --size 20M --linear
serve "$group"
scatter web "$SEED"
quietly "$LAMELLA" snapshot "$group:web" --name web-s1 --tag "nightly"
scatter web $((SEED + 1))
stop_serving

lvm_alone "$group"
check "pvck" pvck "$lvm_device"
check "vgck" vgck vms
# field FIELDS NAME: without blanks
field() { lvs -a --noheadings --nosuffix --units b --separator ' ' -o "$1" "vms/$2" | sed 's/^ *//; s/ *$//'; }
check_equal "the thin volume" "104857600 thin pool prod" "$(field lv_size,segtype,pool_lv,lv_tags web)"
check_equal "the snapshot" "104857600 thin pool web nightly" "$(field lv_size,segtype,pool_lv,origin,lv_tags web-s1)"
check_equal "the linear volume" "20971520 linear" "$(field lv_size,segtype flat)"
check_equal "the pool" "thin-pool 131072" "$(field segtype,chunk_size pool)"
check "a spare for the pool's metadata" field lv_size lvol0_pmspare
check "vgcfgbackup reads it" vgcfgbackup -f backup.txt vms

size=$(field lv_size pool_tmeta)
metadata=$(loop "$group" --read-only --offset "$(place_of pool_tmeta)" --sizelimit "$size")
check "thin_check" thin_check "$metadata"
thin_dump "$metadata" >dump.xml
check_equal "thin_dump sees two devices" 2 "$(grep -c '<device ' dump.xml)"
check_equal "in chunks of 128 KiB" 'data_block_size="256"' "$(grep -o 'data_block_size="[0-9]*"' dump.xml)"
transaction=$(field transaction_id pool)
check "both know the same transaction" grep -q "transaction=\"$transaction\"" dump.xml
