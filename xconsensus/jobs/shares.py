"""Work shared by jobs that do not talk to each other: each computes the same partition and takes its own part."""

import heapq
from collections.abc import Mapping
from typing import Any, TypeVar

from xconsensus.progress import log

Unit = TypeVar("Unit", bound=Any)  # comparable


def partition(costs: Mapping[Unit, int], parts: int) -> list[list[Unit]]:
    """The units in ``parts`` lists of near-equal total cost, each list sorted; every unit stands in exactly one.

    The longest unit first, always to the part with the least so far; among equals the smallest unit, to the first
    part. The largest total is at most 4/3 - 1/(3 parts) of the best possible (Graham 1969, Bounds on multiprocessing
    timing anomalies). The order of ``costs`` has no influence.
    """
    loads = [(0, part) for part in range(parts)]
    found: list[list[Unit]] = [[] for _ in range(parts)]
    for unit in sorted(costs, key=lambda unit: (-costs[unit], unit)):
        load, part = loads[0]
        found[part].append(unit)
        heapq.heapreplace(loads, (load + costs[unit], part))
    return [sorted(units) for units in found]


def own_share(costs: Mapping[Unit, int], share: int, shares: int, units: str) -> list[Unit]:
    """The units of job ``share`` of ``shares``, sorted, and a line that says how many ``units`` of what these are."""
    own = partition(costs, shares)[share]
    part, whole = sum(costs[unit] for unit in own), sum(costs.values())
    percent = 100 * part / whole if whole else 0.0
    log.info(f"shard {share} of {shares}: {len(own)} of {len(costs)} {units}, {percent:.3g} % of all work")
    if not own:
        log.info(f"shard {share} of {shares} has nothing to do: there is less work than jobs")
    return own
