"""The one table of figures and tables: what each shows, what it needs, who draws it, and whose it is in the paper."""

import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import pandas as pd

from xconsensus import published
from xconsensus.figures import curves, galleries, scatter, tables
from xconsensus.figures.comparison import comparison
from xconsensus.figures.gallery import gallery
from xconsensus.figures.method import fig01
from xconsensus.figures.pairs import pairs
from xconsensus.figures.results import Results, Scores, departures, doubts

Arguments = tuple[Any, ...]
Getter = Callable[[Results], Mapping[str, Arguments]]


@dataclass(frozen=True)
class Need:
    """What results must have; ``reason`` is said of those that lack it."""

    met: Callable[[Results], bool]
    reason: str


MASKS = Need(lambda r: r.images.has_masks, "the data set has no masks")
SUPERPIXELS = Need(lambda r: bool(r.superpixels), "no explainer works on superpixels")
PIXELS = Need(lambda r: bool(r.pixels), "no explainer works on pixels")
TWO_EXPLAIN = Need(lambda r: len(r.scores) == 2, "it compares two explainers")
OBJECTS = Need(
    lambda r: any(len(r.images.objects(each.image_id)) > 1 for each in r.images.spread(r.options["gallery"])),
    "images of the data set have one object",
)
COUNTED = Need(lambda r: bool(r.several), "their objects are not counted: run xconsensus score")
ACCURACIES = Need(lambda r: not r.first.members["accuracy"].isna().all(), "accuracies are unknown")
FAMILY = Need(lambda r: r.first.family is not None, "no family of at least two members and not all")
SCORED = Need(
    lambda r: all(each.members["consensus_score"].notna().any() for each in r.scores.values()),
    "no explanation has more than one value, so there are no consensus scores",
)
RANDOM = Need(lambda r: r.first.diluted is not None, "no member has random weights: see experiment=shapes_diluted")
MEASURED = Need(
    lambda r: all(each.measures is not None for each in r.scores.values()),
    "it takes two members; where scores are of an earlier version, run score again",
)
PAIRED = Need(lambda r: any(each.pairs is not None for each in r.scores.values()), "scores have no pairs.csv")
BESIDE = Need(lambda r: any(each.baselines is not None for each in r.scores.values()), "scores have no baselines.csv")
BY_RULES = Need(lambda r: any(each.rules is not None for each in r.scores.values()), "scores have no rules.csv")
IN_INTERVALS = Need(
    lambda r: all(each.intervals is not None for each in r.scores.values()),
    "it takes four members; where scores are of an earlier version, run score again",
)
ESTIMATED = Need(
    lambda r: all(each.estimation is not None and len(each.estimation) for each in r.scores.values()),
    "it takes four members, and labels; where scores are of an earlier version, run score again",
)
FOUR_OF_FAMILY = Need(lambda r: r.first.random is not None, "correlations need a family of at least 4 members")
RBF = Need(lambda r: any(each.sigma for each in r.scores.values()), "no explainer is compared by the RBF similarity")
# what is drawn without these only when it is asked for by name
NO_MASKS = Need(lambda r: not r.images.has_masks, "the data set has masks: see fig03, fig14 and fig15")
TABLE_1 = Need(lambda r: bool(tables.table1_members(r.voters)), "the committee has none of its five models")
PANELS = Need(lambda r: bool(r.options["panels"]), "plot.panels names no other data sets")


@dataclass(frozen=True)
class Entry:
    """A figure or table: its name, what it shows, who draws it, of what, what it needs, and whose it is in the paper.

    ``arguments`` gives what ``draw`` is given of a run's results: tables, arrays and texts alone, so that a figure can
    be drawn anywhere, and again only where these change; a figure of several files has several, by what is added to
    its name. What it needs ``by_default`` need not be there when it is asked for by name. ``experiments`` are the
    paper's own (conf/experiment/) in which it stands; ``published`` says that the paper's numbers suffice for it.
    """

    name: str
    title: str
    draw: Callable[..., Any]
    arguments: Getter
    needs: Sequence[Need] = ()
    experiments: Sequence[str] = ()
    by_default: Sequence[Need] = ()
    published: bool = False

    def lack(self, results: Results, by_name: bool) -> str | None:
        """Why it is not made of these results, if so; ``by_name`` says that it was asked for."""
        needs = [*self.needs, *([] if by_name else self.by_default)]
        return next((need.reason for need in needs if not need.met(results)), None)


