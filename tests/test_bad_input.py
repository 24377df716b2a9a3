"""Every wrong input ends in one line that names the culprit, a non-zero exit code, and nothing half-written."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Outcome, Project, paint, xconsensus
from PIL import Image
from safetensors.torch import load_file, save_file

SURE = """

class Sure(Grid):
    def forward(self, inputs):
        return 0 * super().forward(inputs) + torch.tensor([200.0, 0.0])
"""
STAGES = ("finetune", "explain", "vote", "score", "plot")


def refused(outcome: Outcome, *culprits: str, folder: Path | None = None) -> None:
    assert outcome.code == 2, outcome
    assert len(outcome.errors) == 1, outcome.err
    line = outcome.errors[0]
    assert [culprit for culprit in culprits if culprit not in line] == [], line
    assert outcome.err.endswith(f"{line}\n")
    assert "Traceback" not in outcome.err
    if folder:
        assert [path for path in folder.rglob("*") if path.name.endswith(".tmp")] == []


# --- the command line ---


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (["explian"], ["explian", "explain"]),
        (["list"], ["list", "ls"]),
        (["explain", "explainer.sampels=3"], ["explainer.sampels", "explainer.samples"]),
        (["finetune", "finetune.epoch=3"], ["finetune.epoch", "finetune.epochs"]),
        (["vote", "explainer=smoothgrd"], ["explainer=smoothgrd", "smoothgrad"]),
        (["explain", "comittee=tiny"], ["comittee", "committee"]),
        (["explain", "dataset=imagenett"], ["dataset=imagenett", "imagenet"]),
        (["run", "experiment=shape"], ["experiment=shape", "shapes"]),
        (["ls", "membres"], ["membres", "members"]),
        (["ls", "--config-dir", "nowhere"], ["nowhere"]),
        (["explain", "--config-dir", "nowhere"], ["nowhere"]),
        (["explain", "explainer=smoothgrad", "explainer.keep_probability=0.3"], ["explainer.keep_probability"]),
        (["explain", "explainer=3"], ["explainer=3", "known: lime, smoothgrad"]),
        (["explain", "lime"], ["lime"]),
        (["explain", "--cfg", "job", "seed=1", "dataset.root"], ["dataset.root: no key=value", "needs quotes"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_misspelt_names_are_answered_with_the_nearest(arguments: list[str], culprits: list[str]) -> None:
    refused(xconsensus(*arguments), *culprits)


def test_the_nearest_key_never_is_the_refused_one(photographs: Project) -> None:
    outcome = photographs.run("explain", "explainer=smoothgrad", "explainer.segmenter.max_dist=4")
    refused(outcome, "explainer.segmenter: no such key of smoothgrad; it is a key of lime")
    assert outcome.err.count("explainer.segmenter") == 1


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        ("explainer.method=lima", "lime"),
        ("explainer.target=prediction", "predicted"),
        ("explainer.samples=1", "2"),
        ("explainer.samples=many", "explainer.samples"),
        ("explainer.keep_probability=1.5", "between 0 and 1"),
        ("explainer.kernel_width=0", "positive"),
        ("explainer.segmenter.name=quickshit", "quickshift"),
        ("+explainer.segmenter.segments=9", "quickshift"),
        ("+explainer.colour=red", "explainer.colour"),
        ("explain.sample=last", "first"),
        ("explain.batch_size=0", "explain.batch_size"),
        ("explain.shard_images=0", "explain.shard_images"),
        ("explain.images=0", "explain.images"),
        ("explain.per_class=0", "explain.per_class"),
        ("progress=loud", "log"),
        ("on_bad_image=ignore", "skip"),
        ("device=gpu", "device=cpu"),
        ("threads=0", "threads"),
        ("dataset.loader=imagefolders", "imagefolder"),
        ("dataset.size=48", "dataset.size"),
        ("dataset.size=0", "dataset.size"),
        ("dataset.resize=9999999", "dataset.resize=9999999"),
        ("dataset.white=0", "dataset.white=0"),
        ("committee.only=[fifth]", "fourth"),
        ("committee.members.first.model=grids.py:Gird", "first"),
        ("+committee.members.first.inptu_size=3", "input_size"),
        ("+committee.members.first.interpolation=cubic", "bicubic"),
        ("+committee.members.first.mean=[0.5]", "member first"),
        ("+committee.members.first.std=[0,0,0]", "member first"),
        ("+committee.members.first.resize=8", "member first"),
        ("+committee.members.first.resize=9999999", "resize=9999999"),
        ("+committee.members.first.input_size=9999999", "input_size=9999999"),
        ("threads=two", "whole number"),
        ("dry_run=perhaps", "true or false"),
        ("explain.per_class=two", "whole number"),
        ("seed=one", "seed"),
    ],
)
def test_a_value_out_of_range_is_named(photographs: Project, setting: str, known: str) -> None:
    key = setting.lstrip("+").partition("=")[0]
    refused(photographs.run("explain", setting), known, key.rpartition(".")[2], folder=photographs.folder)


@pytest.mark.parametrize("argument", ["--epochs=3", "--dry-run"])
def test_an_unknown_option_is_named(argument: str) -> None:
    outcome = xconsensus("finetune", argument)
    assert outcome.code == 2
    assert argument in outcome.err.splitlines()[-1]


def test_an_unknown_split_is_answered_with_those_there_are(photographs: Project) -> None:
    refused(photographs.run("finetune", "dataset.explain_split=val"), "dataset.splits.val", "test")


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        ("finetune.precision=float8", "bfloat16"),
        ("finetune.epochs=0", "1"),
        ("finetune.batch_size=0", "1"),
        ("finetune.eval_batch_size=0", "1"),
    ],
)
def test_a_recipe_out_of_range_is_named(photographs: Project, setting: str, known: str) -> None:
    refused(photographs.run("finetune", setting), setting.partition("=")[0], known, folder=photographs.folder)


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        ("finetune.schedule=constant", "cosine"),
        ("finetune.label_smoothing=0.1", "finetune.weight_decay"),
        ("finetune.keep=best", "finetune.epochs=N"),
        ("explain.compile=auto", "explain.precision=auto"),
    ],
)
def test_what_an_option_did_that_was_taken_out_is_refused_with_what_replaces_it(
    photographs: Project, setting: str, instead: str
) -> None:
    refused(photographs.run("finetune", setting), setting, "was taken out", instead, folder=photographs.folder)


@pytest.mark.parametrize(
    "setting",
    [
        "finetune.schedule=cosine",
        "finetune.label_smoothing=0",
        "finetune.keep=last",
        "finetune.validation=0.3",
        "explain.compile=never",
    ],
)
def test_the_value_of_a_removed_option_that_changed_nothing_is_taken_with_a_line(
    photographs: Project, setting: str
) -> None:
    outcome = photographs.done("finetune", setting, "dry_run=true")
    assert [line for line in outcome.err.splitlines() if "taken out" in line] == [
        f"{setting} was taken out and changes nothing: leave it out"
    ]


def test_an_unknown_choice_of_correct_images_is_answered_with_those_there_are(predicted: Project) -> None:
    refused(predicted.run("explain", "explain.only_correct=some"), "explain.only_correct=some", "all, any, none")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device(photographs: Project) -> None:
    refused(photographs.run("finetune", "device=cuda"), "device=cuda", folder=photographs.folder)


@pytest.mark.parametrize(
    ("stage", "setting", "known"),
    [
        ("vote", "explainer.vote=min_mix", "min_max"),
        ("score", "explainer.similarity=cosinus", "cosine"),
        ("score", "explainer.similarity=rbf", "sigma"),
        ("score", "score.level=95", "score.level"),
        ("score", "score.bootstrap=0", "score.bootstrap"),
        ("score", "score.ap_weights=absolut", "absolute"),
        ("score", "score.ap_weights=null", "score.ap_weights"),
        ("score", "explainer.similarity=rbf_raw", "sigma"),
        ("plot", "plot.ensemble=vote", "voting"),
        ("plot", "plot.clip_percent=100", "plot.clip_percent"),
        ("plot", "plot.clip_percent=-1", "plot.clip_percent"),
        ("plot", "plot.clip_percent=.nan", "plot.clip_percent"),
        ("plot", "plot.negative=blue", "plot.negative"),
        ("plot", "plot.figures=[fig05,fig99]", "fig99"),
        ("plot", "plot.tables=[table3]", "table2"),
        ("plot", "plot.trials=0", "plot.trials"),
        ("plot", "explainers=[limes]", "lime"),
        ("plot", "explainers=[]", "explainers"),
    ],
)
def test_unknown_votes_similarities_and_figures(scored: Project, stage: str, setting: str, known: str) -> None:
    extra = () if stage != "plot" or "explainers" in setting else ("explainers=[lime]",)
    refused(scored.run(stage, setting, *extra), known, folder=scored.folder)


def test_a_mandatory_key_without_a_value_is_named(tmp_path: Path) -> None:
    arguments = ("committee=tiny", "dataset=imagefolder", f"output_dir={tmp_path}")
    refused(xconsensus("explain", *arguments), "dataset.root", folder=tmp_path)
    refused(xconsensus("run", "experiment=imagenet_sample", f"output_dir={tmp_path}"), "root", folder=tmp_path)


@pytest.mark.parametrize("name", ["../up", ""])  # test_store.py has the other forms
@pytest.mark.parametrize("key", ["dataset.name", "committee.name", "explainer.name"])
def test_a_name_cannot_leave_its_folder(photographs: Project, key: str, name: str) -> None:
    before = sorted(photographs.folder.rglob("*"))
    stages = ("explain", "vote") if key == "committee.name" else ("explain",)
    for stage in stages:
        refused(photographs.run(stage, f"{key}='{name}'"), key)
    assert sorted(photographs.folder.rglob("*")) == before


def test_a_member_s_name_cannot_leave_its_folder(photographs: Project) -> None:
    config = photographs.folder / "conf/committee/grids.yaml"
    config.write_text(config.read_text().replace("  second:", "  ../second:"))
    refused(photographs.run("finetune"), "member", "../second", folder=photographs.folder)


# --- members ---


@pytest.mark.parametrize(
    ("library", "model", "near"),
    [
        ("timm", "resnet10", "resnet10t"),
        ("torchvision", "resnet17", "resnet18"),
        ("tim", "resnet18", "timm"),
        ("module", "no.such.module.Class", "no.such.module.Class"),
        ("module", "nowhere.py:Class", "nowhere.py"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest(
    photographs: Project, library: str, model: str, near: str
) -> None:
    settings = (f"+committee.members.second.library={library}", f"+committee.members.second.model='{model}'")
    refused(photographs.run("finetune", *settings), "second", near, folder=photographs.folder)


def test_a_member_file_that_breaks_is_named(photographs: Project) -> None:
    (photographs.folder / "models/grids.py").write_text("this is no Python\n")
    refused(photographs.run("finetune", "committee.only=[first]"), "first", "grids.py", folder=photographs.folder)
    (photographs.folder / "models/grids.py").write_text("1 / 0\n")
    refused(photographs.run("finetune", "committee.only=[first]"), "first", "grids.py", folder=photographs.folder)


def test_kwargs_that_the_model_refuses_are_named(photographs: Project) -> None:
    outcome = photographs.run("finetune", "+committee.members.third.kwargs.depth=3")
    refused(outcome, "member third", "depth", folder=photographs.folder)


@pytest.fixture
def weighed(photographs: Project) -> Callable[[str], tuple[str, ...]]:
    """Arguments that give member first a weights file."""

    def arguments(name: str) -> tuple[str, ...]:
        return (f"+committee.members.first.weights={name}",)

    save_file({"weight": torch.zeros(2, 192)}, photographs.folder / "models/good.safetensors")
    torch.save({"state_dict": {"module.weight": torch.zeros(2, 192)}}, photographs.folder / "models/good.pt")
    return arguments


@pytest.mark.parametrize("name", ["good.safetensors", "good.pt"])
def test_weights_that_fit_are_read(photographs: Project, weighed: Callable[[str], tuple[str, ...]], name: str) -> None:
    photographs.done("finetune", *weighed(name))
    predictions = load_file(photographs.outputs / "pets/predictions/test/first.safetensors")
    assert (predictions["probabilities"] == 0.5).all()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "not weights", "a folder"])
def test_weights_that_cannot_be_read(
    photographs: Project, weighed: Callable[[str], tuple[str, ...]], damage: str, suffix: str
) -> None:
    path = photographs.folder / f"models/good{suffix}"
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "truncated": content[: len(content) // 2], "not weights": b"hello " * 99}[damage]
        )
    refused(photographs.run("finetune", *weighed(path.name)), "first", path.name, folder=photographs.folder)


@pytest.mark.parametrize(
    ("tensors", "culprit"),
    [
        ({"weight": torch.zeros(2, 48)}, "[2, 48]"),
        ({"weight": torch.zeros(5, 192)}, "[5, 192]"),
        ({}, "weight"),
        ({"weight": torch.zeros(2, 192), "bias": torch.zeros(2)}, "bias"),
    ],
    ids=["other width", "other classes", "none", "one more"],
)
def test_weights_of_another_network(
    photographs: Project, weighed: Callable[[str], tuple[str, ...]], tensors: dict[str, torch.Tensor], culprit: str
) -> None:
    save_file(tensors, photographs.folder / "models/good.safetensors")
    outcome = photographs.run("finetune", *weighed("good.safetensors"))
    refused(outcome, "first", "good.safetensors", culprit, folder=photographs.folder)


def test_a_pickle_that_runs_code_is_refused(photographs: Project, weighed: Callable[[str], tuple[str, ...]]) -> None:
    marker = photographs.folder / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(marker),)

    torch.save(Hostile(), photographs.folder / "models/good.pt")
    refused(photographs.run("finetune", *weighed("good.pt")), "first", "good.pt", folder=photographs.folder)
    assert not marker.exists()


def test_a_member_that_returns_nan_does_not_stop_the_others(photographs: Project) -> None:
    setting = "+committee.members.second.model=grids.py:NaN"
    outcome = photographs.run("finetune", setting)
    refused(outcome, "member second", "NaN", folder=photographs.folder)
    predictions = photographs.outputs / "pets/predictions/test"
    assert {path.stem for path in predictions.iterdir()} == {"first", "third", "fourth"}
    refused(photographs.run("explain", setting), "member second", "NaN", folder=photographs.folder)
    assert {path.name for path in (photographs.outputs / "pets/explanations/lime").iterdir()} == {
        "first",
        "third",
        "fourth",
    }


def test_a_member_without_its_weights_does_not_stop_the_others(photographs: Project) -> None:
    setting = "+committee.members.second.weights=gone.safetensors"
    others = {"first", "third", "fourth"}
    refused(photographs.run("finetune", setting), "member second", "gone.safetensors", folder=photographs.folder)
    assert {path.stem for path in (photographs.outputs / "pets/predictions/test").iterdir()} == others
    refused(photographs.run("explain", setting), "member second", "gone.safetensors", folder=photographs.folder)
    assert {path.name for path in (photographs.outputs / "pets/explanations/lime").iterdir()} == others
    for stage in ("vote", "score"):
        refused(photographs.run(stage, setting), "second", folder=photographs.folder)


def test_a_member_whose_code_raises_does_not_stop_the_others(photographs: Project) -> None:
    outcome = photographs.run("explain", "+committee.members.second.model=grids.py:Broken")
    refused(outcome, "member second", "grids.py, line 20", "RuntimeError: no such layer", folder=photographs.folder)
    explained = photographs.outputs / "pets/explanations/lime"
    assert {path.name for path in explained.iterdir()} == {"first", "third", "fourth"}


def test_a_member_whose_code_raises_in_the_middle_does_not_stop_the_others(photographs: Project) -> None:
    with pytest.raises(RuntimeError, match="worn out"):  # for who wrote the code
        photographs.run("explain", "+committee.members.second.model=grids.py:Worn", "explain.batch_size=4")
    explained = photographs.outputs / "pets/explanations/lime"
    assert {path.name for path in explained.iterdir()} == {"first", "third", "fourth"}


@pytest.mark.parametrize(
    ("stage", "key"), [("finetune", "finetune.eval_batch_size"), ("explain", "explain.batch_size")]
)
def test_a_member_that_fails_on_larger_batches_is_named_with_the_key(
    photographs: Project, stage: str, key: str
) -> None:
    late = "+committee.members.second.model=grids.py:Late"
    refused(photographs.run(stage, late), "member second", "RuntimeError: too many", f"set {key}=2")
    photographs.done(stage, late, f"{key}=2")


def test_a_member_that_fails_on_larger_batches_in_training_is_named_with_the_key(photographs: Project) -> None:
    training = ("committee.finetune=true", "+dataset.splits.train=.", "finetune.epochs=1", "committee.only=[second]")
    late = "+committee.members.second.model=grids.py:Late"
    outcome = photographs.run("finetune", *training, late, "finetune.batch_size=4")
    refused(outcome, "member second", "RuntimeError: too many", "finetune.batch_size=4")
    photographs.done("finetune", *training, late, "finetune.batch_size=2", "finetune.eval_batch_size=2")


def test_a_mask_that_goes_missing_after_images_were_chosen(scored: Project) -> None:
    path = scored.folder / "masks/cat/1.png"
    path.rename(path.with_name("elsewhere.gone"))
    table = scored.outputs / "pets/images/grids.csv"
    refused(scored.run("score"), "masks/cat/1.*", "put it back", f"remove {table}", "on_bad_image=skip")
    table.unlink()
    for stage in ("explain", "vote", "score"):
        scored.done(stage, "on_bad_image=skip", *["overwrite=true"] * (stage == "score"))
    left = set(pd.read_csv(scored.outputs / "pets/scores/grids/lime/images.csv")["image_id"])
    assert "cat/1.png" not in left
    assert len(left) == 5


def test_several_failing_members_are_listed_and_counted(photographs: Project) -> None:
    settings = (f"+committee.members.{name}.model=grids.py:NaN" for name in ("second", "third"))
    outcome = photographs.run("finetune", *settings)
    assert outcome.code == 2
    assert [("second" in line, "third" in line) for line in outcome.errors[:2]] == [(True, False), (False, True)]
    assert "2 of 4" in outcome.errors[-1]


def test_members_without_weights_need_training(tmp_path: Path) -> None:
    arguments = ("committee.finetune=false", "committee.only=[byobnet_test_48]", f"output_dir={tmp_path}")
    refused(xconsensus("finetune", *arguments), "weights", "committee.finetune", folder=tmp_path)


# --- images and masks ---


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced_by_text(path: Path) -> None:
    path.write_text("no image\n")


@pytest.mark.parametrize("damage", [truncated, emptied, replaced_by_text])
def test_a_bad_image_stops_or_is_skipped_and_counted(photographs: Project, damage: Callable[[Path], None]) -> None:
    damage(photographs.folder / "images/dog/1.png")
    refused(photographs.run("finetune"), "dog/1.png", folder=photographs.folder)
    skip = "on_bad_image=skip"
    outcome = photographs.done("finetune", skip)
    assert "dog/1.png" in outcome.err
    assert "1 of 6 images skipped" in outcome.err
    for stage in ("explain", "vote", "score"):
        photographs.done(stage, skip)
    chosen = pd.read_csv(photographs.outputs / "pets/images/grids.csv")
    assert len(chosen) == 5
    assert "dog/1.png" not in set(chosen["image_id"])


def test_skipping_every_image_is_an_error(photographs: Project) -> None:
    for path in photographs.folder.glob("images/*/*.png"):
        emptied(path)
    refused(photographs.run("finetune", "on_bad_image=skip"), "6 images", folder=photographs.folder)


def test_images_of_every_mode_work(photographs: Project) -> None:
    folder = photographs.folder / "images/dog"
    shutil.rmtree(folder)
    folder.mkdir()
    shutil.rmtree(photographs.folder / "masks")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    for mode in ("L", "LA", "P", "RGBA", "1"):
        colour.convert(mode).save(folder / f"{mode}.png")
    colour.convert("CMYK").save(folder / "CMYK.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(folder / "rotated.jpg", exif=exif)
    for stage in ("finetune", "explain", "vote", "score"):
        photographs.done(stage, "dataset.masks=null", "explain.images=null")
    assert len(pd.read_csv(photographs.outputs / "pets/images/grids.csv")) == 3 + 8


def test_empty_folders_are_named(photographs: Project) -> None:
    (photographs.folder / "images/bird").mkdir()
    refused(photographs.run("finetune"), "bird", folder=photographs.folder)
    shutil.rmtree(photographs.folder / "images")
    refused(photographs.run("finetune"), f"{photographs.folder}/images", folder=photographs.folder)
    (photographs.folder / "images").mkdir()
    refused(photographs.run("finetune"), f"{photographs.folder}/images", folder=photographs.folder)


def mask_of_another_size(path: Path) -> None:
    paint(path, np.full((20, 30), 255, np.uint8))


def mask_without_an_object(path: Path) -> None:
    paint(path, np.zeros((48, 64), np.uint8))


@pytest.mark.parametrize("damage", [mask_of_another_size, mask_without_an_object, Path.unlink, emptied])
def test_a_bad_mask_is_found_before_anything_is_explained(photographs: Project, damage: Callable[[Path], None]) -> None:
    damage(photographs.folder / "masks/dog/1.png")
    refused(photographs.run("explain"), "masks/dog/1", folder=photographs.folder)
    assert not (photographs.outputs / "pets/explanations").exists()


def test_an_image_that_changed_after_it_was_chosen_is_named(explained: Project) -> None:
    emptied(explained.folder / "images/dog/1.png")
    refused(explained.run("explain", "explainer=smoothgrad"), "dog/1.png", folder=explained.folder)
    (explained.folder / "images/dog/1.png").unlink()
    refused(explained.run("explain"), "grids.csv", "candidates is 6 there, 5 now", folder=explained.folder)


# --- stages and artefacts ---


@pytest.mark.parametrize(
    ("needs", "stage", "folder"),
    [
        ("finetune", "explain", "predictions"),
        ("explain", "vote", "images"),
        ("explain", "vote", "explanations"),
        ("vote", "score", "consensus"),
        ("finetune", "score", "predictions"),
        ("score", "plot", "scores"),
    ],
)
def test_a_stage_before_the_one_it_needs(scored: Project, needs: str, stage: str, folder: str) -> None:
    shutil.rmtree(scored.outputs / "pets" / folder)
    settings = {"explain": ("explain.only_correct=any", "committee.name=other"), "plot": ("explainers=[lime]",)}
    outcome = scored.run(stage, *settings.get(stage, ()))
    refused(outcome, f"xconsensus {needs}", folder=scored.folder)


def test_an_untrained_member_is_named(untrained: Project) -> None:
    refused(untrained.run("explain"), "resnet", "xconsensus finetune", folder=untrained.folder)


def test_artefacts_of_other_settings_name_the_setting_and_are_remade_on_demand(voted: Project) -> None:
    folder = voted.outputs / "pets/explanations/lime/first"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for stage in ("explain", "vote"):
        outcome = voted.run(stage, "explainer.samples=21", "committee.only=[first]")
        refused(outcome, "explainer.samples", "20", "21", "overwrite=true", folder=voted.folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    for stage in ("explain", "vote"):
        voted.done(stage, "explainer.samples=21", "overwrite=true")
    assert {path: path.read_bytes() for path in folder.iterdir()} != before
    voted.done("vote", "explainer.samples=21")


@pytest.mark.parametrize(
    ("stage", "setting", "values"),
    [
        ("explain", "explain.sample=random", ("first", "random")),
        ("explain", "explainer.segmenter.sigma=2.0", ("1.0", "2.0")),
        ("explain", "seed=1", ("0", "1")),
        ("explain", "dataset.size=24", ("32", "24")),
        ("vote", "explainer.vote=squares", ("normalised_squares", "squares")),
        ("score", "score.level=0.9", ("0.95", "0.9")),
        ("score", "explainer.vote=squares", ("normalised_squares", "squares")),
        ("finetune", "committee.members.first.kwargs.seed=7", ("1", "7")),
    ],
)
def test_each_setting_that_shapes_an_artefact_is_compared(
    scored: Project, stage: str, setting: str, values: tuple[str, str]
) -> None:
    before = scored.files()
    key = setting.partition("=")[0].rpartition(".")[2]
    refused(scored.run(stage, setting), key, *values, "overwrite=true", folder=scored.folder)
    assert scored.files() == before


def test_settings_of_training_are_compared(quartet_copy: Project) -> None:
    before = quartet_copy.files()
    outcome = quartet_copy.run("finetune", "finetune.learning_rate=0.5", "committee.only=[resnet]")
    refused(outcome, "finetune.learning_rate", "0.01", "0.5", "resnet", folder=quartet_copy.folder)
    assert quartet_copy.files() == before


def test_an_explanation_removed_after_the_vote_is_missed(voted: Project) -> None:
    shutil.rmtree(voted.outputs / "pets/explanations/lime/third")
    refused(voted.run("score"), "third", "xconsensus explain", folder=voted.folder)


# --- the disk ---


@pytest.mark.parametrize(
    ("before", "stage"), [*zip(("photographs", "predicted", "explained", "voted", "scored"), STAGES, strict=True)]
)
def test_a_full_disk_leaves_nothing_half_written(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, before: str, stage: str
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    project: Project = request.getfixturevalue(before)
    files = project.files()
    monkeypatch.setattr(os, "fsync", full)
    extra = ("explainers=[lime]",) if stage == "plot" else ()
    refused(project.run(stage, *extra), "no space left", f"{project.outputs}/pets", folder=project.folder)
    assert project.files() == files
    monkeypatch.undo()
    project.done(stage, *extra)


def test_an_output_folder_that_cannot_be_made(photographs: Project) -> None:
    photographs.outputs.write_text("a file where the folder should be")
    refused(photographs.run("finetune", "committee.only=[first]"), str(photographs.outputs))
    photographs.outputs.unlink()
    (photographs.outputs / "pets").mkdir(parents=True)
    (photographs.outputs / "pets/predictions").write_text("a file where the folder should be")
    refused(photographs.run("finetune", "committee.only=[first]"), "predictions", folder=photographs.folder)


def test_members_that_nothing_changes_are_drawn_without_scores(photographs: Project) -> None:
    """The softmax of each is 1 for one class whatever it sees."""
    module = photographs.folder / "models/grids.py"
    module.write_text(module.read_text() + SURE)
    arguments = (
        "committee.member_defaults={library: module, model: 'grids.py:Sure'}",
        "dataset.masks=null",
        "explainers=[lime]",
    )
    outcome = photographs.done("run", *arguments)
    assert "one value everywhere" in outcome.err
    assert "no consensus scores" in outcome.err
    assert "Correlations" not in outcome.out
    assert "consensus_score" not in pd.read_csv(photographs.outputs / "pets/tables/grids/table2.csv")
