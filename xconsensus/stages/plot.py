"""plot: the paper's figures and tables of a committee, from its scores and explanations. It computes nothing anew."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from xconsensus.datasets import Record, mask_kind
from xconsensus.datasets.imagefolder import class_words
from xconsensus.errors import InputError, nearest
from xconsensus.experiment.artefacts import (
    consensus_of,
    explained_images,
    segmenter_settings,
)
from xconsensus.experiment.experiment import Experiment, start_all
from xconsensus.experiment.explanations import without_missing
from xconsensus.experiment.maps import Maps
from xconsensus.experiment.score_settings import check_scores, similarity_of, tables_settings
from xconsensus.figures import rendering, results, tables
from xconsensus.figures.comparison import conclusion
from xconsensus.figures.fingerprint import fingerprint
from xconsensus.figures.index import FIGURES, TABLES, numbers_behind, printed, published_on
from xconsensus.figures.results import Images, Picture, Results, Scores
from xconsensus.figures.style import missing_letters
from xconsensus.jobs.beside import in_processes
from xconsensus.keys.checks import taken
from xconsensus.members.catalogue import COMMITTEES
from xconsensus.progress import log
from xconsensus.scores.accuracy import ENSEMBLES
from xconsensus.store.drawn import Drawn, drawn_in
from xconsensus.store.files import as_csv, read_csv
from xconsensus.store.folders import Store


def run(configs: Sequence[DictConfig]) -> None:
    """The stage; see the module. ``configs`` differ in their explainer alone."""
    if configs[0].source == "published":
        plot_published(configs[0])
    else:
        plot(start_all(configs))


def plot(experiments: Sequence[Experiment]) -> None:
    """Draw what is wanted and can be drawn, print the tables and where everything is."""
    experiment = experiments[0]
    config, store = experiment.config, experiment.store
    wanted = _wanted(config)
    found = results_of(experiments)
    if config["dry_run"]:
        folder = store.figures(experiment.committee)
        lacking = {name: lack for name in wanted if (lack := _lack(name, found, bool(config["figure"])))}
        drawn = ", ".join(name for name in wanted if name not in lacking) or "nothing"
        log.info(f"plot would draw {drawn} of {', '.join(found.scores)} into {folder}")
        for reason in dict.fromkeys(lacking.values()):
            log.info(f"left out: {', '.join(name for name in lacking if lacking[name] == reason)}, {reason}")
        return
    made = make(found, wanted, store, by_name=bool(config["figure"]))
    if "table2" in wanted:
        _print(found)
    print("\n".join(map(str, made)))


def plot_published(config: DictConfig) -> None:
    """Draw what the paper's own numbers allow, below ``output_dir``/published, and print the correlations, recomputed
    from the legible rows.

    Raises InputError for a figure that needs explanations, not only scores.
    """
    own = OmegaConf.masked_copy(config, ["output_dir", "figure", "dry_run", "score"])  # a data set is not asked for
    values = taken(OmegaConf.to_container(own, resolve=True))  # type: ignore[arg-type]
    only, level = full_name(values["figure"]), values["score"]["level"]
    known = [name for name, entry in {**FIGURES, **TABLES}.items() if entry.published]
    if only and only not in known:
        raise InputError(f"figure={values['figure']}: source=published has no such{nearest(only, known)}")
    wanted = [only] if only else known
    store = Store(Path(values["output_dir"]), "published")
    if values["dry_run"]:
        log.info(f"plot would draw {', '.join(wanted)} from the paper's own numbers into {store.root}")
        return
    made, correlations = [], []
    for committee, dataset in COMMITTEES.items():
        found = results.of_paper(committee, dataset, level)
        here = [name for name in published_on(dataset) if name in wanted]
        made += make(found, here, store, by_name=False)
        correlations.append(tables.correlations(found.members, dataset, level).assign(committee=committee))
        print("; ".join(filter(None, (results.legible(found), results.doubts(found)))))
    columns = ["committee", "x", "y", "n", "pearson_r", "published_r", "pearson_p", "spearman_r", "spearman_p"]
    print(f"\nRecomputed from the legible rows\n\n{rendering.to_text(pd.concat(correlations)[columns])}")
    print("\n".join(map(str, made)))


def _wanted(config: Mapping[str, Any]) -> list[str]:
    """Figures and tables to draw, InputError for one that does not exist."""
    known, options, only = [*FIGURES, *TABLES], config["plot"], config["figure"]
    asked = {"figure": [only] if only else [], "plot.figures": options["figures"], "plot.tables": options["tables"]}
    for key, names in asked.items():
        for name in names:
            if full_name(name) not in known:
                raise InputError(f"{key}: {name} is unknown{nearest(full_name(name), known)}")
    return list(dict.fromkeys(map(full_name, asked["figure"] or [*asked["plot.figures"], *asked["plot.tables"]])))


def full_name(name: object) -> str:
    """The name in the index of a figure or table, which may be called as in the Makefile: fig5 is fig05. "" of none."""
    text = "" if name is None else str(name).strip().lower()
    number = re.fullmatch(r"(?:fig(?:ure)?)?[ _.]*0*(\d{1,2})[ab]?", text)
    return f"fig{int(number[1]):02}" if number else text


# --- files ---


def make(found: Results, wanted: Sequence[str], store: Store, *, by_name: bool) -> list[Path]:
    """Make the wanted figures and tables, and return their files; say what is left out, and why.

    A figure that shows what it showed when it was drawn is not drawn again. Raises InputError where what was asked for
    ``by_name`` cannot be made.
    """
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    written: dict[str, dict[str, bytes]] = {}
    shown, kind = list[Shown](), found.images.mask_kind
    for name in wanted:
        entry = FIGURES.get(name) or TABLES[name]
        if reason := _lack(name, found, by_name):
            left_out[reason].append(name)
            continue
        for suffix, arguments in entry.arguments(found).items():
            if name in TABLES:
                written[f"{name}{suffix}"] = _table(
                    tables.naming_masks(entry.draw(*arguments), kind), found.shown_titles
                )
                continue
            if (table := numbers_behind(name, arguments)) is not None:
                written[f"{name}{suffix}"] = {".csv": as_csv(table)}
            shown.append(Shown(f"{name}{suffix}", name, arguments, fingerprint(name, arguments)))
    made = _draw(shown, found, store, whole=not by_name)
    folder = store.tables(found.committee)
    with drawn_in(folder, store.worklog("tables", found.committee)) as tabulated:
        for stem, files in written.items():
            tabulated.write(stem, "", files)
        _note(tabulated, [*written], found, whole=not by_name)
    made += [folder / f"{stem}.csv" for stem, files in written.items() if len(files) > 1]
    for reason, names in left_out.items():
        log.info(f"left out: {', '.join(names)}, {reason}")
    if by_name and not made:
        raise InputError(f"figure={wanted[0]} cannot be drawn here: {next(iter(left_out))}")
    return made


def _lack(name: str, found: Results, by_name: bool) -> str | None:
    """Why a figure or table is left out, None where it can be made."""
    return (FIGURES.get(name) or TABLES[name]).lack(found, by_name)


class Shown(NamedTuple):
    """A figure to be: its file's name without suffix, its name, what it is drawn of, and what it shows by that."""

    stem: str
    name: str
    arguments: tuple[Any, ...]
    shows: str


