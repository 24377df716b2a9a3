"""What the consensus's average precision stands beside: members, and maps that no network made."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xconsensus.published import ENSEMBLE
from xconsensus.scores.metrics import average_precision, mean_over_images

Floats = NDArray[np.floating]
CENTRE, TRAINING, AREAS = "a centre-weighted map", "the mean of the training masks", "superpixels' areas"


def centred(size: int) -> Floats:
    """A map (size, size) that falls with the distance to the centre: minus that distance, in pixels."""
    offsets = np.arange(size) - (size - 1) / 2
    return np.asarray(-np.hypot(*np.meshgrid(offsets, offsets)))


def own_areas(labels: NDArray[np.integer]) -> Floats:
    """Of each pixel of a label map (...), how many pixels its superpixel has."""
    return np.asarray(np.bincount(labels.ravel())[labels], dtype=np.float64)


def baselines_table(
    images: Iterable[tuple[NDArray[np.bool_], NDArray[np.bool_], Mapping[str, Floats]]], members: pd.DataFrame
) -> pd.DataFrame:
    """baselines.csv: one row each of consensus, best member, mean member, and what no network made.

    ``images`` gives of each image its mask, the pixels that count, and maps by name, all (size, size); ``members`` is
    members.csv.

    Columns: map, mean_average_precision, and of a map that no network made members_below, the names of those, the
    consensus among them, that it exceeds.
    """
    precision = [
        {name: average_precision(values[counted], mask[counted]) for name, values in maps.items()}
        for mask, counted, maps in images
    ]
    own = members.set_index("member")["mean_average_precision"]
    alone = own.drop(ENSEMBLE)
    rows = [
        (ENSEMBLE, own[ENSEMBLE], ""),
        (f"best member, {alone.idxmax()}", alone.max(), ""),
        ("mean member", alone.mean(), ""),
    ]
    found = pd.DataFrame(precision)
    for name, mean in zip(found, mean_over_images(found.to_numpy()), strict=True):
        rows.append((str(name), mean, ", ".join(str(member) for member in own.index[own < mean])))
    return pd.DataFrame(rows, columns=["map", "mean_average_precision", "members_below"])
