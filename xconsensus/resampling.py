"""Filters by which images and masks are resized, under the names that config and settings have for them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PILLOWS: Mapping[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
OPENCVS = "opencv_bilinear"  # OpenCV's INTER_LINEAR, by which PaddleClas resizes: nothing is smoothed before it shrinks
OF_IMAGES = ("bilinear", "bicubic", OPENCVS)  # those of which torch has the like


def resized(pixels: NDArray[np.uint8], width: int, height: int, interpolation: str) -> NDArray[np.uint8]:
    """Pixels (H, W) or, for opencv_bilinear always, (H, W, 3) as uint8 (height, width[, 3]).

    opencv_bilinear is within one grey level of OpenCV, which rounds its weights to 1/2048.
    """
    if interpolation in PILLOWS:
        return np.asarray(Image.fromarray(pixels).resize((width, height), PILLOWS[interpolation]))
    import torch  # takes seconds, which who only reads names can do without

    planes = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float()
    found = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", align_corners=False)
    return found[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
