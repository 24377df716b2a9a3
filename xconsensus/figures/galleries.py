"""What figures that show images are drawn from: members' maps and the consensus (Figures 1 to 3, 9, 12 to 15)."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from xconsensus.figures.gallery import COLUMNS, Colours, Row, Tile
from xconsensus.figures.results import Picture, Results, Scores
from xconsensus.published import ENSEMBLE

Arguments = tuple[Any, ...]


def method(results: Results) -> Arguments:
    """Figure 1, `fig01`: the method on a typical image, by the first explainer."""
    name, scores = next(iter(results.scores.items()))
    members = results.shown_members(scores, 4)
    image = typical_image(results, scores, members)
    similarity = scores.of_image(image, "similarity")
    tiles = [Tile(member, scores.map_of(member, image)) for member in members]
    text = f"{_text(results, members, f'image {image}')}, {results.title(name)}"
    consensus, own = scores.map_of(ENSEMBLE, image), [float(similarity[member]) for member in members]
    typical = "of all images the one whose similarities are nearest to these members' mean ones"
    caption = f"{text}; {typical}; the whole committee votes; {_colours(results).words}"
    return results.images.pixels(image), tiles, consensus, own, caption, _colours(results)


def typical_image(results: Results, scores: Scores, members: Sequence[str]) -> str:
    """The id of the image on which the similarities of ``members`` are nearest to their means over all images."""
    ids = [picture.image_id for picture in results.images.pictures]
    similarity = scores.images.pivot_table(index="image_id", columns="member", values="similarity", dropna=False)
    similarity = similarity.reindex(index=ids, columns=list(members))
    away = ((similarity - similarity.mean()) ** 2).sum(axis=1, skipna=False)
    return ids[int(away.argmin())] if away.notna().any() else ids[0]


def one_image(results: Results, *, masks: bool) -> dict[str, Arguments]:
    """Figures 2 and 3, `gallery`: one image each, a row each explainer; ``masks`` adds average precision."""
    members = results.shown_members(results.first, results.options["gallery_members"])
    found = {}
    for number, picture in enumerate(results.images.spread(results.options["gallery"]), 1):
        rows = [
            _row(results, scores, picture, members, results.title(name), masks=masks)
            for name, scores in results.scores.items()
        ]
        text = _text(results, members, f"image {picture.image_id}")
        found[f"_{number}"] = _shown(results, rows, f"{text}, from the most to the least accurate", masks=masks)
    return found


def many_images(results: Results, scores: Mapping[str, Scores], *, masks: bool) -> Arguments:
    """Figures 12 to 15, `gallery`: some images, a row each, as members and the consensus of one explainer see them."""
    name, first = next(iter(scores.items()))
    members = results.shown_members(first, COLUMNS - 1)
    rows = [
        _row(results, first, picture, members, picture.label, masks=masks)
        for picture in results.images.spread(results.options["gallery_rows"])
    ]
    text = _text(results, members, results.title(name))
    return _shown(results, rows, f"{text}, from the most to the least accurate", masks=masks)


def several_objects(results: Results) -> dict[str, Arguments]:
    """Figure 9, `gallery`: images of several objects; members note what they predict, the consensus its AP for each."""
    members = results.shown_members(results.first, results.options["gallery_members"])
    found = {}
    for number, picture in enumerate(results.images.spread(results.options["gallery"]), 1):
        rows = [
            _row_of_objects(results, scores, picture, members, results.title(name))
            for name, scores in results.scores.items()
        ]
        text = _text(results, members, f"image {picture.image_id}")
        what = f"{text}; below each member what it predicts, with its probability"
        found[f"_{number}"] = _shown(results, rows, what, masks=True)
    return found


def _shown(results: Results, rows: Sequence[Row], text: str, *, masks: bool) -> Arguments:
    """The arguments of `gallery`: rows, caption with what colours and average precision show, colours."""
    colours = _colours(results)
    return rows, "; ".join(filter(None, [text, results.weighted if masks else "", colours.words])), colours


def _colours(results: Results) -> Colours:
    return Colours(results.options["clip_percent"], results.options["negative"])


def _row(results: Results, scores: Scores, picture: Picture, members: Sequence[str], title: str, *, masks: bool) -> Row:
    """Each member's map of an image, with its average precision if there are ``masks``, the consensus last."""
    precision = scores.of_image(picture.image_id, "average_precision")
    tiles = [
        Tile(name, scores.map_of(name, picture.image_id), float(precision[name]) if masks else None)
        for name in (*members, ENSEMBLE)
    ]
    return Row(
        title, results.images.pixels(picture.image_id), tiles, [results.images.mask(picture.image_id)] if masks else []
    )


def _row_of_objects(results: Results, scores: Scores, picture: Picture, members: Sequence[str], title: str) -> Row:
    tiles = []
    for name in members:
        word, probability = scores.prediction_of(name, picture.image_id)
        note = f"{textwrap.shorten(word, 16, placeholder='...')}\n{probability:.2f}"
        tiles.append(Tile(name, scores.map_of(name, picture.image_id), None, note))
    objects = pd.DataFrame() if scores.objects is None else scores.objects
    own = objects[objects["image_id"] == picture.image_id]
    notes = [f"AP {row.category} {row.average_precision:.2f}" for row in own.itertuples()]
    tiles.append(Tile(ENSEMBLE, scores.map_of(ENSEMBLE, picture.image_id), None, "\n".join(notes[:3])))
    masks = [mask for _, mask in results.images.objects(picture.image_id)]
    return Row(title, results.images.pixels(picture.image_id), tiles, masks)


def _text(results: Results, members: Sequence[str], what: str) -> str:
    whole = len(results.voters)
    shown = f"{whole} members" if len(members) == whole else f"{len(members)} of {whole} members"
    return f"{results.dataset}, {what}, {shown}"
