"""Files of weights as people save them: read as data, and their tensors named as the model names them."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from xconsensus.errors import InputError
from xconsensus.members.paddle.acnet import is_tar, read_acnet
from xconsensus.members.paddle.files import is_pickle, read_pdparams
from xconsensus.progress import say_once

_HOLDERS = ("state_dict", "model_state_dict", "model", "net")  # keys under which checkpoints keep the weights
_WRAPPERS = ("module", "model", "net", "_orig_mod")  # what DataParallel, Lightning and torch.compile put before names
_COUNTERS = ("num_batches_tracked", "n_averaged")  # inference never reads these
_DAMAGED = "truncated, or not such a file"
_SAVE_ALONE = "save the weights alone, where you trust the file: torch.save(model.state_dict(), path)"
_SAVE_ALONE_IN_PADDLE = "save the weights alone: paddle.save(network.state_dict(), path, protocol=4)"
_BEGINNINGS = {  # of files that are something else
    rb"version https://git-lfs": "a git-lfs pointer to the file; `git lfs pull` fetches it",
    rb"(\xef\xbb\xbf)?\s*<[^\0]*$": "a web page (HTML or XML); fetch the file itself",
    rb"\x89HDF": "an HDF5 file, as Keras writes; it takes a torch checkpoint or safetensors",
    rb"\x1f\x8b": "compressed by gzip; unpack it first",
    rb"(?s)\0{16}.{2}\0\0\x08": f"tensors of Paddle's without their names (.pdiparams); {_SAVE_ALONE_IN_PADDLE}",
}


# --- reading ---


def read_weights(path: Path, name: str, key: str | None = None) -> dict[str, Tensor]:
    """The named tensors of a safetensors file or torch checkpoint, told apart by content; nothing else is unpickled.

    Of a checkpoint that holds several state dicts the one under ``key`` is taken ("model.ema" for one inside another).
    Without a key it is the only one where checkpoints usually keep the weights; a line says what else there is.

    Raises InputError naming member ``name`` and the file that is unreadable, with the reason, or that holds no state
    dict, none under the key, or several of which one must be named.
    """
    if not path.is_file():
        raise InputError(f"member {name}: no weights file {path}")
    try:
        checkpoint = _content(path)
    except Exception as error:  # truncated archives raise nearly anything
        reason = _why_unreadable(path, str(error))
        raise InputError(f"member {name}: {path} cannot be read as weights ({reason})") from error
    found = dict(_state_dicts(checkpoint))
    taken = _chosen(found, key, f"member {name}: {path}")
    if key is None and (others := _of_the_same_size(found, taken)):
        say_once(f"member {name} takes {taken} of {path}, not {' or '.join(others)}; weights_key names another")
    return found[taken]


def is_paddles(path: Path) -> bool:
    """Whether Paddle wrote the file: a pickle that torch did not write, or a tar of tensors."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        beginning = file.read(512)
    return is_pickle(beginning) or is_tar(beginning)


def read_arrays(path: Path, name: str) -> dict[str, NDArray[Any]]:
    """The named arrays of a file that Paddle wrote; InputError as `read_weights`."""
    try:
        with path.open("rb") as file:
            as_tar = not is_pickle(file.read(4))
        return read_acnet(path) if as_tar else read_pdparams(path)
    except Exception as error:  # a damaged stream raises nearly anything
        reason = str(error) or _DAMAGED
        if named := re.match(r"(?s)GLOBAL (.{,100})", reason):
            reason = f"it holds an object, {named[1]!r}, which is not unpickled; {_SAVE_ALONE_IN_PADDLE}"
        raise InputError(f"member {name}: {path} cannot be read as weights ({reason})") from error


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        if file.read(9)[8:] == b"{":  # safetensors: the length of a JSON header, and the header
            return safetensors.torch.load_file(path)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)  # by the path it would go by its suffix


