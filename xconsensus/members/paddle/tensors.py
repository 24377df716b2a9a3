"""Paddle's tensors as a torch network takes them: by the order of both, in torch's layout.

Batch normalisation's running statistics have other names, linear layers are transposed, and where Paddle scales a
layer's input at inference (dropout of mode downscale_in_infer) the layer's weight is scaled instead.
"""

import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xconsensus.errors import InputError
from xconsensus.members.checkpoints import is_counter
from xconsensus.members.paddle import table
from xconsensus.progress import say_once

_ROLES = {"_mean": "running_mean", "_variance": "running_var"}  # of batch normalisation; all others have one name
_AUXILIARY = re.compile(r"_(conv|fc)_o\d|_out\d")  # GoogLeNet's heads beside the first, which inference does not read


def of_the_network(name: str, arrays: dict[str, NDArray[Any]], source: str) -> dict[str, NDArray[Any]]:
    """The arrays of one of PaddleClas's networks in the order of its modules, whatever the order of its file.

    Raises InputError naming the ``source`` and the first tensor that it lacks; a line says which others it holds.
    """
    every = table.tensor_names(name)
    names = [key for key in every if not (name == "GoogleNet" and _AUXILIARY.match(key))]
    for key in names:
        if key not in arrays:
            raise InputError(f"{source} lacks tensor {key} of PaddleClas's {name}: it is of another network or release")
    if others := sorted(arrays.keys() - set(every)):
        say_once(f"{source} holds {len(others)} tensors that {name} does not have, {others[0]} the first: left out")
    return {key: arrays[key] for key in names}


def as_torch_has_them(
    expected: Mapping[str, Tensor],
    arrays: dict[str, NDArray[Any]],
    source: str,
    *,
    network: str = "",
    head: Collection[str] = (),
) -> dict[str, Tensor]:
    """Paddle's arrays under the names and in the layout of a torch network's tensors.

    Parameters
    ----------
    expected : the network's state dict.
    arrays : name in Paddle -> array, in the order of Paddle's modules; the tensors share their memory where they can.
    source : the member and file, for messages.
    network : a function of `networks`, where the network is of one whose order differs.
    head : names of tensors in torch that may have another shape: of other classes.

    Raises InputError naming the source, both names and both shapes of the first that do not fit.
    """
    keys = in_paddles_order(network, [key for key in expected if not is_counter(key)])
    if len(keys) != len(arrays):
        raise InputError(f"{source} holds {len(arrays)} tensors, the network has {len(keys)}{_first(keys, arrays)}")
    found = {}
    for key, (given, array) in zip(keys, arrays.items(), strict=True):
        fault = _fault(given, array, key, expected[key], key in head)
        if fault:
            raise InputError(f"{source}: tensor {given} of shape {list(array.shape)} {fault}")
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # the memory is only read
            native = np.asarray(_laid_out(array, expected[key]), array.dtype.newbyteorder("="))
            found[key] = torch.from_numpy(native)
    return found


def _laid_out(array: NDArray[Any], expected: Tensor) -> NDArray[Any]:
    """A linear layer's weight (in, out) as (out, in), or as that of a convolution of 1x1; all others as they are."""
    turned = array.T if array.ndim == 2 else array
    return turned[..., None, None] if turned.ndim == 2 and expected.shape[2:] == (1, 1) else turned


def _fault(given: str, array: NDArray[Any], key: str, expected: Tensor, any_length: bool) -> str:
    """Why an array cannot be the tensor called ``key``; empty if it can. ``any_length``: of its first axis."""
    if _role(given) != key.rpartition(".")[2]:
        return f"comes where the network has {key}"
    if (array.dtype.kind == "f") != expected.dtype.is_floating_point:
        return f"holds {array.dtype}, {key} needs {expected.dtype}"
    shape = _laid_out(array, expected).shape
    if shape[any_length:] != expected.shape[any_length:]:
        return f"does not fit {key} of shape {list(expected.shape)}"
    return ""


def _role(name: str) -> str:
    last = name.rpartition(".")[2]
    return _ROLES.get(last, last)


def _first(keys: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> str:
    """A clause on the first pair that has other roles."""
    for key, given in zip(keys, arrays, strict=False):
        if _role(given) != key.rpartition(".")[2]:
            return f": {given} meets {key}"
    return f": {[*arrays][len(keys)]} is too many" if len(arrays) > len(keys) else f": {keys[len(arrays)]} is left"


# --- orders that differ ---


def in_paddles_order(network: str, keys: Sequence[str]) -> list[str]:
    """The names of a torch network's tensors in the order of PaddleClas's."""
    if network not in _ORDERS:
        return list(keys)
    pattern, rank = _ORDERS[network]
    blocks = [found[0] if (found := re.match(pattern, key)) else key for key in keys]
    return sorted(keys, key=lambda key: (blocks.index(blocks[keys.index(key)]), rank(key)))


def _of_res2net(key: str) -> int:
    """Within a block: the first layer, each convolution before its normalisation, the rest."""
    if pair := re.match(r"layer\d\.\d+\.(?:convs|bns)\.(\d+)", key):
        return 1 + int(pair[1])
    return 0 if re.match(r"layer\d\.\d+\.(conv1|bn1)\.", key) else 100


_ORDERS: Mapping[str, tuple[str, Callable[[str], int]]] = {  # what a block's names begin with, and ranks within it
    "res2net": (r"layer\d\.\d+", _of_res2net),
    "inception_v4": (r"features\.\d+", lambda key: 0 if ".branch3." in key else 1),
    "xception_deeplab": (r"blocks\.\d+", lambda key: 1 if ".shortcut." in key else 0),
}
