"""Arrays as picture files that other programs open."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from xconsensus.store.files import write_bytes


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A PNG file of grey levels (H, W) or RGB (H, W, 3)."""
    _write(path, pixels, "PNG")


def write_tiff(path: Path, values: NDArray[np.float32]) -> None:
    """A TIFF file of 32-bit floats (H, W), as they are, also NaN."""
    _write(path, values, "TIFF", **({"compression": "tiff_adobe_deflate"} if features.check("libtiff") else {}))


def _write(path: Path, pixels: NDArray[Any], kind: str, **options: str) -> None:
    content = BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    write_bytes(path, content.getvalue())
