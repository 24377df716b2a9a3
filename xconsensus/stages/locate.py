"""locate: boxes and masks of what the consensus, and members, point at, in the pixels of the whole images."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig
from xxhash import xxh3_64_hexdigest

from xconsensus import datasets
from xconsensus.datasets import Record
from xconsensus.datasets.coco_masks import run_lengths
from xconsensus.datasets.cropped import Place
from xconsensus.datasets.images import SUFFIXES
from xconsensus.errors import InputError, nearest, safe_name
from xconsensus.experiment.artefacts import digest, explained_images
from xconsensus.experiment.experiment import Experiment, start_all
from xconsensus.experiment.explanations import (
    IMAGES_AT_A_TIME,
    complete_consensus,
    complete_explanations,
    without_missing,
)
from xconsensus.experiment.maps import Maps
from xconsensus.figures.gallery import as_bytes, strength_of
from xconsensus.figures.overlay import overlay
from xconsensus.figures.rendering import to_text
from xconsensus.progress import counter, log
from xconsensus.published import ENSEMBLE
from xconsensus.scores import locations
from xconsensus.scores.locations import THRESHOLDS, Boxes, Floats
from xconsensus.scores.metrics import Intervals, mean_over_images
from xconsensus.store.files import remove, write_csv, write_json
from xconsensus.store.locks import claimed
from xconsensus.store.pictures import write_png, write_tiff
from xconsensus.store.provenance import Settings, versions

CENTRED = "centred box"
_BOX = ["left", "top", "width", "height"]


def run(configs: Sequence[DictConfig]) -> None:
    """The stage; see the module. ``configs`` differ in their explainer alone."""
    for experiment in start_all(configs):
        locate(experiment)


def locate(experiment: Experiment) -> None:
    """Write the locations of the consensus and of ``locate.members`` anew; where there are masks, also how well these
    and every member's boxes meet the objects.
    """
    records = explained_images(experiment)
    ids = [record.image_id for record in records]
    experiment = without_missing(experiment, ids)
    complete_explanations(experiment, ids)
    settings = _settings(experiment, complete_consensus(experiment, ids).settings, len(ids))
    wanted = [ENSEMBLE, *_wanted(experiment)]
    folder = _folder(experiment)
    if experiment.config["dry_run"]:
        log.info(f"locate would write boxes and masks of {', '.join(wanted)} on {len(ids)} images into {folder}")
        return
    for _ in claimed(experiment.store.root, [(folder / "locations.csv", None)]):
        remove(folder)
        found = _find(experiment, records, wanted)
        for name in wanted:
            write_csv(folder / name / "boxes.csv", _boxes_table(found[name]))
            write_json(folder / name / "coco.json", _coco(experiment, records, found[name], settings))
        if experiment.dataset.has_masks:
            table = _table(experiment, found)
            write_csv(folder / "locations.csv", table, settings)
            print(f"\n{experiment.explainer_name}: boxes on {len(ids)} images\n\n{to_text(table)}\n")
    if nowhere := sum(row["left"] is None for each in found.values() for row in each.rows):
        log.info(f"{experiment.explainer_name}: {nowhere} maps have one value everywhere, or none above 0, and no box")
    log.info(f"{experiment.explainer_name}: boxes and masks of {', '.join(wanted)} on {len(ids)} images in {folder}")


def _folder(experiment: Experiment) -> Path:
    return experiment.store.locations(experiment.committee, experiment.explainer_name)


def _wanted(experiment: Experiment) -> list[str]:
    """The members of ``locate.members``; InputError for one that the committee lacks."""
    wanted, known = experiment.config["locate"]["members"] or [], [member.name for member in experiment.members]
    if not isinstance(wanted, list):
        raise InputError(f"locate.members={wanted} is no list: give locate.members=[{wanted}]")
    for name in map(str, wanted):
        if name not in known:
            raise InputError(f"locate.members: {experiment.committee} has no member {name}{nearest(name, known)}")
    return list(dict.fromkeys(map(str, wanted)))


def _settings(experiment: Experiment, consensus: Settings, images: int) -> dict[str, Any]:
    """What shapes the locations."""
    return {
        "consensus": digest(dict(consensus)),
        "images": images,
        "threshold": experiment.config["locate"]["threshold"],
        "masks": datasets.mask_settings(experiment.dataset, experiment.config["dataset"]),
        "score": experiment.config["score"],
        "seed": experiment.seed,
    }


# --- images ---


class Object(NamedTuple):
    """An image's object: its box, and how many of its pixels, and of all that count, each explained pixel covers."""

    box: Boxes
    covered: NDArray[np.int32]
    counted: NDArray[np.int32]
    pixels: int

    def iou(self, mask: NDArray[np.bool_]) -> float:
        """Intersection over union with explained pixels ``mask`` (size, size), in pixels of the whole image."""
        shared = int(self.covered[mask].sum())
        return shared / (int(self.counted[mask].sum()) + self.pixels - shared)


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


