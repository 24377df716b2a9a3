"""Tables as Markdown, LaTeX and plain text."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xconsensus.figures.tables import EXPLAINERS
from xconsensus.scores.metrics import ENOUGH

_WORDS = {"mean average precision": "mAP", "pearson": "Pearson", "spearman": "Spearman"}


def to_text(table: pd.DataFrame, titles: Mapping[str, str] = EXPLAINERS) -> str:
    """The table as aligned plain text: headings, then one line a row; no index. ``titles`` as `heading` takes them."""
    shown, headings = _in_words(table, titles), list[str]()
    for name, right in zip(shown.columns, _numeric(table), strict=True):
        width = 0 if right else max(map(len, [heading(name, titles), *shown[name]]))
        shown[name] = shown[name].str.ljust(width)
        headings.append(" " * bool(headings) + heading(name, titles).ljust(width))
    return shown.to_string(index=False, header=headings) + "\n"


def to_markdown(table: pd.DataFrame, titles: Mapping[str, str] = EXPLAINERS) -> str:
    """The table as a GitHub-flavoured Markdown table whose source is aligned too; no index."""
    right, shown = _numeric(table), _in_words(table, titles).rename(columns=partial(heading, titles=titles))
    lines = [[cell.replace("|", "\\|") for cell in line] for line in [shown.columns, *shown.to_numpy()]]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * (width - 1) + (":" if at else "-") for width, at in zip(widths, right, strict=True)])
    pad = [str.rjust if at else str.ljust for at in right]
    return "".join("| " + " | ".join(map(lambda f, *cell: f(*cell), pad, line, widths)) + " |\n" for line in lines)


def to_latex(table: pd.DataFrame, titles: Mapping[str, str] = EXPLAINERS) -> str:
    """The table with booktabs rules, special characters escaped, to stand in class article at ``\\footnotesize``.

    Intervals share a cell with their coefficient. What is too wide has cells that wrap, and columns that do not fit
    even so follow in a further table, its first column repeated; what is too long for a page is a longtable.
    """
    own = _with_intervals(table)
    shown = _in_words(own, titles).rename(columns=partial(heading, titles=titles))
    right = dict(zip(shown.columns, _numeric(own), strict=True))
    parts = [_tabular(shown[names], [right[name] for name in names]) for names in _that_fit(shown)]
    return "% \\usepackage{array,booktabs,longtable}\n" + "\n".join(parts)


# Ems of \footnotesize: article's line, what of it columns may fill, between columns; the lines of one page, about.
_LINE, _FILLED, _SEPARATOR, _PAGE = 43.1, 42.0, 0.75, 45
_ESCAPES = str.maketrans(
    {each: f"\\{each}" for each in "&%$#_{}"}
    | {"\\": r"\textbackslash ", "^": r"\textasciicircum ", "~": r"\textasciitilde "}
    | {"<": r"\textless ", ">": r"\textgreater ", "|": r"\textbar "}
)


def _with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns X_r, X_low, X_high, and here, low, high, in one each, as text."""
    own = table.copy()
    for value, low, high in [(f"{x}_r", f"{x}_low", f"{x}_high") for x in ("pearson", "spearman")] + [
        ("here", "low", "high")
    ]:
        if {value, low, high} <= {*own}:
            known = own[low].notna() & (own["n"] >= ENOUGH if "n" in own else True)
            ends = [f" [{a:.2f}, {b:.2f}]" if k else "" for a, b, k in zip(own[low], own[high], known, strict=True)]
            own[value] = [_text(float(cell)) + end for cell, end in zip(own[value], ends, strict=True)]
            own = own.drop(columns=[low, high])
    return own


# Widths in ems of Computer Modern at 8 points, which is \footnotesize, in groups; other capitals and signs 0.83.
_EMS = {
    letter: width
    for letters, width in (
        ("ijl.,;:'|!()[]", 0.3),
        ("frtsI -", 0.42),
        ("cez", 0.48),
        ("aogq0123456789/=+*?_", 0.56),
        ("bdhknpuvxyJLSFEPT", 0.68),
        ("mwW", 1.1),
    )
    for letter in letters
} | dict.fromkeys("bdhknpuvxy", 0.6)


def _ems(text: str) -> float:
    """How wide text is in LaTeX's default font at ``\\footnotesize``, in ems, about."""
    return sum(_EMS.get(each, 0.83) for each in text)


def _pieces(text: str) -> list[str]:
    """Text in the pieces between which a line may end: after spaces, in names after punctuation, in long words."""
    words = re.split(r"(?<=[\s_/])(?=[^\s_/])|(?<=[^\W\d_][-.:])(?=[^\W\d_])", text)
    return [word[start : start + 22] for word in words for start in range(0, len(word), 22)]


