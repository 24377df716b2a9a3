"""What makes a figure fit for print: colours, fonts, no settings of the user's, a caption beside it."""

import io
import re
import zlib
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from numpy.typing import NDArray

from xconsensus import figures
from xconsensus.figures import style
from xconsensus.figures.index import printed

# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
# severity 1, of linear RGB.
VISION = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # of sRGB, IEC 61966-2-1


def lab(vision: str) -> NDArray[np.float64]:
    """The families' colours in CIELAB as someone sees them, (n, 3)."""
    rgb = np.array([mpl.colors.to_rgb(colour) for colour in style.COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1) @ _XYZ.T / _XYZ.sum(axis=1)
    root = np.where(seen > 216 / 24389, np.cbrt(seen), (24389 / 27 * seen + 16) / 116)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)


@pytest.mark.parametrize("vision", VISION)
def test_eight_colours_keep_apart_however_one_sees_colours(vision: str) -> None:
    seen = lab(vision)
    assert len(seen) == 8
    distances = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(8, 1)]
    assert distances.min() > 20  # a just noticeable difference is about 2.3


def test_colours_keep_apart_in_grey_and_from_the_paper() -> None:
    lightness = np.sort(lab("normal")[:, 0])
    assert np.diff(lightness).min() > 7
    assert lightness.max() < 80


@pytest.mark.parametrize("families", [8, 21, 36, 96])
def test_no_two_families_have_marker_and_colour_in_common(families: int) -> None:
    chosen = [*style.symbols(f"family {index:02}" for index in range(families)).values()]
    assert len({(symbol.marker, symbol.colour) for symbol in chosen}) == families
    assert len({symbol.colour for symbol in chosen}) == 8
    if families <= 36:  # in grey too
        assert len({(symbol.marker, symbol.fill) for symbol in chosen}) == families


def table(members: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(members)
    score = rng.uniform(0.2, 0.8, members)
    return pd.DataFrame(
        {
            "member": [f"member_{index}" for index in range(members)],
            "family": "f",
            "accuracy": rng.uniform(0.5, 0.9, members),
            "consensus_score": score,
            "consensus_score_low": score - 0.3,
            "consensus_score_high": score + 0.3,
        }
    )


def test_no_interval_strikes_a_name_through() -> None:
    drawn = figures.fig05({"lime": table()})
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)  # type: ignore[no-untyped-call]
    names = [text for text in drawn.axes[0].texts if isinstance(text, Annotation)]
    assert len(names) > 10
    for name in names:
        box = Text.get_window_extent(name)
        left, right = int(np.ceil(box.x0)), int(box.x1)
        below, above = int(np.ceil(box.y0)), int(box.y1)
        behind = pixels[len(pixels) - above : len(pixels) - below, left:right]
        assert np.ptp(behind, axis=-1).max() < 40  # ink and paper are grey, intervals are not


RC: dict[str, Any] = {
    "size": {"savefig.bbox": "tight", "figure.dpi": 50, "savefig.dpi": 40, "figure.autolayout": True},
    "ground": {"figure.facecolor": "black", "axes.facecolor": "black", "savefig.facecolor": "black"},
    "font": {"font.family": "monospace", "font.size": 20, "text.color": "red", "axes.labelsize": 20},
    "latex": {"text.usetex": True},
    "style": {"axes.grid": False, "lines.linewidth": 9, "hatch.linewidth": 5, "axes.linewidth": 4, "pdf.fonttype": 3},
}


@pytest.mark.parametrize("settings", RC.values(), ids=RC)
def test_a_matplotlibrc_changes_nothing(settings: Any) -> None:
    arguments = ({"lime": table(5)}, "caption")
    plain = printed("fig05", arguments)
    with mpl.rc_context(settings):
        assert printed("fig05", arguments) == plain
        mine, buffer = {name: value for name, value in mpl.rcParams.items() if name in settings}, io.BytesIO()
        figures.fig05(*arguments).savefig(buffer, format="pdf", metadata={"CreationDate": None})
        assert {name: value for name, value in mpl.rcParams.items() if name in settings} == mine
    assert len(buffer.getvalue()) == len(plain[".pdf"])


def test_fonts_in_pdf_are_truetype() -> None:
    data = printed("fig05", ({"lime": table(5)}, "caption"))[".pdf"]
    parts = [data]
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        try:
            parts.append(zlib.decompress(stream))
        except zlib.error:
            continue
    whole = b"".join(parts)
    assert b"/FontFile2" in whole
    assert b"/Type3" not in whole


def test_the_caption_stands_in_a_text_file_too() -> None:
    files = printed("fig05", ({"lime": table(5)}, "What it shows"))
    assert set(files) == {".png", ".pdf", ".txt"}
    said = files[".txt"].decode()
    assert said.startswith("What it shows; bars: 95 % intervals over images; ")
    assert said.endswith("\n")
    assert said.count("\n") == 1
