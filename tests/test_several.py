"""Average precision by the number of objects and by the share that the explained one covers, on drawn images."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import GRIDS, MODULE, Project, paint
from test_coco import CATEGORIES, annotation

from xconsensus.figures.curves import sec51
from xconsensus.figures.tables import group_names
from xconsensus.scores.metrics import Intervals
from xconsensus.scores.several import several_table
from xconsensus.store.files import read_csv

SIDE, BORDER = 40, 4  # the crop leaves out a border on each side
Box = tuple[int, int, int, int]
# image -> category and corners of its objects, those of a category disjoint, on pixels as they are
OBJECTS: dict[int, list[tuple[int, Box]]] = {
    1: [(17, (8, 8, 20, 20))],
    2: [(17, (4, 4, 36, 36)), (18, (10, 10, 14, 14))],
    3: [(17, (8, 8, 12, 12)), (18, (20, 20, 23, 23)), (90, (0, 0, 3, 4))],  # one of three outside the crop
    4: [(18, (5 * column + 5, 6, 5 * column + 8, 10)) for column in range(6)],
    5: [(18, (3 * column + 5, 20, 3 * column + 7, 22)) for column in range(9)],
    6: [(90, (0, 0, 40, 12)), (17, (20, 20, 30, 30))],
    7: [(90, (0, 0, 40, 3)), (17, (20, 20, 22, 22))],  # the explained one outside the crop
}
MADE = ("several.csv", "several.json", "several_images.csv")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Drawn photographs in COCO's layout, explained and scored by four networks of a layer."""
    folder = tmp_path_factory.mktemp("crowded")
    rng = np.random.default_rng(0)
    for number in OBJECTS:
        pixels = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        paint(folder / f"coco/val2017/{number}.png", pixels)
    annotations = [annotation(number, *each) for number, objects in OBJECTS.items() for each in objects]
    images = [{"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE} for number in OBJECTS]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (folder / "coco/annotations").mkdir()
    (folder / "coco/annotations/instances_val2017.json").write_text(json.dumps(content))
    (folder / "models").mkdir()
    (folder / "models/grids.py").write_text(MODULE)
    (folder / "conf/committee").mkdir(parents=True)
    (folder / "conf/committee/grids.yaml").write_text(GRIDS.format(folder=folder / "models"))
    options = ("dataset.resize=40", "dataset.size=32", "threads=1", "explain.only_correct=none", "explainer.samples=20")
    own = (f"dataset.root={folder}/coco", f"output_dir={folder}/outputs", "committee=grids", "dataset=coco")
    more = ("explain.precision=float32", "score.bootstrap=20", "explainer=smoothgrad", "explainers=[smoothgrad]")
    project = Project(folder, ("--config-dir", f"{folder}/conf", *own, *options, *more))
    for stage in ("finetune", "explain", "vote", "score"):
        project.done(stage)
    return project


def scores(project: Project) -> Path:
    return project.outputs / "coco/scores/grids/smoothgrad"


def by_hand() -> dict[str, tuple[int, float]]:
    """Of each image whose explained object the crop shows: objects on the crop, and the share of it that it covers."""
    found = {}
    for number, objects in OBJECTS.items():
        areas: defaultdict[int, int] = defaultdict(int)
        seen: defaultdict[int, int] = defaultdict(int)
        count = 0
        for category, (left, top, right, bottom) in objects:
            areas[category] += (right - left) * (bottom - top)
            low, high = BORDER, SIDE - BORDER
            wide, tall = min(right, high) - max(left, low), min(bottom, high) - max(top, low)
            if wide > 0 and tall > 0:
                seen[category] += wide * tall
                count += 1
        if share := seen[max(areas, key=areas.__getitem__)]:
            found[f"{number}.png"] = (count, share / (SIDE - 2 * BORDER) ** 2)
    return found


def test_the_table_is_what_the_hand_counts_and_averages(crowded: Project) -> None:
    images = read_csv(scores(crowded) / "images.csv")
    found = {(row["image_id"], row["member"]): row["average_precision"] for row in images.to_dict("records")}
    hand = by_hand()
    assert {"7.png"} == {*images["image_id"]} - {*hand}

    def mean(member: str, ids: Iterable[str]) -> float:
        return float(np.mean([found[image_id, member] for image_id in ids]))

    best = max(("first", "second", "third", "fourth"), key=lambda name: mean(name, hand))
    each = read_csv(scores(crowded) / "several_images.csv").to_dict("records")
    assert {image["image_id"] for image in each} == {*hand}
    for image in each:
        assert (image["objects"], image["share"]) == hand[image["image_id"]]
        assert image["consensus"] == found[image["image_id"], "consensus"]
        assert (image["best_member"], image["best"]) == (best, found[image["image_id"], best])
    table = read_csv(scores(crowded) / "several.csv")
    shares = {image_id: share for image_id, (_, share) in hand.items()}
    groups = {
        ("objects", "1"): [["1.png"]],
        ("objects", "2"): [["2.png", "3.png", "6.png"]],
        ("objects", "5 - 8"): [["4.png"]],
        ("objects", "9 or more"): [["5.png"]],
        ("share", "0 - 5 %"): [[image_id for image_id, share in shares.items() if share < 0.05]],
        ("share", "5 - 10 %"): [[image_id for image_id, share in shares.items() if 0.05 <= share < 0.1]],
        ("share", "10 - 20 %"): [[image_id for image_id, share in shares.items() if 0.1 <= share < 0.2]],
        ("share", "20 - 40 %"): [[image_id for image_id, share in shares.items() if 0.2 <= share < 0.4]],
        ("share", "40 - 100 %"): [["2.png"]],
    }
    expected = {group: ids for group, (ids,) in groups.items() if ids}
    assert [*zip(table["by"], group_names(table), strict=True)] == [*expected]
    for row, ids in zip(table.to_dict("records"), expected.values(), strict=True):
        assert row["images"] == len(ids)
        assert row["consensus"] == pytest.approx(mean("consensus", ids))
        assert row["best"] == pytest.approx(mean(best, ids))
        assert row["difference"] == pytest.approx(row["consensus"] - row["best"])
        assert row["chance"] == pytest.approx(np.mean([shares[image_id] for image_id in ids]))
        for column in ("consensus", "best", "difference"):
            assert row[f"{column}_low"] - 1e-12 <= row[column] <= row[f"{column}_high"] + 1e-12


def test_scores_of_before_hold_and_only_the_table_is_made(crowded: Project) -> None:
    folder, made = scores(crowded), {}
    for name in MADE:
        made[name] = (folder / name).read_bytes()
        (folder / name).unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert "run xconsensus score" in crowded.run("plot", "figure=sec51").errors[0]
    crowded.done("plot", "figure=table2")
    crowded.done("score")
    assert {name: (folder / name).read_bytes() for name in MADE} == made
    assert {path.name for path, time in before.items() if path.stat().st_mtime_ns != time} == {"inputs.json"}


def test_the_figure_and_the_table_show_what_was_scored(crowded: Project) -> None:
    crowded.done("plot", "figure=several")
    shown, scored = (
        read_csv(crowded.outputs / "coco/tables/grids/several.csv"),
        read_csv(scores(crowded) / "several.csv"),
    )
    pd.testing.assert_frame_equal(shown[["by", "images", "consensus"]], scored[["by", "images", "consensus"]])
    figure = sec51({"smoothgrad": scored})
    for axes, by in zip(figure.axes, ("objects", "share"), strict=True):
        group = scored[scored["by"] == by]
        drawn = [line.get_ydata() for line in axes.lines]
        np.testing.assert_array_equal(drawn, group[["consensus", "best", "chance"]].T)
        assert [text.get_text().partition("\n")[2] for text in axes.get_xticklabels()] == [
            f"n = {n}" for n in group["images"]
        ]
    assert crowded.done("plot", "figure=sec51").out.strip().endswith("sec51.png")


def test_groups_of_images_are_those_of_the_numbers_at_their_start() -> None:
    sizes = pd.DataFrame({"objects": [1, 4, 5, 9, 40], "share": [0.05, 0.0999, 0.4, 1.0, 0.01]})
    sizes = sizes.assign(consensus=[0.1, 0.2, 0.3, 0.4, 0.5], best=0.25, best_member="a")
    table = several_table(sizes, Intervals(50, 0.9, 0))
    assert table[["by", "start", "images"]].to_numpy().tolist() == [
        ["objects", 1, 1],
        ["objects", 3, 1],
        ["objects", 5, 1],
        ["objects", 9, 2],
        ["share", 0, 1],
        ["share", 0.05, 2],
        ["share", 0.4, 2],
    ]
    assert table["consensus"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.45, 0.5, 0.15, 0.35])