def _images(experiment: Experiment, records: Sequence[Record]) -> Iterator[list[Image]]:
    """The explained images, some at a time."""
    stems = file_stems([record.image_id for record in records])
    places = map(experiment.images.place, records)
    every = (
        Image(number, record, stem, place, _object(experiment, record, place))
        for number, (record, stem, place) in enumerate(zip(records, stems, places, strict=True))
    )
    for first in range(0, len(records), IMAGES_AT_A_TIME):
        yield [image for image, _ in zip(every, records[first : first + IMAGES_AT_A_TIME], strict=False)]


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


# --- what is found ---


@dataclass
class Located:
    """What is found of a member, or the consensus: rows of boxes.csv, annotations of coco.json, and of each image with
    a known object the IoUs of boxes at all thresholds.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    ious: list[Floats] = field(default_factory=list)


def _find(experiment: Experiment, records: Sequence[Record], wanted: Sequence[str]) -> dict[str, Located]:
    """Locations of those ``wanted``, whose files of each image are written; with masks, of all members that scores show
    and of the centred box.
    """
    maps, rule = Maps(experiment), experiment.config["locate"]["threshold"]
    measured = [*experiment.shown_members, CENTRED] if experiment.dataset.has_masks else []
    found = {name: Located() for name in [*wanted, *measured]}
    with counter(f"locate {experiment.explainer_name}", len(records), "images", experiment.config["progress"]) as count:
        for images in _images(experiment, records):
            for name, located in found.items():
                for image in images:
                    if name == CENTRED:
                        located.ious.append(_ious(image, locations.centred_boxes(image.place.shape)))
                        continue
                    explanation = maps.of(name, image.record.image_id)
                    values = locations.scaled(explanation)
                    spot = spot_of(values, image.place, rule)
                    located.rows.append(_row(image, spot))
                    if image.object:
                        located.ious.append(_ious(image, image.place.boxes(locations.boxes_at(values))))
                    if name in wanted:
                        whole = _whole_mask(image, spot)
                        _write(experiment, image, _folder(experiment) / name, explanation, spot, whole)
                        located.annotations += _annotations(maps, name, image, spot, whole)
                if name != CENTRED:
                    maps.shards(name).release()
            count.add(len(images))
    return found


def _ious(image: Image, boxes: Boxes) -> Floats:
    """IoU of boxes (THRESHOLDS, 4) with that of an image's known object; 0 without boxes."""
    assert image.object is not None
    return locations.box_iou(boxes, image.object.box) if len(boxes) else np.zeros(len(THRESHOLDS))


def _row(image: Image, spot: Spot) -> dict[str, Any]:
    """An image's row of boxes.csv."""
    left, top, right, bottom = map(int, spot.boxes[0]) if len(spot.boxes) else (None, None, 0, 0)
    size = (None, None) if left is None or top is None else (right - left, bottom - top)
    row = {"image_id": image.record.image_id, "files": image.stem, "threshold": spot.threshold}
    row |= dict(zip(_BOX, (left, top, *size), strict=True))
    if image.object:
        row["box_iou"] = float(locations.box_iou(spot.boxes, image.object.box).sum())  # 0 without a box
        row["mask_iou"] = image.object.iou(spot.mask)
    return row


