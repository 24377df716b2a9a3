"""PaddleClas's networks under the paper's names: how each is built, and where its weights lie.

The table is data, ``published/authors.csv``, read from PaddleClas (develop of 18 October 2024, Apache-2.0) and, for
release 1.8, from PaddlePaddle/models. The names of each file's tensors are ``published/authors_layers.txt.xz``.
"""

import csv
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from xconsensus import published
from xconsensus.errors import InputError, nearest

RELEASES = ("2.x", "1.8")
# Paddle's evaluation: OpenCV's bilinear filter, and the 224 pixels that the paper gives to every network
PREPROCESSING: Mapping[str, Any] = {
    "input_size": 224,
    "resize": 256,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "opencv_bilinear",
    "crop_mode": "center",
}
_OF_A_LAYER = {"": ("weight",), "+": ("weight", "bias"), "~": ("weight", "bias", "_mean", "_variance")}


@dataclass(frozen=True)
class Entry:
    """One network of PaddleClas.

    ``network`` is a function of `networks`, ``arguments`` what it takes. ``factors`` are those by which Paddle scales
    the input of a layer at inference where torch does not, by the name of that layer's weight in torch.
    ``release_1_8`` holds arguments and factors that release 1.8 has besides. ``top1`` and ``top5`` are the published
    accuracies on ImageNet's validation images in 0..1, at ``size`` pixels; ``tensors`` and ``numbers`` count what a
    file holds.
    """

    name: str
    network: str
    arguments: Mapping[str, Any]
    factors: Mapping[str, float]
    release_1_8: Mapping[str, Any]
    url: str
    top1: float
    top5: float
    size: int
    tensors: int
    numbers: int

    def arguments_of(self, release: str) -> dict[str, Any]:
        """What the network's function takes in a release."""
        return {**self.arguments, **{key: value for key, value in self._besides(release) if "." not in key}}

    def factors_of(self, release: str) -> dict[str, float]:
        """The factors of a release, name of a weight in torch -> factor."""
        return {**self.factors, **{key: value for key, value in self._besides(release) if "." in key}}

    def _besides(self, release: str) -> list[tuple[str, Any]]:
        if release not in RELEASES:
            raise InputError(f"release={release} of {self.name} is none of {', '.join(RELEASES)}")
        return list(self.release_1_8.items()) if release == "1.8" else []


@cache
def entries() -> Mapping[str, Entry]:
    """The whole table, name -> entry."""
    kinds: dict[str, Any] = dict.fromkeys(("arguments", "factors", "release_1_8"), _assignments)
    kinds |= {"top1": float, "top5": float, "size": int, "tensors": int, "numbers": int}
    with files(published).joinpath("authors.csv").open() as file:
        rows = [{key: kinds.get(key, str)(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return {row["name"]: Entry(**row) for row in rows}


def _assignments(text: str) -> dict[str, Any]:
    """Words like depth=50 or variant=vd as a mapping."""
    return {key: _value(value) for key, value in (word.split("=", 1) for word in text.split())}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def entry(name: str, member: str) -> Entry:
    """The entry of a network; InputError naming ``member`` for one that is not in the table, with the nearest."""
    if name not in entries():
        raise InputError(f"member {member}: library paddle has no model {name!r}{nearest(name, entries())}")
    return entries()[name]


def tensor_names(name: str) -> tuple[str, ...]:
    """The names of the tensors in a network's file, in the order in which its modules are built; none of a tar's."""
    pairs = [(layer.rstrip("+~"), layer[-1] if layer[-1] in "+~" else "") for layer in _layers().get(name, ())]
    return tuple(f"{layer}.{part}" for layer, kind in pairs for part in _OF_A_LAYER[kind])


@cache
def _layers() -> Mapping[str, list[str]]:
    """The layers of each network as the file packs them."""
    packed = files(published).joinpath("authors_layers.txt.xz").read_bytes()
    lines = [line.split() for line in lzma.decompress(packed).decode().splitlines()]
    return {network: layers for network, *layers in lines}
