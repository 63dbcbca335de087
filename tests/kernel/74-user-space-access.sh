# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# A group that the host's LVM runs, opened by the user-space engine while LVM has it inactive: refused while anything of it is active; LVM
# can't activate it meanwhile, and what LVM's commands write to its text meanwhile is not overwritten; the data is the same on both sides.
source "$(dirname "$0")/../support/host-side.sh"

truncate -s 128M one.img
truncate -s 128M two.img
in_kernel one.img two.img <<'END'
mount --bind "$LVM_SYSTEM_DIR" /etc/lvm
cd "$SCRATCH"
export LAMELLA_RUNTIME_DIR=/run/lamella
says() { # WHAT WORD COMMAND...
    "${@:3}" >said 2>&1 || true
    grep -qF -- "$2" said || cat said
    check "$1" grep -qF -- "$2" said
}
serving=
serve() { # OPTION...
    rm -f served
    "$LAMELLA" serve vg0 --user-space --socket /run/vg0.sock "$@" >served 2>serve.err &
    serving=$!
    wait_for grep -q '^serving' served
}
end_serving() {
    kill -TERM "$serving"
    wait "$serving" || fail "serving ended with $?: $(cat serve.err)"
}

quietly pvcreate /dev/ubda /dev/ubdb
quietly vgcreate vg0 /dev/ubda /dev/ubdb
quietly lvcreate -y -L 64M -T vg0/pool
quietly lvcreate -V 32M -T vg0/pool -n web
quietly lvcreate -y -n boot -i 2 -L 16M vg0
scatter /dev/vg0/web 1
scatter /dev/vg0/boot 2
sync
web=$(sum_of /dev/vg0/web)
boot=$(sum_of /dev/vg0/boot)

# --- Not while anything is active
check_status 4 "without the option nothing is opened" "$LAMELLA" serve vg0
check_status 4 "an active group isn't served" "$LAMELLA" serve vg0 --user-space
quietly lvchange -an vg0/pool vg0/web
check_status 4 "nor one with one volume active" "$LAMELLA" serve vg0 --user-space --read-only
check_status 4 "nor attached" "$LAMELLA" attach vg0/web --user-space
deactivate vg0

# --- Attached: its commands go to the process that has it
device=$("$LAMELLA" attach vg0/web --user-space)
check_equal "the volume as LVM's kernel had it" "$web" "$(sum_of "$device")"
check "it is listed" bash -c '"$LAMELLA" list vg0 | grep -q "^web"'
says "by who serves it" '"served": true' "$LAMELLA" show vg0 --json
check "a snapshot" "$LAMELLA" snapshot vg0/web --name before
check "its volume is made larger" "$LAMELLA" resize vg0/web --size 36M
check_equal "the block device too" $((36 << 20)) "$(blockdev --getsize64 "$device")"
check "by a difference" "$LAMELLA" resize vg0/web --size +4M
check_equal "the block device too" $((40 << 20)) "$(blockdev --getsize64 "$device")"
check "so is the pool" "$LAMELLA" extend vg0/pool --size +8M
scatter "$device" 3
sync "$device"
changed=$(sum_of "$device")

# --- LVM keeps out meanwhile
for volume in boot web pool; do
    check_status 5 "LVM can't activate $volume" lvchange -ay "vg0/$volume"
done
check_equal "nothing is active" "" "$(dmsetup ls | grep vg0 || true)"
check "detach" "$LAMELLA" detach vg0/web
activate vg0
check_equal "what was written is there" "$changed" "$(sum_of /dev/vg0/web)"
check_equal "what was before, in the snapshot" "$web" "$(sum_of /dev/vg0/before)"
check_equal "and the striped one" "$boot" "$(sum_of /dev/vg0/boot)"
deactivate vg0

# --- Read-only it is claimed, too
serve --read-only
check_status 5 "LVM can't activate it" lvchange -ay vg0/boot
end_serving

# --- LVM's commands write texts all the same: nothing of theirs is lost
serve
quietly lvchange --addtag theirs vg0/boot
says "a change from here is refused" "somebody else has changed" "$LAMELLA" create vg0/more --size 4M
end_serving
check_equal "LVM's change is there" theirs "$(lvs --noheadings -o lv_tags vg0/boot | tr -d ' ')"
serve
check "served anew, it can be changed" "$LAMELLA" create vg0/more --size 4M
end_serving
check_clean vg0 "afterwards"

# --- A command of LVM's at work has the group locked: a change from here waits for its end
serve
mkfifo /run/answer
lvconvert --type thin-pool vg0/boot </run/answer >/run/asked 2>&1 &
lvm=$!
exec 9>/run/answer
wait_for grep -q "Do you really want" /run/asked
# By its disks: by its name LVM would be asked first, and wait itself.
"$LAMELLA" tag /dev/ubda,/dev/ubdb:web --add waited >said 2>&1 &
change=$!
# It has the file open that LVM has locked, and tries again and again.
waits_for_lvm() { kill -0 "$change" && find "/proc/$serving/fd" -lname /run/lock/lvm/V_vg0 | grep -q .; }
wait_for waits_for_lvm
echo n >&9
exec 9>&-
wait "$lvm" || true
wait "$change" && pass "it goes on then" || fail "it goes on then: $(<said)"
end_serving
check_equal "and is there" waited "$(lvs --noheadings -o lv_tags vg0/web | tr -d ' ')"
# Both at once, each on a volume of its own: what was called done is there.
for round in 1 2 3; do
    serve
    "$LAMELLA" tag /dev/ubda,/dev/ubdb:web --add "ours$round" >said 2>&1 &
    change=$!
    quietly lvcreate -an -Zn -Wn -L 4M -n "theirs$round" vg0
    change_status=0
    wait "$change" || change_status=$?
    end_serving
    check_equal "LVM's volume is there, round $round" "theirs$round" "$(lvs --noheadings -o lv_name "vg0/theirs$round" | tr -d ' ')"
    found=no
    if lvs --noheadings -o lv_tags vg0/web | grep -q "ours$round"; then found=yes; fi
    check_equal "our change is there exactly if it was called done, round $round" "$([[ $change_status == 0 ]] && echo yes || echo no)" "$found"
done
check_clean vg0 "after both"

# --- Of a host with an id: its own are opened, another's not
echo 'global { system_id_source = "lvmlocal" }' >>/etc/lvm/lvm.conf
echo 'local { system_id = "here" }' >/etc/lvm/lvmlocal.conf
quietly vgchange -y --systemid here vg0
serve
says "this host's is opened" '"system_id": "here"' "$LAMELLA" show vg0 --json
check "and changed" "$LAMELLA" create vg0/mine --size 4M
end_serving
check_equal "which LVM reads" mine "$(lvs --noheadings -o lv_name vg0/mine | tr -d ' ')"
check_equal "and a host without that id doesn't change" "RESIZEABLE READ WRITE_LOCKED" \
    "$(vgcfgbackup -f text vg0 >said && sed -n '/^vg0/,/system_id/p' text | grep -oE 'RESIZEABLE|READ|WRITE(_LOCKED)?' | xargs)"
quietly vgchange -y --systemid elsewhere vg0
check_status 4 "another host's isn't" "$LAMELLA" serve vg0 --user-space
END
