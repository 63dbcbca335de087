# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# One list of commands, carried out by both engines: by the user-space engine on an image, by the kernel engine through a real LVM and
# device mapper. Both have to answer alike (same-answers.py says in what they may differ).
source "$(dirname "$0")/../support/host-side.sh"

# "@" stands for the group, "@NAME" for a volume of it, "%NAME" for a file of the engine's own. "~": the user-space engine has no such
# thing, and says so; "^": the kernel engine hasn't; "=": the text is compared, not the JSON; "!": not a command of lamella's. Behind "##":
# what the errors of both have to say, where they don't say the same.
cat >steps <<'STEPS'
pool create @first --size 24M --extensions 1 --chunk-size 128K --volumes 50 --when-full error --tag fast
pool create @first --size 8M
pool create @huge --size 10G
create @one --size 16M --tag prod
!fill @one 3M
snapshot @one --name two
!fill @one 1M
diff @first --left 2 --right 1
diff @first --left 2 --right 9 ## has no volume 9
ls @first
ls @first --if-deleted 2 --if-deleted 1
ls @none
dump @first
dump @one
=ls @first
=list @
=list @ --snapshots --exclusive
list @ --exclusive
=show @one
=show @first
=show @
status @first
status @one
status @none
message @first reserve_metadata_snap
message @first reserve_metadata_snap ## a metadata snapshot already
metadata-snapshot @first reserve ## a metadata snapshot already
message @first release_metadata_snap
message @first release_metadata_snap ## no metadata snapshot
message @first delete 1
message @first nonsense ## nonsense
message @one x
metadata-snapshot @one reserve
^trim @first --yes
trim @none --yes
=group check @
group backup @ --file %text
metadata-backup @ --folder %kept
doctor @
=doctor @
pool remove @first ## pool first has 2 volumes
pool remove @none --yes
tag @one --add late
~deactivate @
group restore @ --file %text --yes
group restore @ --file %text --force --yes --dry-run
group restore @ --file %text --force --yes
=list @ --all
pool remove @first --force-children --yes
list @ --all
create @pool --thin-pool --size 64M --tag fast --when-full error
create @web --size 40M --tag prod
create @db --size 8M --read-only
create @boot --linear --size 24M
create @log --linear --size 8M
snapshot @web
snapshot @web --name before --read-only --tag a --tag b
snapshot @boot
snapshot @boot --name bigger --size 50%ORIGIN --chunk-size 16K
list @
list @ --all
list @ --snapshots
show @pool
show @
resize @web --size +10M
resize @web --size 12M
resize @web --size 12M --shrink --yes
extend @pool --size +16M
extend @pool --metadata --size +4M
extend @boot-s1 --size +4M
rename @db base
tag @web --add tier=1 --remove prod
tag @web --add tier=1
create @web --size 4M
create @snapshot1 --size 4M
create @big --linear --size 10G ## 2560
create @thin-part --size 10%VG
remove @none --yes
remove @pool --yes ## pool pool holds volumes
rename @web boot
rollback @web --to web-s1 --yes
rollback @boot --to boot-s1 --yes
list @ --all
create @old --linear --size 8M
snapshot @old --name lost --size 4M
!fill @old 6M
show @lost
extend @lost --size +4M --dry-run
extend @lost --size +4M
rollback @old --to lost --yes
remove @lost @old --yes
remove @log @before --yes
remove @boot --yes
create @data --linear --size 16M
create @meta --linear --size 4M
create @other --linear --size 4M
pool convert @data --metadata @meta --chunk-size 128K --when-full error --yes --dry-run
pool convert @data --metadata @data --yes
pool convert @web --yes ## becomes a part of a pool
pool convert @data --metadata @meta --chunk-size 100K --yes ## chunk size
pool convert @data --metadata @meta --chunk-size 128K --when-full error --yes
pool convert @data --yes ## becomes a part of a pool
show @data
pool change @data --discards nopassdown --when-full queue --dry-run
pool change @data --discards nopassdown --when-full queue
show @data
pool change @data
pool change @data --discards sometimes
pool change @web --when-full error
pool change @data --when-full error
pool swap-metadata @web @other --yes
~deactivate @none
~deactivate @data
pool swap-metadata @data @none --yes
pool swap-metadata @data @other --yes
list @ --all
pool swap-metadata @data @other --yes
~activate @web @data --ignore-skip
~deactivate @
~activate @
list @ --snapshots
remove @data @other --yes
remove @pool --with-contents --yes
list @
STEPS

# run-steps FOLDER GROUP SEPARATOR: the answers as FOLDER/NUMBER.out, exit statuses as FOLDER/NUMBER.status
cat >run-steps <<'RUN'
mkdir "$1"
number=99
while read -r line; do
    number=$((number + 1))
    read -r -a words <<<"${line%% ##*}"
    how=(--json)
    [[ $line != =* ]] || how=()
    words[0]=${words[0]#[~^=!]}
    for i in "${!words[@]}"; do
        case ${words[i]} in
        @) words[i]=$2 ;;
        @*) words[i]=$2$3${words[i]#@} ;;
        %*) words[i]=$1/${words[i]#%} ;;
        esac
    done
    status=0
    case $line in
    !*) "./${words[0]}" "${words[@]:1}" >"$1/$number.out" 2>"$1/$number.err" </dev/null || status=$? ;;
    *) "$LAMELLA" "${words[@]}" "${how[@]}" >"$1/$number.out" 2>"$1/$number.err" </dev/null || status=$? ;;
    esac
    echo "$status" >"$1/$number.status"
done <steps
RUN

# fill VOLUME SIZE: as users of either engine write
cat >fill <<'FILL'
#!/bin/bash
if [[ $1 == vg0/* ]]; then
    yes | dd of="/dev/$1" bs=1M count="${2%M}" iflag=fullblock oflag=direct status=none
    exit
fi
"$LAMELLA" serve "${1%:*}" --socket "$SCRATCH/fill.sock" >"$SCRATCH/serving" &
until grep -q serving "$SCRATCH/serving"; do kill -0 $! || exit 1; done
written=0
qemu-io -f raw -c "write 0 $2" "nbd+unix:///${1##*:}?socket=$SCRATCH/fill.sock" || written=$?
kill $!
wait $! && exit $written
FILL
chmod +x fill
export LAMELLA_STATE_DIR=$SCRATCH/state

check "a group on an image" "$LAMELLA" init "$SCRATCH/disk.img" --size 256M --vg vg0 --no-pool
bash run-steps user "$SCRATCH/disk.img" :

truncate -s 256M kernel.img
in_kernel kernel.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
quietly pvcreate /dev/ubda
quietly vgcreate vg0 /dev/ubda
cd "$SCRATCH"
bash run-steps kernel vg0 /
check_equal "LVM has nothing left" "" "$(lvs --noheadings vg0)"
check "vgck" vgck vg0
END

/usr/bin/python3 "$support/same-answers.py" steps user "$SCRATCH/disk.img" kernel
