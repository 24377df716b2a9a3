"""What images hold counts: one that has changed is named by every stage, and only what was made of it is made again."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project, paint
from test_bad_input import refused

from xconsensus.store.contents import Contents, look
from xconsensus.store.files import read_csv, read_settings, write_csv
from xconsensus.store.tensors import read_header, read_tensors, write_tensors

STAGES = ("finetune", "explain", "vote", "score", "plot")
LIME = "explainers=[lime]"  # what `plot` and `status` show


def looked_at(folder: Path, names: Sequence[str], again: bool = False) -> Contents:
    files = {name: str(folder / name) for name in names}
    seen = look(folder / "seen.safetensors", files, lambda: dict.fromkeys(names, 0), lambda _: False, again=again)
    return Contents({each: s.digest for each, s in seen.items()}, {each: s.digest_then for each, s in seen.items()})


def test_a_file_written_anew_is_noticed_whatever_its_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"{name} before")
    before = looked_at(tmp_path, "ab")
    assert before.changed("ab", None) == before.changed("ab", before.of("ab")) == []
    stat = os.stat(tmp_path / "a")
    (tmp_path / "a").write_text("a behind")  # as long as before
    os.utime(tmp_path / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.utime(tmp_path / "b")
    after = looked_at(tmp_path, "ab")
    assert after.changed("ab", before.of("ab")) == after.changed("ba", None) == ["a"]
    assert after.changed("ba", before.of("ba")) == ["a"]
    assert after.changed("cb", before.of("cb")) == []
    (tmp_path / "a").write_text("a before")
    assert looked_at(tmp_path, "ab").of("ab") == before.of("ab")


def test_only_looking_again_reads_what_looks_as_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("before")
    before, stat = looked_at(tmp_path, "a"), os.stat(tmp_path / "a")
    (tmp_path / "a").write_text("behind")
    monkeypatch.setattr("os.stat", lambda *_args, **_more: stat)  # a file system whose times stand still
    assert looked_at(tmp_path, "a").of("a") == before.of("a")
    assert looked_at(tmp_path, "a", again=True).of("a") != before.of("a")


def replace_photograph(project: Project, seed: int = 9) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    paint(project.folder / "images/cat/1.png", pixels)


def values_of(project: Project) -> dict[tuple[str, str], torch.Tensor]:
    """(folder, image id) -> its values, of every shard."""
    found = {}
    for path in project.outputs.rglob("*.safetensors"):
        if "offsets" in (tensors := read_tensors(path)):
            pieces = tensors["values"].tensor_split(tensors["offsets"][1:-1])
            for image_id, piece in zip(read_header(path)["ids"], pieces, strict=True):
                key = str(path.parent.relative_to(project.outputs)), image_id
                assert key not in found
                found[key] = piece
    return found


def tables_of(project: Project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.outputs / "pets/scores").rglob("*.csv")}


def test_a_replaced_photograph_stops_every_stage_and_alone_is_done_again(scored: Project) -> None:
    before = values_of(scored)
    replace_photograph(scored)
    for stage in STAGES:
        refused(scored.run(stage, LIME), "image cat/1.png held something else")
    outcome = scored.run("status", "verify=true", LIME)
    assert outcome.code == 2
    assert "image cat/1.png" in outcome.out
    for stage in STAGES[:-1]:
        scored.done(stage, "overwrite=true")
    after = values_of(scored)
    assert after.keys() == before.keys()
    assert {image for key, image in after if not torch.equal(after[key, image], before[key, image])} == {"cat/1.png"}
    assert scored.run("status", "verify=true", LIME).code == 0
    in_parts = tables_of(scored)
    shutil.rmtree(scored.outputs)
    for stage in STAGES[:-1]:
        scored.done(stage)
    assert in_parts == tables_of(scored)


def test_what_images_held_is_read_by_its_name_of_before(scored: Project) -> None:
    for path in (scored.outputs / "pets/contents").iterdir():
        path.rename(path.with_suffix(".safetensors"))
    scored.done("run", LIME)
    replace_photograph(scored)
    refused(scored.run("vote", LIME), "image cat/1.png held something else")
    assert [*scored.outputs.rglob("*.digests")] == []


def test_touched_photographs_are_the_same(scored: Project) -> None:
    before = scored.files()
    for path in scored.folder.rglob("*.png"):
        path.touch()
    for stage in STAGES[:-1]:
        scored.done(stage)
    assert scored.files() == before


def test_a_photograph_in_another_class_folder_order_has_another_label(scored: Project) -> None:
    refused(scored.run("finetune", "dataset.classes=[dog,cat]"), "the label of image cat/0.png is 0 there, 1 now")
    refused(scored.run("vote", "dataset.classes=[dog,cat]"), "the label of image cat/0.png is 0 there, 1 now")
    scored.done("finetune", "dataset.classes=[dog,cat]", "overwrite=true")


def test_images_are_chosen_again_where_members_are_right_about_others(scored: Project) -> None:
    some = ("explain.only_correct=any", "overwrite=true")
    scored.done("explain", *some)
    chosen = scored.outputs / "pets/images/grids.csv"
    unlucky = read_csv(chosen)["image_id"][1]
    for path in (scored.outputs / "pets/predictions/test").iterdir():
        header, tensors = read_header(path), read_tensors(path)
        row = header["ids"].index(unlucky)
        tensors["probabilities"][row] = torch.eye(2)[1 - tensors["labels"][row]]  # of the other class
        notes = {
            name: note for name, note in header.items() if name not in ("checksum", "versions", "settings", "right")
        }
        write_tensors(path, tensors, header["settings"], **notes, right=f"anew {path.stem}")
    refused(scored.run("explain", some[0]), "grids.csv", "right.first")
    settings = read_settings(chosen)
    del settings["right"]  # as in tables of the version before
    write_csv(chosen, read_csv(chosen), settings)
    refused(scored.run("explain", some[0]), "grids.csv", f"no longer right about image {unlucky}")
    scored.done("explain", *some)
    assert unlucky not in set(read_csv(chosen)["image_id"])


def test_members_that_predict_other_test_images_are_not_joined_by_row(scored: Project) -> None:
    paint(scored.folder / "images/cat/0a.png", np.zeros((48, 64, 3), np.uint8))
    scored.done("finetune", "committee.only=[second]", "overwrite=true", "dataset.masks=null")
    shutil.rmtree(scored.outputs / "pets/scores")
    refused(scored.run("score"), "members first and second", "image cat/0a.png", "finetune")


def without_notes(project: Project) -> None:
    """Make the outputs those of the version before, which took no note of what images held."""
    shutil.rmtree(project.outputs / "pets/contents")
    for path in project.outputs.rglob("*.safetensors"):
        header, tensors = read_header(path), read_tensors(path)
        kept = {name: note for name, note in header.items() if name not in ("checksum", "versions", "contents")}
        write_tensors(path, tensors, kept.pop("settings"), **{k: v for k, v in kept.items() if k != "training"})
    for path in project.outputs.rglob("images/*.csv"):
        settings = read_settings(path)
        settings.pop("contents", None)
        write_csv(path, read_csv(path), settings)


def test_results_of_before_hold_for_the_photographs_of_the_first_look(scored: Project) -> None:
    without_notes(scored)
    before = scored.files()
    for stage in STAGES:
        scored.done(stage, LIME)
    after = scored.files()
    assert {name for name in before if after[name] != before[name] and "/inputs.json" not in name} == set()
    replace_photograph(scored)
    for stage in STAGES:
        refused(scored.run(stage, LIME), "image cat/1.png held something else")


@pytest.mark.parametrize("held_by", ["images", "predictions"])
def test_explanations_of_before_are_of_the_labels_that_results_of_before_hold(scored: Project, held_by: str) -> None:
    by_label = ("explainer.target=label", "overwrite=true")
    for stage in ("finetune", "explain"):
        scored.done(stage, *by_label)
    old = values_of(scored)
    without_notes(scored)
    other = {"images": "predictions", "predictions": "images"}[held_by]
    shutil.rmtree(scored.outputs / "pets" / other)
    turned = "dataset.classes=[dog,cat]"
    if held_by == "predictions":
        refused(scored.run("finetune", turned, by_label[0]), "label of image cat/0.png is 0 there, 1 now")
        scored.done("finetune", turned, *by_label)
    else:
        refused(scored.run("explain", turned, by_label[0]), "label of image cat/0.png is 0 there, 1 now")
    if held_by == "predictions":
        refused(scored.run("explain", turned, by_label[0]), "held something else then")
    scored.done("explain", turned, *by_label)
    new = values_of(scored)
    assert all((new[key] != old[key]).any() for key in old if "explanations/lime" in key[0])


def test_images_that_stand_in_a_split_twice_are_named(photographs: Project) -> None:
    assert "hold the same bytes" not in photographs.done("finetune", "committee.only=[first]").err
    folder = photographs.folder / "images"
    (folder / "dog/4.png").symlink_to(folder / "cat/1.png")
    (folder / "cat/4.png").hardlink_to(folder / "cat/0.png")
    outcome = photographs.done("finetune", "committee.only=[second]", "dataset.masks=null")
    line = (
        "2 of 8 images of split test hold the same bytes as others, as cat/0.png and cat/4.png, 1 under another label"
    )
    assert f"{line}, as cat/1.png and dog/4.png" in outcome.err


def test_a_replaced_training_photograph_is_named(photographs: Project) -> None:
    training = ("committee.finetune=true", "+dataset.splits.train=.", "finetune.epochs=1", "explain.only_correct=all")
    photographs.done("finetune", *training)
    replace_photograph(photographs)
    refused(photographs.run("finetune", *training), "weights/first.safetensors", "image cat/1.png")
    photographs.done("finetune", *training, "overwrite=true")
    photographs.done("finetune", *training)
    without_notes(photographs)
    shutil.rmtree(photographs.outputs / "pets/predictions")  # they name the files of weights by their digests
    photographs.done("finetune", *training)
    replace_photograph(photographs, seed=8)
    refused(photographs.run("finetune", *training), "weights/first.safetensors", "image cat/1.png")
