"""What the figures and tables of a run are made from: one explainer's scores, and ways to read its maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from xconsensus.datasets import Record
from xconsensus.figures import tables
from xconsensus.stages.context import Context
from xconsensus.stages.vote import IMAGES_AT_A_TIME, complete_explanations, exact, in_turn, leave_out_missing
from xconsensus.store.files import read_csv, read_settings


@dataclass(frozen=True)
class Scored:
    """One explainer's scores: its context, and the tables members.csv and images.csv."""

    context: Context
    members: pd.DataFrame
    images: pd.DataFrame

    @property
    def on_superpixels(self) -> bool:
        """Whether an explanation has one value a superpixel."""
        return bool(self.context.segmenter_settings())

    def explanations(self, records: Sequence[Record]) -> Iterator[tuple[Record, Tensor]]:
        """Each image with the explanations of all members, (m, K), in the committee's order.

        Memory holds all members' maps of ``IMAGES_AT_A_TIME`` images.
        """
        shards = complete_explanations(self.context, [record.image_id for record in records])
        for start in range(0, len(records), IMAGES_AT_A_TIME):
            some = records[start : start + IMAGES_AT_A_TIME]
            ids = [record.image_id for record in some]
            rows: list[list[Tensor]] = [[] for _ in some]
            for member in in_turn(shards, ids):
                for place, values in exact(member, ids):
                    for row, each in zip(rows[place], values, strict=True):
                        row.append(each)
            for row, record in zip(rows, some, strict=True):
                yield record, torch.stack(row)


def read_scored(context: Context) -> Scored:
    """The scores of the context's explainer; InputError when there are none, or they are of other images."""
    leave_out_missing(context, [record.image_id for record in context.chosen()])
    folder = context.store.scores(context.committee, context.config["explainer"]["name"])
    if not (folder / "members.csv").is_file():
        raise context.needs("score", f"{folder / 'members.csv'} does not exist")
    images = read_settings(folder / "members.csv").get("images")
    if images != len(context.chosen()):
        raise context.needs("score", f"{folder} has scores of {images} images, not of the present ones")
    return Scored(context, read_csv(folder / "members.csv"), read_csv(folder / "images.csv"))


def caption(scored: Mapping[str, Scored], what: str = "") -> str:
    """Data set, images, members and explainers in a line, as it stands under a figure."""
    context = next(iter(scored.values())).context
    names = " and ".join(tables.EXPLAINERS.get(name, name) for name in scored)
    whole = len(context.initial)
    shown = f"{len(context.scored)} of {whole} members" if len(context.scored) < whole else f"{whole} members"
    return f"{context.store.dataset}: {len(context.chosen())} images, {shown}, {names}{what and '; ' + what}"
