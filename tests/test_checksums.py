"""Artefacts that changed after they were written: refused by those that read them, made again by their own stage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, Project
from safetensors.torch import save_file

from xconsensus.errors import DamagedError
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_header, read_tensors, verify, write_tensors

# an artefact, the stage that makes it, a later one that reads it
ARTEFACTS = [
    ("predictions/test/first.safetensors", "finetune", "score"),
    ("superpixels/quickshift/*", "explain", "score"),
    ("explanations/lime/second/*", "explain", "vote"),
    ("explanations/lime/second/*", "explain", "score"),
    ("consensus/grids/lime/*", "vote", "score"),
    ("images/grids.csv", "explain", "vote"),
    ("images/grids.json", "explain", "score"),
]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path, at: int = -2) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def one_line(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert [word for word in words if word not in outcome.errors[0]] == []


@pytest.mark.parametrize(("pattern", "maker", "reader"), ARTEFACTS)
@pytest.mark.parametrize("damage", [cut_short, emptied, flipped])
def test_what_is_damaged_is_refused_by_its_readers_and_made_again_by_its_stage(
    scored: Project, pattern: str, maker: str, reader: str, damage: Callable[[Path], None]
) -> None:
    before = scored.files()
    path = next((scored.outputs / "pets").glob(pattern))
    damage(path)
    if reader in ("vote", "score"):  # they read only what they have not made yet
        shutil.rmtree(scored.outputs / "pets" / {"vote": "consensus", "score": "scores"}[reader])
    one_line(scored.run(reader), f"{path.parent}/", path.name, f"xconsensus {maker}")
    assert f"{path.name}: damaged" in scored.done(maker).err.replace(".csv", path.suffix)
    scored.done(reader)
    assert scored.files() == before


def test_trained_weights_are_trained_again_to_the_same(quartet_copy: Project) -> None:
    before = quartet_copy.files()
    path = quartet_copy.outputs / "shapes/weights/resnet.safetensors"
    flipped(path)
    one_line(quartet_copy.run("explain"), str(path), "xconsensus finetune")
    path.with_suffix(".json").unlink()
    assert f"{path}: damaged" in quartet_copy.done("finetune").err
    assert quartet_copy.files() == before


def test_scores_are_written_again_where_they_were_changed(scored: Project) -> None:
    before = scored.files()
    for name in ("members.csv", "members.json"):
        flipped(scored.outputs / "pets/scores/grids/lime" / name)
        one_line(scored.run("plot", "figure=fig05", "explainers=[lime]"), name.split(".")[0], "xconsensus score")
        scored.done("score")
        assert scored.files() == before


def test_a_dry_run_counts_what_is_damaged_and_leaves_it(explained: Project) -> None:
    path = next((explained.outputs / "pets").glob("explanations/lime/second/*"))
    flipped(path)
    files = explained.files()
    assert "would make 6 explanations by lime" in explained.done("explain", "dry_run=true").err
    assert explained.files() == files


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    shards = Shards(tmp_path / "shards", {"seed": 0})
    shards.write(["a", "b/ü"], [torch.arange(9.0), torch.ones(2)], {"predicted": torch.tensor([1, 2])}, precision="x")
    return shards.path(["a", "b/ü"])


def test_a_flip_of_any_byte_is_found_when_values_are_read(shard: Path) -> None:
    whole = shard.read_bytes()
    for at in range(len(whole)):
        flipped(shard, at)
        for read in (verify, read_tensors, lambda path: Shards(path.parent, {"seed": 0}).values("a")):
            with pytest.raises(DamagedError, match=shard.name):
                read(shard)
        assert Shards(shard.parent, {"seed": 0}).inspect() != []
        shard.write_bytes(whole)
    assert torch.equal(Shards(shard.parent, {"seed": 0}).values("a"), torch.arange(9.0))


def test_every_shorter_file_is_found(shard: Path) -> None:
    whole = shard.read_bytes()
    for length in range(len(whole)):
        shard.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=shard.name):
            read_tensors(shard)
        with pytest.raises(DamagedError, match=shard.name):
            read_header(shard)


def test_a_shard_in_another_s_place_is_found(shard: Path) -> None:
    shards = Shards(shard.parent, {"seed": 0})
    shards.write(["c"], [torch.zeros(3)])
    shutil.copy(shards.path(["c"]), shard)
    with pytest.raises(DamagedError, match=f"{shard.name}.*another shard"):
        Shards(shard.parent, {"seed": 0}).values("a")
    shards = Shards(shard.parent, {"seed": 0})
    (error,) = shards.inspect()
    assert error.path == shard
    assert shards.missing(["a", "b/ü", "c"]) == ["a", "b/ü"]


def test_listing_reads_no_values(shard: Path) -> None:
    flipped(shard)
    assert Shards(shard.parent, {"seed": 0}).missing(["a", "z"]) == ["z"]


def test_a_damaged_shard_is_missing_until_it_is_written_again(shard: Path) -> None:
    flipped(shard)
    shards = Shards(shard.parent, {"seed": 0})
    assert [error.path for error in shards.inspect()] == [shard]
    assert shards.missing(["a"]) == ["a"]
    shards.write(["a", "b/ü"], [torch.zeros(9), torch.zeros(2)])
    assert shards.missing(["a"]) == []
    assert torch.equal(shards.values("a"), torch.zeros(9))


def test_somebody_else_s_file_is_named_and_never_made_again(predicted: Project) -> None:
    path = predicted.outputs / "pets/predictions/test/first.safetensors"
    save_file({"x": torch.ones(100)}, path)
    content = path.read_bytes()
    one_line(predicted.run("finetune"), str(path), "no artefact of xconsensus")
    assert path.read_bytes() == content


def test_the_checksum_is_xxh3_of_the_file_with_zeros_in_its_place(tmp_path: Path) -> None:
    import xxhash

    path = tmp_path / "x.safetensors"
    write_tensors(path, {"x": torch.from_numpy(np.arange(1000.0))}, {"seed": 0})
    digest = read_header(path)["checksum"]
    content = path.read_bytes()
    assert content.count(digest.encode()) == 1
    assert xxhash.xxh3_64_hexdigest(content.replace(digest.encode(), b"0" * 16)) == digest
