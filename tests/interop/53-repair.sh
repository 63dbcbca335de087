# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Repair at the command line, under both names: what comes back of metadata of the peer's thin_restore, with the peer's thin_check and
# thin_dump as judges; which roots there are; that the input is never changed; and what an output is that couldn't be finished, by
# repair and by thin_metadata_unpack.
source "$(dirname "$0")/../support/host-side.sh"

mkdir ours
for name in thin_dump thin_repair thin_metadata_pack thin_metadata_unpack; do ln -s "$LAMELLA" "ours/$name"; done
node() { /usr/bin/python3 "$support/find-node.py" "$@"; }
zero() { dd if=/dev/zero of="$1" bs=4096 seek="$2" count=1 conv=notrunc status=none; }
fresh() { rm -f "$1" && truncate -s "${2:-8M}" "$1"; }
# Our repair of $1 into $2; the input stays as it was, the peer accepts the output.
repaired() { # WHAT INPUT OUTPUT OPTION...
    local before
    before=$(sum_of "$2")
    fresh "$3"
    check "$1: thin_repair" ours/thin_repair -q -i "$2" -o "$3" "${@:4}"
    check_equal "$1: the input is as it was" "$before" "$(sum_of "$2")"
    check "$1: the peer's thin_check" thin_check -q "$3"
}

/usr/bin/python3 "$support/thin-xml.py" --seed "$SEED" --mappings 6000 --devices 3 --longest 1 >pool.xml
# Data blocks are shared at random there, which is safe with volumes that were snapshotted after that.
sed -i 's/ snap_time="[0-9]*"/ snap_time="21"/; /^<superblock/s/ time="[0-9]*"/ time="21"/' pool.xml
fresh sound.bin
quietly thin_restore -i pool.xml -o sound.bin
thin_dump sound.bin >sound.xml
mapfile -t ids < <(sed -n 's/.*dev_id="\([0-9]*\)".*/\1/p' sound.xml)
first=${ids[0]}

# --- Nothing is damaged ---
repaired "sound metadata" sound.bin out.bin
thin_dump out.bin >out.xml
check_same "all of it is back" sound.xml out.xml
check_equal "thin_dump --repair prints the same" "$(sum_of sound.xml)" "$(ours/thin_dump --repair sound.bin | sha256sum | cut -d' ' -f1)"
check_equal "-q says nothing" "" "$(ours/thin_repair -q -i sound.bin -o out.bin 2>&1)"
check "an empty word is passed over, as LVM gives one" ours/thin_repair "" -i sound.bin -o out.bin

# --- Nodes ---
cp sound.bin leaf.bin
zero leaf.bin "$(node sound.bin leaf "$first" 3)"
repaired "a bad leaf" leaf.bin out.bin
thin_dump out.bin >out.xml
diff sound.xml out.xml | grep '^[<>].*mapping origin' >lost.xml || true
check "it costs what it held, and nothing is there that wasn't" test "$(grep -c '^<' lost.xml)-$(grep -c '^>' lost.xml)" = "$(node sound.bin entries "$first" 3)-0"
ours/thin_repair -i leaf.bin -o out.bin 2>report.txt
check "the report names the range" grep -Eq "^volume $first: virtual blocks [0-9]+\.\.[0-9]+ are lost" report.txt
ours/thin_dump --repair leaf.bin >repaired.xml
check_same "thin_dump --repair prints what repair wrote" out.xml repaired.xml

cp sound.bin inner.bin
zero inner.bin "$(node sound.bin inner "$first")"
repaired "a bad inner node" inner.bin out.bin
thin_dump out.bin >out.xml
check_same "everything is back" sound.xml out.xml

cp sound.bin details.bin
zero details.bin "$(node sound.bin details)"
repaired "lost details" details.bin out.bin
mappings() { grep -E 'mapping|dev_id' "$1" | sed 's/mapped_blocks.*//'; }
thin_dump out.bin >out.xml
check_equal "all mappings are back" "$(mappings sound.xml | sha256sum)" "$(mappings out.xml | sha256sum)"
check_equal "each volume counts as snapshotted after its mappings" 3 "$(grep -c 'snap_time="22"' out.xml)"

for map in data metadata; do
    cp sound.bin maps.bin
    zero maps.bin "$(node sound.bin "$map-map")"
    repaired "a lost index of the $map space map" maps.bin out.bin
    thin_dump out.bin >out.xml
    check_same "everything is back" sound.xml out.xml
done
zero maps.bin "$(node sound.bin inner "$first")"
repaired "an inner node and the metadata space map" maps.bin out.bin

