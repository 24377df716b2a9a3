"""One small committee through all stages, its results worked out again from the stored tensors with numpy."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from conftest import Project
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from scipy import stats

from xconsensus.datasets import Record
from xconsensus.datasets.shapes import Shapes
from xconsensus.experiment import trained
from xconsensus.stages import explain
from xconsensus.store.tensors import read_whole, write_tensors

sklearn_metrics = pytest.importorskip("sklearn.metrics")

MEMBERS = ("resnet", "efficient", "byob", "shuffle")
EXPLAINERS = ("lime", "smoothgrad")
# option of finetune that is no more: the value that changes nothing, and another one
TAKEN_OUT: dict[str, tuple[Any, Any]] = {
    "schedule": ("cosine", "constant"),
    "label_smoothing": (0.0, 0.1),
    "keep": ("last", "best"),
}
Floats = NDArray[np.float64]


def read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and tensors of a file, without the product's code."""
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["xconsensus"])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def stored(folder: Path) -> dict[str, Floats]:
    """Image id -> flat float64 values, of all shards of a folder."""
    found: dict[str, Floats] = {}
    for path in folder.glob("*.safetensors"):
        header, tensors = read(path)
        for row, image_id in enumerate(header["ids"]):
            values = tensors["values"][slice(*tensors["offsets"][row : row + 2])].astype(np.float64)
            found[image_id] = values * tensors["scale"][row] if "scale" in tensors else values
    return found


def unit(values: Floats) -> Floats:
    low, high = values.min(), values.max()
    return np.asarray((values - low) / (high - low))


def ballot(explainer: str, values: Floats) -> Floats:
    if not values.any():  # of outputs that are constant up to rounding
        return values
    return np.asarray(values**2 / np.linalg.norm(values)) if explainer == "lime" else unit(values)


def similarity(explainer: str, values: Floats, agreed: Floats) -> float:
    if not values.any():
        return np.nan
    if explainer == "lime":
        return float(values @ agreed / np.linalg.norm(values) / np.linalg.norm(agreed))
    sigma = 5.0 * 64 / 224
    return float(np.exp(-(((unit(values) - agreed) / sigma) ** 2).sum() / 2))


def explanations(root: Path, explainer: str) -> dict[str, dict[str, Floats]]:
    return {member: stored(root / "explanations" / explainer / member) for member in MEMBERS}


def masks(root: Path) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    dataset = Shapes(seed=0, resize=73, splits={"explain": 24})
    for image_id, label in pd.read_csv(root / "images/quartet.csv")[["image_id", "label"]].to_numpy():
        yield image_id, dataset.mask(Record(image_id, label))[4:68, 4:68]


def members_csv(root: Path, explainer: str) -> pd.DataFrame:
    return pd.read_csv(root / f"scores/quartet/{explainer}/members.csv").set_index("member")


@pytest.fixture
def root(quartet: Project) -> Path:
    return quartet.outputs / "shapes"


