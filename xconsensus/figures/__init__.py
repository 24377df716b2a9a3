"""The paper's figures: tables and arrays in, matplotlib figures out, one function a figure; nothing is saved.

``figure.savefig("fig05.pdf")`` saves one. Sizes are those in print: 7 inches wide (one panel 3.5), type >= 7 pt.
"""

from xconsensus.errors import InputError

try:
    import matplotlib  # noqa: F401
except UnicodeDecodeError as error:
    raise InputError("matplotlibrc is not UTF-8 text: save it as such, or rename it while figures are drawn") from error

from xconsensus.figures.curves import diluted, fig08, sec51, sec452
from xconsensus.figures.gallery import COLUMNS, Row, Tile, gallery
from xconsensus.figures.method import fig01
from xconsensus.figures.scatter import fig04, fig05, fig06, fig07, fig10

__all__ = [
    "COLUMNS",
    "Row",
    "Tile",
    "diluted",
    "fig01",
    "fig04",
    "fig05",
    "fig06",
    "fig07",
    "fig08",
    "fig10",
    "gallery",
    "sec51",
    "sec452",
]
