"""Other rules of Algorithm 2 beside the explainer's own: votes and similarities from one set of explanations."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from xconsensus import own_code
from xconsensus.consensus import SIMILARITIES, VOTES, Similarity, ballot_of
from xconsensus.errors import InputError, nearest
from xconsensus.published import ENSEMBLE
from xconsensus.scores.metrics import average_precision, correlation, mean_over_images, without_spread

Areas = tuple[NDArray[Any], NDArray[Any] | None]


@dataclass(frozen=True)
class Rule:
    """A ``vote``, by its name or own code, and the ``similarity`` to its consensus."""

    vote: str
    similarity: Similarity

    @property
    def name(self) -> str:
        """As ``score.rules`` has it, such as signed+cosine or min_max+rbf+2.5."""
        sigma = f"+{self.similarity.sigma:g}" if self.similarity.has_sigma else ""
        return f"{own_code.settled(self.vote)}+{self.similarity.name}{sigma}"


def rule_by_name(name: str) -> Rule:
    """The rule of a name; InputError for one that is none."""
    vote, _, rest = name.partition("+")
    similarity, _, sigma = rest.partition("+")
    for part, known in ((vote, VOTES), (similarity, SIMILARITIES)):
        if part not in known:
            raise InputError(f"score.rules: {name}: {part!r} is unknown{nearest(part, known)}; give VOTE+SIMILARITY")
    has_sigma = Similarity(similarity).has_sigma
    try:
        value = float(sigma) if has_sigma else 1.0
    except ValueError:
        value = 0.0
    if not 0 < value < np.inf or bool(sigma) is not has_sigma:
        needs = "needs a positive sigma, as in min_max+rbf+2.5" if has_sigma else "has no sigma"
        raise InputError(f"score.rules: {name}: {similarity} {needs}")
    return Rule(vote, Similarity(similarity, value) if has_sigma else Similarity(similarity))


def rules_table(
    images: Iterable[tuple[Tensor, Areas | None]], names: Sequence[str], rules: Sequence[Rule], weighted: Any
) -> pd.DataFrame:
    """rules.csv: one row a rule and member, each rule's consensus last.

    ``images`` gives the explanations (m, K) of one image by the members ``names`` (m), and `metrics.areas` of its mask
    or None; ``weighted`` turns a map before its average precision.

    Columns: rule, member, consensus_score, NaN of the consensus, and mean_average_precision, NaN without masks: of the
    consensus by that rule, and of each member's map, squared where it is compared so.
    """
    similar: list[NDArray[np.floating]] = []
    precise: list[NDArray[np.floating]] = []
    for explanations, areas in images:
        blank, own = without_spread(explanations), explanations.numpy()
        similarities = np.full((len(rules), len(names)), np.nan)
        precisions = np.full((len(rules), len(names) + 1), np.nan)
        plain = [average_precision(weighted(each), *areas) for each in own] if areas else np.nan
        for row, rule in enumerate(rules):
            agreed = ballot_of(rule.vote)(explanations).mean(0)
            found = rule.similarity(explanations, agreed).numpy()
            similarities[row] = np.where(blank, np.nan, found)
            if areas:
                squared = rule.similarity.name == "cosine_squared"
                precisions[row, :-1] = [average_precision(each, *areas) for each in own**2] if squared else plain
                precisions[row, -1] = average_precision(weighted(agreed.float().numpy()), *areas)
        similar.append(similarities)
        precise.append(precisions)
    scores, precision = mean_over_images(np.stack(similar)), mean_over_images(np.stack(precise))
    return pd.DataFrame(
        {
            "rule": np.repeat([rule.name for rule in rules], len(names) + 1),
            "member": [*names, ENSEMBLE] * len(rules),
            "consensus_score": np.hstack([scores, np.full((len(rules), 1), np.nan)]).ravel(),
            "mean_average_precision": precision.ravel(),
        }
    )


def by_rule(rules: pd.DataFrame, members: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """What of the findings is the rule's, over the members of both rules.csv and members.csv.

    Returns one row a rule: median_score, the fields of `metrics.Correlation` of score and accuracy, and with masks the
    mean average precision of the consensus, of the best member and of the mean member.
    """
    accuracy, rows = members.set_index("member")["accuracy"].drop(ENSEMBLE), []
    for name, table in rules.groupby("rule", sort=False):
        own = table.set_index("member")
        shown = own.loc[[member for member in accuracy.index if member in own.index]]
        score, precision = shown["consensus_score"], shown["mean_average_precision"]
        found: dict[str, Any] = {"rule": name, "median_score": float(score.median())}
        found |= asdict(correlation(score, accuracy[shown.index], level))
        if precision.notna().any():
            found["mean_average_precision_consensus"] = own.loc[ENSEMBLE, "mean_average_precision"]
            found |= {
                f"mean_average_precision_{which}": each
                for which, each in (("best_member", precision.max()), ("mean_member", precision.mean()))
            }
        rows.append(found)
    return pd.DataFrame(rows)
