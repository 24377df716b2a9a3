"""What figures 3, 6, 8, 12 to 15 and table 2 hold on drawn data in the paper's layouts: points, whose vote, pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from test_end_to_end import ballot, stored
from test_paper_experiments import Laid, accuracies, commands, laid, scores, sorted_points  # noqa: F401

from xconsensus.figures.gallery import COLUMNS, as_bytes, heat
from xconsensus.members.catalogue import names

WHERE = {"imagenet": "imagenet81", "cub200": "cub85"}
UPPER = np.arange(16)[:, None].repeat(16, 1) < 8  # the drawn birds' mask on the explained crop


def members_of(laid: Laid, dataset: str) -> list[str]:  # noqa: F811
    return [*laid.table(f"{dataset}/scores/{WHERE[dataset]}/lime/members.csv")["member"][:-1]]


def consensus_of(laid: Laid, dataset: str, explainer: str) -> dict[str, NDArray[np.float64]]:  # noqa: F811
    """The vote of all members by Algorithm 2 as a map of each image, read without the product's code."""
    folder = laid.folder / "outputs" / dataset
    each = [stored(folder / f"explanations/{explainer}/{name}") for name in members_of(laid, dataset)]
    agreed = {image: np.mean([ballot(explainer, own[image]) for own in each], axis=0) for image in each[0]}
    if explainer == "lime":
        (labels,) = (stored(path) for path in (folder / "superpixels").iterdir())
        agreed = {image: values[labels[image].astype(int)] for image, values in agreed.items()}
    return {image: values.reshape(16, 16) for image, values in agreed.items()}


def rows_of(figure: Figure, tiles: int) -> list[list[NDArray[np.uint8]]]:
    """The pictures of a gallery, row by row: the image, the members' maps, the consensus."""
    pictures = [np.asarray(each.get_array()) for each in figure.axes[0].images]
    assert len(pictures) % tiles == 0
    return [pictures[first : first + tiles] for first in range(0, len(pictures), tiles)]


def check_consensus(rows: Sequence[Sequence[NDArray[np.uint8]]], agreed: Sequence[NDArray[np.float64]]) -> None:
    for row, values in zip(rows, agreed, strict=True):
        expected = as_bytes(heat(row[0], values)).astype(int)
        assert np.abs(row[-1].astype(int) - expected).max() <= 3  # maps are packed as float16
        assert expected.std() > 1


def test_figure_6_sets_smoothgrad_s_scores_against_lime_s(laid: Laid, tmp_path: Path) -> None:  # noqa: F811
    for words, dataset, count in zip(commands("fig6", tmp_path), WHERE, (81, 12), strict=True):
        figure, voters = laid.run(words)["fig06"], members_of(laid, dataset)
        assert len(voters) == count
        lime = scores(laid.explanations(dataset, voters), voters, voters)
        other = laid.table(f"{dataset}/scores/{WHERE[dataset]}/smoothgrad/members.csv")["consensus_score"][:-1]
        (axes,) = figure.axes
        points = np.array(sorted({*zip(lime, other, strict=True)}))
        np.testing.assert_allclose(sorted_points(figure, 0), points, rtol=1e-4)
        assert f"n = {count}" in axes.get_title()
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("LIME score", "SmoothGrad score")


def test_figure_8_has_each_trial_and_the_vote_of_all(laid: Laid, tmp_path: Path) -> None:  # noqa: F811
    (words,) = commands("fig8", tmp_path)
    dots, means, medians, whole = laid.run(words)["fig08"].axes[0].lines
    growing = laid.table("cub200/scores/cub85/lime/growing.csv")
    np.testing.assert_array_equal(dots.get_xydata(), growing[["size", "mean_average_precision"]])
    assert growing["size"].value_counts().to_dict() == dict.fromkeys(range(1, 12), 4) | {12: 1}
    assert [*means.get_xdata()] == [*medians.get_xdata()] == [*range(1, 13)]
    agreed = consensus_of(laid, "cub200", "lime").values()
    complete = np.mean([average_precision_score(UPPER.ravel(), values.ravel()) for values in agreed])
    np.testing.assert_allclose([means.get_ydata()[-1], whole.get_ydata()[0]], complete)


@pytest.mark.parametrize("place", [0, 1])
def test_table_2_has_every_member_and_the_committee(laid: Laid, tmp_path: Path, place: int) -> None:  # noqa: F811
    dataset = [*WHERE][place]
    laid.run(commands("table2", tmp_path)[place])
    table = laid.table(f"{dataset}/tables/{WHERE[dataset]}/table2.csv")
    voters = members_of(laid, dataset)
    assert [*table["member"]] == [*voters, "consensus"]
    assert dataset != "imagenet" or voters == names("imagenet81")
    np.testing.assert_allclose(table["accuracy"][:-1], accuracies(laid, dataset, voters))
    own = scores(laid.explanations(dataset, voters), voters, voters)
    np.testing.assert_allclose(table["consensus_score_lime"][:-1], own, rtol=1e-4)
    precision = [name for name in map(str, table) if name.startswith("mean_average_precision")]
    assert len(precision) == (2 if dataset == "cub200" else 0)
    for column in precision:
        agreed = consensus_of(laid, dataset, column.rpartition("_")[2]).values()
        expected = np.mean([average_precision_score(UPPER.ravel(), values.ravel()) for values in agreed])
        assert table[column].iloc[-1] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("target", "dataset", "explainer"),
    [
        ("fig12", "imagenet", "lime"),
        ("fig13", "imagenet", "smoothgrad"),
        ("fig14", "cub200", "lime"),
        ("fig15", "cub200", "smoothgrad"),
    ],
)
def test_galleries_show_members_from_the_best_and_everybody_s_vote(
    laid: Laid,  # noqa: F811
    tmp_path: Path,
    target: str,
    dataset: str,
    explainer: str,
) -> None:
    (words,) = commands(target, tmp_path)
    (figure,) = laid.run(words).values()
    voters = members_of(laid, dataset)
    shown = min(COLUMNS - 1, len(voters))
    agreed = consensus_of(laid, dataset, explainer)
    ids = [*laid.table(f"{dataset}/images/{WHERE[dataset]}.csv")["image_id"]]
    rows = rows_of(figure, shown + 2)
    check_consensus(rows, [agreed[image_id] for image_id in ids])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert (texts.count("Consensus"), len(ids)) == (1, 2)  # named once, above the first row
    best = dict(zip(voters, accuracies(laid, dataset, voters), strict=True))
    assert max(best, key=best.__getitem__) in "".join(texts).replace("\n", "")
    noted = [text for text in texts if text.startswith("AP ")]
    assert len(noted) == (2 * (shown + 1) if dataset == "cub200" else 0)
    for image_id, note in zip(ids, noted[shown :: shown + 1], strict=False):
        expected = average_precision_score(UPPER.ravel(), agreed[image_id].ravel())
        assert float(note.removeprefix("AP ")) == pytest.approx(expected, abs=2e-3)


def test_figure_3_shows_a_bird_by_both_explainers(laid: Laid, tmp_path: Path) -> None:  # noqa: F811
    (words,) = commands("fig3", tmp_path)
    (figure,) = laid.run(words).values()  # the last of the images
    image_id = [*laid.table("cub200/images/cub85.csv")["image_id"]][-1]
    agreed = [consensus_of(laid, "cub200", explainer)[image_id] for explainer in ("lime", "smoothgrad")]
    check_consensus(rows_of(figure, 12 + 2), agreed)
