"""plot: the paper's figures and tables of a committee, from its scores and explanations."""

from collections import defaultdict
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from xconsensus.errors import InputError, nearest
from xconsensus.figures import rendering, tables
from xconsensus.progress import log
from xconsensus.stages.context import Context
from xconsensus.stages.drawings import FIGURES, TABLES, Results, impossible, redundant
from xconsensus.stages.each import each_explainer
from xconsensus.stages.scored import caption, read_scored
from xconsensus.store.files import write_csv, write_figure, write_text


def run(config: DictConfig) -> None:
    """The stage; see the module. Prints the tables and where everything is."""
    contexts = [Context(each) for each in each_explainer(config).values()]
    context = contexts[0]
    wanted = _wanted(context)
    results = Results({each.config["explainer"]["name"]: read_scored(each) for each in contexts})
    folder = context.store.figures(context.committee)
    if context.dry_run:
        log.info(f"plot would draw {', '.join(wanted)} of {', '.join(results.scored)} into {folder}")
        return
    made: list[Path] = []
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    for name in wanted:
        reason = impossible(name, results) or (None if context.config["figure"] else redundant(name, results))
        if reason:
            left_out[reason].append(name)
        elif name in TABLES:
            made += _write_table(context, name, TABLES[name](results))
        else:
            for stem, figure in FIGURES[name](results, name).items():
                write_figure(folder / f"{stem}.png", figure)
                made.append(folder / f"{stem}.png")
    for reason, names in left_out.items():
        log.info(f"left out: {', '.join(names)}, {reason}")
    if not made and context.config["figure"]:
        raise InputError(f"figure={context.config['figure']} cannot be drawn here: {next(iter(left_out))}")
    if "table2" in wanted:
        _print(results)
    print("\n".join(map(str, made)))


def _wanted(context: Context) -> list[str]:
    """Figures and tables to draw, InputError for one that does not exist."""
    known, options = [*FIGURES, *TABLES], context.config["plot"]
    only = context.config["figure"]
    for key, names in (
        ("figure", [only] if only else []),
        ("plot.figures", options["figures"]),
        ("plot.tables", options["tables"]),
    ):
        for name in names:
            if name not in known:
                raise InputError(f"{key}: {name} is unknown{nearest(name, known)}")
    return [only] if only else [*options["figures"], *options["tables"]]


def _print(results: Results) -> None:
    level = results.context.config["score"]["level"]
    print(f"\n{caption(results.scored)}\n\n{rendering.to_text(tables.table2(results.members))}")
    voted = next(iter(results.members.values()))["majority_vote_accuracy"].iloc[-1]
    print(f"Row consensus: ensemble by averaged probabilities; by majority vote its accuracy is {voted:.3f}.\n")
    print(f"Correlations over the members, with {level:.0%} intervals\n")
    print(rendering.to_text(tables.correlations(results.members, level=level)))


def _write_table(context: Context, name: str, table: pd.DataFrame) -> list[Path]:
    path = context.store.tables(context.committee) / f"{name}.csv"
    write_csv(path, table)
    write_text(path.with_suffix(".md"), rendering.to_markdown(table))
    write_text(path.with_suffix(".tex"), rendering.to_latex(table))
    return [path]