def _whole_mask(image: Image, spot: Spot) -> NDArray[np.bool_]:
    """The mask of the whole image; of one that lies between two pixels' centres, its box."""
    whole = image.place.undone(spot.mask, outside=False)
    if not whole.any():
        for left, top, right, bottom in spot.boxes:
            whole[top:bottom, left:right] = True
    return whole


def _write(
    experiment: Experiment,
    image: Image,
    folder: Path,
    explanation: NDArray[np.floating],
    spot: Spot,
    whole: NDArray[np.bool_],
) -> None:
    """Write an image's map, mask and overlay.

    Parameters
    ----------
    experiment, image, folder : whose.
    explanation, spot : (size, size), and what it points at.
    whole : the mask (H, W).
    """
    place, pixels = image.place, experiment.dataset.image(image.record)
    strength = place.undone(as_bytes(strength_of(explanation)), outside=0)
    box = spot.boxes[0] if len(spot.boxes) else None
    write_tiff(folder / f"maps/{image.stem}.tif", place.undone(explanation.astype(np.float32), outside=np.nan))
    write_png(folder / f"masks/{image.stem}.png", whole.astype(np.uint8) * 255)
    write_png(folder / f"overlays/{image.stem}.png", overlay(pixels, strength, box))


# --- tables ---


def _annotations(maps: Maps, name: str, image: Image, spot: Spot, whole: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """The annotation of an image in COCO's format, none without a box.

    Parameters
    ----------
    maps, name : of the member, or the consensus, whose it is.
    image, spot, whole : what its map points at, and the mask (H, W).
    """
    for left, top, right, bottom in spot.boxes.tolist():
        yield {
            "id": image.number + 1,
            "image_id": image.number + 1,
            "category_id": category_of(maps, name, image.record) + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": int(whole.sum()),
            "segmentation": run_lengths(whole),
            "iscrowd": 0,
        }


def category_of(maps: Maps, name: str, record: Record) -> int:
    """The image's label; where it is unknown the class that the member predicts, of the consensus most members."""
    if record.label >= 0:
        return record.label
    members = maps.members if name == ENSEMBLE else [name]
    votes = Counter(int(maps.shards(member).number(record.image_id, "predicted")) for member in members)
    return votes.most_common(1)[0][0]


def _coco(experiment: Experiment, records: Sequence[Record], located: Located, settings: Settings) -> Mapping[str, Any]:
    """All images and annotations in COCO's format; files' names below ``dataset.root`` where images lie there."""
    root = experiment.config["dataset"].get("root")
    images = []
    for number, record in enumerate(records, 1):
        width, height = experiment.images.source_size(record)
        name = os.path.relpath(record.path, root) if root and record.path else record.image_id
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    return {
        "info": {"description": "what maps point at, by xconsensus locate", "settings": settings, **versions()},
        "images": images,
        "annotations": located.annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(experiment.dataset.classes, 1)],
    }


def _boxes_table(located: Located) -> pd.DataFrame:
    """boxes.csv: one row an image, of whole pixels; empty cells where there is no box."""
    return pd.DataFrame(located.rows).astype(dict.fromkeys(_BOX, "Int64"))


def _table(experiment: Experiment, found: Mapping[str, Located]) -> pd.DataFrame:
    """locations.csv: one row for the consensus, each member and the centred box, this one at its best threshold."""
    options = experiment.config["score"]
    columns, rows = [], []
    for name, located in found.items():
        ious = np.array(located.ious)
        best, place = locations.max_box_accuracy(ious)
        own = ious[:, place] if name == CENTRED else np.array([row["box_iou"] for row in located.rows])
        columns.append(own)
        rows.append(
            {
                "member": name,
                "without_box": sum(row["left"] is None for row in located.rows),
                "box_iou": own.mean(),
                "box_accuracy": float(locations.box_accuracy(own)),
                "max_box_accuracy": best,
                "best_threshold": THRESHOLDS[place],
                "mask_iou": float(mean_over_images([row["mask_iou"] for row in located.rows]))
                if located.rows
                else np.nan,
            }
        )
    table = pd.DataFrame(rows)
    low, high = Intervals(options["bootstrap"], options["level"], experiment.seed).of(np.stack(columns, axis=1))
    table.insert(3, "box_iou_low", low)
    table.insert(4, "box_iou_high", high)
    return table
