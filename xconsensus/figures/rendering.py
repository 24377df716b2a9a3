"""Tables as Markdown, LaTeX and plain text."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from xconsensus.figures.tables import EXPLAINERS

_WORDS = {**EXPLAINERS, "mean average precision": "mAP", "pearson": "Pearson", "spearman": "Spearman"}
_LATEX = {**{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX["\\"] = r"\textbackslash{}"


def to_text(table: pd.DataFrame) -> str:
    """The table as aligned plain text: headings, a rule, one line a row; no index."""
    lines = _cells(table, str)
    widths = _widths(lines)
    rule = ["-" * width for width in widths]
    padded = [_pad(table, line, widths) for line in lines]
    return "".join("  ".join(line).rstrip() + "\n" for line in [padded[0], rule, *padded[1:]])


def to_markdown(table: pd.DataFrame) -> str:
    """The table as a GitHub-flavoured Markdown table whose source is aligned too; no index."""
    lines = _cells(table, lambda text: text.replace("|", "\\|"))
    widths = [max(3, width) for width in _widths(lines)]
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, _right(table), strict=True)]
    padded = [_pad(table, line, widths) for line in lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in [padded[0], rule, *padded[1:]])


def to_latex(table: pd.DataFrame) -> str:
    """The table as a LaTeX tabular with booktabs rules (``\\usepackage{booktabs}``), special characters escaped."""
    lines = _cells(table, _latex)
    widths = _widths(lines)
    body = ["  " + " & ".join(_pad(table, line, widths)).rstrip() + r" \\" for line in lines]
    columns = "".join("r" if right else "l" for right in _right(table))
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([begin, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", end]) + "\n"


def _cells(table: pd.DataFrame, escape: Callable[[str], str]) -> list[list[str]]:
    """Headings, then rows, as escaped text: numbers formatted, names of columns (also as cells x, y) in words."""
    columns = []
    for name in table:
        show = heading if name in ("x", "y") else _text
        columns.append([escape(heading(str(name))), *(escape(show(cell)) for cell in table[name])])
    return [list(line) for line in zip(*columns, strict=True)]


def _latex(text: str) -> str:
    if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text):
        mantissa, _, exponent = text.partition("e")
        power = rf" \times 10^{{{int(exponent)}}}" if exponent else ""
        return f"${mantissa}{power}$" if power or text.startswith("-") else text
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _right(table: pd.DataFrame) -> list[bool]:
    return [pd.api.types.is_numeric_dtype(table[column]) for column in table]


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _pad(table: pd.DataFrame, line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(line, widths, _right(table), strict=True)
    ]


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
