# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Ways to be reached (TCP, socket activation, some volumes alone), the one owner, commands beside a running server, clean ends.
source "$(dirname "$0")/../support/host-side.sh"

group=$SCRATCH/vms.img
quietly "$LAMELLA" init "$group" --pool-size 100%FREE --size 500M
for volume in web db; do quietly "$LAMELLA" create "$group:$volume" --size 100M; done

port=$(free_port)
serve "$group" --listen "127.0.0.1:$port" --export web
check_equal "one export was asked for" web "$(exports)"
check_equal "it answers on TCP" 104857600 "$(nbdinfo --size "nbd://127.0.0.1:$port/web")"
check_status 1 "the other volume isn't served" nbdinfo --size "$(uri db)"
stop_serving

serve "$group"
scatter web "$SEED"
check_status 4 "a second server is refused" timeout 20 "$LAMELLA" serve "$group" --socket "$SCRATCH/second.sock"
check "create beside a server" "$LAMELLA" create "$group:late" --size 50M
check_equal "and it is served at once" "db late web" "$(exports | tr '\n' ' ' | sed 's/ $//')"
scatter late "$SEED"
check "list beside a server" "$LAMELLA" list "$group"
check "snapshot beside a server" "$LAMELLA" snapshot "$group:web" --name web-s1
check "resize beside a server" "$LAMELLA" resize "$group:late" --size 80M
check_equal "a new client sees the new size" 83886080 "$(nbdinfo --size "$(uri late)")"
check "remove beside a server" "$LAMELLA" remove --yes "$group:late"
check_status 3 "what isn't there is not found" "$LAMELLA" remove --yes "$group:late"
check_status 4 "a name that is taken is refused" "$LAMELLA" create "$group:web" --size 50M
check_status 2 "nonsense is a usage error" "$LAMELLA" create "$group:x" --size banana
sums before
stop_serving

serve "$group"
sums after
check_same "all is there after a clean end" before after
scatter web $((SEED + 1))
nbdinfo --size "$(uri web)" >/dev/null
sums before
kill_server
serve "$group"
sums after
check_same "what was flushed is there after kill -9" before after
scatter web $((SEED + 2))
check "rollback" "$LAMELLA" rollback --yes "$group:web" --to web-s1
sums rolled-back
grep -E '^web-s1 ' after | sed 's/^web-s1 /web /' >expected
grep -E '^web ' rolled-back >actual
check_same "the volume is as it was snapshotted" expected actual
stop_serving

check "socket activation" /usr/bin/python3 - "$LAMELLA" "$group" "$SCRATCH/activated.sock" <<'PYTHON'
import os, signal, socket, subprocess, sys
program, group, path = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
child = os.fork()
if child == 0:
    os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.execv(program, [program, "serve", group])
try:
    # The socket listens already: the client waits until it is served.
    size = subprocess.run(["nbdinfo", "--size", f"nbd+unix:///web?socket={path}"], capture_output=True, text=True, timeout=60)
finally:
    os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
sys.exit(0 if size.stdout.strip() == "104857600" and status == 0 else f"{size}, status {status}")
PYTHON
