"""What captions and labels say of choices that the paper leaves open."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from xconsensus.figures import galleries, results, tables
from xconsensus.figures.index import FIGURES, TABLES
from xconsensus.figures.results import Images, Picture, Results, Scores

MEMBERS = ["a", "b", "c"]
OPTIONS = {"ensemble": "averaging", "clip_percent": 1.0, "negative": False, "gallery": 1, "gallery_members": 3}


def run(options: Mapping[str, Any] = OPTIONS, ap_weights: str = "signed", trials: int = 7) -> Results:
    """A committee of three whose averaged probabilities are right on 0.9, its majority vote on 0.8 of the images."""
    table = pd.DataFrame(
        {
            "member": [*MEMBERS, "consensus"],
            "family": ["f", "f", "g", "consensus"],
            "accuracy": [0.5, 0.6, 0.7, 0.9],
            "majority_vote_accuracy": [*[np.nan] * 3, 0.8],
            "consensus_score": [0.1, 0.2, 0.3, np.nan],
            "mean_average_precision": [0.4, 0.5, 0.6, 0.7],
        }
    )
    sizes = [(size, trial, 0.5) for size in (1, 2) for trial in range(trials)]
    growing = pd.DataFrame([*sizes, (3, 0, 0.7)], columns=["size", "trial", "mean_average_precision"])
    names = [*MEMBERS, "consensus"]
    images = pd.DataFrame({"image_id": "i", "member": names, "similarity": 0.5, "average_precision": 0.5})
    scores = Scores(table, images, True, growing=growing, map_of=lambda *_: np.eye(8))
    shown = Images(
        [Picture("i", "cat")], True, lambda _: np.zeros((8, 8, 3), np.uint8), lambda _: np.eye(8, dtype=bool)
    )
    options = {**options, "gallery_rows": 1}
    return Results("d", "c", {"lime": scores}, MEMBERS, shown, options=options, ap_weights=ap_weights)


def caption(name: str, found: Results) -> str:
    (arguments,) = FIGURES[name].arguments(found).values()
    return max((each for each in arguments if isinstance(each, str)), key=len)


@pytest.mark.parametrize(
    ("ensemble", "accuracy", "words"), [("averaging", 0.9, "averaged probabilities"), ("voting", 0.8, "majority vote")]
)
def test_figure_4_and_table_2_have_the_ensemble_that_they_name(ensemble: str, accuracy: float, words: str) -> None:
    found = run({**OPTIONS, "ensemble": ensemble})
    (arguments,) = FIGURES["fig04"].arguments(found).values()
    (star,) = [
        line for axes in FIGURES["fig04"].draw(*arguments).axes for line in axes.lines if line.get_marker() == "*"
    ]
    assert np.asarray(star.get_xydata()).tolist() == [[0.7, accuracy]]
    assert f"star: the committee by {words}" in caption("fig04", found)
    assert "star" not in caption("fig05", found)
    (arguments,) = TABLES["table2"].arguments(found).values()
    last = TABLES["table2"].draw(*arguments).iloc[-1]
    assert (last["member"], last["family"], last["accuracy"]) == ("consensus", words, accuracy)
    assert found.first.members["accuracy"].iloc[-1] == 0.9  # what was scored stays as it was


def test_the_published_row_of_the_consensus_is_the_paper_s_one_number() -> None:
    birds = results.of_paper("cub85", "cub200", 0.95)
    last = tables.table2(birds.members).iloc[-1]
    assert (last["member"], last["family"], last["accuracy"]) == ("consensus", "averaging and voting", 0.859)


@pytest.mark.parametrize("trials", [2, 20])
def test_figure_8_says_how_many_trials(trials: int) -> None:
    assert f"{trials} random trials of each size" in caption("fig08", run(trials=trials))


@pytest.mark.parametrize("name", ["fig04", "fig08", "fig10", "fig14"])
def test_captions_say_of_which_maps_average_precision_is(name: str) -> None:
    assert "average precision of absolute maps" in caption(name, run(ap_weights="absolute"))
    assert "average precision of" not in caption(name, run())


@pytest.mark.parametrize("name", ["fig01", "fig02", "fig03", "fig12", "fig14"])
def test_captions_of_images_say_what_colours_leave_out_and_figures_follow(name: str) -> None:
    assert "the largest 1 % of pixels alike; negative ones are not shown" in caption(name, run())
    other = run({**OPTIONS, "clip_percent": 5, "negative": True})
    assert "the largest 5 % of pixels alike; negative ones blue" in caption(name, other)
    (arguments,) = FIGURES[name].arguments(other).values()
    drawn = FIGURES[name].draw(*arguments)
    drawn.draw_without_rendering()
    (text,) = [each for each in drawn.texts if "alike" in " ".join(each.get_text().split())]
    box = text.get_window_extent()
    assert box.y0 >= drawn.bbox.y0 - 1
    assert drawn.bbox.x0 - 1 <= box.x0
    assert box.x1 <= drawn.bbox.x1 + 1


def test_figure_1_calls_the_whole_committee_to_vote() -> None:
    assert "the whole committee votes" in caption("fig01", run())


def test_own_explainers_have_their_titles_in_figures() -> None:
    found = dataclasses.replace(run(), titles={"lime": "LIME, coarse"})
    for name in ("fig04", "fig08", "fig10", "fig14"):
        assert "LIME, coarse" in caption(name, found)
    (arguments,) = FIGURES["fig04"].arguments(found).values()
    assert FIGURES["fig04"].draw(*arguments).axes[0].get_title().startswith("LIME, coarse, n = 3")


def test_two_explainers_of_one_title_keep_apart() -> None:
    one = run()
    both = dataclasses.replace(one, scores={"a": one.first, "b": one.first}, titles={"a": "CAM", "b": "CAM"})
    assert both.shown_titles == {"a": "CAM (a)", "b": "CAM (b)"}
    assert len(both.titled) == 2


def test_figure_1_takes_the_image_nearest_to_the_mean_similarities() -> None:
    ids, members = ["i", "j", "k"], ["a", "b"]
    similarity = {"a": [0.9, 0.4, 0.2], "b": [0.1, 0.5, 0.6]}  # means 0.5 and 0.4: j is away by 0.1 and 0.1
    rows = [(image, name, similarity[name][place]) for place, image in enumerate(ids) for name in members]
    rows += [(image, "c", at) for image, at in zip(ids, (0.0, 1.0, 0.0), strict=True)]  # not shown
    scores = Scores(pd.DataFrame(), pd.DataFrame(rows, columns=["image_id", "member", "similarity"]))
    images = Images([Picture(image, "") for image in ids])
    found = Results("d", "c", {"lime": scores}, images=images)
    assert galleries.typical_image(found, scores, members) == "j"
    unknown = Scores(pd.DataFrame(), scores.images.assign(similarity=np.nan))
    assert galleries.typical_image(found, unknown, members) == "i"
