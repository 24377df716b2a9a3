"""Weights, artefacts, images and names are data: they run nothing, fill no memory and stay in their folder."""

import ast
import io
import json
import os
import pickle
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, Project
from PIL import Image

import xconsensus
from xconsensus.datasets.images import read_mask, read_rgb
from xconsensus.errors import InputError
from xconsensus.members.checkpoints import read_weights
from xconsensus.members.member import Member
from xconsensus.members.weights import build, fill
from xconsensus.store.files import read_csv, read_settings, write_csv
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_header, read_tensors

PACKAGE = Path(xconsensus.__file__).parent
MIB = 2**20


# --- what the package's own code may not do ---

_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "yaml"}
_NAMES = {"eval", "exec", "compile", "__import__"}
EXEMPT = "members/paddle/files.py"  # its unpickler admits four names, and these mean what it says
_ATTRIBUTES = {"system", "popen", "read_pickle", "unsafe_load", "full_load", "hub", "trust_remote_code"}


def dangers(source: str) -> list[str]:
    """What in some code could run what was only meant to be read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                found += [alias.name for alias in node.names if alias.name.split(".")[0] in _MODULES]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in _MODULES:
                found.append(module)
            case ast.Name(id=name, ctx=ast.Load()) if name in _NAMES:
                found.append(name)
            case ast.Attribute(attr=name) if name in _ATTRIBUTES:
                found.append(name)
            case ast.keyword(arg="trust_remote_code"):
                found.append("trust_remote_code")
            case ast.keyword(arg="allow_pickle", value=value) if not _is(value, False):
                found.append("allow_pickle")
            case ast.Call(func=ast.Attribute(attr="load", value=ast.Name(id="torch")), keywords=given):
                if not any(keyword.arg == "weights_only" and _is(keyword.value, True) for keyword in given):
                    found.append("torch.load")
            case ast.ImportFrom(module="torch", names=names) if any(alias.name in ("load", "jit") for alias in names):
                found.append("torch.load")
            case ast.Attribute(attr="jit", value=ast.Name(id="torch")):
                found.append("torch.jit")
    return found


def _is(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "exec(text)",
        "timm.create_model(name, trust_remote_code=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=given)",
        "from torch import load",
        "torch.jit.load(path)",
        "torch.hub.load(name)",
        "np.load(path, allow_pickle=True)",
        "import yaml",
        "pd.read_pickle(path)",
        "os.system('ls')",
        "import subprocess",
    ],
)
def test_every_danger_is_recognised(line: str) -> None:
    assert len(dangers(line)) >= 1


@pytest.mark.parametrize("line", ["model.eval()", "torch.load(path, weights_only=True)", "np.load(path)"])
def test_what_only_looks_like_one_is_not(line: str) -> None:
    assert dangers(line) == []


def test_the_package_has_no_way_to_run_what_it_reads() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    found = {path.relative_to(PACKAGE).as_posix(): found for path in files if (found := dangers(path.read_text()))}
    assert found == {EXEMPT: ["pickle"]}


def test_paddles_reader_alone_unpickles_by_a_class_that_finds_no_class() -> None:
    """What it uses of pickle, and that its `find_class` never asks pickle's own; tests/test_paddle.py tries it out."""
    tree = ast.parse((PACKAGE / EXEMPT).read_text())
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert {node.attr for node in uses if _is_named(node.value, "pickle")} == {"_Unpickler", "UnpicklingError"}
    readers = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases]
    assert [node.name for node in readers] == ["_Reader"]
    assert "find_class" in {node.name for node in readers[0].body if isinstance(node, ast.FunctionDef)}
    assert not any(_is_named(node, "super") or _is_named(node, "getattr") for node in ast.walk(tree))


def _is_named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


# --- weights and artefacts ---


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def in_a_checkpoint(hostile: Hostile) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"weight": hostile}}, buffer)
    return buffer.getvalue()


def in_an_old_checkpoint(hostile: Hostile) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(1), "other": hostile}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [pickle.dumps, in_a_checkpoint, in_an_old_checkpoint])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_is_refused_without_being_run(tmp_path: Path, packed: Callable[[Hostile], bytes], suffix: str) -> None:
    path, marker = tmp_path / f"weights{suffix}", tmp_path / "ran"
    path.write_bytes(packed(Hostile(marker)))
    with pytest.raises(InputError, match=r"member first.*weights"):
        read_weights(path, "first")
    for read in (read_header, read_tensors):
        with pytest.raises(InputError, match="weights"):
            read(path)
    assert not marker.exists()
    if suffix == ".pt" and packed is not in_an_old_checkpoint:
        torch.load(path, weights_only=False) if packed is in_a_checkpoint else pickle.loads(path.read_bytes())
        assert marker.exists(), "it would have run"


@pytest.mark.parametrize(
    "tensor", [torch.eye(2).to_sparse(), torch.empty(2, 2, device="meta")], ids=["sparse", "without data"]
)
def test_tensors_of_a_strange_kind_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    path = tmp_path / "weights.pt"
    kwargs = {"in_features": 2, "out_features": 2, "bias": False}
    member = Member("first", "Linear", "module", "torch.nn.Linear", 32, 32, kwargs)
    torch.save({"weight": tensor}, path)
    with pytest.raises(InputError, match=r"member first.*weights\.pt"):
        fill(build(member, 2), member, read_weights(path, "first"), str(path))


