# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# One list of commands, carried out by both engines: by the user-space engine on an image, by the kernel engine through a real LVM and
# device mapper. Both have to answer alike (same-answers.py says in what they may differ).
source "$(dirname "$0")/../support/host-side.sh"

# "@" stands for the group, "@NAME" for a volume of it. "~": the user-space engine has no such thing, and says so.
cat >steps <<'STEPS'
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
create @big --linear --size 10G
create @thin-part --size 10%VG
remove @none --yes
remove @pool --yes
rename @web boot
status @pool
metadata-snapshot @pool reserve
metadata-snapshot @pool reserve
metadata-snapshot @pool release
metadata-snapshot @pool release
group check @
rollback @web --to web-s1 --yes
rollback @boot --to boot-s1 --yes
list @ --all
remove @log @before --yes
remove @boot --yes
create @data --linear --size 16M
create @meta --linear --size 4M
create @other --linear --size 4M
pool convert @data --metadata @meta --chunk-size 128K --when-full error --yes --dry-run
pool convert @data --metadata @data --yes
pool convert @web --yes
pool convert @data --metadata @meta --chunk-size 100K --yes
pool convert @data --metadata @meta --chunk-size 128K --when-full error --yes
pool convert @data --yes
show @data
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

# run-steps FOLDER GROUP SEPARATOR: the answers as FOLDER/NUMBER.json, exit statuses as FOLDER/NUMBER.status
cat >run-steps <<'RUN'
mkdir "$1"
number=100
while read -r -a words; do
    words[0]=${words[0]#\~}
    for i in "${!words[@]}"; do
        case ${words[i]} in
        @) words[i]=$2 ;;
        @*) words[i]=$2$3${words[i]#@} ;;
        esac
    done
    status=0
    "$LAMELLA" "${words[@]}" --json >"$1/$number.json" 2>"$1/$number.err" </dev/null || status=$?
    echo "$status" >"$1/$number.status"
    number=$((number + 1))
done <steps
RUN

check "a group on an image" "$LAMELLA" init "$SCRATCH/disk.img" --size 256M --vg vg0 --no-pool
bash run-steps user "$SCRATCH/disk.img" :

truncate -s 256M kernel.img
export KERNEL_SECONDS=500
in_kernel kernel.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
quietly pvcreate /dev/ubda
quietly vgcreate vg0 /dev/ubda
cd "$SCRATCH"
bash run-steps kernel vg0 /
check_equal "LVM has nothing left" "" "$(lvs --noheadings vg0)"
check "vgck" vgck vg0
END

/usr/bin/python3 "$support/same-answers.py" steps user kernel