def _draw(figures: Sequence[Shown], found: Results, store: Store, *, whole: bool) -> list[Path]:
    """The figures' bitmaps, those that do not show what they should drawn anew; where all were asked for (``whole``),
    those of other explainers do not stay beside them.
    """
    folder = store.figures(found.committee)
    with drawn_in(folder, store.worklog("plot", found.committee)) as drawn:
        missing = [each for each in figures if not drawn.is_shown(each.stem, each.shows)]
        names = [name for each in found.members.values() for column in ("member", "family") for name in each[column]]
        names += [picture.label for picture in found.images.pictures]
        if missing and (letters := missing_letters(map(str, names))):
            log.warning(f"warning: the figures' font lacks {' '.join(letters)}, which figures show as boxes")
        files = in_processes(printed, [(each.name, each.arguments) for each in missing], torch.get_num_threads())
        for each, content in zip(missing, files, strict=True):
            drawn.write(each.stem, each.shows, content)
        _note(drawn, [each.stem for each in figures], found, whole=whole)
    return [folder / f"{each.stem}.png" for each in figures]


def _note(drawn: Drawn, stems: Sequence[str], found: Results, *, whole: bool) -> None:
    """Note whose figures or tables ``stems`` are; of the ``whole``, set aside those of other explainers."""
    drawn.of(stems, list(found.scores))
    if whole and (earlier := drawn.set_aside(list(found.scores))):
        log.info(f"moved to {drawn.folder / 'earlier'}, made of other explainers: {', '.join(earlier)}")


