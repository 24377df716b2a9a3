"""2,000 mutated files go through every reader: each gives a valid result or one line that names the file."""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import xxhash
from PIL import Image

from xconsensus.datasets.coco import COCO
from xconsensus.datasets.cub200 import CUB200
from xconsensus.datasets.images import read_mask, read_rgb
from xconsensus.errors import InputError
from xconsensus.members.checkpoints import is_paddles, read_arrays, read_weights
from xconsensus.store.files import read_csv, read_settings, write_csv
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_header, read_tensors, verify

SETTINGS = {"seed": 0, "explainer": {"samples": 20}}
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1)
WORDS = (b"nan", b"inf", b"-1", b"1e999", b"9" * 40, b"null", b"{}", b"[]", b'""', b"\x00", b"../..", b'"', b",", b"\n")


def mutated(content: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """One to four flips, cuts, splices, overwritten length fields or foreign words; never the content itself."""
    found = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(found) + 1))
        match int(rng.integers(7)):
            case 0 if found:
                place = min(place, len(found) - 1)
                found[place] ^= 1 << int(rng.integers(8))
            case 1:
                del found[place:]
            case 2:
                del found[place : place + int(rng.integers(1, 64))]
            case 3:
                start = int(rng.integers(len(other)))
                found[place:place] = other[start : start + int(rng.integers(1, 200))]
            case 4:
                found[place:place] = found[place : place + int(rng.integers(1, 200))]
            case 5:
                width = int(rng.choice([2, 4, 8]))
                extreme = EXTREMES[rng.integers(len(EXTREMES))] & (256**width - 1)
                found[place : place + width] = extreme.to_bytes(width, "little" if rng.random() < 0.5 else "big")
            case _:
                word = WORDS[rng.integers(len(WORDS))]
                found[place : place + (len(word) if rng.random() < 0.5 else 0)] = word
    return bytes(found) if found != content else content + b"x"


STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    2**70,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "../up",
    "a\0b",
    [],
    {},
    [[]],
)


def strange(content: Any, rng: np.random.Generator) -> Any:
    """A copy of some JSON in which one value, at any depth, is another one, or is not there."""
    if not (isinstance(content, dict | list) and content) or rng.random() < 0.1:
        return STRANGE[rng.integers(len(STRANGE))]
    copy: Any = content.copy()
    keys: list[Any] = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = keys[rng.integers(len(keys))]
    if rng.random() < 0.1:
        del copy[key]
    else:
        copy[key] = strange(content[key], rng)
    return copy


def survives(read: Callable[[], Any], path: Path) -> bool:
    """Whether the reader takes the file; if not, it says so in one line that names it."""
    try:
        read()
    except InputError as error:
        line = str(error)
    else:
        return True
    assert path.name in line, line
    assert "\n" not in line
    return False


def fuzz(path: Path, damage: Callable[[np.random.Generator], bytes], times: int, check: Callable[[], None]) -> None:
    """Some damaged files are refused and some are taken, or the damage is no test."""
    rng, taken = np.random.default_rng(0), 0
    for _ in range(times):
        path.write_bytes(damage(rng))
        taken += survives(check, path)
    assert 0 < taken < times


def any_of(*contents: bytes) -> Callable[[np.random.Generator], bytes]:
    """One of some files, mutated, with splices from another."""

    def damage(rng: np.random.Generator) -> bytes:
        first, other = rng.integers(len(contents), size=2)
        return mutated(contents[first], rng, contents[other])

    return damage


def photographs(folder: Path, kinds: Sequence[str]) -> list[bytes]:
    rng = np.random.default_rng(1)
    colour = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    made = []
    for kind in kinds:
        suffix, _, mode = kind.partition(" ")
        image = Image.fromarray(np.asarray(colour)[..., 0].astype(np.uint16) * 257) if mode == "16" else colour
        image = image.convert(mode) if mode.isalpha() else image
        image.save(folder / f"whole.{suffix}", exif=exif) if suffix != "ppm" else image.save(folder / f"whole.{suffix}")
        made.append((folder / f"whole.{suffix}").read_bytes())
    return made


@pytest.mark.parametrize(
    ("kinds", "times"),
    [
        (("jpg RGB", "jpg L", "jpg CMYK"), 450),
        (("png RGB", "png RGBA", "png P", "png 16", "png 1"), 450),
        (("gif P", "tiff RGB", "tiff 16", "bmp RGB", "ppm RGB", "webp RGB"), 200),
    ],
    ids=lambda value: value[0].split()[0] if isinstance(value, tuple) else "",
)
def test_images(tmp_path: Path, kinds: tuple[str, ...], times: int) -> None:
    path = tmp_path / f"mutated.{kinds[0].split()[0]}"

    def check() -> None:
        pixels = read_rgb(path)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert read_mask(path).shape == pixels.shape[:2]

    fuzz(path, any_of(*photographs(tmp_path, kinds)), times, check)


def test_weights(tmp_path: Path) -> None:
    tensors = {"weight": torch.arange(64.0).reshape(4, 16), "bias": torch.ones(4, dtype=torch.float16)}
    checkpoint = tmp_path / "whole.pt"
    torch.save({"state_dict": tensors}, checkpoint)
    for path, content in (
        (tmp_path / "mutated.safetensors", safetensors.torch.save(tensors)),
        (tmp_path / "mutated.pt", checkpoint.read_bytes()),
    ):

        def check(path: Path = path) -> None:
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_weights(path, "first").values())

        fuzz(path, any_of(content), 150, check)


