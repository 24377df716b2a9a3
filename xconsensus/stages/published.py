"""plot source=published: the figures and tables that the paper's own numbers allow, without any run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from xconsensus import figures, published
from xconsensus.errors import InputError, nearest
from xconsensus.figures import rendering, tables
from xconsensus.members.catalogue import COMMITTEES
from xconsensus.progress import log
from xconsensus.store.files import write_csv, write_figure, write_text
from xconsensus.store.folders import Store

Members = Mapping[str, pd.DataFrame]

FIGURES: Mapping[str, Callable[[Members, str], Figure]] = {
    "fig04": figures.fig04,
    "fig05": figures.fig05,
    "fig06": figures.fig06,
    "fig10": figures.fig10,
}
TABLES: Mapping[str, Callable[[Members], pd.DataFrame]] = {"table1": lambda _: _table1(), "table2": tables.table2}


def run(config: DictConfig) -> None:
    """Write them below ``output_dir``/published and print the correlations, recomputed from the legible rows.

    Raises InputError for a figure that needs explanations, not only scores.
    """
    known = [*FIGURES, *TABLES]
    if config.figure and config.figure not in known:
        raise InputError(f"figure={config.figure}: source=published has no such{nearest(config.figure, known)}")
    wanted = [config.figure] if config.figure else known
    store = Store(Path(config.output_dir), "published")
    if config.dry_run:
        log.info(f"plot would draw {', '.join(wanted)} from the paper's own numbers into {store.root}")
        return
    made, found = [], []
    for committee, dataset in COMMITTEES.items():
        members = published.members(dataset)
        made += _draw(store, committee, members, wanted)
        correlations = tables.correlations(members, dataset, config.score.level)
        made += _write(store.tables(committee) / "correlations.csv", correlations)
        found.append(correlations.assign(committee=committee))
        print(_legible(committee, members))
    columns = ["committee", "x", "y", "n", "pearson_r", "published_r", "pearson_p", "spearman_r", "spearman_p"]
    print(f"\nRecomputed from the legible rows\n\n{rendering.to_text(pd.concat(found)[columns])}")
    print("\n".join(map(str, made)))


def _draw(store: Store, committee: str, members: Members, wanted: Sequence[str]) -> list[Path]:
    """The wanted figures and tables that the committee's columns allow; Table 1 is of ImageNet's models."""
    masks = "mean_average_precision" in next(iter(members.values()))
    made = []
    for name in wanted:
        if (name in ("fig04", "fig10") and not masks) or (name == "table1" and masks):
            continue
        if name in TABLES:
            made += _write(store.tables(committee) / f"{name}.csv", TABLES[name](members))
            continue
        figure = FIGURES[name](members, f"Numbers of the paper, Table 2; {_legible(committee, members)}")
        path = store.figures(committee) / f"{name}.png"
        write_figure(path, figure)
        made.append(path)
    return made


def _write(path: Path, table: pd.DataFrame) -> list[Path]:
    write_csv(path, table)
    write_text(path.with_suffix(".md"), rendering.to_markdown(table))
    write_text(path.with_suffix(".tex"), rendering.to_latex(table))
    return [path]


def _table1() -> pd.DataFrame:
    """The paper's rows alone."""
    table = tables.table1(published.members("imagenet"))
    return table[table["measure"].str.endswith("(paper)")].reset_index(drop=True)


def _legible(committee: str, members: Members) -> str:
    """How many rows miss a number, since the available scan of Table 2 is partly illegible."""
    table = tables.table2(members)
    table = table[table["member"] != tables.ENSEMBLE]
    missing = int(table.isna().any(axis=1).sum())
    return f"{missing} of {len(table)} rows of {committee} miss a number"