def test_a_checkpoint_of_no_names_is_refused(tmp_path: Path) -> None:
    torch.save({1: torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="no state dict"):
        read_weights(tmp_path / "weights.pt", "first")


@pytest.mark.parametrize("length", [2**30, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("claim", ["header", "tensor", "offsets"])
def test_a_file_that_claims_gigabytes_takes_none(tmp_path: Path, claim: str, length: int) -> None:
    path = tmp_path / "claim.safetensors"
    end = length if claim != "offsets" else 8
    shape = f"[{length // 4}]" if claim != "offsets" else f"[{length},{length}]"
    header = f'{{"weight":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}'.encode()
    path.write_bytes((length if claim == "header" else len(header)).to_bytes(8, "little") + header + bytes(8))
    before = peak()
    for read in (read_header, read_tensors, lambda path: read_weights(path, "first")):
        with pytest.raises(InputError, match=r"claim\.safetensors"):
            read(path)
    assert peak() - before < 50 * MIB


def peak() -> int:
    """The most memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "deep.safetensors", {"xconsensus": "[" * 200_000})
    with pytest.raises(InputError, match=r"deep\.safetensors"):
        Shards(tmp_path, {}).missing(["a"])


# --- images ---


def png(width: int, height: int, depth: int = 1) -> bytes:
    """A PNG of black pixels, whole up to 60,000 rows of 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(9), bytes(1 + (min(width, 60_000) * depth + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(min(height, 60_000))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (9_500, 9_500), (2**31 - 1, 1), (1, 2**31 - 1)])
@pytest.mark.parametrize("read", [read_rgb, read_mask])
def test_a_decompression_bomb_takes_no_memory(
    tmp_path: Path, read: Callable[[Path], object], width: int, height: int
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height))
    before = peak()
    with pytest.raises(InputError, match=r"bomb\.png: cannot be read as an image"):
        read(path)
    assert peak() - before < 50 * MIB
    assert path.stat().st_size < MIB


def test_a_bomb_is_named_by_the_program(photographs: Project) -> None:
    bomb = photographs.folder / "images/dog/1.png"
    bomb.write_bytes(png(9_500, 9_500))
    refused(photographs.run("finetune"), "dog/1.png", "bomb")


def refused(outcome: Outcome, *culprits: str) -> None:
    assert outcome.code == 2, outcome
    (line,) = outcome.errors
    assert [culprit for culprit in culprits if culprit not in line] == [], line


def test_a_photograph_that_is_a_program_starts_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghostscript, marker = tmp_path / "bin/gs", tmp_path / "ran"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {marker}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    path = tmp_path / "photograph.jpg"
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    with pytest.raises(InputError, match=r"photograph\.jpg"):
        read_rgb(path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["ICO", "ICNS", "PCX", "TGA", "JPEG2000"])
def test_only_the_formats_that_are_documented_are_decoded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (32, 32)).save(path, format=kind)
    with pytest.raises(InputError, match=r"image\.png"):
        read_rgb(path)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"])
def test_all_of_those_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (9, 7), "white").save(path)
    assert (read_rgb(path) == np.full((7, 9, 3), 255)).all()


def test_a_camera_s_several_pictures_in_one_file_give_the_first(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    pictures = [Image.new("RGB", (9, 7), colour) for colour in ("white", "black")]
    pictures[0].save(path, format="MPO", save_all=True, append_images=pictures[1:])
    assert (read_rgb(path) == 255).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + bytes(999)])
def test_broken_exif_leaves_the_pixels(tmp_path: Path, exif: bytes) -> None:
    path = tmp_path / "image.jpg"
    Image.new("RGB", (9, 7), "white").save(path, exif=exif)
    assert (read_rgb(path) == np.full((7, 9, 3), 255)).all()


# --- names ---

LEAVING = ("../up", "..", "/absolute", "a/../../b", "a\\b", "nul\0byte", ".hidden", "x" * 300)


def everything(project: Project) -> list[Path]:
    """All files and folders beside the output folder, and those that a level up would hit."""
    return sorted(path for path in project.folder.parent.rglob("*") if not path.is_relative_to(project.outputs))


@pytest.mark.parametrize("key", ["dataset.name", "committee.name", "explainer.name", "explainer.segmenter.name"])
def test_no_name_of_a_config_leaves_its_folder(photographs: Project, key: str) -> None:
    before = everything(photographs)
    for name in LEAVING:
        quoted = name.replace("\\", "\\\\")
        refused(photographs.run("explain", f"{key}='{quoted}'"), key.rpartition(".")[0])
        assert everything(photographs) == before, name


@pytest.mark.parametrize("name", [*LEAVING, "~"])
def test_no_name_of_a_member_or_split_leaves_its_folder(photographs: Project, name: str) -> None:
    before = everything(photographs)
    config = photographs.folder / "conf/committee/grids.yaml"
    whole = config.read_text()
    config.write_text(whole.replace("  second:", f"  {json.dumps(name)}:"))
    outcome = photographs.run("finetune")
    if name == "~":
        assert outcome.code == 0, outcome.err
        assert (photographs.outputs / "pets/predictions/test/~.safetensors").is_file()
        return
    refused(outcome, "member")
    assert everything(photographs) == before
    config.write_text(whole)
    quoted = name.replace("\\", "\\\\")
    outcome = photographs.run("finetune", f"+dataset.splits={{'{quoted}': .}}", f"dataset.explain_split='{quoted}'")
    assert outcome.code == 2
    assert everything(photographs) == before


@pytest.mark.parametrize("content", ["", "nan", "1e400", "dog"])
def test_a_forged_label_is_named(explained: Project, content: str) -> None:
    path = explained.outputs / "pets/images/grids.csv"
    table, settings = read_csv(path), read_settings(path)
    table["label"] = table["label"].astype(object)
    table.loc[1, "label"] = content
    write_csv(path, table, settings)
    refused(explained.run("vote"), "grids.csv", "label")
