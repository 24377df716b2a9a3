"""What figures and tables are drawn from: the scores of a run, its images, and the maps that members made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xconsensus import published
from xconsensus.figures.rendering import heading
from xconsensus.figures.tables import EXPLAINERS, correlations, table2
from xconsensus.published import ENSEMBLE
from xconsensus.scores.accuracy import ENSEMBLES
from xconsensus.scores.metrics import correlation, fisher_interval

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Map = NDArray[np.floating]


def absent(*_: str) -> Any:
    """What results without images answer when they are asked for one."""
    raise LookupError("these results have no images and maps")


class Picture(NamedTuple):
    """An explained image: its id, and its label in words, empty where that is unknown."""

    image_id: str
    label: str


@dataclass(frozen=True)
class Images:
    """The explained images: ``pixels`` RGB uint8 (H, W, 3), ``mask`` (H, W), and each category of ``objects`` with its
    mask, by image id. ``has_masks`` says whether there are masks, ``mask_kind`` that these are boxes.
    """

    pictures: Sequence[Picture] = ()
    has_masks: bool = False
    pixels: Callable[[str], Pixels] = absent
    mask: Callable[[str], Mask] = absent
    objects: Callable[[str], Sequence[tuple[str, Mask]]] = lambda _: ()
    mask_kind: str = ""

    def spread(self, count: int) -> list[Picture]:
        """At most ``count`` of the images, spread over them."""
        if not self.pictures:
            return []
        places = np.linspace(0, len(self.pictures) - 1, count).round().astype(int)
        return [self.pictures[place] for place in np.unique(places)]


@dataclass(frozen=True)
class Scores:
    """One explainer's scores: its ``method``, the tables that `score` writes, and its maps.

    ``growing``, ``random``, ``family``, ``diluted``, ``intervals``, ``estimation``, ``measures``, ``rules``,
    ``pairs``, ``baselines``, ``objects`` and ``several`` are None where the run has none. ``map_of`` gives a member's
    explanation, or the consensus, (H, W), by member and image id; ``prediction_of`` the class that a member predicts,
    in words, and its probability. ``extras`` is how many others join the family in a random committee.
    """

    members: pd.DataFrame
    images: pd.DataFrame = field(default_factory=pd.DataFrame)
    on_superpixels: bool = False
    sigma: float | None = None
    growing: pd.DataFrame | None = None
    random: pd.DataFrame | None = None
    family: pd.DataFrame | None = None
    diluted: pd.DataFrame | None = None
    intervals: pd.DataFrame | None = None
    estimation: pd.DataFrame | None = None
    measures: pd.DataFrame | None = None
    rules: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    baselines: pd.DataFrame | None = None
    objects: pd.DataFrame | None = None
    several: pd.DataFrame | None = None
    extras: tuple[int, int] = (0, 0)
    method: str = ""
    map_of: Callable[[str, str], Map] = absent
    prediction_of: Callable[[str, str], tuple[str, float]] = absent

    def of_image(self, image_id: str, column: str) -> "pd.Series[float]":
        """A column of images.csv for one image, by member."""
        return self.images[self.images["image_id"] == image_id].set_index("member")[column]


@dataclass(frozen=True)
class Results:
    """A committee's results on a data set, by every explainer.

    ``voters`` are the names of the members that vote, of which ``scores`` may show some, and ``random`` how many of
    these have random weights; ``options`` is the config's group ``plot``, ``level`` and ``ap_weights`` those of the
    group ``score``. ``panels`` are members tables of several runs, by data set, and ``under_panels`` says what they
    are (Fig. 11). ``of_paper`` names the paper's data set whose numbers they are, ``loader`` the data set's loader.
    ``titles`` are own explainers' names in figures and tables.
    """

    dataset: str
    committee: str
    scores: Mapping[str, Scores]
    voters: Sequence[str] = ()
    images: Images = Images()
    options: Mapping[str, Any] = field(default_factory=dict)
    level: float = 0.95
    ap_weights: str = "signed"
    panels: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    under_panels: str = ""
    of_paper: str | None = None
    loader: str = ""
    random: int = 0
    titles: Mapping[str, str] = field(default_factory=dict)

    def title(self, explainer: str) -> str:
        """An explainer's name as figures and tables show it, with its own beside it where two have the same."""
        shown = {**EXPLAINERS, **self.titles}
        title = shown.get(explainer, explainer)
        alike = [name for name in self.scores if shown.get(name, name) == title]
        return title if len(alike) < 2 else f"{title} ({explainer})"

    @property
    def shown_titles(self) -> dict[str, str]:
        """Each explainer's `title`."""
        return {name: self.title(name) for name in self.scores}

    @property
    def titled(self) -> dict[str, pd.DataFrame]:
        """`members`, by the explainers' titles."""
        return {self.title(name): table for name, table in self.members.items()}

    @cached_property
    def members(self) -> dict[str, pd.DataFrame]:
        """Explainer -> members.csv, the row of the committee with its accuracy by `ensemble`, named as its family."""
        return {name: self._with_ensemble(each.members) for name, each in self.scores.items()}

    @property
    def ensemble(self) -> str:
        """How the committee is one classifier, in words."""
        return "averaging and voting" if self.of_paper else ENSEMBLES[self.options.get("ensemble", "averaging")][1]

    @property
    def weighted(self) -> str:
        """Of which maps average precisions are, and to which masks, in words; empty where of the maps as they are to
        segmentations.
        """
        maps = "" if self.ap_weights == "signed" else f"average precision of {self.ap_weights} maps"
        return "; ".join(filter(None, [maps, f"masks are {kind}" if (kind := self.images.mask_kind) else ""]))

    @property
    def first(self) -> Scores:
        """The first explainer's scores: what is no matter of the explainer is the same in all."""
        return next(iter(self.scores.values()))

    @property
    def superpixels(self) -> dict[str, Scores]:
        """The explainers on superpixels, LIME as a rule."""
        return {name: each for name, each in self.scores.items() if each.on_superpixels}

    @property
    def pixels(self) -> dict[str, Scores]:
        """The explainers on pixels, SmoothGrad as a rule."""
        return {name: each for name, each in self.scores.items() if not each.on_superpixels}

    @property
    def kinds(self) -> dict[str, str]:
        """Explainer -> its method, where that is known: a LIME of any name stands beside the paper's LIME."""
        return {name: each.method for name, each in self.scores.items() if each.method}

    @property
    def several(self) -> dict[str, pd.DataFrame]:
        """Explainer -> its several.csv, of those that have one."""
        return {name: each.several for name, each in self.scores.items() if each.several is not None}

    def caption(self, *what: str, explainers: Sequence[str] | None = None) -> str:
        """Data set, images, members and explainers in a line, as it stands under a figure, and then ``what``."""
        if self.of_paper:
            return "; ".join(filter(None, ["Numbers of the paper, Table 2", legible(self), *what]))
        names = " and ".join(self.title(name) for name in explainers or self.scores)
        whole, own = len(self.voters), len(self.first.members) - 1
        shown = f"{own} of {whole} members" if own < whole else f"{whole} members"
        images = len(self.images.pictures)
        return "; ".join(filter(None, [f"{self.dataset}: {images} images, {shown}, {names}", *what]))

    def _with_ensemble(self, table: pd.DataFrame) -> pd.DataFrame:
        column = "accuracy" if self.of_paper else ENSEMBLES[self.options.get("ensemble", "averaging")][0]
        own = (table["member"] == ENSEMBLE) & table[column].notna()
        return table.assign(
            accuracy=table["accuracy"].mask(own, table[column]), family=table["family"].mask(own, self.ensemble)
        )

    def shown_members(self, scores: Scores, count: int) -> list[str]:
        """At most ``count`` members from the most to the least accurate, evenly spaced among all."""
        own = scores.members[scores.members["member"] != ENSEMBLE]
        ranked = list(own.sort_values("accuracy", ascending=False, kind="stable")["member"])
        return [ranked[place] for place in np.unique(np.linspace(0, len(ranked) - 1, count).round().astype(int))]


