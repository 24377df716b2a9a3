"""What the stages share: the config's data set, members and store, and the rules of provenance between them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from xconsensus import datasets, own_code
from xconsensus.datasets import Record
from xconsensus.datasets.images import center_crop, fit, short_edge
from xconsensus.errors import DamagedError, InputError, MissingStageError, SettingsError, nearest
from xconsensus.jobs.job import job_threads
from xconsensus.jobs.memory import Keeper, keep_freed_memory
from xconsensus.jobs.worklog import Work
from xconsensus.members import catalogue
from xconsensus.members.member import Member, members_of
from xconsensus.members.network import Network
from xconsensus.members.weights import build, fill, head_tensors, read_weights
from xconsensus.progress import log
from xconsensus.stages.values import batch_size_of, device_of, plain, shard_of
from xconsensus.store.files import read_csv, read_settings, remove, remove_leftovers
from xconsensus.store.folders import Store
from xconsensus.store.locks import claimed
from xconsensus.store.provenance import check_settings
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_whole, verify

# keys of the dataset group that do not change an image's pixels
_NOT_OF_AN_IMAGE = (
    "name",
    "root",
    "download",
    "devkit",
    "masks",
    "mask_threshold",
    "mask_tolerance",
    "mask_values",
    "classes",
    "splits",
    "explain_split",
)
_OF_LOADER_ONLY = ("name", "loader", "size", "explain_split")


class Context:
    """One stage's view of the config, as plain values: data set, members, store, device, and what artefacts need."""

    def __init__(self, config: DictConfig) -> None:
        self.config = plain(config)
        keep_freed_memory()
        self.memory = Keeper()
        self.device = device_of(self.config["device"], self.config["threads"] or job_threads(self.config["shards"]))
        self.batch_size = batch_size_of(self.config, self.device)
        self.seed: int = self.config["seed"]
        self.progress: str = self.config["progress"]
        self.overwrite: bool = self.config["overwrite"]
        self.shard, self.shards = shard_of(self.config["shard"], self.config["shards"])
        self.dry_run: bool = self.config["dry_run"]
        dataset = self.config["dataset"]
        self.size, self.resize = dataset["size"], dataset["resize"]
        self.explain_split: str = dataset["explain_split"]
        settings = {key: value for key, value in dataset.items() if key not in _OF_LOADER_ONLY}
        if dataset["loader"] != "shapes":
            settings.pop("resize")
        self.dataset = datasets.load(dataset["loader"], settings)
        self.image_settings = {key: dataset[key] for key in dataset if key not in _NOT_OF_AN_IMAGE}
        self.image_settings["loader"] = own_code.settled(dataset["loader"])
        self.store = Store(Path(self.config["output_dir"]), dataset["name"])
        if not self.dry_run:
            remove_leftovers(self.store.root)
        self._read_committee(self.config["committee"])
        self._whole: set[Path] = set()  # trained weights that were read and found as they were written
        self._pixels: dict[tuple[str, int], NDArray[np.uint8]] = {}
        self._room = self.config["finetune"]["cache_gib"] * 2**30

    def _read_committee(self, committee: dict[str, Any]) -> None:
        self.committee: str = committee["name"]
        self.finetune: bool = committee["finetune"]
        self.allow_missing: bool = committee["allow_missing"]
        # the whole committee, its weights where training starts from
        self.initial = members_of(
            catalogue.specifications(committee),
            defaults=committee["member_defaults"],
            size=self.size,
            resize=self.resize,
            weights_dir=committee["weights_dir"],
        )
        names = [member.name for member in self.initial]
        for key in ("only", "scored"):
            for name in committee[key] or []:
                if name not in names:
                    raise InputError(f"committee.{key}: {self.committee} has no member {name}{nearest(name, names)}")
        self.only = set(committee["only"] or names)
        self.scored = [name for name in names if name in (committee["scored"] or names)]
        for member in self.initial:
            if not (self.finetune or member.weights or member.pretrained or member.library == "module"):
                raise InputError(
                    f"member {member.name} has random weights: set committee.finetune=true to train it, or its"
                    f" committee.members.{member.name}.weights or pretrained"
                )
            # names that cannot be folders stop here, not after the first results
            self.store.explanations(self.config["explainer"]["name"], member.name)
        self.store.images(self.committee)

    # --- members ---

    def working(self) -> list[Member]:
        """The members this run works on (``committee.only``), with the weights training starts from."""
        return [member for member in self.initial if member.name in self.only]

    def ready(self, member: Member, read: bool = True) -> Member:
        """The member with the weights it is explained with; InputError when finetune has not made them.

        They are read whole, unless told not to, and DamagedError raised when they are not as they were written.
        """
        if not self.finetune:
            return member
        path = self.store.weights(member.name)
        if not path.is_file():
            raise self.needs("finetune", f"member {member.name} is not trained yet")
        if read and path not in self._whole:
            verify(path)
            self._whole.add(path)
        return replace(member, weights=str(path), pretrained=False)

    def network(self, member: Member) -> Network:
        """The member on the device, with its weights; a new head where a file has other classes and it is trained."""
        classes = len(self.dataset.classes)
        model = build(member, classes)
        if member.weights:
            head = head_tensors(member, classes) if self.finetune else ()
            fill(model, member, read_weights(Path(member.weights), member.name), member.weights, head)
        return Network(member, model).to(self.device)

    def rehearsal(self, member: Member) -> Network:
        """The network of a dry run, which downloads nothing: random weights in place of those it would fetch."""
        fetched = member.pretrained and not member.pretrained_file
        return self.network(replace(member, pretrained=False) if fetched else member)

    def needs(self, stage: str, lack: str) -> MissingStageError:
        """The error of a lack that an earlier stage would fill."""
        return MissingStageError(f"{lack}: run xconsensus {stage} with the same settings first")

    def predicted(self) -> list[Member]:
        """The members, with weights, that have predictions; InputError when some lack them and may not."""
        found = []
        for member in self.initial:
            try:
                ready = self.ready(member)
                path = self.store.predictions(self.explain_split, member.name)
                if not path.is_file():
                    raise self.needs("finetune", f"{path} does not exist")
                found.append(ready)
            except MissingStageError as error:
                if not self.allow_missing:
                    raise
                log.info(f"without {member.name}: {error}")
        if not found:
            raise self.needs("finetune", "no member has predictions")
        return found

    def leave_out(self, names: Sequence[str]) -> None:
        """Go on as if the committee had no such members."""
        self.initial = [member for member in self.initial if member.name not in names]
        self.scored = [name for name in self.scored if name not in names]

    def work(self, stage: str, member: str) -> Work:
        """A member's work in a stage: this explainer's and this job's part of it."""
        part = f".{self.shard}of{self.shards}" if self.shards > 1 else ""
        folder = f"explain/{self.config['explainer']['name']}" if stage == "explain" else stage
        return Work(self.store.record(folder, f"{member}{part}"))

    # --- images ---

    def pixels(self, record: Record, resize: int) -> NDArray[np.uint8]:
        """The image with its short edge resized, kept in memory while finetune.cache_gib lasts."""
        key = (record.image_id, resize)
        if key not in self._pixels:
            pixels = short_edge(self.dataset.image(record), resize)
            if pixels.nbytes > self._room:
                return pixels
            self._room -= pixels.nbytes
            self._pixels[key] = pixels
        return self._pixels[key]

    def image(self, record: Record) -> NDArray[np.uint8]:
        """The image as it is explained, RGB uint8 (size, size, 3)."""
        return np.ascontiguousarray(center_crop(self.pixels(record, self.resize), self.size))

    def mask(self, record: Record) -> NDArray[np.bool_]:
        """The object's mask on the explained image, (size, size)."""
        return fit(self.dataset.mask(record).astype(np.uint8), self.resize, self.size, "nearest").astype(bool)

    def objects(self, record: Record) -> list[tuple[str, NDArray[np.bool_]]]:
        """Category and mask (size, size) of each object on the explained image, if the data set tells them apart."""
        if not hasattr(self.dataset, "instances"):
            return []
        found = [
            (category, fit(mask.astype(np.uint8), self.resize, self.size, "nearest").astype(bool))
            for category, mask in self.dataset.instances(record)
        ]
        return [(category, mask) for category, mask in found if mask.any()]

    def readable(self, records: Sequence[Record], masks: bool = False) -> list[Record]:
        """``records`` whose images (and ``masks``) can be used, the others counted, if those are to be skipped."""
        if self.config["on_bad_image"] == "stop":
            return list(records)
        kept = []
        for record in records:
            try:
                self.pixels(record, self.resize)
                if masks:
                    self.dataset.mask(record)
                kept.append(record)
            except InputError as error:
                log.info(f"skipped: {error}")
        if len(kept) < len(records):
            log.info(f"{len(records) - len(kept)} of {len(records)} images skipped (on_bad_image=skip)")
        if not kept:
            raise InputError(f"none of the {len(records)} images of data set {self.store.dataset} can be read")
        return kept

    def chosen(self) -> list[Record]:
        """The images the committee explains, as the explain stage wrote them."""
        path = self.store.images(self.committee)
        if not path.is_file():
            raise self.needs("explain", f"{path} does not exist")
        read_settings(path)  # raises where the table is not as it was written
        columns = ["image_id", "label", "path"]
        table = read_csv(path, columns)
        try:
            return [Record(str(i), int(label), str(p or "")) for i, label, p in table[columns].values]
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path}: a label is no whole number; remove it and run xconsensus explain") from error

    def labels(self, segmenter: str) -> Shards:
        """The superpixel label maps of a segmenter, which explainer.segmenter describes."""
        settings = {"dataset": self.image_settings, "segmenter": self.config["explainer"]["segmenter"]}
        return Shards(self.store.superpixels(segmenter), settings)

    # --- artefacts ---

    def prediction_settings(self, member: Member, records: Sequence[Record]) -> dict[str, Any]:
        """What shapes a member's predictions on some images."""
        ids = "\n".join(record.image_id for record in records)
        return {
            "dataset": self.image_settings,
            "member": member.settings(),
            "images": len(records),
            "image_ids": hashlib.sha256(ids.encode()).hexdigest()[:16],
        }

    def predictions(self, split: str, member: Member) -> tuple[list[str], Tensor, Tensor]:
        """Image ids, probabilities (n, classes) and labels (n,) of a member; InputError when missing or outdated."""
        path = self.store.predictions(split, member.name)
        if not path.is_file():
            raise self.needs("finetune", f"{path} does not exist")
        tensors, header = read_whole(path, "probabilities", "labels")
        check_settings(path, header["settings"].get("member", {}), member.settings())
        check_settings(path, header["settings"].get("dataset", {}), self.image_settings)
        return header.get("ids", []), tensors["probabilities"], tensors["labels"]

    def explanation_settings(self, member: Member) -> dict[str, Any]:
        """What shapes one explanation."""
        return {
            "dataset": self.image_settings,
            "member": member.settings(),
            "explainer": self.explainer_settings() | self.segmenter_settings(),
            "precision": self.config["explain"]["precision"],
            "seed": self.seed,
        }

    def explainer_settings(self) -> dict[str, Any]:
        """The explainer's own settings, with its method."""
        other = ("name", "vote", "similarity", "sigma", "segmenter")
        settings = {key: value for key, value in self.config["explainer"].items() if key not in other}
        return settings | {"method": own_code.settled(settings["method"])}

    def segmenter_settings(self) -> dict[str, Any]:
        """The segmenter, for explainers on superpixels."""
        segmenter = self.config["explainer"].get("segmenter")
        return {"segmenter": segmenter} if segmenter else {}

    def explanations(self, member: Member) -> Shards:
        """The member's explanations by the present explainer."""
        folder = self.store.explanations(self.config["explainer"]["name"], member.name)
        return Shards(folder, self.explanation_settings(member), packed=not self.segmenter_settings())

    def consensus(self, read: bool = True) -> Shards:
        """The committee's consensus; its settings name every member's explanations."""
        members = [self.ready(member, read) for member in self.initial]
        settings = {
            "vote": own_code.settled(self.config["explainer"]["vote"]),
            "explanations": {member.name: digest(self.explanation_settings(member)) for member in members},
        }
        return Shards(self.store.consensus(self.committee, self.config["explainer"]["name"]), settings)

    def usable(self, path: Path, check: Callable[[], Any]) -> bool:
        """Whether the artefact at ``path`` exists and passes ``check`` of its settings.

        One that is damaged is removed, with a line. One of other settings stops the stage, or with overwrite=true is
        removed. A dry run removes nothing, it only counts them as missing.
        """
        if not path.exists():
            return False
        try:
            check()
        except (DamagedError, SettingsError) as error:
            self._discard(error)
            return False
        return True

    def missing(self, shards: Shards, ids: Iterable[str]) -> list[str]:
        """Those of ``ids`` that still have to be made, those in damaged shards among them.

        Shards of other settings stop the stage, or with overwrite=true are removed, they alone.
        """
        for error in shards.inspect():
            self._discard(error)
        return shards.missing(ids)

    def chunks(self, shards: Shards, ids: Sequence[str], size: int) -> Iterator[list[str]]:
        """What is missing of each ``size`` ids in a row, for this run to make: one shard each, the same files however
        often interrupted. What another run is making comes last, if it is missing still.
        """
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        for part in claimed(self.store.root, [(shards.path(part), part) for part in parts if shards.missing(part)]):
            shards.refresh()
            if missing := shards.missing(part):
                yield missing

    def _discard(self, error: DamagedError | SettingsError) -> None:
        """Remove what is to be made again; raise where nobody said that it may be."""
        if isinstance(error, DamagedError):
            log.info(f"{error.path}: damaged ({error.reason}), is made again")
        elif not self.overwrite:
            raise error
        if not self.dry_run:
            remove(error.path)


def digest(settings: dict[str, Any]) -> str:
    """A short fingerprint of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
