"""What maps point at, in the pixels of whole images: spots, the objects that they should meet, and what shapes them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_hexdigest

from xconsensus import datasets
from xconsensus.datasets import Record
from xconsensus.datasets.cropped import Place
from xconsensus.datasets.images import SUFFIXES
from xconsensus.errors import InputError, safe_name
from xconsensus.experiment.artefacts import contents_explained
from xconsensus.experiment.experiment import Experiment
from xconsensus.experiment.maps import Maps
from xconsensus.published import ENSEMBLE
from xconsensus.scores import locations
from xconsensus.scores.locations import Boxes, Floats, Object
from xconsensus.store.provenance import Settings, digest


class Image(NamedTuple):
    """An explained image: its number, its files' path below their folders without suffix, and its object if known."""

    number: int
    record: Record
    stem: str
    place: Place
    object: Object | None


class Spot(NamedTuple):
    """What a map points at: explained pixels, their box in the whole image or none (0, 4), and the threshold taken."""

    mask: NDArray[np.bool_]
    boxes: Boxes
    threshold: float


def images_of(experiment: Experiment, records: Sequence[Record]) -> Iterator[Image]:
    """The explained images, one after the other."""
    stems = file_stems([record.image_id for record in records])
    for number, (record, stem) in enumerate(zip(records, stems, strict=True)):
        place = experiment.images.place(record)
        yield Image(number, record, stem, place, _object(experiment, record, place))


def file_stems(ids: Sequence[str]) -> list[str]:
    """A relative path for each image id, all different: the id without an image's suffix, or a digest of what can be no
    path.
    """
    paths = [PurePosixPath(image_id) for image_id in ids]
    stems = [str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path) for path in paths]
    stems = stems if len(set(stems)) == len(ids) else list(ids)
    return [stem if _is_path(stem) else xxh3_64_hexdigest(os.fsencode(stem)) for stem in stems]


def _is_path(stem: str) -> bool:
    try:
        return all(safe_name(part, "image") for part in stem.split("/"))
    except InputError:
        return False


def _object(experiment: Experiment, record: Record, place: Place) -> Object | None:
    """The object of an image, None without masks."""
    if not experiment.dataset.has_masks:
        return None
    mask = experiment.dataset.mask(record)
    void = experiment.dataset.void(record) if hasattr(experiment.dataset, "void") else None
    counted = np.ones_like(mask) if void is None else ~void
    return Object(locations.bounding_box(mask), place.counts(mask), place.counts(counted), int(mask.sum()))


def spot_of(values: Floats, place: Place, rule: float | str) -> Spot:
    """Where a scaled map (size, size) points, by the threshold or rule of ``locate.threshold``."""
    threshold = locations.otsu(values) if isinstance(rule, str) else rule
    boxes = place.boxes(locations.boxes_at(values, [threshold]))
    return Spot(locations.component(values, threshold), boxes, threshold)


def whole_mask(image: Image, spot: Spot) -> NDArray[np.bool_]:
    """The mask (H, W) of the whole image; of one that lies between two pixels' centres, its box."""
    whole = image.place.undone(spot.mask, outside=False)
    if not whole.any():
        for left, top, right, bottom in spot.boxes:
            whole[top:bottom, left:right] = True
    return whole


def category_of(maps: Maps, name: str, record: Record) -> int:
    """The image's label; where it is unknown the class that the member predicts, of the consensus most members."""
    if record.label >= 0:
        return record.label
    members = maps.members if name == ENSEMBLE else [name]
    votes = Counter(int(maps.shards(member).number(record.image_id, "predicted")) for member in members)
    return votes.most_common(1)[0][0]


def locations_settings(experiment: Experiment, consensus: Settings, records: Sequence[Record]) -> dict[str, Any]:
    """What shapes the boxes and masks of any member: explanations, threshold, images with their labels, and masks."""
    contents = contents_explained(experiment).of(record.image_id for record in records)
    labels = ",".join(str(record.label) for record in records)
    return {
        "consensus": digest(dict(consensus)),
        "images": len(records),
        "contents": xxh3_64_hexdigest(f"{contents} {labels}".encode()),
        "threshold": experiment.config["locate"]["threshold"],
        "masks": {
            **datasets.mask_settings(experiment.dataset, experiment.config["dataset"]),
            "contents": _contents_of_masks(experiment, records),
        },
    }


def _contents_of_masks(experiment: Experiment, records: Sequence[Record]) -> str | None:
    """A fingerprint of the masks of the whole images; None without masks."""
    if not experiment.dataset.has_masks:
        return None
    state = xxh3_64()
    for record in records:
        state.update(np.packbits(experiment.dataset.mask(record)).tobytes())
        if hasattr(experiment.dataset, "void") and (void := experiment.dataset.void(record)) is not None:
            state.update(np.packbits(void).tobytes())
    return state.hexdigest()
