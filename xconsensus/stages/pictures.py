"""Figures that show images: what members look at, and the consensus (Figures 1, 2, 3, 9, 12 to 15)."""

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xconsensus import figures
from xconsensus.datasets import Record
from xconsensus.datasets.imagefolder import readable
from xconsensus.figures import Row, Tile, tables
from xconsensus.members.member import Member
from xconsensus.scores.metrics import average_precision
from xconsensus.stages.context import Context
from xconsensus.stages.score import ENSEMBLE
from xconsensus.stages.scored import Scored


def steps(scored: Mapping[str, Scored]) -> Figure:
    """Figure 1: the method on the first image of the galleries, by the first explainer."""
    name, each = next(iter(scored.items()))
    context, record = each.context, gallery_images(each.context, 1)[0]
    members = shown_members(each, 4)
    similarity = each.images[each.images["image_id"] == record.image_id].set_index("member")["similarity"]
    tiles = [Tile(member.name, _map(each, record, member)) for member in members]
    scores = [similarity[member.name] for member in members]
    text = f"{context.store.dataset}, image {record.image_id}, {len(members)} of {len(context.initial)} members"
    text += f", {tables.EXPLAINERS.get(name, name)}; the whole committee votes"
    return figures.fig01(context.image(record), tiles, _map(each, record), scores, text)


def one_image(scored: Mapping[str, Scored], name: str, *, masks: bool) -> dict[str, Figure]:
    """Figures 2 and 3: one image, a row each explainer; ``masks`` adds average precision."""
    context, options = _first(scored).context, _first(scored).context.config["plot"]
    members = shown_members(_first(scored), options["gallery_members"])
    drawn = {}
    for number, record in enumerate(gallery_images(context, options["gallery"]), 1):
        outlines = [context.mask(record)] if masks else []
        rows = [
            Row(tables.EXPLAINERS.get(explainer, explainer), context.image(record), tiles, outlines)
            for explainer, each in scored.items()
            for tiles in [_tiles(each, record, members, precision=masks)]
        ]
        text = _text(context, members, f"image {record.image_id}")
        drawn[f"{name}_{number}"] = figures.gallery(rows, f"{text}, from the most to the least accurate")
    return drawn


def several_objects(scored: Mapping[str, Scored], name: str) -> dict[str, Figure]:
    """Figure 9: an image of several objects; members note what they predict, the consensus its AP for each category."""
    context, options = _first(scored).context, _first(scored).context.config["plot"]
    members = shown_members(_first(scored), options["gallery_members"])
    drawn = {}
    for number, record in enumerate(gallery_images(context, options["gallery"]), 1):
        objects = context.objects(record)
        rows = []
        for explainer, each in scored.items():
            tiles = [Tile(m.name, _map(each, record, m), None, _predicted(each, record, m)) for m in members]
            agreed = _map(each, record)
            precisions = [(what, average_precision(agreed.ravel(), m.ravel())) for what, m in _categories(objects)]
            found = [f"AP {what} {precision:.2f}" for what, precision in precisions]
            tiles.append(Tile(ENSEMBLE, agreed, None, "\n".join(found[:3])))
            title = tables.EXPLAINERS.get(explainer, explainer)
            rows.append(Row(title, context.image(record), tiles, [mask for _, mask in objects]))
        text = _text(context, members, f"image {record.image_id}")
        drawn[f"{name}_{number}"] = figures.gallery(
            rows, f"{text}; below each member what it predicts, with its probability"
        )
    return drawn


def has_several_objects(context: Context) -> bool:
    """Whether one of the images of figure 9 has several objects."""
    return any(
        len(context.objects(record)) > 1 for record in gallery_images(context, context.config["plot"]["gallery"])
    )


def many_images(explainer: str, each: Scored, *, masks: bool) -> Figure:
    """Figures 12 to 15: some images, a row each, as some members and the consensus of one explainer see them."""
    context, options = each.context, each.context.config["plot"]
    members = shown_members(each, figures.COLUMNS - 1)
    rows = [
        Row(
            readable(context.dataset.classes[record.label]) if record.label >= 0 else "",
            context.image(record),
            _tiles(each, record, members, precision=masks),
            [context.mask(record)] if masks else [],
        )
        for record in gallery_images(context, options["gallery_rows"])
    ]
    text = _text(context, members, tables.EXPLAINERS.get(explainer, explainer))
    return figures.gallery(rows, f"{text}, from the most to the least accurate")


def gallery_images(context: Context, count: int) -> list[Record]:
    """At most ``count`` of the chosen images, spread over them."""
    records = context.chosen()
    return [records[i] for i in np.unique(np.linspace(0, len(records) - 1, count).round().astype(int))]


def shown_members(each: Scored, count: int) -> list[Member]:
    """At most ``count`` members from the most to the least accurate, evenly spaced among all."""
    own = each.members[each.members["member"] != ENSEMBLE]
    ranked = list(own.sort_values("accuracy", ascending=False, kind="stable")["member"])
    names = [ranked[i] for i in np.unique(np.linspace(0, len(ranked) - 1, count).round().astype(int))]
    by_name = {member.name: member for member in each.context.initial}
    return [by_name[name] for name in names]


def _categories(objects: list[tuple[str, NDArray[np.bool_]]]) -> list[tuple[str, NDArray[np.bool_]]]:
    """The objects of each category as one mask, in the order of their first."""
    return [
        (name, np.logical_or.reduce([mask for other, mask in objects if other == name]))
        for name in dict.fromkeys(name for name, _ in objects)
    ]


def _tiles(each: Scored, record: Record, members: list[Member], *, precision: bool) -> list[Tile]:
    """Each member's map of an image, with its average precision if there are masks, the consensus last."""
    own = each.images[each.images["image_id"] == record.image_id].set_index("member")["average_precision"]
    tiles = [Tile(m.name, _map(each, record, m), float(own[m.name]) if precision else None) for m in members]
    return [*tiles, Tile(ENSEMBLE, _map(each, record), float(own[ENSEMBLE]) if precision else None)]


def _map(each: Scored, record: Record, member: Member | None = None) -> NDArray[np.floating]:
    """A member's explanation, or the consensus, as a map (size, size): superpixels painted with their values."""
    context = each.context
    shards = context.explanations(context.ready(member)) if member else context.consensus()
    values = shards.values(record.image_id).numpy()
    if each.on_superpixels:
        segments = context.labels(context.config["explainer"]["segmenter"]["name"]).values(record.image_id)
        values = values[segments.numpy()]
    return np.asarray(values.reshape(context.size, context.size))


def _predicted(each: Scored, record: Record, member: Member) -> str:
    """Predicted class and, in a second line, its probability."""
    shards = each.context.explanations(each.context.ready(member))
    name = readable(each.context.dataset.classes[int(shards.number(record.image_id, "predicted"))])
    return f"{textwrap.shorten(name, 16, placeholder='...')}\n{shards.number(record.image_id, 'probability'):.2f}"


def _text(context: Context, members: list[Member], what: str) -> str:
    whole = len(context.initial)
    shown = f"{whole} members" if len(members) == whole else f"{len(members)} of {whole} members"
    return f"{context.store.dataset}, {what}, {shown}"


def _first(scored: Mapping[str, Scored]) -> Scored:
    return next(iter(scored.values()))
