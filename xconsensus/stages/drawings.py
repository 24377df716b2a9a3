"""Which figures and tables a run has, when each can be drawn, and how its results become them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure

from xconsensus import figures
from xconsensus.errors import InputError
from xconsensus.figures import tables
from xconsensus.figures.comparison import comparison
from xconsensus.stages import committees, pictures
from xconsensus.stages.context import Context
from xconsensus.stages.scored import Scored, caption
from xconsensus.store.files import read_csv, write_csv
from xconsensus.store.folders import Store


@dataclass(frozen=True)
class Results:
    """All that a figure or table can be drawn from: explainer -> scores, and what is computed from them once."""

    scored: Mapping[str, Scored]

    @cached_property
    def context(self) -> Context:
        """The first explainer's; what is no matter of the explainer is the same in all."""
        return next(iter(self.scored.values())).context

    @cached_property
    def members(self) -> dict[str, pd.DataFrame]:
        """Explainer -> members.csv."""
        return {name: each.members for name, each in self.scored.items()}

    @cached_property
    def superpixels(self) -> dict[str, Scored]:
        """The explainers on superpixels, LIME as a rule."""
        return {name: each for name, each in self.scored.items() if each.on_superpixels}

    @cached_property
    def pixels(self) -> dict[str, Scored]:
        """The explainers on pixels, SmoothGrad as a rule."""
        return {name: each for name, each in self.scored.items() if not each.on_superpixels}

    @cached_property
    def growing(self) -> pd.DataFrame:
        """The mAP of growing committees, by the first explainer on superpixels."""
        return committees.growing(next(iter(self.superpixels.values())))

    @cached_property
    def random(self) -> dict[str, pd.DataFrame]:
        """Explainer -> the agreement of random committees with the complete one."""
        return {name: committees.random(each) for name, each in self.scored.items()}


def impossible(name: str, results: Results) -> str | None:
    """Why a figure or table cannot be drawn here, if so."""
    context = results.context
    members = len(context.initial)
    match name:
        case "fig03" | "fig04" | "fig08" | "fig10" | "fig14" | "fig15" if not context.dataset.has_masks:
            return "the data set has no masks"
        case "fig06" if len(results.scored) != 2:
            return "it compares two explainers"
        case "fig08" | "fig12" | "fig14" if not results.superpixels:
            return "no explainer works on superpixels"
        case "fig13" | "fig15" if not results.pixels:
            return "no explainer works on pixels"
        case "fig09" if not pictures.has_several_objects(context):
            return "images of the data set have one object"
        case "fig04" | "fig05" | "fig07" if _first(results)["accuracy"].isna().all():
            return "accuracies are unknown"
        case "fig07" | "sec452" if not 1 < len(committees.family(context)) < members:
            return "no family of at least two members and not all"
        case "sec452" if len(committees.family(context)) < 4:
            return "correlations need a family of at least 4 members"
        case "sigma" if not any(
            each.context.config["explainer"]["similarity"] == "rbf" for each in results.scored.values()
        ):
            return "no explainer is compared by the RBF similarity"
    return None


def redundant(name: str, results: Results) -> str | None:
    """Why a figure or table is not made unless it is asked for by name."""
    match name:
        case "fig02" | "fig12" | "fig13" if results.context.dataset.has_masks:
            return "the data set has masks: see fig03, fig14 and fig15"
        case "table1" if not tables.table1_members(member.name for member in results.context.initial):
            return "the committee has none of its five models"
        case "fig11" if not results.context.config["plot"]["panels"]:
            return "plot.panels names no other data sets"
    return None


def _first(results: Results) -> pd.DataFrame:
    return next(iter(results.members.values()))


def _scatter(draw: Callable[..., Figure]) -> Callable[[Results, str], dict[str, Figure]]:
    return lambda results, name: {name: draw(results.members, caption(results.scored))}


def _family(results: Results, name: str) -> dict[str, Figure]:
    own = committees.family(results.context)
    names = ", ".join(sorted({results.context.initial[position].family for position in own}))
    text = caption(results.scored, f"shown: the {len(own)} members of {names}")
    panels = committees.family_tables(results.scored)
    _keep(results, name, panels)
    return {name: figures.fig05(panels, text)}