def _widths(shown: pd.DataFrame, heads: Callable[[str], float], cells: Callable[[str], float]) -> NDArray[np.float64]:
    """The width of each column in ems: its widest cell's, or its head's, as they are measured."""
    return np.array([max(heads(str(name)), *map(cells, shown[name]), 0.5) for name in shown])


def _longest(text: str) -> float:
    """The width of a text's widest piece, with room for what `_ems` may be wrong."""
    return 1.05 * max((_ems(piece.strip()) for piece in _pieces(text)), default=0.0)


def _that_fit(shown: pd.DataFrame) -> list[list[str]]:
    """The columns of each of the tables that fit into a line one by one, the first column in all."""
    first, *rest = zip(shown.columns, _widths(shown, _longest, _longest) + _SEPARATOR, strict=True)
    groups, room = [[first[0]]], _FILLED - first[1]
    for name, width in rest:
        if width > room and len(groups[-1]) > 1:
            groups, room = [*groups, [first[0]]], _FILLED - first[1]
        groups[-1].append(name)
        room -= width
    return groups


def _tabular(shown: pd.DataFrame, right: Sequence[bool]) -> str:
    """One table, its columns as wide as their cells, or, where that is too much, wrapping theirs."""
    widths, room = _widths(shown, _ems, _ems), _FILLED - _SEPARATOR * (shown.shape[1] - 1)
    cells = [[*shown.columns], *shown.to_numpy().tolist()]
    if wraps := widths.sum() > room:
        # room for the longest words, then for whole cells, then for whole heads
        steps = [_widths(shown, *how) for how in ((_longest, _longest), (_longest, _ems), (_ems, _ems))]
        widths = steps[0]
        for wider in steps[1:]:
            more = wider - widths
            widths = widths + more * min(1.0, max(0.0, room - widths.sum()) / max(more.sum(), 1e-9))
        sides = [r"\raggedleft" if each else r"\raggedright" for each in right]
        columns = "@{\\hspace{6pt}}".join(
            rf">{{{side}\arraybackslash}}p{{{width / _LINE:.3f}\linewidth}}"
            for side, width in zip(sides, widths, strict=True)
        )
        columns = f"@{{}}{columns}@{{}}"
    else:
        columns = "".join("r" if each else "l" for each in right)
    high = [max(np.ceil(1.1 * _ems(cell) / width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines = [" & ".join(_cell(cell, wraps) for cell in row) + r" \\" for row in cells]
    long = sum(high) > _PAGE
    name, head = ("longtable", ["\\midrule", "\\endhead"]) if long else ("tabular", ["\\midrule"])
    indent = "" if long else "\\noindent"
    tail = ["\\bottomrule", rf"\end{{{name}}}"]
    return (
        "\n".join([rf"{indent}\begin{{{name}}}{{{columns}}}", "\\toprule", lines[0], *head, *lines[1:], *tail]) + "\n"
    )


def _cell(text: str, wraps: bool) -> str:
    """A cell's text for LaTeX, where it ``wraps`` with leave to end a line after its pieces."""
    if not wraps:
        return text.translate(_ESCAPES)
    return r"\hspace{0pt}" + r"\allowbreak{}".join(piece.translate(_ESCAPES) for piece in _pieces(text))


def _in_words(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """The cells as text: numbers formatted, names of columns (in the columns x and y) in words.

    Correlations of fewer than ``ENOUGH`` pairs have words in place of p, and no interval.
    """
    named = partial(heading, titles=titles)
    shown = pd.DataFrame({name: [*map(named if name in ("x", "y") else _text, table[name])] for name in table})
    few = np.asarray(table["n"] < ENOUGH) if "n" in table else np.zeros(len(table), bool)
    for coefficient in ("pearson", "spearman"):
        for end, words in (("p", "n too small"), ("low", "-"), ("high", "-")):
            if f"{coefficient}_{end}" in shown:
                shown.loc[few, f"{coefficient}_{end}"] = words
    return shown


def _numeric(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Which columns hold numbers: they are aligned at the right."""
    return np.array([pd.api.types.is_numeric_dtype(table[column]) for column in table])


def heading(column: str, titles: Mapping[str, str] = EXPLAINERS) -> str:
    """A column's name in words, as tables show it; ``titles`` are the explainers', whose names columns end in."""
    if own := max((name for name in titles if column.endswith(f"_{name}")), key=len, default=""):
        return f"{heading(column.removesuffix(f'_{own}'), {})} {titles[own]}"
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
