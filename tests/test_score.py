"""score is made once: again where what it rests on has changed, and never by plot."""

import shutil
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Project, paint
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from xconsensus.datasets import Record
from xconsensus.datasets.cropped import CroppedImages
from xconsensus.datasets.shapes import Shapes
from xconsensus.scores.metrics import areas, average_precision
from xconsensus.store.files import read_csv, read_json, write_json, write_long_csv
from xconsensus.store.tensors import read_header, read_whole, write_tensors

FOLDER = "pets/scores/grids/lime"


def times(project: Project) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (project.outputs / FOLDER).iterdir()}


def change_a_mask(project: Project) -> tuple[str, ...]:
    path = project.folder / "masks/cat/0.png"
    pixels = np.array(Image.open(path))
    pixels[12:20] = 0
    paint(path, pixels)
    return ()


def change_a_mask_key(project: Project) -> tuple[str, ...]:
    for path in (project.folder / "masks").rglob("*.png"):  # so that the threshold cuts
        pixels = np.array(Image.open(path))
        pixels[30:] //= 2
        paint(path, pixels)
    project.done("score")
    return ("dataset.mask_threshold=200",)


def change_a_prediction(project: Project) -> tuple[str, ...]:
    path = project.outputs / "pets/predictions/test/first.safetensors"
    tensors, header = read_whole(path)
    tensors["probabilities"] = torch.eye(2)[tensors["labels"]]  # all right
    write_tensors(path, tensors, header["settings"], ids=header["ids"], accuracy=header["accuracy"])
    return ()


def test_a_second_score_writes_nothing(scored: Project) -> None:
    before = times(scored)
    scored.done("score")
    assert times(scored) == before


@pytest.mark.parametrize("change", [change_a_mask, change_a_mask_key, change_a_prediction])
def test_scores_are_made_anew_of_what_has_changed(
    scored: Project, change: Callable[[Project], tuple[str, ...]]
) -> None:
    arguments = change(scored)
    before = read_csv(scored.outputs / FOLDER / "members.csv")
    refused = scored.run("plot", "explainers=[lime]", *arguments)
    assert refused.code == 2
    assert "other images, masks or predictions" in refused.errors[0]
    assert "run xconsensus score" in refused.errors[0]
    status = scored.run("status", "explainers=[lime]", *arguments)
    assert status.code == 3
    assert "other images, masks or predictions" in status.out
    scored.done("score", *arguments)
    assert scored.run("status", "explainers=[lime]", *arguments).code == 0
    assert not read_csv(scored.outputs / FOLDER / "members.csv").equals(before)
    again = times(scored)
    scored.done("score", *arguments)
    assert times(scored) == again
    scored.done("plot", "explainers=[lime]", "plot.figures=[fig04]", *arguments)


def test_scores_of_before_are_valid_and_computed_once_more(scored: Project) -> None:
    folder = scored.outputs / FOLDER
    before = {name: (folder / name).read_bytes() for name in ("members.csv", "members.json", "images.csv")}
    for path in folder.iterdir():
        if path.name not in (*before, "correlations.csv"):
            path.unlink()
    refused = scored.run("plot", "explainers=[lime]")
    assert "run xconsensus score with the same settings first" in refused.errors[0]
    scored.done("score")
    assert {name: (folder / name).read_bytes() for name in before} == before
    again = times(scored)
    scored.done("score")
    assert times(scored) == again


def test_plot_with_other_committees_than_were_scored_says_so(scored: Project) -> None:
    scored.done("plot", "explainers=[lime]", "plot.figures=[fig08]")
    refused = scored.run("plot", "explainers=[lime]", "plot.trials=7")
    assert refused.code == 2
    assert "trials is 20 there, 7 now" in refused.errors[0]
    assert "run xconsensus score with the same settings and overwrite=true first" in refused.errors[0]
    assert "trials is 20 there, 7 now" in scored.run("score", "plot.trials=7").errors[0]
    before = times(scored)
    scored.done("score", "plot.trials=7", "overwrite=true")
    assert {name for name, time in times(scored).items() if time != before[name]} == {
        "growing.csv",
        "growing.json",
        "inputs.json",
    }
    scored.done("plot", "explainers=[lime]", "plot.trials=7", "plot.figures=[fig08]")
    assert len(read_csv(scored.outputs / "pets/tables/grids/fig08.csv")) == 3 * 7 + 1


def test_a_dry_run_of_score_writes_nothing(voted: Project) -> None:
    voted.done("score", "dry_run=true")
    assert not (voted.outputs / FOLDER).exists()