def test_the_disk_holds_what_the_contract_says_and_nothing_else(root: Path) -> None:
    figures = ("fig01", "fig03_1", "fig04", "fig05", "fig06", "fig08", "fig10", "fig14", "fig15", "pairs")
    expected = {
        *(f"weights/{member}{suffix}" for member in MEMBERS for suffix in (".safetensors", ".json")),
        *(f"predictions/{split}/{member}.safetensors" for split in ("test", "explain") for member in MEMBERS),
        *(f"images/quartet{suffix}" for suffix in (".csv", ".json")),
        "superpixels/quickshift/*.safetensors",
        *(f"explanations/{explainer}/{member}/*.safetensors" for explainer in EXPLAINERS for member in MEMBERS),
        *(f"consensus/quartet/{explainer}/*.safetensors" for explainer in EXPLAINERS),
        *(
            f"scores/quartet/{explainer}/{name}"
            for explainer in EXPLAINERS
            for name in ("members.csv", "members.json", "images.csv", "objects.csv", "correlations.csv", "inputs.json")
        ),
        *(f"scores/quartet/{explainer}/several_images.csv" for explainer in EXPLAINERS),
        *(f"scores/quartet/lime/growing{suffix}" for suffix in (".csv", ".json")),
        *(
            f"scores/quartet/{explainer}/{table}{suffix}"
            for explainer in EXPLAINERS
            for table in ("intervals", "estimation", "measures", "several", "rules", "pairs", "baselines")
            for suffix in (".csv", ".json")
        ),
        *(f"figures/quartet/{figure}{suffix}" for figure in figures for suffix in (".png", ".pdf", ".txt")),
        *(
            f"tables/quartet/{table}.{kind}"
            for table in (
                *(
                    "table2",
                    "correlations",
                    "intervals",
                    "subsets",
                    "measures",
                    "rules",
                    "baselines",
                    "sigma",
                    "estimation",
                ),
                "comparison",
            )
            for kind in ("csv", "md", "tex")
        ),
        "tables/quartet/fig08.csv",
        ".locks",
        *(f"contents/{split}.digests" for split in ("train", "test", "explain")),
        *(f"status/probe/{member}.json" for member in MEMBERS),
        *(f"status/{kind}/quartet.json" for kind in ("plot", "tables")),
        *(f"status/finetune/{member}.json" for member in MEMBERS),
        *(f"status/explain/{explainer}/{member}.json" for explainer in EXPLAINERS for member in MEMBERS),
    }
    found = {path: path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    assert {pattern for pattern in expected if not any(path.match(pattern) for path in found.values())} == set()
    assert {str(p) for p in found.values() if not any(p.match(pattern) for pattern in expected)} == set()


def test_tables_have_the_contract_s_columns(root: Path) -> None:
    for explainer in EXPLAINERS:
        folder = root / f"scores/quartet/{explainer}"
        members = pd.read_csv(folder / "members.csv")
        assert list(members["member"]) == [*MEMBERS, "consensus"]
        assert list(members["family"]) == ["resnet", "EfficientNet", "ByobNet", "ShuffleNet", "consensus"]
        scores = ("consensus_score", "mean_average_precision")
        assert {"accuracy", *(f"{s}{end}" for s in scores for end in ("", "_low", "_high"))} <= set(members)
        images = pd.read_csv(folder / "images.csv")
        measured = ["similarity", "average_precision", "reliability", "samples"]
        assert list(images) == ["image_id", "member", *measured, "label", "predicted", "probability"]
        assert len(images) == 4 * 5
        correlations = pd.read_csv(folder / "correlations.csv")
        assert {"x", "y", "n", "pearson_r", "pearson_p", "spearman_r", "spearman_p"} <= set(correlations)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_the_consensus_is_the_mean_of_the_paper_s_ballots(root: Path, explainer: str) -> None:
    members = explanations(root, explainer)
    consensus = stored(root / "consensus/quartet" / explainer)
    assert len(consensus) == 4
    for image_id, agreed in consensus.items():
        votes = [ballot(explainer, values[image_id]) for values in members.values()]
        np.testing.assert_allclose(agreed, np.mean(votes, axis=0), rtol=1e-5, atol=1e-7)
        assert agreed.max() > 0


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_noise_is_summed_up_from_each_explanation_s_reliability(root: Path, explainer: str) -> None:
    images = pd.read_csv(root / f"scores/quartet/{explainer}/images.csv")
    own = images[images["member"] != "consensus"]
    table = members_csv(root, explainer)
    for member in MEMBERS:
        rows = own[own["member"] == member]
        (path,) = (root / "explanations" / explainer / member).glob("*.safetensors")
        header, tensors = read(path)
        stored_values = pd.Series(tensors["reliability"], header["ids"])[rows["image_id"]]
        np.testing.assert_allclose(rows["reliability"], stored_values)
        assert rows["reliability"].between(-1, 1).all()
        assert table.loc[member, "noise_share"] == (rows["reliability"] < 0.5).mean()
        expected = rows["similarity"][rows["reliability"] >= 0.5].mean()
        np.testing.assert_allclose(table["consensus_score_reliable"][member], expected)
    assert own["samples"].nunique() == 1


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_a_consensus_score_is_the_mean_similarity_over_the_images(root: Path, explainer: str) -> None:
    table, consensus = members_csv(root, explainer), stored(root / "consensus/quartet" / explainer)
    images = pd.read_csv(root / f"scores/quartet/{explainer}/images.csv").set_index(["image_id", "member"])
    for member, own in explanations(root, explainer).items():
        each = {image_id: similarity(explainer, own[image_id], consensus[image_id]) for image_id in consensus}
        assert table.loc[member, "consensus_score"] == pytest.approx(np.nanmean([*each.values()]), rel=1e-3)
        for image_id, value in each.items():
            assert images.loc[(image_id, member), "similarity"] == pytest.approx(value, rel=1e-3, nan_ok=True)
        low, mean, high = (float(table[f"consensus_score{end}"][member]) for end in ("_low", "", "_high"))
        assert low <= mean <= high
        assert low >= min(each.values()) - 1e-3 * abs(mean)


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_average_precision_is_scikit_learn_s_on_painted_maps(root: Path, explainer: str) -> None:
    segments, found = stored(root / "superpixels/quickshift"), explanations(root, explainer)
    maps: Mapping[str, Mapping[str, Floats]] = found | {"consensus": stored(root / "consensus/quartet" / explainer)}
    table = members_csv(root, explainer)
    for member, own in maps.items():
        precisions = []
        for image_id, mask in masks(root):
            values = own[image_id]
            painted = values[segments[image_id].astype(int)] if explainer == "lime" else values
            precisions.append(sklearn_metrics.average_precision_score(mask.ravel(), painted))
        assert len(precisions) == 4
        assert table.loc[member, "mean_average_precision"] == pytest.approx(np.mean(precisions), abs=1e-9)


def test_accuracies_follow_from_the_stored_predictions(root: Path) -> None:
    stacked, labels = [], np.empty(0)
    table = members_csv(root, "lime")
    for member in MEMBERS:
        header, tensors = read(root / f"predictions/test/{member}.safetensors")
        labels = np.array([Shapes.classes.index("-".join(image_id.split("-")[1:3])) for image_id in header["ids"]])
        np.testing.assert_array_equal(labels, tensors["labels"])
        np.testing.assert_allclose(tensors["probabilities"].sum(1), 1, rtol=1e-5)
        accuracy = (tensors["probabilities"].argmax(1) == labels).mean()
        assert table.loc[member, "accuracy"] == pytest.approx(accuracy)
        assert json.loads((root / f"weights/{member}.json").read_text())["accuracy"] == pytest.approx(accuracy)
        stacked.append(tensors["probabilities"])
    assert table.loc["consensus", "accuracy"] == pytest.approx((np.mean(stacked, 0).argmax(1) == labels).mean())


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_correlations_are_those_of_the_members_table(root: Path, explainer: str) -> None:
    table = members_csv(root, explainer).drop("consensus")
    rows = pd.read_csv(root / f"scores/quartet/{explainer}/correlations.csv")
    assert len(rows) == 3
    for row in rows.to_dict("records"):
        x, y = table[row["x"]].to_numpy(), table[row["y"]].to_numpy()
        assert row["n"] == 4
        assert row["pearson_r"] == pytest.approx(np.corrcoef(x, y)[0, 1])
        assert row["spearman_r"] == pytest.approx(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def test_figures_and_tables_can_be_opened(root: Path) -> None:
    drawn = [*(root / "figures").rglob("*.png")]
    for path in drawn:
        with Image.open(path) as image:
            image.load()
            assert np.asarray(image.convert("L")).std() > 0
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert drawn
    table = pd.read_csv(root / "tables/quartet/table2.csv")
    markdown = (root / "tables/quartet/table2.md").read_text()
    latex = (root / "tables/quartet/table2.tex").read_text()
    assert set(table.iloc[:, 0]) == {*MEMBERS, "consensus"}
    assert all(member in markdown and member in latex for member in MEMBERS)


def test_a_second_run_changes_no_file(quartet_copy: Project) -> None:
    def times() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in quartet_copy.outputs.rglob("*.safetensors")}

    bytes_before, times_before = quartet_copy.files(), times()
    quartet_copy.done("run")
    after = quartet_copy.files()
    assert after.keys() == bytes_before.keys()
    assert [name for name in after if after[name] != bytes_before[name]] == []
    assert times() == times_before


def through_scores(project: Project, name: str, *arguments: str) -> Path:
    outputs = project.folder / name
    for stage in ("finetune", "explain", "vote", "score"):
        project.done(stage, *arguments, f"output_dir={outputs}")
    return outputs / "pets"


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_results_do_not_depend_on_batches_and_shards(photographs: Project, explainer: str) -> None:
    one = through_scores(photographs, "one", f"explainer={explainer}")
    options = ("explain.batch_size=7", "explain.shard_images=2", "finetune.eval_batch_size=4")
    other = through_scores(photographs, "other", f"explainer={explainer}", *options)
    assert len([*(other / f"explanations/{explainer}/first").iterdir()]) == 3
    for folder in (f"explanations/{explainer}/first", f"consensus/grids/{explainer}"):
        first, second = stored(one / folder), stored(other / folder)
        assert first.keys() == second.keys()
        for image_id, values in first.items():
            tolerance = 1e-4 if explainer == "lime" else 2e-3  # float16 on disk rounds either way
            np.testing.assert_allclose(second[image_id], values, rtol=tolerance, atol=1e-4 * np.abs(values).max())
    first_table, second_table = (pd.read_csv(p / f"scores/grids/{explainer}/members.csv") for p in (one, other))
    pd.testing.assert_frame_equal(first_table, second_table, rtol=1e-3)


def test_results_do_not_depend_on_the_order_of_members(photographs: Project) -> None:
    one = through_scores(photographs, "one")
    config = photographs.folder / "conf/committee/grids.yaml"
    lines = config.read_text().splitlines()
    config.write_text("\n".join([*lines[:-4], *reversed(lines[-4:])]))
    other = through_scores(photographs, "other")
    first, second = stored(one / "consensus/grids/lime"), stored(other / "consensus/grids/lime")
    for image_id, values in first.items():
        np.testing.assert_allclose(second[image_id], values, rtol=1e-5)
    table, turned = (pd.read_csv(root / "scores/grids/lime/members.csv") for root in (one, other))
    assert list(turned["member"]) == ["fourth", "third", "second", "first", "consensus"]
    pd.testing.assert_frame_equal(table, turned.set_index("member").loc[table["member"]].reset_index(), rtol=1e-5)


def test_weights_stay_when_an_option_is_taken_out_unless_it_shaped_them(untrained: Project) -> None:
    arguments = ("committee.only=[resnet]", "finetune.epochs=1")
    untrained.done("finetune", *arguments)
    path = untrained.outputs / "shapes/weights/resnet.safetensors"
    made, (tensors, header) = path.read_bytes(), read_whole(path)
    untrained.done("finetune", *arguments, *(f"finetune.{key}={neutral}" for key, (neutral, _) in TAKEN_OUT.items()))
    assert path.read_bytes() == made
    for key, (neutral, other) in TAKEN_OUT.items():
        recipe = header["settings"]["finetune"]
        assert recipe[key] == neutral  # as it stands in weights trained before
        settings = header["settings"] | {"finetune": recipe | {key: other}}
        write_tensors(path, tensors, settings, history=header["history"])
        refused = untrained.run("finetune", *arguments)
        assert refused.code == 2
        assert f"finetune.{key} is {other} there, {neutral} now" in refused.errors[0]


def test_training_cut_off_goes_on_to_the_same_weights(untrained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("committee.only=[resnet]", "finetune.epochs=4")
    save, saved = trained._save, []

    def save_and_stop(*values: Any) -> None:
        save(*values)
        saved.append(values)
        if len(saved) == 2:
            raise KeyboardInterrupt

    untrained.done("finetune", *arguments)
    whole = untrained.files()
    monkeypatch.setattr(trained, "_save", save_and_stop)
    cut = f"output_dir={untrained.folder}/cut"
    assert untrained.run("finetune", *arguments, cut).code == 130
    weights = untrained.folder / "cut/shapes/weights"
    assert [path.name for path in weights.iterdir()] == ["resnet.checkpoint.safetensors"]
    untrained.done("finetune", *arguments, cut)
    assert len(saved) == 4
    for name, content in whole.items():
        assert (untrained.folder / "cut" / name).read_bytes() == content
    assert not (weights / "resnet.checkpoint.safetensors").exists()


def test_explaining_cut_off_keeps_whole_shards_and_makes_the_rest(
    photographs: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("explain.shard_images=2", "committee.only=[first]")
    photographs.done("explain", *arguments)
    folder = photographs.outputs / "pets/explanations/lime/first"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    explained, explain_one = [], explain._explain

    def stop_at_the_fourth(*values: Any) -> Any:
        explained.append(values[2].image_id)
        if len(explained) == 4:
            raise KeyboardInterrupt
        return explain_one(*values)

    monkeypatch.setattr(explain, "_explain", stop_at_the_fourth)
    assert photographs.run("explain", *arguments).code == 130
    assert len([*folder.iterdir()]) == 1
    photographs.done("explain", *arguments)
    assert explained[4:] == explained[2:4] + explained[6:]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_more_images_keep_the_explanations_that_exist(photographs: Project) -> None:
    photographs.done("explain", "explain.images=2")
    folder = photographs.outputs / "pets/explanations/lime"
    few = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    photographs.done("explain", "explain.images=6", "overwrite=true")
    assert {path: path.stat().st_mtime_ns for path in few} == few
    assert len(stored(folder / "first")) == 6


@pytest.mark.parametrize("only_correct", ["all", "any"])
def test_only_images_that_members_get_right_are_explained(predicted: Project, only_correct: str) -> None:
    hits, ids = [], []
    for member in ("first", "second", "third", "fourth"):
        header, tensors = read(predicted.outputs / f"pets/predictions/test/{member}.safetensors")
        hits.append(tensors["probabilities"].argmax(1) == tensors["labels"])
        ids = header["ids"]
    right = np.all(hits, 0) if only_correct == "all" else np.any(hits, 0)
    assert 0 < right.sum() < 6 or only_correct == "any"
    predicted.done("explain", f"explain.only_correct={only_correct}", "explain.images=null")
    chosen = pd.read_csv(predicted.outputs / "pets/images/grids.csv")
    assert list(chosen["image_id"]) == [i for i, hit in zip(ids, right, strict=True) if hit]
    labels = [["cat", "dog"].index(i.split("/")[0]) for i in chosen["image_id"]]
    assert list(chosen["label"]) == labels


def test_without_masks_there_is_no_map_and_figure_2_takes_the_place_of_3(photographs: Project) -> None:
    for stage in ("finetune", "explain", "vote", "score"):
        photographs.done(stage, "dataset.masks=null")
    outcome = photographs.done("plot", "dataset.masks=null", "explainers=[lime]")
    root = photographs.outputs / "pets"
    assert "mean_average_precision" not in pd.read_csv(root / "scores/grids/lime/members.csv")
    drawn = {path.stem for path in (root / "figures/grids").glob("*.png")}
    assert drawn == {"fig01", "fig02_1", "fig05", "fig12", "pairs"}
    assert "left out: fig03, fig04, fig08, fig10, fig14, fig15, baselines, the data set has no masks" in outcome.err
    assert "mAP" not in outcome.out


def test_a_figure_asked_for_is_drawn_or_the_reason_is_an_error(quartet_copy: Project) -> None:
    folder = quartet_copy.outputs / "shapes/figures/quartet"
    shutil.rmtree(folder)
    quartet_copy.done("plot", "figure=fig12", "explainers=[lime]")
    assert [path.name for path in sorted(folder.iterdir())] == ["fig12.pdf", "fig12.png", "fig12.txt"]
    outcome = quartet_copy.run("plot", "figure=fig13", "explainers=[lime]")
    assert outcome.errors == ["error: figure=fig13 cannot be drawn here: no explainer works on pixels"]


def test_figure_7_scores_a_family_by_its_own_vote_and_by_everybody_s(quartet_copy: Project) -> None:
    family = "plot.family=[shuffle,resnet]"
    refused = quartet_copy.run("plot", family, "figure=fig07").errors
    assert "family.csv does not exist: run xconsensus score" in refused[0]
    for explainer in EXPLAINERS:
        quartet_copy.done("score", f"explainer={explainer}", family)
    quartet_copy.done("plot", family, "figure=fig07")
    root = quartet_copy.outputs / "shapes"
    panels = dict(iter(pd.read_csv(root / "tables/quartet/fig07.csv").groupby("panel", sort=False)))
    voters = [(explainer, names) for explainer in EXPLAINERS for names in (("shuffle", "resnet"), MEMBERS)]
    for (explainer, names), table in zip(voters, panels.values(), strict=True):
        own = explanations(root, explainer)
        assert list(table["member"]) == ["shuffle", "resnet"]
        for row in table.to_dict("records"):
            found = [
                similarity(explainer, values, np.mean([ballot(explainer, own[v][image]) for v in names], 0))
                for image, values in own[row["member"]].items()
            ]
            assert row["consensus_score"] == pytest.approx(np.nanmean(found), rel=1e-3)
            assert row["consensus_score_low"] <= row["consensus_score"] <= row["consensus_score_high"]


def test_only_the_scored_members_are_shown_while_all_vote(quartet_copy: Project) -> None:
    (path,) = quartet_copy.outputs.rglob("scores/quartet/lime/members.csv")
    before = pd.read_csv(path)
    arguments = ("score", "explainer=lime", "committee.scored=[byob,resnet]")
    assert "scored" in quartet_copy.run(*arguments).errors[0]
    quartet_copy.done(*arguments, "overwrite=true")
    kept = before["member"].isin(["resnet", "byob", "consensus"])
    pd.testing.assert_frame_equal(pd.read_csv(path), before[kept].reset_index(drop=True))


def test_figure_11_tells_two_committees_of_one_data_set_apart(quartet_copy: Project) -> None:
    root = quartet_copy.outputs / "shapes"
    shutil.copytree(root / "scores/quartet", root / "scores/other")
    for suffix in (".csv", ".json"):
        shutil.copy(root / f"images/quartet{suffix}", root / f"images/other{suffix}")
    panels = "plot.panels=[shapes/quartet,shapes/other]"
    with patch("xconsensus.stages.plot.printed", return_value={".png": b"", ".pdf": b""}) as printed:
        quartet_copy.done("plot", "figure=fig11", "explainers=[lime]", panels)
    ((_, (found, caption, *_)), _) = printed.call_args
    assert list(found) == ["shapes/quartet", "shapes/other"]
    assert "shapes/other 4 images" in caption
