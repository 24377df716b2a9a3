"""The paper's models under the paper's names, each mapped to a model and weights that exist.

The authors' own are in `paddle.table`. What timm and torchvision have in their place is ``published/members.csv``, one
row a name; its columns are those of `Entry`.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from xconsensus import published
from xconsensus.errors import InputError, check_type, nearest
from xconsensus.members.paddle import table

# The committees of Table 2, and the data set whose half of the table lists them.
COMMITTEES = {"imagenet81": "imagenet", "cub85": "cub200"}
WEIGHTS = ("authors", "libraries")


@dataclass(frozen=True)
class Entry:
    """One model of the paper and what stands for it among the libraries' models.

    ``fidelity`` is exact (the same architecture, trained on the same data by a recipe of the same family),
    architecture (the same up to a detail that ``reason`` names, weights of another recipe) or substitute (the
    nearest that is available, ``reason`` says why and in what). ``weights`` is the library's tag, ``input_size`` the
    pixels it expects, ``parameters`` the count with 1000 classes, ``accuracy`` the published ImageNet top-1 of the
    weights at that size, in 0..1.
    """

    name: str
    family: str
    library: str
    model: str
    weights: str
    input_size: int
    fidelity: str
    reason: str
    parameters: int
    accuracy: float

    def has_authors(self, weights: str) -> bool:
        """Whether the authors' own network is taken; ``weights`` is one of `WEIGHTS`."""
        return weights == WEIGHTS[0] and self.name in table.entries()

    def closeness(self, weights: str) -> str:
        """How close what is taken is to the paper's model: authors, or the ``fidelity`` of what the libraries have."""
        return WEIGHTS[0] if self.has_authors(weights) else self.fidelity

    def specification(self, weights: str = WEIGHTS[0], release: str = table.RELEASES[0]) -> dict[str, Any]:
        """The keys of `committee.Member`; preprocessing is not among them, it comes with the weights.

        ``release`` is one of `table.RELEASES`; it stands there only where it makes a difference.
        """
        if not self.has_authors(weights):
            return {"family": self.family, "library": self.library, "model": self.model, "pretrained": self.weights}
        differs = release != table.RELEASES[0] and table.entries()[self.name].release_1_8
        kwargs = {"kwargs": {"release": release}} if differs else {}
        return {"family": self.family, "library": "paddle", "model": self.name, "pretrained": True} | kwargs


@cache
def entries() -> Mapping[str, Entry]:
    """The whole table, name -> entry, in its order."""
    numbers = {"input_size": int, "parameters": int, "accuracy": float}
    with files(published).joinpath("members.csv").open() as file:
        rows = [{key: numbers.get(key, str)(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return {row["name"]: Entry(**row) for row in rows}


def names(committee: str) -> list[str]:
    """The members of one of the paper's `COMMITTEES`, in the order of Table 2; InputError for another name."""
    if committee not in COMMITTEES:
        raise InputError(f"committee.catalogue={committee} is no list and none of {', '.join(COMMITTEES)}")
    models = published.table2(COMMITTEES[committee])["model"]
    return [str(model) for model in models if model != published.ENSEMBLE]


def specifications(committee: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The members of a committee's config, name -> keys of `committee.Member`.

    First those of ``catalogue`` (one of `COMMITTEES`, or a list of names), with the authors' ``weights`` or the
    libraries', and where the releases of the authors' networks differ, that of ``release``: without substitutes where
    ``substitutes`` is false, and of these ``draw`` many, chosen by ``draw_seed`` and the names alone, so alike on every
    machine. Then ``members``; one that has a name of the catalogue changes keys of that one. Last ``random_members`` of
    random weights.

    Raises InputError for a name that is not in the table, with the nearest, and for a draw of more than there are.
    """
    chosen = _chosen(committee.get("catalogue") or [])
    check_type("committee.substitutes", substitutes := committee.get("substitutes", True), True)
    weights, release = committee.get("weights", WEIGHTS[0]), str(committee.get("release", table.RELEASES[0]))
    _check("committee.weights", weights, WEIGHTS)
    _check("committee.release", release, table.RELEASES)
    if not substitutes:
        chosen = [name for name in chosen if entries()[name].closeness(weights) != "substitute"]
    if (draw := committee.get("draw")) is not None:
        chosen = _drawn(chosen, draw, committee.get("draw_seed", 0))
    found = {name: entries()[name].specification(weights, release) for name in chosen}
    for name, own in (committee.get("members") or {}).items():
        found[name] = {**found.get(name, {}), **(own or {})}
    return found | _random_members(found, committee.get("random_members", 0))


def _check(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{key}={value} is none of {', '.join(known)}")


def _random_members(found: Mapping[str, Mapping[str, Any]], count: int) -> dict[str, dict[str, Any]]:
    """Further members of random weights, with the architectures of the committee's own in turn.

    Own code is not among these: what it draws or reads itself is its own. Raises InputError where nothing else is.
    """
    check_type("committee.random_members", count, 1)
    if count < 0:
        raise InputError(f"committee.random_members={count} is less than 0")
    own = [name for name, spec in found.items() if spec.get("library") != "module" and not spec.get("random")]
    if count and not own:
        raise InputError(
            f"committee.random_members={count}: no member of timm or torchvision has an architecture for it"
        )
    names = {f"random{number + 1:03}_{own[number % len(own)]}": own[number % len(own)] for number in range(count)}
    other = {"family": "random", "random": True, "weights": None, "weights_key": None, "pretrained": False}
    return {name: {**found[base], **other} for name, base in names.items()}


def _chosen(catalogue: str | list[str]) -> list[str]:
    if isinstance(catalogue, str):
        return names(catalogue)
    if not isinstance(catalogue, list):
        raise InputError(f"committee.catalogue={catalogue} is neither a list nor one of {', '.join(COMMITTEES)}")
    for name in catalogue:
        if name not in entries():
            raise InputError(f"committee.catalogue: the paper has no model {name!r}{nearest(str(name), entries())}")
    return list(dict.fromkeys(catalogue))


def _drawn(pool: list[str], draw: int, seed: int) -> list[str]:
    """``draw`` names of the pool, in its order; which ones does not depend on the order."""
    check_type("committee.draw", draw, 1)
    if not 1 <= draw <= len(pool):
        raise InputError(f"committee.draw={draw}: committee.catalogue has {len(pool)} members to draw from")
    from xconsensus.seeding import seed_of  # imports torch, which a catalogue can do without

    drawn = sorted(pool, key=lambda name: seed_of(seed, name))[:draw]
    return [name for name in pool if name in drawn]
