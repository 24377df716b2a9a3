"""How average precision goes with an image's number of objects and the share that the explained one covers (5.1)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from xconsensus.published import ENSEMBLE
from xconsensus.scores.metrics import Intervals, mean_over_images

# what groups images -> where each group begins; the last has no end
STARTS: Mapping[str, Sequence[float]] = {"objects": (1, 2, 3, 5, 9), "share": (0, 0.05, 0.1, 0.2, 0.4)}


def sizes_table(sizes: pd.DataFrame, images: pd.DataFrame, shown: Sequence[str]) -> pd.DataFrame:
    """several_images.csv: of each image whose explained object lies on the crop, the average precisions of the
    consensus and of the best member.

    ``sizes`` has image_id, objects and share; ``images`` is images.csv. The best member is that of those ``shown``
    whose mean over these images is the highest: one for all of them. Columns: image_id, objects, share, consensus,
    best, best_member.
    """
    precision = images.pivot(index="image_id", columns="member", values="average_precision")
    precision = precision.reindex(sizes["image_id"]).reset_index(drop=True)
    means = precision[[*shown]].mean()
    name = str(means.idxmax()) if means.notna().any() else shown[0]
    table = sizes.assign(consensus=precision[ENSEMBLE], best=precision[name], best_member=name)
    return table[table["consensus"].notna()].reset_index(drop=True)


def several_table(sizes: pd.DataFrame, intervals: Intervals) -> pd.DataFrame:
    """several.csv: means over groups of a `sizes_table`, by number of objects and by share.

    One row a group that has images: by (objects or share), start (the group is from it up to the next), images, and
    with low and high ends of the interval over images consensus, best (the best member) and their paired difference;
    chance, the mean share, which is the average precision of a map of one value; best_member.
    """
    rows = []
    for by, starts in STARTS.items():
        places = np.searchsorted(starts, sizes[by], side="right") - 1
        for place, start in enumerate(starts):
            group = sizes[places == place]
            if len(group):
                rows.append({"by": by, "start": start, **_means(group, intervals)})
    return pd.DataFrame(rows)


def _means(group: pd.DataFrame, intervals: Intervals) -> dict[str, object]:
    values = group[["consensus", "best"]].assign(difference=group["consensus"] - group["best"])
    means, (low, high) = mean_over_images(values), intervals.of(values)
    found: dict[str, object] = {"images": len(group)}
    for name, *ends in zip(values.columns.astype(str), means, low, high, strict=True):
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    return found | {"chance": group["share"].mean(), "best_member": group["best_member"].iloc[0]}