def _one(arguments: Callable[[Results], Arguments]) -> Getter:
    """The arguments of what is one file."""
    return lambda results: {"": arguments(results)}


def _scatter(figure: int) -> Getter:
    """The arguments of the paper's figure of that number, its caption with what the paper states otherwise."""

    def arguments(results: Results) -> Arguments:
        star = f"star: the committee by {results.ensemble}" if figure == 4 else ""
        weighted = results.weighted if figure in (4, 10) else ""
        doubtful = doubts(results) if figure == 5 else ""
        clauses = (star, weighted, doubtful, departures(results, figure))
        return results.titled, results.caption(*clauses), results.level

    return _one(arguments)


def _family(results: Results) -> Arguments:
    """Panel's title -> the family's members table, its scores by the family's own vote or everybody's (Fig. 7)."""
    panels = {}
    for name, scores in results.scores.items():
        assert scores.family is not None
        about = scores.members.set_index("member")[["family", "accuracy"]]
        for vote, table in scores.family.groupby("vote", sort=False):
            own = table.drop(columns="vote").join(about, on="member", how="inner")
            own = own[
                ["member", "family", "accuracy", *(name for name in own if str(name).startswith("consensus_score"))]
            ]
            panels[f"{results.title(name)}, {vote}"] = own
    own = next(iter(panels.values()))
    names = ", ".join(sorted(set(own["family"])))
    everyone = results.first.members
    families = sorted(set(everyone.loc[everyone["member"] != published.ENSEMBLE, "family"]))
    return panels, results.caption(f"shown: the {len(own)} members of {names}"), results.level, families


def _random(results: Results) -> Arguments:
    low, high = results.first.extras
    assert results.first.family is not None
    family = results.first.family["member"].nunique()
    what = f"random committees: {family} of one family and {low} to {high} others"
    stated = {
        results.title(name): published.FAMILY_R
        for name in results.scores
        if tables.kind_of(name, results.kinds) == "lime"
    }
    return {results.title(name): each.random for name, each in results.scores.items()}, results.caption(what), stated


def _diluted(results: Results) -> Arguments:
    """Explainer -> its table of diluted committees, and the caption."""
    found = {results.title(name): each.diluted for name, each in results.scores.items() if each.diluted is not None}
    drawn = next(iter(found.values()))
    trained, most = drawn["trained"].max(), drawn["random"].max()
    whole = len(results.voters) - results.random
    what = (
        f"{trained} of {whole} trained members vote with 0 to {most} of {results.random} random weights",
        f"mean, least and greatest of {drawn['trial'].nunique()} draws of both",
        f"scores and r are of all {whole}; images are those that these get right",
        results.weighted,
    )
    return found, results.caption(*what)


def _measures(results: Results) -> Arguments:
    return results.members, {name: each.measures for name, each in results.scores.items()}, results.level


def _baselines(results: Results) -> Arguments:
    return ({name: each.baselines for name, each in results.scores.items() if each.baselines is not None},)


def _pairs(results: Results) -> Arguments:
    every = results.scores.items()
    found = {results.title(name): (each.pairs, each.members) for name, each in every if each.pairs is not None}
    return found, results.caption("families side by side, in each from the least to the most accurate")


def _rules(results: Results) -> Arguments:
    found = {name: each.rules for name, each in results.scores.items() if each.rules is not None}
    return results.members, found, results.level


def _intervals(results: Results) -> Arguments:
    return ({name: each.intervals for name, each in results.scores.items()},)


def _estimation(results: Results) -> Arguments:
    return ({name: each.estimation for name, each in results.scores.items()},)


def _growing(results: Results) -> Arguments:
    name, scores = next(iter(results.superpixels.items()))
    assert scores.growing is not None
    trials = scores.growing["size"].value_counts().max()
    what = (f"{trials} random trials of each size but the complete committee", results.weighted)
    return scores.growing.assign(panel=name), len(results.voters), results.caption(*what, explainers=[name])


def _several(results: Results) -> Arguments:
    what = "n: images; best member: highest mAP of all images"
    return results.several, results.caption(what, results.weighted, explainers=[*results.several]), results.level


