#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""snapshots-plot.py RESULTS.json >docs/snapshots.svg: draws what `./dev bench snapshots --json RESULTS.json` found.

Two panels, the first and the second write to a chunk, as parts of a write to the file itself; a bar for each kind of snapshot, in groups by
their number; a line from the least to the most of the runs.
"""

import json
import sys

KINDS = [("classic", 4, "#1b6ca8"), ("classic", 16, "#5fa8d3"), ("classic", 64, "#b5d5ec"), ("thin", 64, "#e07a3f")]
COUNTS = [1, 2, 8]
PANEL, HEIGHT, TOP, LEFT, BAR = 330, 220, 46, 44, 21


def main():
    rows = {}
    with open(sys.argv[1], encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["scenario"] == "snapshots" and row.get("ratios"):
                rows[row["what"]] = row
    width = LEFT + 2 * PANEL
    draw = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + 66}" font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{TOP + HEIGHT + 66}" fill="#fff"/>']
    for panel, phase in enumerate(("first", "second")):
        left = LEFT + panel * PANEL
        most = 0.5 if phase == "first" else 1.25

        def y(value, most=most):
            return TOP + HEIGHT * (1 - min(value, most) / most)

        draw.append(f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{phase} write to a chunk</text>')
        for step in range(6):
            value = most * step / 5
            draw.append(f'<path d="M{left} {y(value):.1f}h{PANEL - 40}" stroke="#ddd"/>'
                        f'<text x="{left - 5}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#555">{value:.2f}</text>')
        for group, count in enumerate(COUNTS):
            start = left + 8 + group * (len(KINDS) * BAR + 14)
            for number, (kind, chunk, colour) in enumerate(KINDS):
                row = rows[f"{count} {kind} snapshot{'' if count == 1 else 's'}, chunk {chunk} KiB: {phase} write"]
                x, middle = start + number * BAR, start + number * BAR + BAR / 2 - 1
                top = y(row["ratio"])
                draw.append(f'<rect x="{x}" y="{top:.1f}" width="{BAR - 3}" height="{TOP + HEIGHT - top:.1f}" fill="{colour}"/>'
                            f'<path d="M{middle} {y(min(row["ratios"])):.1f}V{y(max(row["ratios"])):.1f}" stroke="#222"/>')
            draw.append(f'<text x="{start + len(KINDS) * BAR / 2}" y="{TOP + HEIGHT + 16}" text-anchor="middle">'
                        f'{count} snapshot{"" if count == 1 else "s"}</text>')
    for number, (kind, chunk, colour) in enumerate(KINDS):
        x = LEFT + number * 165
        draw.append(f'<rect x="{x}" y="{TOP + HEIGHT + 36}" width="12" height="12" fill="{colour}"/>'
                    f'<text x="{x + 18}" y="{TOP + HEIGHT + 46}">{kind}, {chunk} KiB chunks</text>')
    draw.append(f'<text x="{LEFT}" y="16" fill="#555">4 KiB random writes, 32 at a time; 1.00 is a write to the file itself</text>')
    print("\n".join(draw + ["</svg>"]))


if __name__ == "__main__":
    sys.exit(main())
