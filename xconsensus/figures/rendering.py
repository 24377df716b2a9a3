"""Tables as Markdown, LaTeX and plain text."""

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xconsensus.figures.tables import EXPLAINERS
from xconsensus.scores.metrics import ENOUGH

_WORDS = {**EXPLAINERS, "mean average precision": "mAP", "pearson": "Pearson", "spearman": "Spearman"}


def to_text(table: pd.DataFrame) -> str:
    """The table as aligned plain text: headings, then one line a row; no index."""
    shown, headings = _in_words(table), list[str]()
    for name, right in zip(shown.columns, _numeric(table), strict=True):
        width = 0 if right else max(map(len, [heading(name), *shown[name]]))
        shown[name] = shown[name].str.ljust(width)
        headings.append(" " * bool(headings) + heading(name).ljust(width))
    return shown.to_string(index=False, header=headings) + "\n"


def to_markdown(table: pd.DataFrame) -> str:
    """The table as a GitHub-flavoured Markdown table whose source is aligned too; no index."""
    right, shown = _numeric(table), _in_words(table)
    lines = [[cell.replace("|", "\\|") for cell in line] for line in [map(heading, shown.columns), *shown.to_numpy()]]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * (width - 1) + (":" if at else "-") for width, at in zip(widths, right, strict=True)])
    pad = [str.rjust if at else str.ljust for at in right]
    return "".join("| " + " | ".join(map(lambda f, *cell: f(*cell), pad, line, widths)) + " |\n" for line in lines)


def to_latex(table: pd.DataFrame) -> str:
    """The table as a LaTeX tabular with booktabs rules (``\\usepackage{booktabs}``), special characters escaped."""
    columns = "".join("r" if right else "l" for right in _numeric(table))
    return _in_words(table).rename(columns=heading).to_latex(index=False, escape=True, column_format=columns)


def _in_words(table: pd.DataFrame) -> pd.DataFrame:
    """The cells as text: numbers formatted, names of columns (in the columns x and y) in words.

    Correlations of fewer than ``ENOUGH`` pairs have words in place of p, and no interval.
    """
    shown = pd.DataFrame({name: [*map(heading if name in ("x", "y") else _text, table[name])] for name in table})
    few = np.asarray(table["n"] < ENOUGH) if "n" in table else np.zeros(len(table), bool)
    for coefficient in ("pearson", "spearman"):
        for end, words in (("p", "n too small"), ("low", "-"), ("high", "-")):
            if f"{coefficient}_{end}" in shown:
                shown.loc[few, f"{coefficient}_{end}"] = words
    return shown


def _numeric(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Which columns hold numbers: they are aligned at the right."""
    return np.array([pd.api.types.is_numeric_dtype(table[column]) for column in table])


def heading(column: str) -> str:
    """A column's name in words, as tables show it."""
    words = column.replace("_", " ")
    for plain, proper in _WORDS.items():
        words = re.sub(rf"\b{plain}\b", proper, words)
    return words


def _text(cell: object) -> str:
    """Text as it is in words, numbers with 3 decimals, small ones with 3 significant digits, NaN as a dash."""
    if not isinstance(cell, float | np.floating):
        return str(cell)
    value = float(cell)
    if np.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:#.3g}"