def test_paddles_weights(tmp_path: Path) -> None:
    arrays = {"weight": np.arange(64.0, dtype=np.float32).reshape(4, 16), "bias": np.ones(4, np.float32)}
    content = {**arrays, "StructuredToParameterName@@": {"weight": "w_0", "bias": "b_0"}}
    path = tmp_path / "mutated.pdparams"

    def check() -> None:
        found = read_arrays(path, "first") if is_paddles(path) else read_weights(path, "first")
        assert all(isinstance(name, str) for name in found)

    both = [pickle.dumps(content, protocol=protocol) for protocol in (2, 4)]
    fuzz(path, any_of(*both), 300, check)


def forged(content: bytes) -> bytes:
    """The content with the checksum that an artefact of this content would have: who forges a file forges that."""
    place = content.find(b'checksum\\": \\"') + len(b'checksum\\": \\"')
    zeros = content[:place] + b"0" * 16 + content[place + 16 :]
    return content[:place] + xxhash.xxh3_64_hexdigest(zeros).encode() + content[place + 16 :]


def test_artefacts(tmp_path: Path) -> None:
    arrays = [torch.arange(float(length)) for length in (5, 3, 1)]
    Shards(tmp_path, SETTINGS, packed=True).write(["a", "b", "c/d"], arrays, {"predicted": torch.ones(3)})
    (path,) = tmp_path.iterdir()

    def check() -> None:
        verify(path)
        read_header(path)
        read_tensors(path)
        Shards(tmp_path, SETTINGS, packed=True).inspect()
        opened = Shards(tmp_path, SETTINGS, packed=True)
        for image_id in opened.index:
            assert opened.values(image_id).ndim == 1
            assert isinstance(opened.number(image_id, "predicted"), float)
        opened.note("precision")

    header, tensors = read_header(path), read_tensors(path)
    mutate = any_of(path.read_bytes())
    fuzz(path, lambda rng: forged(mutate(rng)), 150, check)

    def inconsistent(rng: np.random.Generator) -> bytes:
        """A file that safetensors takes, with another header or other tensors."""
        kept = {name: tensor for name, tensor in tensors.items() if rng.random() < 0.9}
        if kept and rng.random() < 0.5:
            shape = tuple(rng.integers(0, 6, rng.integers(0, 3)).tolist())
            dtype = (torch.int64, torch.float16, torch.float64, torch.bool)[rng.integers(4)]
            kept[list(kept)[rng.integers(len(kept))]] = torch.from_numpy(rng.integers(-9, 9, shape)).to(dtype)
        text = json.dumps(strange(header, rng) if rng.random() < 0.7 else header)
        return forged(safetensors.torch.save(kept, {"xconsensus": text}))

    fuzz(path, inconsistent, 150, check)


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = pd.DataFrame({"image_id": ["cat/1", "é,\"'"], "label": [0, 1], "member": ["a", "None"], "x": [0.5, np.nan]})
    write_csv(path, table, SETTINGS)

    def check() -> None:
        found = read_csv(path, ["image_id", "label"])
        assert {"image_id", "label"} <= set(found)

    fuzz(path, any_of(path.read_bytes()), 250, check)
    beside = path.with_suffix(".json")
    damage, rng = any_of(beside.read_bytes()), np.random.default_rng(0)
    for _ in range(50):
        beside.write_bytes(damage(rng))
        assert not survives(lambda: read_settings(path), Path(beside.stem))


INSTANCES = {
    "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}],
    "images": [{"id": 7, "file_name": "a.png", "height": 24, "width": 36}],
    "annotations": [
        {"image_id": 7, "category_id": 3, "area": 9.0, "segmentation": [[1, 1, 9, 1, 9, 9]]},
        {"image_id": 7, "category_id": 1, "area": 4, "segmentation": {"size": [24, 36], "counts": ":d0Rj0"}},
        {"image_id": 7, "category_id": 1, "area": 4, "segmentation": {"size": [24, 36], "counts": [10, 20, 834]}},
    ],
}


def test_instances_of_coco(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "photographs").mkdir()
    Image.new("RGB", (36, 24)).save(tmp_path / "photographs/a.png")
    path = tmp_path / "annotations/instances_photographs.json"

    def check() -> None:
        dataset = COCO(root=str(tmp_path), splits={"test": "photographs"})
        for record in dataset.records("test"):
            assert 0 <= record.label < len(dataset.classes)
            for _, mask in dataset.instances(record):
                assert mask.shape == (24, 36)
            assert dataset.mask(record).any()

    fuzz(path, any_of(json.dumps(INSTANCES).encode()), 125, check)
    fuzz(path, lambda rng: json.dumps(strange(INSTANCES, rng)).encode(), 125, check)


def test_lists_of_birds(tmp_path: Path) -> None:
    lists = {
        "classes.txt": "1 001.Albatross\n2 002.Auklet\n",
        "images.txt": "1 001.Albatross/a.png\n2 002.Auklet/b.png\n3 002.Auklet/c.png\n",
        "image_class_labels.txt": "1 1\n2 2\n3 2\n",
        "train_test_split.txt": "1 0\n2 1\n3 0\n",
    }
    for name in lists["images.txt"].split()[1::2]:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (36, 24)).save(tmp_path / "images" / name)
    for name, text in lists.items():
        for other, content in lists.items():
            (tmp_path / other).write_text(content)

        def check() -> None:
            dataset = CUB200(root=str(tmp_path), masks=None)
            for split in ("train", "test"):
                for record in dataset.records(split):
                    assert 0 <= record.label < len(dataset.classes)

        rng = np.random.default_rng(0)
        for _ in range(60):
            (tmp_path / name).write_bytes(mutated(text.encode(), rng, lists["classes.txt"].encode()))
            survives(check, tmp_path)
