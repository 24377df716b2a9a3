"""Tensors on disk: safetensors files with settings and versions in the header, and shards of many images."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from xxhash import xxh3_64, xxh3_64_hexdigest

from xconsensus.errors import InputError
from xconsensus.store.files import atomic
from xconsensus.store.folders import damaged
from xconsensus.store.provenance import Settings, versions

_HEADER = "xconsensus"  # safetensors keeps a map of strings; one entry, so that equal headers are equal bytes
# The checksum is of the whole file with these digits in its own place, which is the same in every file.
_NONE = b"0" * 16
_BEFORE = b'{"__metadata__":{"xconsensus":"{\\"checksum\\": \\"'
_AT = 8 + len(_BEFORE)  # after the header's length
_AT_END = _AT + len(_NONE)
_PART = 2**20  # bytes read at once


def write_tensors(path: Path, tensors: Mapping[str, Tensor], settings: Settings, **notes: Any) -> None:
    """A safetensors file of ``tensors`` with ``settings``, ``notes`` (JSON), versions and checksum in its header."""
    header = json.dumps({"settings": settings, "versions": versions(), **notes}, sort_keys=True)
    header = f'{{"checksum": "{_NONE.decode()}", {header[1:]}'
    data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = memoryview(safetensors.torch.save(data, {_HEADER: header}))
    assert content[8:_AT] == _BEFORE
    with atomic(path) as file:
        file.write(content[:_AT])
        file.write(xxh3_64_hexdigest(content).encode())
        file.write(content[_AT_END:])


def verify(path: Path) -> dict[str, Any]:
    """Read a whole file; its header, or DamagedError when any byte is not as ``write_tensors`` wrote it."""
    with opening(path), path.open("rb") as file:
        head = _head(file)
        state = _hash_of(head)
        while part := file.read(_PART):
            state.update(part)
    return _verified(path, head, state)


def _head(file: BinaryIO) -> bytes:
    """A file up to its values: the length of what follows, and JSON."""
    start = file.read(8)
    return start + file.read(min(int.from_bytes(start, "little"), os.fstat(file.fileno()).st_size))


def _hash_of(head: bytes) -> xxh3_64:
    state = xxh3_64(head[:_AT] + _NONE)
    state.update(head[_AT_END:])
    return state


def _verified(path: Path, head: bytes, state: xxh3_64) -> dict[str, Any]:
    """The header of a file with this hash of the whole; DamagedError when it has another checksum."""
    if head[_AT:_AT_END] != state.hexdigest().encode():
        raise _not_as_written(path, "its checksum differs")
    try:
        metadata = json.loads(head[8:])["__metadata__"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _not_as_written(path, "its header cannot be read") from error
    return _header_of(path, metadata)


def read_header(path: Path) -> dict[str, Any]:
    """The header ``write_tensors`` gave a file, whose values are not read; InputError naming a file that has none."""
    with opening(path), safe_open(path, framework="pt") as file:
        return _header_of(path, file.metadata())


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a file, the others of which are not read; it is not checked against the checksum."""
    with opening(path), safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def _header_of(path: Path, metadata: Any) -> dict[str, Any]:
    """What ``write_tensors`` put into the metadata of a file."""
    try:
        header = json.loads(metadata[_HEADER])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _not_as_written(path, "its header cannot be read") from error
    if not isinstance(header, dict) or not isinstance(header.get("settings"), dict) or not _are_ids(header):
        raise _not_as_written(path, "its header lacks what every artefact has")
    return header


def _are_ids(header: Mapping[str, Any]) -> bool:
    """Whether the image ids of a header, if it has any, are a list of texts."""
    ids = header.get("ids", [])
    return isinstance(ids, list) and {*map(type, ids)} <= {str}


def read_tensors(path: Path, *needed: str) -> dict[str, Tensor]:
    """All tensors of a file; DamagedError naming one that is not as it was written or lacks one of those ``needed``."""
    return read_whole(path, *needed)[0]


def read_whole(path: Path, *needed: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file and its header, as `read_tensors`."""
    with opening(path), path.open("rb") as file, safe_open(path, framework="pt") as mapped:
        head = _head(file)
        tensors = {name: mapped.get_tensor(name) for name in mapped.offset_keys()}
    state = _hash_of(head)
    for tensor in tensors.values():  # in the order of the file; read from it here, as they are mapped into memory
        state.update(tensor.flatten().view(torch.uint8).numpy())
    header = _verified(path, head, state)
    if absent := [name for name in needed if name not in tensors]:
        raise damaged(path, f"it has no {absent[0]}")
    return tensors, header


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file into DamagedError, or InputError where it cannot be read at all."""
    try:
        yield
    except SafetensorError as error:
        raise _not_as_written(path, " ".join(str(error).split())) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _not_as_written(path: Path, reason: str) -> InputError:
    """DamagedError, or InputError where the file does not begin like one of ours: nobody else's file is made again."""
    with path.open("rb") as file:
        start = file.read(_AT)[8:]
    differing = sum(one != other for one, other in zip(start, _BEFORE, strict=False))
    if len(start) == len(_BEFORE) and differing > len(_BEFORE) // 2:
        return InputError(f"{path}: no artefact of xconsensus; move it elsewhere")
    return damaged(path, reason)
