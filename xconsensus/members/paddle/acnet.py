"""ResNet50_ACNet's file of release 1.8, folded into a ResNet-50: a tar with a file a tensor.

In ACNet (Ding et al. 2019, arXiv:1908.03930) each k x k convolution is the sum of three, k x k, k x 1 and 1 x k, with
a batch normalisation each; at inference they are one convolution. The names are those of PaddlePaddle/models
release 1.8, ``models/resnet_acnet.py``; the layout of a tensor's file is Paddle's of ``use_binary_format``.
"""

import math
import struct
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

_EPSILON = 1e-5
_FLOAT32 = 5  # among Paddle's kinds of data
_MOST = 2**28  # bytes of one tensor; the largest of a ResNet-50 has 2**23
_DESCRIPTION = 256  # bytes that describe one
_BLOCKS = (3, 4, 6, 3)

Arrays = dict[str, NDArray[Any]]


def is_tar(beginning: bytes) -> bool:
    """Whether a file whose first 512 bytes these are is a tar."""
    return beginning[257:262] == b"ustar"


def read_acnet(path: Path) -> Arrays:
    """The tensors of the ResNet-50 that a ResNet50_ACNet computes: PaddleClas's layout, in the order of its modules.

    Raises ValueError with a reason for a tar of other content.
    """
    with tarfile.open(path, "r:") as archive:
        parts = [part for part in archive if part.isreg() and not part.issparse() and part.size <= _MOST]
        names = [PurePosixPath(part.name).name for part in parts]
        if len(set(names)) < len(names):
            raise ValueError("the tar has two files of one name")
        given = {name: tensor_of(archive.extractfile(part).read()) for name, part in zip(names, parts, strict=True)}  # type: ignore[union-attr]
    try:
        return _folded(given)
    except KeyError as error:
        raise ValueError(f"the tar has no tensor {error.args[0]} of release 1.8's ResNet50_ACNet") from error


def tensor_of(content: bytes) -> NDArray[np.float32]:
    """The tensor in one file: 0, levels of LoD (none), 0, the length of a description, the description, the numbers.

    The description is protobuf: field 1 the kind of data, field 2 the shape, a number an entry.
    Raises ValueError for anything else.
    """
    try:
        version, levels, inner, length = struct.unpack_from("<IQIi", content)
        if length > _DESCRIPTION:
            raise IndexError
        shape, kind, place = [], None, 20
        while place < 20 + length:
            tag, place = _varint(content, place)
            value, place = _varint(content, place)
            kind = value if tag == 8 else kind
            shape += [value] if tag == 16 else []
    except (struct.error, IndexError) as error:
        raise ValueError("a file in the tar is no tensor of Paddle's") from error
    if (version, levels, inner, kind) != (0, 0, 0, _FLOAT32) or math.prod(shape) * 4 != len(content) - place:
        raise ValueError("a file in the tar is no tensor of float32 of Paddle's")
    return np.frombuffer(content, "<f4", offset=place).reshape(shape)


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number of protobuf at ``place``, seven bits a byte from the lowest on, and the place behind it."""
    value = shift = 0
    while True:
        value |= (content[place] & 127) << shift
        shift += 7
        place += 1
        if content[place - 1] < 128:
            return value, place


def _folded(given: Arrays) -> Arrays:
    layers = {"stem": _trio(given, "conv1", "bn_conv1")}
    for stage, blocks in enumerate(_BLOCKS, start=2):
        for block in (f"{stage}{chr(ord('a') + number)}" for number in range(blocks)):
            layers[f"{block}.0"] = _plain(given, f"{block}_branch2a")
            layers[f"{block}.1"] = _trio(given, f"res{block}_branch2b", f"bn{block}_branch2b")
            layers[f"{block}.2"] = _plain(given, f"{block}_branch2c")
            if block.endswith("a"):
                layers[f"{block}.short"] = _plain(given, f"{block}_branch1")
    found = {f"{layer}.{part}": array for layer, parts in layers.items() for part, array in parts.items()}
    return found | {"fc.weight": given["fc_0.w_0"], "fc.bias": given["fc_0.b_0"]}


def _plain(given: Arrays, name: str) -> Arrays:
    """A convolution and its normalisation as they are."""
    parts = {"bn.weight": "scale", "bn.bias": "offset", "bn._mean": "mean", "bn._variance": "variance"}
    return {"weight": given[f"res{name}_weights"]} | {key: given[f"bn{name}_{part}"] for key, part in parts.items()}


def _trio(given: Arrays, convolution: str, norm: str) -> Arrays:
    """Three convolutions with a normalisation each as one, whose normalisation adds the bias and nothing else."""
    kernel = bias = np.zeros((), np.float64)
    square = given[f"{convolution}_acsquare_weights"]
    middle = square.shape[2] // 2
    for form in ("acsquare", "acver", "achor"):
        scale, offset, mean, variance = (
            given[f"{norm}_{form}_{part}"].astype(np.float64) for part in ("scale", "offset", "mean", "variance")
        )
        factor = scale / np.sqrt(variance + _EPSILON)
        part = given[f"{convolution}_{form}_weights"]
        whole = np.zeros(square.shape, np.float64)
        place = {"acsquare": (...,), "acver": (..., slice(middle, middle + 1)), "achor": (..., [middle], slice(None))}[
            form
        ]
        if whole[place].shape != part.shape:
            raise ValueError(f"{convolution}_{form}_weights has the shape {list(part.shape)}")
        whole[place] = part
        kernel = kernel + whole * factor[:, None, None, None]
        bias = bias + offset - mean * factor
    one = np.ones(len(bias), np.float32)
    norms = {
        "bn.weight": one,
        "bn.bias": bias.astype(np.float32),
        "bn._mean": 0 * one,
        "bn._variance": one - np.float32(_EPSILON),
    }
    return {"weight": kernel.astype(np.float32)} | norms
