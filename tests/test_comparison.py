"""The paper's claims beside a run's."""

import numpy as np
import pandas as pd
import pytest

from xconsensus import published
from xconsensus.comparison import comparison


def test_the_paper_beside_itself_agrees_in_every_claim() -> None:
    for dataset in published.DATASETS:
        table = comparison(published.members(dataset))
        correlations = table[table["claim"].str.startswith("r of")]
        assert set(table["published_on"]) == {dataset}
        assert set(correlations["agrees"]) == {"yes"}
        assert len(correlations) == len(published.correlations(dataset))
        margins = table[~table["claim"].str.startswith("r of")]
        np.testing.assert_array_equal(margins["published"], margins["here"])


def run_of(sign: float, spread: float) -> dict[str, pd.DataFrame]:
    """Eight members whose mAP rises (or falls) with accuracy, and a consensus below the best of them."""
    steps, noise = np.arange(8.0), spread * (-1.0) ** np.arange(8)
    accuracy = [*(0.5 + 0.05 * steps), 0.9]
    precision = [*(0.5 + sign * 0.02 * steps + noise), 0.1]
    names = [*(f"m{i}" for i in range(8)), "consensus"]
    scores = [*(0.3 + 0.01 * steps), np.nan]
    table = pd.DataFrame(
        {"member": names, "family": "f", "accuracy": accuracy, "consensus_score": scores}
        | {"mean_average_precision": precision}
    )
    return {"lime": table}


@pytest.mark.parametrize(("sign", "spread", "agrees"), [(1, 0, "yes"), (-1, 0, "no"), (0.2, 0.02, "sign only")])
def test_agreement_is_of_sign_and_interval(sign: float, spread: float, agrees: str) -> None:
    table = comparison(run_of(sign, spread)).set_index("claim")
    row = table.loc["r of mean_average_precision_lime and accuracy"]
    assert row["agrees"] == agrees
    assert row["low"] <= row["here"] <= row["high"]
    assert row["published"] == 0.927


def test_a_consensus_below_the_best_member_contradicts_the_paper() -> None:
    row = comparison(run_of(1, 0)).set_index("claim").loc["lime: consensus's mAP above the best member's"]
    assert (row["agrees"], row["n"]) == ("no", 8)
    assert row["here"] == pytest.approx(0.1 - 0.64)
    assert row["published"] > 0
