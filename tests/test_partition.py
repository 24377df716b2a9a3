"""The partition of work over jobs: complete, near-equal, the same for everybody."""

import itertools
import random

import numpy as np
import pytest

from xconsensus.jobs.shares import partition

LOGNORMAL = np.random.default_rng(0).lognormal(20, 1.5, 60).astype(int).tolist()


def units(costs: list[int]) -> dict[tuple[str, int], int]:
    return {(f"member{i // 3}", i % 3): cost for i, cost in enumerate(costs)}


@pytest.mark.parametrize("parts", [1, 2, 7, 16, 100])
def test_every_unit_is_in_exactly_one_part(parts: int) -> None:
    costs = units(LOGNORMAL)
    found = partition(costs, parts)
    assert len(found) == parts
    assert sorted(itertools.chain(*found)) == sorted(costs)


@pytest.mark.parametrize("parts", [2, 7, 16])
def test_parts_are_near_equal_by_cost(parts: int) -> None:
    """No part exceeds the least one by more than the smallest unit of its own: else that unit would stand there."""
    costs = units(LOGNORMAL)
    found = partition(costs, parts)
    loads = [sum(costs[unit] for unit in part) for part in found]
    for part, load in zip(found, loads, strict=True):
        assert load - min(costs[unit] for unit in part) <= min(loads)


def test_the_largest_part_is_within_graham_s_bound_of_the_best() -> None:
    rng = random.Random(0)
    for _ in range(50):
        costs = {f"u{i}": rng.randint(1, 30) for i in range(7)}
        sums = (
            max(sum(c for c, at in zip(costs.values(), where, strict=True) if at == part) for part in range(3))
            for where in itertools.product(range(3), repeat=7)
        )
        largest = max(sum(costs[unit] for unit in part) for part in partition(costs, 3))
        assert largest <= (4 / 3 - 1 / 9) * min(sums)


def test_the_order_of_the_units_has_no_influence() -> None:
    costs = units([5, 3, 5, 3, 3, 8] * 5)
    shuffled = list(costs.items())
    random.Random(1).shuffle(shuffled)
    assert partition(dict(shuffled), 4) == partition(costs, 4)


def test_it_is_by_cost_not_by_count() -> None:
    assert partition({"big": 10, "a": 4, "b": 3, "c": 3}, 2) == [["big"], ["a", "b", "c"]]


def test_more_parts_than_units_leave_some_empty() -> None:
    assert partition({"a": 1, "b": 0}, 4) == [["a"], ["b"], [], []]