# --- The superblock ---
cp sound.bin super.bin
zero super.bin 0
check_status 1 "a lost superblock, and nobody says the size of blocks" ours/thin_repair -i super.bin -o out.bin
check "that is what is asked for" grep -q 'data block size' <(printf '%s' "$output")
repaired "a lost superblock" super.bin out.bin --data-block-size 128 --transaction-id 7 --nr-data-blocks "$(sed -n 's/.*nr_data_blocks="\([0-9]*\)".*/\1/p' sound.xml)"
thin_dump out.bin >out.xml
check_same "all of it is back" sound.xml out.xml
check_status 0 "the roots are listed" "$LAMELLA" repair super.bin --list-roots
check_equal "where they are" "1: trees at metadata blocks $(node sound.bin devices) and $(node sound.bin details) (scan)" "${output%%:*}:$(cut -d: -f2 <<<"$output")"
check_status 0 "and chosen" "$LAMELLA" repair super.bin --root 1 --data-block-size 128 --output out.bin --yes
check "the peer's thin_check" thin_check -q out.bin
check_status 2 "a root that isn't in the list" "$LAMELLA" repair super.bin --root 2 --data-block-size 128 --output out.bin --yes
check_status 2 "a block size that isn't the superblock's" "$LAMELLA" repair sound.bin --data-block-size 256 --output out.bin --yes
dd if=/dev/urandom of=noise.bin bs=4096 count=64 status=none
check_status 5 "noise" "$LAMELLA" repair noise.bin --data-block-size 128 --output out.bin --yes
check_status 1 "XML" ours/thin_repair -i sound.xml -o out.bin

# --- Outputs that won't do: refused before they are touched ---
cp sound.bin in.bin
before=$(sum_of in.bin)
for size in 36K 100K; do
    fresh small.bin "$size"
    check_status 6 "an output of $size" "$LAMELLA" repair in.bin --output small.bin --yes
    check_equal "it is as it was" 0 "$(tr -d '\0' <small.bin | wc -c)"
done
check "what is needed is said" grep -Eq 'the new metadata takes [0-9]+' <(printf '%s' "$output")
needed=$(sed -n 's/.*takes \([0-9]*\).*/\1/p' <<<"$output")
fresh small.bin $((needed * 4096))
check_status 0 "so many blocks are enough" "$LAMELLA" repair in.bin --output small.bin --yes
check "the peer's thin_check" thin_check -q small.bin
ln in.bin hard-link.bin
ln -s in.bin link.bin
for same in in.bin ./in.bin hard-link.bin link.bin; do
    check_status 2 "onto itself, as $same" "$LAMELLA" repair in.bin --output "$same" --yes
    check_status 1 "thin_repair onto itself, as $same" ours/thin_repair -i in.bin -o "$same"
done
input_device=$(loop in.bin)
check_status 2 "onto a loop device that has the input" "$LAMELLA" repair in.bin --output "$input_device" --yes
losetup --detach "$input_device"
cp sound.bin other.bin
readonly_device=$(loop other.bin --read-only)
check_status 1 "onto a device that can't be written" ours/thin_repair -i in.bin -o "$readonly_device"
losetup --detach "$readonly_device"
check_status 1 "onto what isn't there" ours/thin_repair -i in.bin -o nowhere.bin
[[ ! -e nowhere.bin ]] || fail "it is not made"
check_status 4 "not without being told to" "$LAMELLA" repair in.bin --output other.bin
check_same "the other is as it was" sound.bin other.bin
check_equal "and so is the input" "$before" "$(sum_of in.bin)"

# --- Not finished: what is there is plainly no metadata ---
/usr/bin/python3 "$support/thin-xml.py" --seed "$SEED" --mappings 300000 --longest 1 --devices 1 >large.xml
fresh large.bin 32M
quietly "$LAMELLA" restore large.xml large.bin --yes
quietly ours/thin_metadata_pack -i large.bin -o large.pack
mkdir full
mount -t tmpfs -o size=3m tmpfs full
truncate -s 32M full/md.bin
check_status 1 "a repair onto a full file system" ours/thin_repair -i large.bin -o full/md.bin
not_metadata "what a full file system leaves of a repair" full/md.bin
rm full/md.bin && truncate -s 32M full/md.bin
check_status 1 "an unpack onto a full file system" ours/thin_metadata_unpack -i large.pack -o full/md.bin
not_metadata "what a full file system leaves of an unpack" full/md.bin
umount full
fresh small.bin 1M
small_device=$(loop small.bin)
check_status 1 "an unpack onto a device that is too small" ours/thin_metadata_unpack -i large.pack -o "$small_device"
losetup --detach "$small_device"
cp large.pack same.pack
check_status 1 "an unpack onto itself" ours/thin_metadata_unpack -f -i same.pack -o same.pack
check_same "it is as it was" large.pack same.pack
before=$(sum_of large.bin)
for signal in INT KILL; do
    fresh out.bin 32M
    check "a repair is stopped half-way by $signal" /usr/bin/python3 "$support/stop-half-way.py" "$signal" out.bin ours/thin_repair -i large.bin -o out.bin
    not_metadata "what a repair stopped by $signal leaves" out.bin
    check "an unpack is stopped half-way by $signal" /usr/bin/python3 "$support/stop-half-way.py" "$signal" out.bin ours/thin_metadata_unpack -f -i large.pack -o out.bin
    not_metadata "what an unpack stopped by $signal leaves" out.bin
done
check_equal "the input is as it was" "$before" "$(sum_of large.bin)"
check "once more, to the end" ours/thin_repair -i large.bin -o out.bin
check "the peer's thin_check" thin_check -q out.bin
