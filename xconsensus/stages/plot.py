"""plot: the paper's figures and tables of a committee, from its scores and explanations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import DictConfig

from xconsensus import figures, tables
from xconsensus.comparison import comparison
from xconsensus.consensus import VOTES
from xconsensus.datasets import Record
from xconsensus.errors import InputError, nearest
from xconsensus.experiments import growing_committees
from xconsensus.figures import Tile
from xconsensus.progress import log
from xconsensus.stages.context import Context
from xconsensus.stages.each import each_explainer
from xconsensus.stages.score import ENSEMBLE, areas
from xconsensus.stages.vote import complete_explanations
from xconsensus.store import read_csv, read_settings, write_csv, write_figure, write_text


@dataclass(frozen=True)
class Scored:
    """One explainer's scores: its context, and the tables members.csv and images.csv."""

    context: Context
    members: pd.DataFrame
    images: pd.DataFrame


def run(config: DictConfig) -> None:
    """The stage; see the module. Prints the tables and where everything is."""
    contexts = [Context(each) for each in each_explainer(config).values()]
    context, options = contexts[0], contexts[0].config["plot"]
    if only := context.config["figure"]:
        options = {
            **options,
            "figures": [only] if only not in TABLES else [],
            "tables": [only] if only in TABLES else [],
        }
    for kind, known in (("figures", FIGURES), ("tables", TABLES)):
        for name in options[kind]:
            if name not in known:
                raise InputError(f"plot.{kind}: {name} is unknown{nearest(name, known)}")
    scored = {each.config["explainer"]["name"]: _scored(each) for each in contexts}
    folder = context.store.figures(context.committee)
    if context.dry_run:
        wanted = ", ".join([*options["figures"], *options["tables"]])
        log.info(f"plot would draw {wanted} of {', '.join(scored)} into {folder}")
        return
    made: list[Path] = []
    for name in options["figures"]:
        if reason := _impossible(name, scored):
            log.info(f"{name}: left out, {reason}")
            continue
        for stem, figure in FIGURES[name](scored, name).items():
            for suffix in (".png", ".pdf"):
                write_figure(folder / f"{stem}{suffix}", figure)
            made.append(folder / f"{stem}.png")
    by_explainer = {name: each.members for name, each in scored.items()}
    correlations = tables.correlations(by_explainer, level=context.config["score"]["level"])
    for name in options["tables"]:
        if reason := _impossible(name, scored):
            log.info(f"{name}: left out, {reason}")
            continue
        made += _write_table(context, name, TABLES[name](by_explainer))
    made += _write_table(context, "correlations", correlations)
    beside = comparison(by_explainer, context.config["score"]["level"])
    made += _write_table(context, "comparison", beside)
    if "table2" in options["tables"]:
        print(f"\n{_caption(scored)}\n\n{tables.to_text(tables.table2(by_explainer))}")
        voted = next(iter(by_explainer.values()))["majority_vote_accuracy"].iloc[-1]
        print(f"Row consensus: ensemble by averaged probabilities; by majority vote its accuracy is {voted:.3f}.\n")
        print(f"Correlations over the members, with {context.config['score']['level']:.0%} intervals\n")
        print(tables.to_text(correlations))
        print(f"Beside the paper\n\n{tables.to_text(beside)}")
    print("\n".join(map(str, made)))


def _scored(context: Context) -> Scored:
    folder = context.store.scores(context.committee, context.config["explainer"]["name"])
    if not (folder / "members.csv").is_file():
        raise context.needs("score", f"{folder / 'members.csv'} does not exist")
    images = read_settings(folder / "members.csv").get("images")
    if images != len(context.chosen()):
        raise context.needs("score", f"{folder} has scores of {images} images, not of the present ones")
    return Scored(context, read_csv(folder / "members.csv"), read_csv(folder / "images.csv"))


def _impossible(name: str, scored: Mapping[str, Scored]) -> str | None:
    """Why a figure or table cannot be drawn here, if so."""
    context = next(iter(scored.values())).context
    masks = context.dataset.has_masks
    if name in ("fig03", "fig04", "fig08", "fig10") and not masks:
        return "the data set has no masks"
    if name == "fig02" and masks:
        return "the data set has masks: see fig03"
    if name == "fig06" and len(scored) != 2:
        return "it compares two explainers"
    if name == "fig08" and not _on_superpixels(scored):
        return "no explainer works on superpixels"
    if name == "table1" and not tables.table1_members(member.name for member in context.initial):
        return "the committee has none of its five models"
    return None


