"""Paddle's tensors as a torch network takes them: by the order of both, in torch's layout.

Batch normalisation's running statistics have other names, and the weights of linear layers, nothing else, are
transposed. Where Paddle scales a layer's input at inference (dropout of mode downscale_in_infer) the layer's weight is
scaled instead.
"""

import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xconsensus.errors import InputError
from xconsensus.members.checkpoints import is_counter
from xconsensus.members.paddle import table
from xconsensus.progress import say_once

# what Paddle calls parts of its layers for batch normalisation, PReLU and instance normalisation
_ROLES = {"_mean": "running_mean", "_variance": "running_var", "_weight": "weight", "scale": "weight"}
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


def named_by(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The network of PaddleClas's whose tensors have these names, of several the nearest in size; empty if none has."""
    names, numbers = arrays.keys(), sum(array.size for array in arrays.values())
    alike = [entry for entry in table.entries().values() if names and names == {*table.tensor_names(entry.name)}]
    return min(alike, key=lambda entry: abs(entry.numbers - numbers)).name if alike else ""


def as_torch_has_them(
    model: nn.Module, arrays: dict[str, NDArray[Any]], source: str, *, network: str = "", head: Collection[str] = ()
) -> dict[str, Tensor]:
    """Paddle's arrays under the names and in the layout of a torch network's tensors.

    Parameters
    ----------
    model : the torch network; its numbers are not read.
    arrays : name in Paddle -> array, in the order of Paddle's modules; the tensors share their memory where they can.
    source : the member and file, for messages.
    network : a function of `networks`, where the network is of one whose order differs.
    head : names of tensors in torch that may have another shape: of other classes.

    Raises InputError naming the source, both names and both shapes of the first that do not fit.
    """
    expected = model.state_dict()
    keys = in_paddles_order(network, [key for key in expected if not is_counter(key)])
    if len(keys) != len(arrays):
        raise InputError(f"{source} holds {len(arrays)} tensors, the network has {len(keys)}{_first(keys, arrays)}")
    found, unsure = {}, []
    for key, (given, array) in zip(keys, arrays.items(), strict=True):
        layer = model.get_submodule(key.rpartition(".")[0])
        fitting = [each for each in _layouts(layer, array, expected[key]) if _fits(each, expected[key], key in head)]
        if not fitting or not _same_role(given, key) or _is_float(array) != expected[key].is_floating_point():
            fault = _fault(given, array, key, expected[key])
            raise InputError(f"{source}: tensor {given} of shape {list(array.shape)} {fault}")
        if len(fitting) > 1:
            unsure.append(key)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # the memory is only read
            found[key] = torch.from_numpy(np.asarray(fitting[0], array.dtype.newbyteorder("=")))
    if unsure:
        how = "as in the file, not turned: square, and of no layer of torch's own"
        say_once(f"{source}: {' and '.join(unsure)} taken {how}")
    return found


def _layouts(layer: nn.Module, array: NDArray[Any], expected: Tensor) -> Sequence[NDArray[Any]]:
    """The ways to lay an array out for a tensor of that layer, the likeliest first.

    A linear layer's weight (in, out) is (out, in) in torch, also as that of a convolution of width 1. All that torch's
    other layers hold is as in Paddle. Of a user's own layer either may be meant.
    """
    if array.ndim != 2:
        return [array]
    if expected.ndim > 2 and expected.shape[2:].numel() == 1:
        return [array.T.reshape(*array.T.shape, *expected.shape[2:])]
    if isinstance(layer, nn.Linear) or getattr(layer, "original_name", "") == "Linear":  # of TorchScript
        return [array.T]
    return [array] if type(layer).__module__.startswith("torch.nn.") else [array, array.T]


def _fits(array: NDArray[Any], expected: Tensor, any_length: bool) -> bool:
    """Whether the shapes are equal; ``any_length``: but for the first axis."""
    return array.ndim == expected.ndim and array.shape[any_length:] == expected.shape[any_length:]


def _fault(given: str, array: NDArray[Any], key: str, expected: Tensor) -> str:
    """Why an array cannot be the tensor called ``key``."""
    if not _same_role(given, key):
        return f"comes where the network has {key}"
    if _is_float(array) != expected.is_floating_point():
        return f"holds {array.dtype}, {key} needs {expected.dtype}"
    return f"does not fit {key} of shape {list(expected.shape)}"


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f"


def _same_role(given: str, key: str) -> bool:
    last = given.rpartition(".")[2]
    return key.rpartition(".")[2] in (last, _ROLES.get(last))


def _first(keys: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> str:
    """A clause on the first pair that has other roles."""
    for key, given in zip(keys, arrays, strict=False):
        if not _same_role(given, key):
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