def test_the_consensus_s_precision_for_each_category_is_scikit_learn_s(quartet: Project) -> None:
    root = quartet.outputs / "shapes"
    table = pd.read_csv(root / "scores/quartet/smoothgrad/objects.csv")
    images = pd.read_csv(root / "images/quartet.csv")
    (consensus,) = (root / "consensus/quartet/smoothgrad").iterdir()
    tensors = load_file(consensus)
    ids = read_header(consensus)["ids"]
    dataset = Shapes(seed=0, resize=73, splits={"train": 48, "test": 36, "explain": 24})
    cropped = CroppedImages(dataset, 73, 64)
    labels = dict(zip(images["image_id"], images["label"], strict=True))
    for image_id, category, found in table.itertuples(index=False):
        mask = cropped.mask(Record(image_id, labels[image_id]))
        start, stop = tensors["offsets"][ids.index(image_id) :][:2].tolist()
        expected = average_precision_score(mask.ravel(), tensors["values"][start:stop].numpy())
        assert found == pytest.approx(expected, abs=1e-9)
        assert category == dataset.classes[labels[image_id]]
    assert list(table["image_id"]) == list(images["image_id"])


def test_areas_of_superpixels_give_the_precision_of_the_painted_map() -> None:
    rng = np.random.default_rng(0)
    segments, mask = rng.integers(0, 9, (12, 10)), rng.random((12, 10)) < 0.3
    weights = rng.normal(size=9)
    painted = average_precision(weights[segments].ravel(), *areas(mask))
    assert average_precision(weights, *areas(mask, segments)) == pytest.approx(painted, abs=1e-12)


def without_spread(project: Project) -> None:
    """Turn the first member's explanation of one image into zeros, as of outputs that nothing changes."""
    (path,) = (project.outputs / "pets/explanations/lime/first").iterdir()
    tensors, header = read_whole(path)
    stop = int(tensors["offsets"][1])
    tensors["values"][:stop] = 0
    tensors["reliability"][0] = 0
    del tensors["checksums"]  # as in files of before
    extra = {key: header[key] for key in ("ids", "shape", "precision")}
    write_tensors(path, tensors, header["settings"], **extra)
    shutil.rmtree(project.outputs / "pets/consensus")
    project.done("vote")


def test_explanations_without_spread_are_left_out_of_consensus_scores_and_counted(voted: Project) -> None:
    without_spread(voted)
    outcome = voted.done("score")
    images = read_csv(voted.outputs / FOLDER / "images.csv").set_index(["image_id", "member"])
    blank = set()  # some networks of these are sure of an image whatever is hidden
    for path in (voted.outputs / "pets/explanations/lime").glob("*/*.safetensors"):
        tensors, header = read_whole(path)
        for image_id, (start, stop) in zip(header["ids"], pairwise(tensors["offsets"].tolist()), strict=True):
            if len(tensors["values"][start:stop].unique()) == 1:
                blank.add((image_id, path.parent.name))
            else:
                assert np.isfinite(images["similarity"][image_id, path.parent.name])
    assert ("cat/0.png", "first") in blank
    assert images["similarity"][list(blank)].isna().all()
    count = f"{len(blank)} explanations of {len({image_id for image_id, _ in blank})} images left out of the consensus"
    assert count in outcome.err
    own = images.xs("first", level="member")
    members = read_csv(voted.outputs / FOLDER / "members.csv").set_index("member")
    assert members["consensus_score"]["first"] == pytest.approx(own["similarity"].dropna().mean(), abs=1e-12)
    voted.done("plot", "explainers=[lime]")


def before_the_rule(project: Project) -> None:
    """Make the scores of today those of a version that said nothing of explanations without spread."""
    path = project.outputs / FOLDER / "inputs.json"
    inputs = read_json(path)
    del inputs["without_spread"]
    write_json(path, inputs)


def test_scores_of_before_the_rule_hold_where_it_changes_nothing(scored: Project) -> None:
    before_the_rule(scored)
    scored.done("plot", "explainers=[lime]", "plot.figures=[fig05]")
    before = times(scored)
    scored.done("score")
    assert {name for name, time in times(scored).items() if time != before[name]} == {"inputs.json"}


def test_scores_of_before_the_rule_are_made_anew_where_it_changes_them(voted: Project) -> None:
    without_spread(voted)
    voted.done("score")
    path = voted.outputs / FOLDER / "images.csv"
    right, table = path.read_bytes(), read_csv(path)
    write_long_csv(path, [table.fillna({"similarity": 0.0})])  # as they were counted
    before_the_rule(voted)
    refused = voted.run("plot", "explainers=[lime]")
    assert "one value everywhere are left out now" in refused.errors[0]
    voted.done("score")
    assert path.read_bytes() == right
    voted.done("plot", "explainers=[lime]", "plot.figures=[fig05]")


