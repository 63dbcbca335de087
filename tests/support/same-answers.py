# SPDX-License-Identifier: Apache-2.0
"""same-answers.py STEPS USER IMAGE KERNEL: whether two engines answered a list of commands alike: the user-space engine on a group in an
image, in the folder USER, and the kernel engine on vg0, in the folder KERNEL. Prints a line "ok: ..." a command.

Numbers that are different for every group (ids, times) are not compared. Where the kernel engine doesn't know what the other knows, it has
to be one of the fields below for which there is a reason.
"""
import json
import re
import sys

# Never the same, or one engine's alone.
OTHERWISE = {
    "id", "sequence_number", "creation_time", "creation_host", "age",
    "physical_volumes", "device", "extents", "allocated",  # named otherwise; LVM has one extent more or less of its own
    "open_count", "active", "monitored", "profile", "effective_discards", "served", "capabilities",  # what only one of them has
    "metadata_used",  # the two trees grow in steps of their own
    "writable",  # the user-space engine opens only for reading what it lists
    "store_used", "store_metadata",  # a new store has no header before its origin is in use, and the kernel has it in use at once
    "state",  # a thin snapshot is as LVM leaves it: inactive
    "metadata_snapshot",  # a block's number
    "folder", "bytes", "of_metadata_snapshot",  # a backup's
    "text", "status",  # compared by words()
    "errno",
    "warnings",  # discards that don't reach the disks, and the like: the kernel's pool alone knows
}
# What the kernel engine may not know, and why.
UNKNOWN = {
    "mapped": "the kernel tells of active volumes alone, and of their snapshots only if they are active",
    "data_used": "the pool isn't active",
    "pool_mode": "the pool isn't active",
    "snapshot_state": "a merge is done when it is asked for, or the origin isn't active",
    "refused": "the metadata of a pool that isn't active isn't read",
    "device_hint": "only LVM's text has it, which listing doesn't read",
}
UNKNOWN_IN_TRIALS = {"transaction_id", "metadata_size"}  # LVM's --test tells nothing of them
# Findings of the doctor that only a group of the host's LVM can have.
OF_THE_HOST = {"discards-not-passed-down", "profile-missing", "monitoring-off", "monitoring-unknown"}
# The same of text.
TEXT_OTHERWISE = {"UUID", "Created", "PV", "Sequence number", "Can also", "Metadata used", "State", "Metadata snapshot at block", "Age", "Meta%"}
TEXT_UNKNOWN = {"Mapped", "Data used", "Mode", "Data%", "Used", "Used%"}


def differences(place, user, kernel, unknown):
    if isinstance(user, dict) and isinstance(kernel, dict):
        if list(user) != list(kernel):
            yield f"{place}: members {list(user)} and {list(kernel)}"
            return
        for name in user:
            if name in OTHERWISE or kernel[name] in (None, "") and name in unknown:
                continue
            yield from differences(f"{place}.{name}", user[name], kernel[name], unknown)
    elif isinstance(user, list) and isinstance(kernel, list):
        def order(item):
            return item.get("name", item.get("kind", "")) if isinstance(item, dict) else item
        # What LVM's text has between a classic snapshot and its origin, its reports don't show.
        user = [item for item in user if not (isinstance(item, dict) and item.get("segment_type") == "snapshot" and not item["visible"])]
        kernel = [item for item in kernel if not (isinstance(item, dict) and item.get("kind") in OF_THE_HOST)]
        user, kernel = sorted(user, key=order), sorted(kernel, key=order)
        if [order(item) for item in user] != [order(item) for item in kernel]:
            yield f"{place}: {[order(item) for item in user]} and {[order(item) for item in kernel]}"
            return
        for left, right in zip(user, kernel):
            yield from differences(f"{place}[{order(left)}]", left, right, unknown)
    elif user != kernel:
        yield f"{place}: {user!r} and {kernel!r}"


def status_words(line):
    """A pool's: without its metadata's use, and without what the disks below let it do with discards."""
    words = line.split()
    if words[2:3] == ["thin-pool"]:
        words[4] = words[4].split("/")[1]
        # The user-space engine opens only for reading what it looks at.
        words = [word for word in words if not word.endswith("discard_passdown") and word not in ("ro", "rw")]
        del words[-1]  # the low water mark is told in blocks of metadata by one
    return words


def table(text):
    """Rows of a table with headings, or lines of "heading  value", by their first words."""
    rows = {}
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        columns = [(match.start(), match.group().strip()) for match in re.finditer(r"\S+(?: \S+)*", lines[0])]
        if columns and columns[0][1] in ("LV", "Snapshot", "ID", "PV") and len(columns) > 2:
            # Cells are to the left or to the right in their columns; there are two blanks between.
            headings = [heading for _, heading in columns]
            for line in lines[1:]:
                cells = re.split(r"  +", line.strip())
                rows[headings[0] + " " + (cells[0] if headings[0] != "PV" else "")] = dict(zip(headings[1:], cells[1:]))
        else:
            for line in lines:
                heading, _, value = line.partition("  ")
                rows[heading] = {heading: value.strip()}
    return rows