def _data_sets(results: Results) -> Arguments:
    """Panel -> its members table, the caption, level, and panel -> the paper's r of its data set, if it states one."""
    name, own = next(iter(results.scores)), {results.dataset: results.options.get("published")}
    stated = {}
    for panel in results.panels:
        dataset = panel.partition("/")[0]
        r = published.correlations(own.get(dataset) or dataset).set_index(["x", "y"])["pearson_r"]
        if (pair := (f"consensus_score_{tables.kind_of(name, results.kinds)}", "accuracy")) in r.index:
            stated[panel] = float(r[pair])
    return results.panels, f"{results.under_panels}; {results.title(name)}", results.level, stated


def _members(results: Results) -> Arguments:
    return (results.members,)


def _leveled(results: Results) -> Arguments:
    return results.members, results.level


def _table1(results: Results) -> Arguments:
    return results.members, results.of_paper is None, results.kinds, results.shown_titles


def _correlations(results: Results) -> Arguments:
    return results.members, results.of_paper, results.level, results.kinds


def _sigma(results: Results) -> Arguments:
    return ({name: (each.images, each.members, each.sigma) for name, each in results.scores.items() if each.sigma},)


def _comparison(results: Results) -> Arguments:
    """Every claim of the paper that this run can be held against."""
    growing = {name: each.growing for name, each in results.scores.items() if each.growing is not None}
    random = {name: each.random for name, each in results.scores.items() if each.random is not None}
    own, loader = results.options.get("published"), results.loader
    return results.members, growing, random, results.level, own, loader, results.kinds


def sigma(scores: Mapping[str, tuple[pd.DataFrame, pd.DataFrame, float]]) -> pd.DataFrame:
    """`tables.sigma` of each explainer's images.csv, members.csv and sigma."""
    found = [tables.sigma(*given).assign(explainer=name) for name, given in scores.items()]
    table = pd.concat(found)
    return table[["explainer", *(column for column in table if column != "explainer")]]


def _images(masks: bool) -> Getter:
    return partial(galleries.one_image, masks=masks)


def _gallery(of: Callable[[Results], Mapping[str, Scores]], masks: bool) -> Getter:
    return _one(lambda results: galleries.many_images(results, of(results), masks=masks))


