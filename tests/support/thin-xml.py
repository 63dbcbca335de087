#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""thin-xml.py --seed N [--devices N] [--mappings N] [--longest N] [--definitions]: a pool's contents in thin_dump's XML, drawn from a seed.

Without --definitions it is what thin_restore 0.9 reads too.
"""
import argparse
import random

arguments = argparse.ArgumentParser()
arguments.add_argument("--seed", type=int, required=True)
arguments.add_argument("--devices", type=int, default=5)
arguments.add_argument("--mappings", type=int, default=2000)
arguments.add_argument("--definitions", action="store_true")
arguments.add_argument("--longest", type=int, default=1000, help="of a run, in blocks")
options = arguments.parse_args()
draw = random.Random(options.seed)
TIME = 20
DATA_BLOCKS = options.mappings * options.devices * 4 + 1000


def part(first, count):
    """Runs (virtual, data, length, time) from `first` on, `count` blocks in all."""
    at, runs = first, []
    while count > 0:
        at += draw.choice([0, 0, 1, 5, 300])
        length = min(count, options.longest, draw.choice([1, 1, 1, 2, 7, 252, 1000]))
        runs.append((at, draw.randrange(DATA_BLOCKS - length), length, draw.randrange(TIME + 1)))
        at += length
        count -= length
    return runs


def lines(runs):
    for virtual, data, length, time in runs:
        if length == 1:
            yield f'    <single_mapping origin_block="{virtual}" data_block="{data}" time="{time}"/>'
        else:
            yield f'    <range_mapping origin_begin="{virtual}" data_begin="{data}" length="{length}" time="{time}"/>'


def end(runs):
    return runs[-1][0] + runs[-1][2] if runs else 0


def blocks(runs):
    return sum(length for _, _, length, _ in runs)


print(f'<superblock uuid="" time="{TIME}" transaction="7" flags="0" version="2" data_block_size="128" nr_data_blocks="{DATA_BLOCKS}">')
definitions = []
if options.definitions:
    at = 0
    for name in range(4):
        runs = part(at, draw.choice([1, 50, 83, 84, 252, 600, options.mappings]))
        at = end(runs) + draw.choice([0, 10000])
        definitions.append(runs)
        print(f'  <def name="shared {name}">', *lines(runs), "  </def>", sep="\n")
for number, device in enumerate(sorted(draw.sample(range(1000), options.devices))):
    body, at, mapped = [], 0, 0
    for name, runs in enumerate(definitions):
        if draw.random() < 0.6 and at <= runs[0][0]:
            body.append(f'    <ref name="shared {name}"/>')
            at, mapped = end(runs), mapped + blocks(runs)
    own = part(at, draw.choice([0, 1, 83, 252, 253, options.mappings]) if number else options.mappings)
    print(f'  <device dev_id="{device}" mapped_blocks="{mapped + blocks(own)}" transaction="{draw.randrange(8)}" creation_time="{draw.randrange(TIME + 1)}"'
          f' snap_time="{draw.randrange(TIME + 1)}">', *body, *lines(own), "  </device>", sep="\n")
print("</superblock>")