def text_differences(user, kernel):
    user, kernel = table(user), table(kernel)
    # What LVM's reports don't show, as above.
    user = {name: cells for name, cells in user.items() if "[snapshot" not in name}
    if user.keys() - TEXT_OTHERWISE != kernel.keys() - TEXT_OTHERWISE:
        yield f"lines {sorted(user.keys() - kernel.keys())} and {sorted(kernel.keys() - user.keys())}"
        return
    for row in user.keys() - TEXT_OTHERWISE:
        if row.startswith("PV "):
            continue
        left, right = user[row], kernel[row]
        if list(left) != list(right):
            yield f"{row}: columns {list(left)} and {list(right)}"
            continue
        for heading, cell in left.items():
            if heading in TEXT_OTHERWISE or right[heading] in ("-", "unknown") and heading in TEXT_UNKNOWN:
                continue
            if cell != right[heading]:
                yield f"{row}, {heading}: {cell!r} and {right[heading]!r}"


def doctor_differences(user, kernel):
    def findings(text):
        return {match for match in re.findall(r"^\w+: ([a-z-]+(?: \(\S+\))?)$", text, re.M) if match.split()[0] not in OF_THE_HOST}
    if findings(user) != findings(kernel):
        yield f"findings {findings(user)} and {findings(kernel)}"


def compare(line, user, kernel):
    words = line.split("##")[1].strip() if "##" in line else None
    if user["status"] != kernel["status"]:
        yield f"exit status {user['status']} and {kernel['status']}"
        return
    if line.startswith("!"):
        if user["status"] != "0":
            yield "it failed"
        return
    if line.startswith("=doctor"):
        yield from doctor_differences(user["out"], kernel["out"])
        return
    if line.startswith("="):
        yield from text_differences(user["out"], kernel["out"])
        return
    if line.split()[0] in ("dump", "diff") and user["status"] == "0":
        if user["out"] != kernel["out"] or not user["out"]:
            yield f"{user['out']!r} and {kernel['out']!r}"
        return
    left, right = json.loads(user["out"]), json.loads(kernel["out"])
    if words is not None:
        for answer in (left, right):
            if words not in answer["error"]["message"]:
                yield f"{answer['error']['message']!r} doesn't say {words!r}"
        if left["error"]["kind"] != right["error"]["kind"]:
            yield f"errors of kind {left['error']['kind']} and {right['error']['kind']}"
        return
    if "status" in left and status_words(left["status"]) != status_words(right["status"]):
        yield f"{left['status']!r} and {right['status']!r}"
    yield from differences("", left, right, UNKNOWN.keys() | (UNKNOWN_IN_TRIALS if "--dry-run" in line else set()))


def alone(line, has, lacks):
    """What one engine does, the other says that it can't."""
    kind = json.loads(lacks["out"] or "{}").get("error", {}).get("kind")
    if kind != "unsupported":
        yield f"the engine that hasn't it: {kind}, not unsupported"
    if has["status"] != ("3" if "@none" in line else "0"):
        yield f"the engine that has it: exit status {has['status']}"


def main(steps, user_folder, image, kernel_folder):
    bad = 0
    with open(steps, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 100):
            answers = []
            for folder in (user_folder, kernel_folder):
                answer = {name: open(f"{folder}/{number}.{name}", encoding="utf-8").read() for name in ("out", "status", "err")}
                answer["status"] = answer["status"].strip()
                # The group and the files by the same names.
                answer["out"] = re.sub(re.escape(image) + ":", "vg0/", answer["out"]).replace(image, "vg0").replace(folder + "/", "")
                answer["out"] = re.sub(r'("message": ".*)', lambda match: match.group().replace("vg0/", ""), answer["out"])
                answers.append(answer)
            user, kernel = answers
            found = list(alone(line, kernel, user) if line.startswith("~") else alone(line, user, kernel) if line.startswith("^")
                         else compare(line, user, kernel))
            if found:
                bad += 1
                print(f"FAILED: both engines: {line.strip()}")
                for folder, answer in ((user_folder, user), (kernel_folder, kernel)):
                    print(f"  {folder}:", answer["err"].strip())
                for difference in found:
                    print("  user-space engine, kernel engine:", difference)
            else:
                print(f"ok: both engines: {line.strip()}")
    return 1 if bad else 0


sys.exit(main(*sys.argv[1:]))