def _state_dicts(value: Any, at: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The state dicts in a checkpoint, down to the second level, by the keys they lie under, joined by dots."""
    if not isinstance(value, dict):
        return
    if all(isinstance(key, str) and isinstance(inner, Tensor) for key, inner in value.items()):
        if value or not at:
            yield at, value
    elif depth < 2:
        for key, inner in value.items():
            if isinstance(key, str):  # an optimiser numbers its states
                yield from _state_dicts(inner, f"{at}.{key}" if at else key, depth + 1)


def _chosen(found: Mapping[str, object], key: str | None, source: str) -> str:
    """Where the state dict to take lies; InputError naming the source where there is none or that is not plain."""
    usual = [place for place in found if not place or set(place.split(".")) <= set(_HOLDERS)]
    advice = f"set weights_key to one of {', '.join(list(found)[:10])}" if any(found) else "leave weights_key out"
    if not found:
        raise InputError(f"{source} holds no state dict (name -> tensor)")
    if key is not None and key not in found:
        raise InputError(f"{source} holds no state dict under weights_key={key}: {advice}")
    if key is None and len(usual) != 1:
        what = "several state dicts" if usual else "no state dict where one is looked for"
        raise InputError(f"{source} holds {what}: {advice}")
    return usual[0] if key is None else key


def _of_the_same_size(found: Mapping[str, Mapping[str, Tensor]], taken: str) -> list[str]:
    """The other state dicts that could be of the same network: an average over steps, a teacher."""
    needed = len(_without_counters(found[taken]))
    return [place for place, tensors in found.items() if place != taken and len(_without_counters(tensors)) == needed]


# --- why a file cannot be read ---


def _why_unreadable(path: Path, error: str) -> str:
    """What the file is instead, and what to do; ``error`` is what torch or safetensors said of it."""
    with path.open("rb") as file:
        beginning = file.read(100)
    if not beginning:
        return "the file is empty"
    for pattern, meaning in _BEGINNINGS.items():
        if re.match(pattern, beginning):
            return meaning
    if refused := re.search(r"GLOBAL (\S+)", error):  # torch names the first object that is not a tensor
        kind = "a whole network or layer" if _holds_a_module(path) else "an object"
        return f"it holds {kind}, {refused[1][:100]!r}, which is not unpickled; {_SAVE_ALONE}"
    if beginning.startswith(b"PK"):
        return _what_archive(path)
    if re.fullmatch(rb"[\t\r\n -~]+", beginning):
        return f"text, not weights; it begins {beginning.decode().split(chr(10))[0][:40]!r}"
    return _DAMAGED


def _holds_a_module(path: Path) -> bool:
    """Whether a checkpoint names classes of torch's layers; they are looked for in its text, none is loaded."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of the kind before torch 1.6, or damaged
        return False
    return any(name.startswith("torch.nn.modules.") for name in names)


def _what_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception:  # damaged
        return _DAMAGED
    if "constants.pkl" in names:
        return f"a TorchScript program; {_SAVE_ALONE}"
    if "data.pkl" in names:
        return _DAMAGED
    return "an archive that torch.save did not write; unpack it first"


# --- names of tensors ---


def as_named_by(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of a model's state dict, ``expected``.

    What DataParallel, Lightning and torch.compile add to names is taken away only where all names fit then; a model
    may have a submodule called module. Where none of the forms fits it is the one with most names in common: its
    differences are those to tell. Counters that the model lacks are left out.
    """
    # n_averaged stands beside the prefix of torch's AveragedModel, not behind it
    kept = {key: value for key, value in tensors.items() if key in expected or not key.endswith("n_averaged")}
    forms = [form for names in (kept, _without_inner_wrappers(kept)) for form in _stripped(names)]
    form = max(forms, key=lambda form: len(form.keys() & expected.keys()))  # the first of equals: as they are
    return {key: value for key, value in form.items() if key in expected or not is_counter(key)}


def _stripped(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors as they are, then without the prefix they share, one wrapper after the other."""
    yield tensors
    while len(prefixes := {key.partition(".")[0] for key in tensors}) == 1 and prefixes <= set(_WRAPPERS):
        tensors = {key.partition(".")[2]: value for key, value in tensors.items()}
        yield tensors


def _without_inner_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of networks of which a part was wrapped: features.module.0.weight is features.0.weight."""
    names = {key: ".".join(part for part in key.split(".") if part not in ("module", "_orig_mod")) for key in tensors}
    return {names[key]: value for key, value in tensors.items()} if len(set(names.values())) == len(names) else tensors


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not is_counter(key)}


def is_counter(key: str) -> bool:
    """Whether a tensor counts steps of training, of which no output depends."""
    return key.rpartition(".")[2] in _COUNTERS