_AREAS, _PIXELS = attrgetter("superpixels"), attrgetter("pixels")
_IMAGENET, _CUB, _BOTH = ("imagenet",), ("cub",), ("imagenet", "cub")
_OTHERS = ("cars", "flowers", "foods")
# fmt: off
_FIGURES = (
    Entry("fig01", "the three steps on one image", fig01, _one(galleries.method), (), _IMAGENET),
    Entry("fig02", "images as members see them", gallery, _images(masks=False), (), _IMAGENET, (NO_MASKS,)),
    Entry("fig03", "the same, with masks and average precision", gallery, _images(masks=True), (MASKS,), _CUB),
    Entry("fig04", "accuracy against mAP", scatter.fig04, _scatter(4), (MASKS, ACCURACIES), _CUB, published=True),
    Entry("fig05", "accuracy against score", scatter.fig05, _scatter(5), (ACCURACIES, SCORED), _BOTH, published=True),
    Entry("fig06", "two explainers' scores", scatter.fig06, _scatter(6), (TWO_EXPLAIN, SCORED), _BOTH, published=True),
    Entry("fig07", "a family by its own vote", scatter.fig07, _one(_family), (ACCURACIES, FAMILY, SCORED), _IMAGENET),
    Entry("fig08", "the consensus's mAP as committees grow", curves.fig08, _one(_growing), (MASKS, SUPERPIXELS), _CUB),
    Entry("fig09", "images of several objects", gallery, galleries.several_objects, (OBJECTS,), ("coco",)),
    Entry("fig10", "mAP against consensus score", scatter.fig10, _scatter(10), (MASKS, SCORED), _CUB, published=True),
    Entry("fig11", "figure 5 of several data sets", scatter.fig05, _one(_data_sets), (), _OTHERS, (PANELS,)),
    Entry("fig12", "images, by superpixels", gallery, _gallery(_AREAS, False), (SUPERPIXELS,), _IMAGENET, (NO_MASKS,)),
    Entry("fig13", "images, by pixels", gallery, _gallery(_PIXELS, False), (PIXELS,), _IMAGENET, (NO_MASKS,)),
    Entry("fig14", "the same, with masks", gallery, _gallery(_AREAS, True), (MASKS, SUPERPIXELS), _CUB),
    Entry("fig15", "the same, with masks", gallery, _gallery(_PIXELS, True), (MASKS, PIXELS), _CUB),
    Entry("sec51", "mAP by number and size of objects", curves.sec51, _one(_several), (OBJECTS, COUNTED), ("coco",)),
    Entry("sec452", "a family among others", curves.sec452, _one(_random), (FAMILY, FOUR_OF_FAMILY, SCORED), _IMAGENET),
    Entry("diluted", "the consensus among voters that guess", curves.diluted, _one(_diluted), (RANDOM, SCORED)),
    Entry("pairs", "members' similarity to each other", pairs, _one(_pairs), (PAIRED,)),
)
_TABLES = (
    Entry("table1", "five models in order", tables.table1, _one(_table1), (), _IMAGENET, (TABLE_1,), True),
    Entry("table2", "accuracy, scores and mAP", tables.table2, _one(_members), (), _BOTH, published=True),
    Entry("correlations", "all correlations, with intervals", tables.correlations, _one(_correlations), published=True),
    Entry("intervals", "r over members and images", tables.intervals, _one(_intervals), (ACCURACIES, IN_INTERVALS)),
    Entry("subsets", "r of some members alone", tables.subsets, _one(_leveled), (ACCURACIES, SCORED), published=True),
    Entry("several", "sec51 in numbers", tables.several, _one(lambda r: (r.several,)), (OBJECTS, COUNTED)),
    Entry("measures", "what goes with accuracy", tables.measures, _one(_measures), (ACCURACIES, MEASURED)),
    Entry("rules", "findings by other votes and similarities", tables.rules, _one(_rules), (ACCURACIES, BY_RULES)),
    Entry("baselines", "mAP beside maps that no network made", tables.baselines, _one(_baselines), (MASKS, BESIDE)),
    Entry("sigma", "the RBF's sigma halved and doubled", sigma, _one(_sigma), (RBF,)),
    Entry("estimation", "accuracy from scores, or few labels", tables.estimation, _one(_estimation), (ESTIMATED,)),
    Entry("comparison", "each claim of the paper beside this run's number", comparison, _one(_comparison), (SCORED,)),
)
# fmt: on
FIGURES: Mapping[str, Entry] = {entry.name: entry for entry in _FIGURES}
TABLES: Mapping[str, Entry] = {entry.name: entry for entry in _TABLES}


def numbers_behind(name: str, arguments: Arguments) -> pd.DataFrame | None:
    """The numbers behind a figure that stand in no other table, each with its panel; None of other figures."""
    if name not in ("fig07", "fig08", "sec452", "diluted"):
        return None
    panels: Iterable[tuple[str, pd.DataFrame]] = (
        arguments[0].items() if name != "fig08" else arguments[0].groupby("panel")
    )
    return pd.concat([table.assign(panel=panel) for panel, table in panels])


def printed(name: str, arguments: Arguments) -> dict[str, bytes]:
    """The files of a figure by their suffix, from what its `Entry.arguments` gave, without a date: equal figures, equal
    bytes.
    """
    # of the zlib levels, 3 takes a third of the time of 6, the default, for bitmaps at most a tenth larger
    bitmap = {"pil_kwargs": {"compress_level": 3}}
    files = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # said once, before anything is drawn
        figure = FIGURES[name].draw(*arguments)
        for kind, options in (("png", bitmap), ("pdf", {"metadata": {"CreationDate": None}})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=200, **options)
            files[f".{kind}"] = buffer.getvalue()
    return {**files, ".txt": f"{figure.caption}\n".encode()}


def published_on(dataset: str) -> list[str]:
    """Figures and tables that the paper's numbers on one of its data sets suffice for."""
    experiment = {"imagenet": "imagenet", "cub200": "cub"}[dataset]
    every = [*FIGURES.values(), *TABLES.values()]
    return [each.name for each in every if each.published and experiment in (each.experiments or _BOTH)]
