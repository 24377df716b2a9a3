"""Other committees than the run's own: a family alone (Figure 7), random ones (4.5.2), growing ones (Figure 8)."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from xconsensus.consensus import ballot_of
from xconsensus.errors import InputError, nearest
from xconsensus.figures import tables
from xconsensus.scores.committees import agreement, committee_scores, growing_committees, random_committees
from xconsensus.scores.metrics import bootstrap_mean
from xconsensus.stages.context import Context
from xconsensus.stages.score import areas, similarity_of
from xconsensus.stages.scored import Scored


def growing(each: Scored) -> pd.DataFrame:
    """The consensus's mAP for ``plot.trials`` random committees of every size (Fig. 8)."""
    context = each.context
    ballot = ballot_of(context.config["explainer"]["vote"])
    images = (
        (ballot(values).numpy(), *areas(context, record)) for record, values in each.explanations(context.chosen())
    )
    members = len(context.initial)
    return growing_committees(images, members, range(1, members + 1), context.config["plot"]["trials"], context.seed)


def random(each: Scored) -> pd.DataFrame:
    """Correlation of the family's scores under random committees with those under the complete one (4.5.2)."""
    context, members, own = each.context, len(each.context.initial), family(each.context)
    bounds = extras(context)
    committees = random_committees(members, own, bounds, context.config["plot"]["trials"], context.seed)
    scores = committee_scores(_images(each, own), [np.arange(members), *committees], similarity_of(context)).mean(0)
    return agreement(scores[1:], scores[0], committees)


def family_tables(scored: Mapping[str, Scored]) -> dict[str, pd.DataFrame]:
    """Panel's title -> the family's members table, its scores from the family's own vote or everybody's (Fig. 7)."""
    panels = {}
    for name, each in scored.items():
        context, own = each.context, family(each.context)
        committees = {"the family's vote": np.asarray(own), "everybody's vote": np.arange(len(context.initial))}
        scores = committee_scores(_images(each, own), list(committees.values()), similarity_of(context))
        names = [context.initial[position].name for position in own]
        table = each.members.set_index("member").loc[names, ["family", "accuracy"]].reset_index()
        options = context.config["score"]
        for index, vote in enumerate(committees):
            low, high = bootstrap_mean(scores[:, index], options["bootstrap"], context.seed, options["level"])
            mean = scores[:, index].mean(0)
            panels[f"{tables.EXPLAINERS.get(name, name)}, {vote}"] = table.assign(
                consensus_score=mean, consensus_score_low=low, consensus_score_high=high
            )
    return panels


def family(context: Context) -> list[int]:
    """Positions of the members of ``plot.family``: a family's name, a list of members, or null, the largest family.

    Raises InputError for a family or member that the committee lacks.
    """
    wanted, members = context.config["plot"]["family"], context.initial
    families = pd.Series([member.family for member in members])
    if isinstance(wanted, list):
        names = [member.name for member in members]
        for name in wanted:
            if name not in names:
                raise InputError(f"plot.family: {context.committee} has no member {name}{nearest(name, names)}")
        return [names.index(name) for name in wanted]
    if wanted is None:
        wanted = families.value_counts(sort=False).idxmax()
    if wanted not in set(families):
        raise InputError(
            f"plot.family={wanted}: {context.committee} has no such family{nearest(wanted, set(families))}"
        )
    return np.flatnonzero(families == wanted).tolist()


def extras(context: Context) -> tuple[int, int]:
    """How many others join the family: ``plot.extras``, or where the rest is smaller, a third to two thirds of it."""
    low, high = context.config["plot"]["extras"]
    rest = len(context.initial) - len(family(context))
    return (low, high) if high <= rest else (max(1, rest // 3), max(1, 2 * rest // 3))


def _images(each: Scored, own: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The family's explanations and everybody's ballots of each image."""
    ballot = ballot_of(each.context.config["explainer"]["vote"])
    for _, values in each.explanations(each.context.chosen()):
        yield values[own], ballot(values)