def test_average_precision_of_absolute_weights_is_scikit_learn_s_and_replaces_none_in_silence(scored: Project) -> None:
    folder = scored.outputs / FOLDER
    # scores of before the key hold: the settings say nothing of it
    assert all("ap_weights" not in path.read_text() for path in folder.glob("*.json"))
    refused = scored.run("score", "score.ap_weights=absolute")
    assert "ap_weights is absent there, absolute now" in refused.errors[0]
    before = times(scored)
    scored.done("score", "score.ap_weights=absolute", "overwrite=true")
    changed = {name for name, time in times(scored).items() if time != before[name]}
    assert {"growing.csv", "members.csv", "images.csv"} <= changed
    assert not changed & {"family.csv", "random.csv"}
    images = read_csv(folder / "images.csv").set_index(["image_id", "member"])["average_precision"]
    (path,) = (scored.outputs / "pets/superpixels/quickshift").iterdir()
    segments, header = read_whole(path)
    for member in ("first", "second"):
        (path,) = (scored.outputs / f"pets/explanations/lime/{member}").iterdir()
        weights, _ = read_whole(path)
        for number, image_id in enumerate(header["ids"]):
            own = slice(*weights["offsets"][number : number + 2].tolist())
            labels = slice(*segments["offsets"][number : number + 2].tolist())
            painted = np.abs(weights["values"][own].numpy())[segments["values"][labels].numpy()]
            resized = Image.open(scored.folder / "masks" / image_id).resize((53, 40), Image.Resampling.NEAREST)
            inside = np.array(resized)[4:36, 10:42].ravel() > 0
            assert images[image_id, member] == pytest.approx(average_precision_score(inside, painted), abs=1e-6)
    stale = scored.run("plot", "explainers=[lime]")
    assert "ap_weights is absolute there, absent now" in stale.errors[0]
    scored.done("plot", "explainers=[lime]", "score.ap_weights=absolute", "figure=fig04")


def test_void_pixels_count_in_no_average_precision(voted: Project) -> None:
    for path in (voted.folder / "masks").rglob("*.png"):
        mask = np.array(Image.open(path)) // 255
        mask[:12], mask[:, 40:] = 255, 255
        paint(path, mask)
    voted.done("score", "dataset.mask_void=255")
    images = read_csv(voted.outputs / FOLDER / "images.csv").set_index(["image_id", "member"])
    (path,) = (voted.outputs / "pets/superpixels/quickshift").iterdir()
    segments, header = read_whole(path)
    (path,) = (voted.outputs / "pets/consensus/grids/lime").iterdir()
    consensus, _ = read_whole(path)
    for number, image_id in enumerate(header["ids"]):
        mask = np.array(Image.open(voted.folder / "masks" / image_id).resize((53, 40), Image.Resampling.NEAREST))
        mask = mask[4:36, 10:42].ravel()
        labels = segments["values"][segments["offsets"][number] : segments["offsets"][number + 1]].numpy()
        values = consensus["values"][consensus["offsets"][number] : consensus["offsets"][number + 1]].numpy()
        counted = mask != 255
        expected = average_precision_score(mask[counted] == 1, values[labels][counted])
        assert images["average_precision"][image_id, "consensus"] == pytest.approx(expected, abs=1e-6)
    voted.done("plot", "explainers=[lime]", "dataset.mask_void=255", "plot.figures=[fig03,fig04]")
    other = voted.run("plot", "explainers=[lime]")
    assert other.code == 2
    assert "other images, masks or predictions" in other.errors[0]


def test_masks_are_looked_for_before_predictions_are_made(photographs: Project) -> None:
    masks = sorted((photographs.folder / "masks").rglob("*.png"))
    for mask in masks:
        mask.rename(mask.with_name(f"of_{mask.name}"))
    refused = photographs.run("run")
    assert refused.code == 2
    assert "no mask for image" in refused.errors[0]
    assert "cat/0.png" in refused.errors[0]
    assert "of_0.png" in refused.errors[0]
    assert not (photographs.outputs / "pets/predictions").exists()
    for mask in masks[:-1]:
        mask.with_name(f"of_{mask.name}").rename(mask)
    assert "1 of 6 images have no mask and must not be chosen" in photographs.done("finetune").err
    chosen = photographs.run("explain")
    assert chosen.code == 2
    assert "dog/2.png" in chosen.errors[0]
    assert "1 of 6 images have no mask and are left out" in photographs.done("finetune", "on_bad_image=skip").err
    photographs.done("explain", "on_bad_image=skip")


def test_what_plot_prints_and_draws_is_of_the_level_that_was_scored(scored: Project) -> None:
    scored.done("score", "score.level=0.999", "overwrite=true")
    drawn = scored.done("plot", "explainers=[lime]", "score.level=0.999", "figure=table2")
    assert "with 99.9 % intervals" in drawn.out
    voted = scored.done("plot", "explainers=[lime]", "score.level=0.999", "figure=table2", "plot.ensemble=voting")
    (table,) = (read_csv(path) for path in (scored.outputs / "pets/tables/grids").glob("table2.csv"))
    members = read_csv(scored.outputs / FOLDER / "members.csv")
    assert table["family"].iloc[-1] == "majority vote"
    assert table["accuracy"].iloc[-1] == members["majority_vote_accuracy"].iloc[-1]
    assert "ensemble by majority vote" in voted.out
