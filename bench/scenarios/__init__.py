# SPDX-License-Identifier: Apache-2.0
"""Every scenario, in the order in which they run. Each module says what it compares, and runs it."""

from scenarios import (mapped, first_touch, sharing, sequential, null, connections, depth, flush, snapshot, snapshots, targets, memory,
                       opening, listing, tools)

ALL = [mapped, first_touch, sharing, sequential, null, connections, depth, flush, snapshot, snapshots, targets, memory, opening, listing,
       tools]


def name_of(scenario):
    return scenario.__name__.rpartition(".")[2].replace("_", "-")


def title_of(scenario):
    return scenario.__doc__.strip().splitlines()[0]