def _table(table: pd.DataFrame, titles: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a table by their suffix."""
    texts = {".md": rendering.to_markdown(table, titles), ".tex": rendering.to_latex(table, titles)}
    return {".csv": as_csv(table), **{suffix: text.encode() for suffix, text in texts.items()}}


def _print(found: Results) -> None:
    named = partial(tables.naming_masks, kind=found.images.mask_kind)
    print(f"\n{found.caption()}\n\n{rendering.to_text(named(tables.table2(found.members)), found.shown_titles)}")
    of_ensemble = {words: found.first.members[column].iloc[-1] for column, words in ENSEMBLES.values()}
    known = " and ".join(f"{value:.3f} by {words}" for words, value in of_ensemble.items() if value == value)
    print(f"Row consensus: ensemble by {found.ensemble}; its accuracy is {known or 'unknown'}.\n")
    correlations = tables.correlations(found.members, level=found.level)
    if len(correlations):
        print(f"Correlations over the members, with {100 * found.level:g} % intervals\n")
        print(rendering.to_text(named(correlations), found.shown_titles))
    claims = TABLES["comparison"]
    if not claims.lack(found, by_name=False):
        print("\n" + "\n".join(conclusion(claims.draw(*claims.arguments(found)[""]))) + "\n")


# --- results ---


def results_of(experiments: Sequence[Experiment]) -> Results:
    """What the figures of some experiments, which differ in the explainer alone, are drawn from.

    Raises MissingStageError where scores are missing, or were made of something else.
    """
    records = explained_images(experiments[0])
    ids = [record.image_id for record in records]
    experiments = [without_missing(experiment, ids) for experiment in experiments]
    experiment, config = experiments[0], experiments[0].config
    scores = {each.explainer_name: _scores(each, records) for each in experiments}
    scored = set[str].intersection(*({*each.images["image_id"]} for each in scores.values()))
    records = [record for record in records if record.image_id in scored]
    panels, under = _panels(experiment)
    return Results(
        dataset=experiment.store.dataset,
        committee=experiment.committee,
        scores=scores,
        voters=[member.name for member in experiment.members],
        random=len(experiment.members) - len(experiment.trained_members),
        images=_images(experiment, records),
        options=config["plot"],
        level=config["score"]["level"],
        ap_weights=config["score"]["ap_weights"],
        panels=panels,
        under_panels=under,
        loader=config["dataset"]["loader"],
        titles={each.explainer_name: str(title) for each in experiments if (title := each.explainer.get("title"))},
    )


def _images(experiment: Experiment, records: Sequence[Record]) -> Images:
    by_id = {record.image_id: record for record in records}
    classes, images = experiment.dataset.classes, experiment.images
    pictures = [Picture(r.image_id, class_words(classes[r.label]) if r.label >= 0 else "") for r in records]
    return Images(
        pictures,
        experiment.dataset.has_masks,
        lambda image_id: images.image(by_id[image_id]),
        lambda image_id: images.mask(by_id[image_id]),
        lambda image_id: images.objects(by_id[image_id]),
        mask_kind(experiment.dataset),
    )


def _scores(experiment: Experiment, records: Sequence[Record]) -> Scores:
    """One explainer's scores; MissingStageError when there are none, or they were made of something else."""
    folder = experiment.store.scores(experiment.committee, experiment.explainer_name)
    settings = tables_settings(experiment, consensus_of(experiment), len(records))
    check_scores(experiment, folder, settings, records)
    others = ("intervals", "estimation", "measures", "rules", "pairs", "baselines", "several", "objects")
    tables_of = ("growing", "random", "family", "diluted", *others)
    known = [name for name in tables_of if name in settings or name == "objects"]  # objects.csv is one of members'
    optional = {name: read_csv(path) for name in known if (path := folder / f"{name}.csv").is_file()}
    similarity = similarity_of(experiment)
    maps = Maps(experiment)
    return Scores(
        members=read_csv(folder / "members.csv"),
        images=read_csv(folder / "images.csv"),
        on_superpixels=bool(segmenter_settings(experiment)),
        sigma=similarity.sigma if similarity.has_sigma else None,
        extras=tuple(settings["random"]["extras"]) if "random" in settings else (0, 0),
        method=experiment.explainer["method"],
        map_of=maps.of,
        prediction_of=partial(_prediction, maps),
        **optional,
    )


def _prediction(maps: Maps, member: str, image_id: str) -> tuple[str, float]:
    """The class that a member predicts, in words, and its probability."""
    shards = maps.shards(member)
    name = class_words(maps.experiment.dataset.classes[int(shards.number(image_id, "predicted"))])
    return name, shards.number(image_id, "probability")


def _panels(experiment: Experiment) -> tuple[dict[str, pd.DataFrame], str]:
    """Members tables of the runs of ``plot.panels``, or of this one, by data set, and what stands under them."""
    panels = experiment.config["plot"]["panels"] or [f"{experiment.store.dataset}/{experiment.committee}"]
    datasets = [panel.partition("/")[0] for panel in panels]
    found, counts = {}, []
    for panel in panels:
        dataset, _, committee = panel.partition("/")
        store = Store(experiment.store.output_dir, dataset)
        path = store.scores(committee, experiment.explainer_name) / "members.csv"
        if not path.is_file():
            raise InputError(f"plot.panels: {panel} has no {path}; run its experiment first, as DATASET/COMMITTEE")
        title = dataset if datasets.count(dataset) == 1 else panel
        found[title] = read_csv(path, ["member", "family", "accuracy", "consensus_score"])
        images = read_csv(path.with_name("images.csv"), ["image_id"])["image_id"].nunique()
        counts.append(f"{title} {images} images, {len(found[title]) - 1} members")
    return found, "; ".join(counts)
