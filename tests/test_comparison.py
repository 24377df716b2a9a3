"""The paper's claims beside a run's."""

import numpy as np
import pandas as pd
import pytest

from xconsensus import published
from xconsensus.figures import tables
from xconsensus.figures.comparison import comparison


def test_the_paper_beside_itself_agrees_in_every_claim() -> None:
    for dataset in published.DATASETS:
        table = comparison(published.members(dataset), own=dataset)
        correlations = table[table["claim"].str.startswith("r of")]
        assert set(table["published_on"]) == {dataset}
        assert set(correlations["agrees"]) == {"yes"}
        assert len(correlations) == len(published.correlations(dataset))
        others = table[~table["claim"].str.startswith("r of")]
        np.testing.assert_allclose(others["published"], others["here"])


def run_of(sign: float, spread: float, members: int = 8) -> dict[str, pd.DataFrame]:
    """Eight members whose mAP rises (or falls) with accuracy, and a consensus below the best of them."""
    steps, noise = np.arange(float(members)), spread * (-1.0) ** np.arange(members)
    accuracy = [*(0.5 + 0.05 * steps), 0.9]
    precision = [*(0.5 + sign * 0.02 * steps + noise), 0.1]
    names = [*(f"m{i}" for i in range(members)), "consensus"]
    scores = [*(0.3 + 0.01 * steps), np.nan]
    table = pd.DataFrame(
        {"member": names, "family": "f", "accuracy": accuracy, "consensus_score": scores}
        | {"mean_average_precision": precision}
    )
    return {"lime": table}


@pytest.mark.parametrize(("sign", "spread", "agrees"), [(1, 0.01, "yes"), (-1, 0.01, "no"), (0.2, 0.02, "sign only")])
def test_agreement_is_of_sign_and_interval(sign: float, spread: float, agrees: str) -> None:
    table = comparison(run_of(sign, spread)).set_index("claim")
    row = table.loc["r of mAP LIME and accuracy"]
    assert row["agrees"] == agrees
    assert row["low"] <= row["here"] <= row["high"]
    assert row["published"] == 0.927


@pytest.mark.parametrize(
    ("sign", "spread", "members", "agrees"),
    [
        (1, 0, 8, "sign only"),  # r is 1
        (-1, 0, 8, "no"),
        (1, 0.001, 4, "sign only"),
        (-1, 0.001, 4, "no"),
        (1, 0.001, 3, "sign only"),
        (1, 0.001, 2, "-"),
        (0, 0, 8, "-"),  # all have the same mAP
    ],
)
def test_without_an_interval_the_sign_alone_agrees(sign: float, spread: float, members: int, agrees: str) -> None:
    row = comparison(run_of(sign, spread, members)).set_index("claim").loc["r of mAP LIME and accuracy"]
    assert row["agrees"] == agrees
    assert np.isnan([row["low"], row["high"]]).all()
    assert np.isnan(row["here"]) == (agrees == "-")


def test_a_consensus_below_the_best_member_contradicts_the_paper() -> None:
    row = comparison(run_of(1, 0)).set_index("claim").loc["lime: consensus's mAP above the best member's"]
    assert (row["agrees"], row["n"]) == ("no", 8)
    assert row["here"] == pytest.approx(0.1 - 0.64)
    assert row["published"] > 0


def test_random_committees_stand_beside_section_452() -> None:
    trials = {"lime": pd.DataFrame({"pearson_r": [0.9, 0.92, 0.98, 1.0]})}
    row = comparison(run_of(1, 0), random=trials).iloc[-1]
    assert (row["published"], row["n"], row["agrees"]) == (0.96, 4, "yes")
    assert (row["published_on"], row["note"]) == ("imagenet", "the paper has it of imagenet")
    assert row["here"] == pytest.approx(0.95)
    assert 0.9 <= row["low"] < row["high"] <= 1


def test_what_the_paper_says_of_lime_alone_stands_beside_no_other_explainer() -> None:
    trials = pd.DataFrame({"pearson_r": [0.9, 1.0]})
    growing = pd.DataFrame({"size": [1, 2], "mean_average_precision": [0.5, 0.6]})
    of_lime = comparison(run_of(1, 0), {"lime": growing}, {"lime": trials, "smoothgrad": trials})
    assert not any("smoothgrad" in claim for claim in of_lime["claim"])
    assert {0.96, 15.0, 5.0} <= set(of_lime["published"])
    others = comparison(run_of(1, 0), {"occlusion": growing}, {"smoothgrad": trials, "occlusion": trials})
    assert not {0.96, 15.0, 5.0} & set(others["published"])