def _random(results: Results, name: str) -> dict[str, Figure]:
    low, high = committees.extras(results.context)
    what = f"random committees: {len(committees.family(results.context))} of one family and {low} to {high} others"
    _keep(results, name, results.random)
    return {name: figures.sec452(results.random, caption(results.scored, what))}


def _growing(results: Results, name: str) -> dict[str, Figure]:
    explainer, each = next(iter(results.superpixels.items()))
    _keep(results, name, {explainer: results.growing})
    return {name: figures.fig08(results.growing, len(each.context.initial), caption({explainer: each}))}


def _keep(results: Results, name: str, panels: Mapping[str, pd.DataFrame]) -> None:
    """Write the numbers behind a figure that stand in no other table."""
    path = results.context.store.tables(results.context.committee) / f"{name}.csv"
    write_csv(path, pd.concat([table.assign(panel=panel) for panel, table in panels.items()]))


def _data_sets(results: Results, name: str) -> dict[str, Figure]:
    """Figure 11: accuracy against score of several runs, a panel each, by the first explainer."""
    context = results.context
    explainer = next(iter(results.scored))
    panels = context.config["plot"]["panels"] or [f"{context.store.dataset}/{context.committee}"]
    found, counts = {}, []
    for panel in panels:
        dataset, _, committee = panel.partition("/")
        path = Store(context.store.output_dir, dataset).scores(committee, explainer) / "members.csv"
        if not path.is_file():
            raise InputError(f"plot.panels: {panel} has no {path}; run its experiment first, as DATASET/COMMITTEE")
        found[dataset] = read_csv(path, ["member", "family", "accuracy", "consensus_score"])
        images = len(read_csv(Store(context.store.output_dir, dataset).images(committee)))
        counts.append(f"{dataset} {images} images, {len(found[dataset]) - 1} members")
    return {name: figures.fig05(found, f"{'; '.join(counts)}; {tables.EXPLAINERS.get(explainer, explainer)}")}


def _many_images(scored: Mapping[str, Scored], name: str, *, masks: bool) -> dict[str, Figure]:
    explainer, each = next(iter(scored.items()))
    return {name: pictures.many_images(explainer, each, masks=masks)}


def _comparison(results: Results) -> pd.DataFrame:
    """Every claim of the paper that this run can be held against."""
    level = results.context.config["score"]["level"]
    growing = None if impossible("fig08", results) else results.growing
    random = {} if impossible("sec452", results) else results.random
    return comparison(results.members, growing, random, level)


def _sigma(results: Results) -> pd.DataFrame:
    rbf = {n: each for n, each in results.scored.items() if each.context.config["explainer"]["similarity"] == "rbf"}
    found = [
        tables.sigma(each.images, each.members, each.context.config["explainer"]["sigma"]).assign(explainer=name)
        for name, each in rbf.items()
    ]
    table = pd.concat(found)
    return table[["explainer", *(column for column in table if column != "explainer")]]


FIGURES: Mapping[str, Callable[[Results, str], dict[str, Figure]]] = {
    "fig01": lambda results, name: {name: pictures.steps(results.scored)},
    "fig02": lambda results, name: pictures.one_image(results.scored, name, masks=False),
    "fig03": lambda results, name: pictures.one_image(results.scored, name, masks=True),
    "fig04": _scatter(figures.fig04),
    "fig05": _scatter(figures.fig05),
    "fig06": _scatter(figures.fig06),
    "fig07": _family,
    "fig08": _growing,
    "fig09": lambda results, name: pictures.several_objects(results.scored, name),
    "fig10": _scatter(figures.fig10),
    "fig11": _data_sets,
    "fig12": lambda results, name: _many_images(results.superpixels, name, masks=False),
    "fig13": lambda results, name: _many_images(results.pixels, name, masks=False),
    "fig14": lambda results, name: _many_images(results.superpixels, name, masks=True),
    "fig15": lambda results, name: _many_images(results.pixels, name, masks=True),
    "sec452": _random,
}
TABLES: Mapping[str, Callable[[Results], pd.DataFrame]] = {
    "table1": lambda results: tables.table1(results.members),
    "table2": lambda results: tables.table2(results.members),
    "correlations": lambda results: tables.correlations(
        results.members, level=results.context.config["score"]["level"]
    ),
    "sigma": _sigma,
    "comparison": _comparison,
}