def of_paper(committee: str, dataset: str, level: float) -> Results:
    """The paper's own numbers as results of its ``committee`` on one of its data sets."""
    members = published.members(dataset)
    masks = "mean_average_precision" in next(iter(members.values()))
    scores = {name: Scores(table) for name, table in members.items()}
    voters = [name for name in next(iter(members.values()))["member"] if name != ENSEMBLE]
    images = Images(has_masks=masks)
    return Results("published", committee, scores, voters, images, level=level, of_paper=dataset)


def legible(results: Results) -> str:
    """How many rows of the paper's own results miss a number that the available scan of Table 2 leaves illegible, and
    how many have an accuracy that is doubtful there, and left out.
    """
    table = table2(results.members)
    table = table[table["member"] != ENSEMBLE]
    doubtful = table["accuracy"].isna() & table["member"].isin(_doubtful(results))
    counts = {
        "miss a number": (table.isna().any(axis=1) & ~doubtful).sum(),
        "have a doubtful accuracy, left out": doubtful.sum(),
    }
    of = f"of {len(table)} rows of {results.committee}"
    return "; ".join(f"{count} {of} {what}" for what, count in counts.items() if count)


def doubts(results: Results) -> str:
    """What r of accuracy is without and with the doubtful accuracies of the paper's own results; empty without any."""
    if not (doubtful := _doubtful(results)):
        return ""
    clauses = []
    for name, table in results.members.items():
        own, score = table.set_index("member")["accuracy"], table.set_index("member")["consensus_score"]
        without, with_them = (correlation(score, each).pearson_r for each in (own, own.fillna(pd.Series(doubtful))))
        clauses.append(f"{with_them:.3f} instead of {without:.3f} by {EXPLAINERS[name]}")
    values = ", ".join(f"{member} {accuracy:.3f}" for member, accuracy in doubtful.items())
    return f"with the doubtful ({values}, which look shifted) r is {' and '.join(clauses)}"


def _doubtful(results: Results) -> Mapping[str, float]:
    return published.DOUBTFUL if results.of_paper == "imagenet" else {}


def departures(results: Results, figure: int) -> str:
    """Which of a figure's r, recomputed from the paper's own table, lie outside the interval of the r that it states.

    That is Fisher's interval with all members, as the paper has them: the available scan of Table 2 has fewer.
    ``figure`` is its number. Empty where there is none, or the results are not the paper's own.
    """
    if not results.of_paper:
        return ""
    stated = published.correlations(results.of_paper)
    stated = stated[stated["figure"] == f"Fig. {figure}"][["x", "y"]]
    found = correlations(results.members, results.of_paper, results.level).merge(stated, on=["x", "y"])
    clauses = []
    for x, y, r, paper in found[["x", "y", "pearson_r", "published_r"]].itertuples(index=False):
        low, high = fisher_interval(paper, len(results.voters), results.level)
        if not low <= r <= high:
            clauses.append(
                f"recomputed r {r:.4f} of {heading(x)} and {heading(y)} lies outside the published {paper:.3f}'s"
                f" {100 * results.level:g} % interval [{low:.4f}, {high:.4f}]"
            )
    return "; ".join(clauses)
