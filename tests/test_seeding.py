import os
import subprocess
import sys

import torch

from xconsensus.seeding import generator, seed_of


def test_a_seed_is_the_same_in_another_process() -> None:
    code = "from xconsensus.seeding import seed_of; print(seed_of(3, 'dog/1.jpg', 'a'))"
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(other.stdout) == seed_of(3, "dog/1.jpg", "a")


def test_every_part_and_its_place_matters() -> None:
    parts = [(0, "a"), (1, "a"), (0, "b"), ("a", 0), ("0a",), (0, "a", ""), (0, "", "a"), (0,), (), ("01",), (0, 1)]
    assert len({seed_of(*each) for each in parts}) == len(parts)


def test_seeds_are_spread_over_63_bits() -> None:
    seeds = [seed_of(0, f"image{i}") for i in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    for bit in range(63):
        assert 800 < sum(seed >> bit & 1 for seed in seeds) < 1200


def test_a_generator_is_seeded_by_its_parts_and_not_by_the_global_state() -> None:
    torch.manual_seed(1)
    first = torch.rand(5, generator=generator(0, "image"))
    torch.manual_seed(2)
    untouched = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(5, generator=generator(0, "image")), first)
    assert torch.equal(torch.rand(1), untouched)
    assert not torch.equal(torch.rand(5, generator=generator(1, "image")), first)
    assert generator(0).device == torch.device("cpu")
