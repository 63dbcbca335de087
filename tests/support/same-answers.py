# SPDX-License-Identifier: Apache-2.0
"""same-answers.py STEPS USER KERNEL: whether two engines answered a list of commands alike. Prints a line "ok: ..." a command.

A number is different for every group (ids, times); the kernel knows more (whether a volume is active) or, of a volume that isn't active,
less: what it calls unknown may be anything, what it calls known has to be the same.
"""
import json
import sys

# Never the same, or one engine's alone (state: a thin snapshot that isn't active); writable: the user-space engine opens only for reading
# what it lists; a store's use: a new one has no header before its origin is in use, and the kernel has it in use at once.
OTHERWISE = {"id", "sequence_number", "creation_time", "creation_host", "physical_volumes", "open_count", "active", "monitored", "profile",
             "effective_discards", "metadata_used", "extents", "allocated", "served", "message", "errno", "try", "metadata_snapshot", "status",
             "findings", "writable", "store_used", "store_metadata", "capabilities", "age", "state"}
UNKNOWN = (None, "")


def differences(place, user, kernel):
    if isinstance(user, dict) and isinstance(kernel, dict):
        if list(user) != list(kernel):
            yield f"{place}: members {list(user)} and {list(kernel)}"
            return
        for name in user:
            if name not in OTHERWISE:
                yield from differences(f"{place}.{name}", user[name], kernel[name])
    elif isinstance(user, list) and isinstance(kernel, list):
        def order(item):
            return item.get("name", "") if isinstance(item, dict) else item
        # What LVM's text has between a classic snapshot and its origin, its reports don't show.
        user = [item for item in user if not (isinstance(item, dict) and item.get("segment_type") == "snapshot" and not item["visible"])]
        user, kernel = sorted(user, key=order), sorted(kernel, key=order)
        if [order(item) for item in user] != [order(item) for item in kernel]:
            yield f"{place}: {[order(item) for item in user]} and {[order(item) for item in kernel]}"
            return
        for left, right in zip(user, kernel):
            yield from differences(f"{place}[{order(left)}]", left, right)
    elif user != kernel and kernel not in UNKNOWN:
        yield f"{place}: {user!r} and {kernel!r}"


def main(steps, user, kernel):
    bad = 0
    with open(steps, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 100):
            found = []
            answers = []
            for folder in (user, kernel):
                status = open(f"{folder}/{number}.status", encoding="utf-8").read().strip()
                text = open(f"{folder}/{number}.json", encoding="utf-8").read()
                answers.append({"status": status, "answer": json.loads(text) if text else None})
            if line.startswith("~"):
                # The kernel engine's alone.
                kind = (answers[0]["answer"] or {}).get("error", {}).get("kind")
                if kind != "unsupported" or answers[1]["answer"] is None:
                    found.append(f"{kind} and {answers[1]['answer']}")
                elif answers[1]["status"] != ("3" if "@none" in line else "0"):
                    found.append(f"the kernel engine's exit status is {answers[1]['status']}")
            elif answers[0]["status"] != answers[1]["status"]:
                found.append(f"exit status {answers[0]['status']} and {answers[1]['status']}")
            else:
                found += differences("", answers[0]["answer"], answers[1]["answer"])
            if found:
                bad += 1
                print(f"FAILED: both engines: {line.strip()}")
                for folder in (user, kernel):
                    print(f"  {folder}:", open(f"{folder}/{number}.err", encoding="utf-8").read().strip())
                for difference in found:
                    print("  user-space engine, kernel engine:", difference)
            else:
                print(f"ok: both engines: {line.strip()}")
    return 1 if bad else 0


sys.exit(main(*sys.argv[1:]))