@pytest.mark.parametrize(
    ("rise", "whole", "size", "agrees"),
    [
        (8, 30, 8, {15: "yes", 5: "no"}),
        (21, 30, 21, {15: "no", 5: "no"}),
        (8, 12, 8, {15: "-", 5: "no"}),
        (4, 12, 4, {15: "-", 5: "yes"}),
        (4, 5, 4, {15: "-", 5: "-"}),
    ],
)
def test_convergence_is_the_smallest_size_from_which_the_mean_stays_near(
    rise: int, whole: int, size: int, agrees: dict[int, str]
) -> None:
    sizes = np.arange(1, whole + 1)
    means = np.where((sizes >= rise) | (sizes == 2), 0.8, 0.7)  # near by chance at 2
    growing = pd.DataFrame({"size": sizes, "mean_average_precision": means})
    rows = comparison(run_of(1, 0), growing={"lime": growing}).iloc[-2:]
    assert set(rows["here"]) == {size}
    assert set(rows["n"]) == {whole}
    assert dict(zip(rows["published"], rows["agrees"], strict=True)) == agrees
    for row, section in zip(rows.to_dict("records"), ("4.5.3", "4.1.4"), strict=True):
        assert f"the {row['published']:.0f} is the paper's ({section}" in row["note"]
        assert "the bound of 0.01 is ours" in row["note"]


# Figures 5 and 11, by LIME
R_OF_LIME = {"imagenet": 0.809, "cub200": 0.908, "cars196": 0.952, "flowers102": 0.879, "food101": 0.913}


def without_masks() -> dict[str, pd.DataFrame]:
    return {name: table.drop(columns="mean_average_precision") for name, table in run_of(1, 0.01).items()}


@pytest.mark.parametrize("dataset", R_OF_LIME)
def test_the_experiment_s_own_data_set_stands_beside_it_whatever_it_has(dataset: str) -> None:
    for members in (run_of(1, 0.01), without_masks()):
        table = comparison(members, own=dataset, loader="imagenet").set_index("claim")
        row = table.loc["r of consensus score LIME and accuracy"]
        assert (row["published_on"], row["published"], row["note"]) == (dataset, R_OF_LIME[dataset], "")
        assert set(table["published_on"]) == {dataset}


@pytest.mark.parametrize(
    ("masks", "loader", "dataset", "says"),
    [
        (True, "imagefolder", "cub200", "own data with masks"),
        (True, "imagenet", "cub200", "own data with masks"),
        (False, "cars196", "cars196", "read as cars196"),
        (False, "imagefolder", "imagenet", "own data without masks"),
    ],
)
def test_data_of_one_s_own_stand_beside_the_nearest_and_the_rows_say_why(
    masks: bool, loader: str, dataset: str, says: str
) -> None:
    table = comparison(run_of(1, 0.01) if masks else without_masks(), loader=loader)
    row = table.set_index("claim").loc["r of consensus score LIME and accuracy"]
    assert (row["published_on"], row["published"]) == (dataset, R_OF_LIME[dataset])
    assert all(says in note for note in table["note"])


def test_the_order_of_table_1_is_compared_among_the_models_that_are_there() -> None:
    table = pd.DataFrame(
        {"member": ["AlexNet", "vgg16", "DenseNet161", "other", "consensus"], "family": "f", "accuracy": 0.5}
        | {"consensus_score": [0.7, 0.5, 0.6, 0.9, np.nan]}
    )
    row = comparison({"lime": table}).iloc[-1]
    assert (row["n"], row["published"]) == (3, 1)
    assert row["here"] == pytest.approx(-1 / 3)  # one of the three pairs is in the published order


@pytest.mark.parametrize("dataset", published.DATASETS)
def test_the_paper_s_numbers_stand_beside_every_lime_whatever_its_name(dataset: str) -> None:
    members = published.members(dataset)
    renamed = {"lime_500": members["lime"], "smoothgrad": members["smoothgrad"]}
    trials = pd.DataFrame({"size": [1, 2], "pearson_r": [0.9, 0.8], "mean_average_precision": [0.5, 0.6]})
    known = comparison(members, {"lime": trials}, {"lime": trials}, own=dataset)
    found = comparison(renamed, {"lime_500": trials}, {"lime_500": trials}, own=dataset, kinds={"lime_500": "lime"})
    columns = ["published_on", "published", "here", "agrees"]
    pd.testing.assert_frame_equal(found[columns], known[columns])
    assert all("lime_500" in claim for claim in found["claim"] if "lime" in claim)
    kinds = {"lime_500": "lime"}
    pd.testing.assert_series_equal(
        tables.correlations(renamed, dataset, kinds=kinds)["published_r"],
        tables.correlations(members, dataset)["published_r"],
    )
    assert "Consensus LIME (paper)" in [*tables.table1(renamed, kinds=kinds)["measure"]]


def test_another_method_that_is_called_lime_has_no_published_number() -> None:
    members = published.members("imagenet")
    found = comparison({"lime": members["lime"]}, own="imagenet", kinds={"lime": "own.py:Other"})
    assert found.empty
    assert set(tables.table1(members, kinds={"lime": "own.py:Other"})["measure"]).isdisjoint({"Consensus LIME (paper)"})
