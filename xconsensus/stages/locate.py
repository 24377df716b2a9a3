"""locate: boxes and masks of what the consensus, and members, point at, in the pixels of the whole images."""

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from xconsensus.datasets import Record, mask_kind
from xconsensus.datasets.coco_masks import annotation
from xconsensus.errors import InputError, nearest
from xconsensus.experiment.artefacts import explained_images
from xconsensus.experiment.experiment import Experiment, start_all
from xconsensus.experiment.explanations import (
    IMAGES_AT_A_TIME,
    complete_consensus,
    complete_explanations,
    without_missing,
)
from xconsensus.experiment.locating import Image, Spot, category_of, images_of, locations_settings, spot_of, whole_mask
from xconsensus.experiment.maps import Maps
from xconsensus.figures.gallery import as_bytes, strength_of
from xconsensus.figures.overlay import overlay
from xconsensus.figures.rendering import to_text
from xconsensus.progress import counter, log
from xconsensus.published import CENTRED, ENSEMBLE
from xconsensus.scores.locations import (
    Located,
    box_row,
    boxes_at,
    boxes_table,
    centred_boxes,
    locations_table,
    scaled,
)
from xconsensus.scores.metrics import Intervals
from xconsensus.scores.tables_of_members import with_mask_kind
from xconsensus.store.files import read_csv, read_settings, remove, write_csv, write_json
from xconsensus.store.locks import claimed
from xconsensus.store.pictures import write_png, write_tiff
from xconsensus.store.provenance import Settings, check_settings, versions
from xconsensus.store.resume import is_made


def run(configs: Sequence[DictConfig]) -> None:
    """The stage; see the module. ``configs`` differ in their explainer alone."""
    for experiment in start_all(configs):
        locate(experiment)


def locate(experiment: Experiment) -> None:
    """Write the locations of the consensus and of ``locate.members``, and where there are masks how well these and
    every member's boxes meet the objects; what is there already stays.
    """
    records = explained_images(experiment)
    ids = [record.image_id for record in records]
    experiment = without_missing(experiment, ids)
    complete_explanations(experiment, ids)
    settings = locations_settings(experiment, complete_consensus(experiment, ids).settings, records)
    options, seed = experiment.config["score"], experiment.seed
    of_table = {**settings, "score": options, "seed": seed, "scored": experiment.shown_members}
    wanted, folder = [ENSEMBLE, *_wanted(experiment)], _folder(experiment)
    what = f"boxes and masks of {', '.join(wanted)} on {len(ids)} images"
    paths = {name: folder / name / "boxes.csv" for name in wanted}
    table = folder / "locations.csv"
    for _ in claimed(experiment.store.root, [(table, None)]):
        missing = [name for name, path in paths.items() if not _is_made(experiment, path, settings)]
        rows = [ENSEMBLE, *experiment.shown_members, CENTRED] if experiment.dataset.has_masks else []
        measured = rows if rows and not _is_made(experiment, table, of_table) else []
        if experiment.config["dry_run"]:
            log.info(f"locate would write {what} into {folder}; missing: {', '.join(missing) or 'none'}")
            return
        for name in missing:
            remove(folder / name)
        found = _find(experiment, records, missing, measured) if missing or measured else {}
        for name in missing:
            write_json(folder / name / "coco.json", _coco(experiment, records, found[name], settings))
            write_csv(paths[name], boxes_table(found[name].rows), settings)
        if measured:
            intervals = Intervals(options["bootstrap"], options["level"], seed)
            located = locations_table({name: found[name] for name in measured}, intervals)
            write_csv(table, with_mask_kind(located, mask_kind(experiment.dataset)), of_table)
        if nowhere := sum(row["left"] is None for each in found.values() for row in each.rows):
            log.info(f"{experiment.explainer_name}: {nowhere} maps have one value everywhere, or none above 0: no box")
    if experiment.dataset.has_masks:
        print(f"\n{experiment.explainer_name}: boxes on {len(ids)} images\n\n{to_text(read_csv(table))}\n")
    log.info(f"{experiment.explainer_name}: {what} in {folder}")


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


def _is_made(experiment: Experiment, path: Path, settings: Settings) -> bool:
    """Whether a table is there as it is to be; SettingsError where of other settings, without overwrite=true."""

    def check() -> None:
        check_settings(path, read_settings(path), settings)

    return is_made(path, check, experiment.config["overwrite"])


# --- what is found ---


def _find(
    experiment: Experiment, records: Sequence[Record], wanted: Sequence[str], measured: Sequence[str]
) -> dict[str, Located]:
    """Locations of those ``wanted``, whose files of each image are written, and of those that are ``measured``."""
    maps, found = Maps(experiment), {name: Located() for name in dict.fromkeys([*wanted, *measured])}
    with counter(f"locate {experiment.explainer_name}", len(records), "images", experiment.config["progress"]) as count:
        every = images_of(experiment, records)
        while images := list(islice(every, IMAGES_AT_A_TIME)):
            for name, located in found.items():
                for image in images:
                    if name == CENTRED:
                        _measure(located, image, centred_boxes(image.place.shape))
                    else:
                        _locate(maps, name, image, located, writes=name in wanted)
                if name != CENTRED:
                    maps.shards(name).release()
            count.add(len(images))
    return found


def _measure(located: Located, image: Image, boxes: NDArray[np.intp]) -> None:
    if image.object:
        located.ious.append(image.object.box_ious(boxes))


def _locate(maps: Maps, name: str, image: Image, located: Located, *, writes: bool) -> None:
    """Add what a member's map of an image points at, and write its files where that is wanted."""
    explanation = maps.of(name, image.record.image_id)
    values = scaled(explanation)
    spot = spot_of(values, image.place, maps.experiment.config["locate"]["threshold"])
    row = {"image_id": image.record.image_id, "files": image.stem, "threshold": spot.threshold, **box_row(spot.boxes)}
    if image.object:
        row["box_iou"] = float(image.object.box_ious(spot.boxes)[0])
        row["mask_iou"] = image.object.iou(spot.mask)
    located.rows.append(row)
    _measure(located, image, image.place.boxes(boxes_at(values)))
    if writes:
        whole = whole_mask(image, spot)
        _write(maps.experiment, image, _folder(maps.experiment) / name, explanation, spot, whole)
        category = category_of(maps, name, image.record) + 1
        located.annotations += [annotation(image.number + 1, category, box, whole) for box in spot.boxes.tolist()]


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