def _scatter(draw: Callable[..., Figure]) -> Callable[[Mapping[str, Scored], str], dict[str, Figure]]:
    def figure(scored: Mapping[str, Scored], name: str) -> dict[str, Figure]:
        return {name: draw({key: each.members for key, each in scored.items()}, _caption(scored))}

    return figure


def _growing(scored: Mapping[str, Scored], name: str) -> dict[str, Figure]:
    """Figure 8: the mAP of the consensus of random committees of every size."""
    explainer, each = next(iter(_on_superpixels(scored).items()))
    context = each.context
    records, vote = context.chosen(), VOTES[context.config["explainer"]["vote"]]
    ballots: list[list[NDArray[np.float64]]] = [[] for _ in records]
    for shards in complete_explanations(context, [record.image_id for record in records]):
        for row, record in enumerate(records):
            ballots[row].append(vote(shards.values(record.image_id).double()).numpy())
        shards.release()
    inside, whole = zip(*(areas(context, record) for record in records), strict=True)
    sizes, trials = range(1, len(context.initial) + 1), context.config["plot"]["trials"]
    curve = growing_committees([np.stack(each) for each in ballots], inside, whole, sizes, trials, context.seed)
    write_csv(context.store.tables(context.committee) / f"{name}.csv", curve)
    return {name: figures.fig08(curve, len(context.initial), _caption({explainer: each}))}


def _on_superpixels(scored: Mapping[str, Scored]) -> dict[str, Scored]:
    return {name: each for name, each in scored.items() if each.context.segmenter_settings()}


def _galleries(scored: Mapping[str, Scored], name: str) -> dict[str, Figure]:
    """Figures 2 and 3: some images, spread over the chosen ones, as every member explains them."""
    context = next(iter(scored.values())).context
    records, count = context.chosen(), context.config["plot"]["gallery"]
    chosen = [records[i] for i in np.unique(np.linspace(0, len(records) - 1, count).round().astype(int))]
    drawn = {}
    for number, record in enumerate(chosen, 1):
        rows = [(_title(explainer), _tiles(each, record)) for explainer, each in scored.items()]
        mask = context.mask(record) if context.dataset.has_masks else None
        caption = f"{context.store.dataset}, image {record.image_id}, {len(context.initial)} members"
        drawn[f"{name}_{number}"] = figures.gallery(context.image(record), rows, mask, caption)
    return drawn


def _tiles(each: Scored, record: Record) -> list[Tile]:
    """Each member's map of an image with its average precision, the consensus last."""
    context, image_id = each.context, record.image_id
    precisions = each.images[each.images["image_id"] == image_id].set_index("member")["average_precision"]
    sources = {member.name: context.explanations(context.ready(member)) for member in context.initial}
    return [
        Tile(name, _painted(context, record, shards.values(image_id).numpy()), float(precisions[name]))
        for name, shards in (sources | {ENSEMBLE: context.consensus()}).items()
    ]


def _painted(context: Context, record: Record, values: NDArray[np.floating]) -> NDArray[np.floating]:
    """An explanation as a map (size, size): superpixels painted with their values."""
    if context.segmenter_settings():
        segments = context.labels(context.config["explainer"]["segmenter"]["name"]).values(record.image_id)
        values = values[segments.numpy()]
    return values.reshape(context.size, context.size)


def _title(explainer: str) -> str:
    return tables.EXPLAINERS.get(explainer, explainer)


def _caption(scored: Mapping[str, Scored]) -> str:
    context = next(iter(scored.values())).context
    names = " and ".join(map(_title, scored))
    whole = len(context.initial)
    shown = f"{len(context.scored)} of {whole} members" if len(context.scored) < whole else f"{whole} members"
    return f"{context.store.dataset}: {len(context.chosen())} images, {shown}, {names}"


def _write_table(context: Context, name: str, table: pd.DataFrame) -> list[Path]:
    path = context.store.tables(context.committee) / f"{name}.csv"
    write_csv(path, table)
    write_text(path.with_suffix(".md"), tables.to_markdown(table))
    write_text(path.with_suffix(".tex"), tables.to_latex(table))
    return [path]


FIGURES: Mapping[str, Callable[[Mapping[str, Scored], str], dict[str, Figure]]] = {
    "fig02": _galleries,
    "fig03": _galleries,
    "fig04": _scatter(figures.fig04),
    "fig05": _scatter(figures.fig05),
    "fig06": _scatter(figures.fig06),
    "fig08": _growing,
    "fig10": _scatter(figures.fig10),
}
TABLES: Mapping[str, Callable[[Mapping[str, pd.DataFrame]], pd.DataFrame]] = {
    "table1": tables.table1,
    "table2": tables.table2,
}
