"""What a command works on: checked config, data set, members, store and device, opened once for all its stages."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from xconsensus import datasets
from xconsensus.datasets import Dataset
from xconsensus.datasets.cropped import CroppedImages
from xconsensus.errors import InputError, nearest
from xconsensus.experiment.config import plain
from xconsensus.experiment.inputs import Inputs
from xconsensus.jobs.process import device_of, set_up
from xconsensus.jobs.worklog import Worklog
from xconsensus.members import catalogue
from xconsensus.members.member import Member, members_of
from xconsensus.members.own_classes import own_classes
from xconsensus.progress import say_once
from xconsensus.store.files import read_json
from xconsensus.store.folders import Store
from xconsensus.store.provenance import digest


@dataclass(frozen=True)
class Experiment:
    """One data set, committee and explainer. ``members`` have the weights that training starts from, or their own."""

    config: Mapping[str, Any]
    dataset: Dataset
    images: CroppedImages
    inputs: Inputs
    members: tuple[Member, ...]
    store: Store
    device: torch.device

    @property
    def committee(self) -> str:
        """The committee's name."""
        return str(self.config["committee"]["name"])

    @property
    def explainer(self) -> Mapping[str, Any]:
        """The explainer's group of the config."""
        explainer: Mapping[str, Any] = self.config["explainer"]
        return explainer

    @property
    def explainer_name(self) -> str:
        """The explainer's name: its folder of explanations."""
        return str(self.explainer["name"])

    @property
    def explain_split(self) -> str:
        """The split whose images are explained."""
        return str(self.config["dataset"]["explain_split"])

    @property
    def seed(self) -> int:
        """The seed of every random draw."""
        return int(self.config["seed"])

    @property
    def own_members(self) -> list[Member]:
        """The members that this run works on: those of ``committee.only``, or all."""
        only = self.config["committee"]["only"]
        return [member for member in self.members if only is None or member.name in only]

    @property
    def shown_members(self) -> list[str]:
        """Names of the members that scores and figures show: those of ``committee.scored``, or all."""
        shown = self.config["committee"]["scored"]
        return [member.name for member in self.members if not shown or member.name in shown]

    @property
    def trained_members(self) -> list[Member]:
        """The members but those of random weights, which guess: what images are chosen by, and scores related to."""
        return [member for member in self.members if not member.random]

    def without(self, names: Collection[str]) -> "Experiment":
        """The same experiment as if the committee had no such members."""
        return replace(self, members=tuple(member for member in self.members if member.name not in names))

    def worklog(self, stage: str, member: str) -> Worklog:
        """The log of a member's work in a stage: of this explainer's and this job's part of it."""
        share, shares = self.config["shard"], self.config["shards"]
        part = f".{share}of{shares}" if shares > 1 else ""
        folder = f"explain/{self.explainer_name}" if stage == "explain" else stage
        return Worklog(self.store.worklog(folder, f"{member}{part}"))


def start(config: DictConfig) -> Experiment:
    """Check the config, set the process up for it, and open its experiment."""
    return start_all([config])[0]


def start_all(configs: Sequence[DictConfig], *, only_reads: bool = False) -> list[Experiment]:
    """`start` with configs that differ in the explainer alone: one experiment each, which share all else.

    With ``only_reads`` nothing on the disk is touched.
    """
    every = [plain(config, say=number == 0) for number, config in enumerate(configs)]
    leave = only_reads or every[0]["dry_run"]
    first = open_experiment(every[0], keep=not leave)
    set_up(first.config["threads"], first.config["shards"], None if leave else first.store.root)
    for values in every:
        for member in first.members:  # names that cannot be folders stop here, not after the first results
            first.store.explanations(values["explainer"]["name"], member.name)
    return [replace(first, config=values) for values in every]


def open_experiment(values: Mapping[str, Any], keep: bool = True) -> Experiment:
    """The experiment of a checked config, which may ``keep`` what its images held. Nothing is removed or built.

    Raises InputError for a data set or members that are not there or not as they should be.
    """
    group, committee = values["dataset"], values["committee"]
    device = device_of(values["device"])
    dataset = datasets.load(group)
    room, skip = values["finetune"]["cache_gib"] * 2**30, values["on_bad_image"] == "skip"
    store = Store(Path(values["output_dir"]), group["name"])
    store.images(committee["name"])  # a name that can be no file stops here
    members = committee_of(values, store)
    if not dataset.classes and hasattr(dataset, "take_classes"):
        dataset.take_classes(_classes_of(members, committee, store))
    inputs = Inputs(dataset, store, values["progress"], again=values["verify"], keep=keep)
    largest = max(group["resize"], *(member.resize for member in members))
    images = CroppedImages(dataset, group["resize"], group["size"], room, skip, largest)
    return Experiment(values, dataset, images, inputs, tuple(members), store, device)


def committee_of(values: Mapping[str, Any], store: Store) -> list[Member]:
    """The members of a checked config's committee, in its order; InputError as `open_experiment`."""
    group, committee = values["dataset"], values["committee"]
    specifications = catalogue.specifications(committee)
    members = members_of(
        specifications,
        defaults=committee["member_defaults"],
        size=group["size"],
        resize=group["resize"],
        weights_dir=committee["weights_dir"],
        trained=committee["finetune"],
        input_size=committee["input_size"],
        known=[name for name in specifications if store.predictions("test", name).is_file()],  # these were built once
    )
    _check_committee(committee, members)
    return members


def not_trained(values: Mapping[str, Any], members: Sequence[Member], store: Store) -> list[Member]:
    """The members but those that are trained on the data set already: these need no other weights."""
    return [m for m in members if not (values["committee"]["finetune"] and store.weights(m.name).is_file())]


def _classes_of(members: Sequence[Member], committee: Mapping[str, Any], store: Store) -> int:
    """The number of classes that all members know, for photographs without class folders; InputError naming two members
    that know different ones, or where they are to be trained.
    """
    if committee["finetune"]:
        raise InputError(
            "dataset.root holds no class folders, so labels are unknown and members cannot be trained: set"
            " committee.finetune=false, or dataset.splits.train=FOLDER of class folders"
        )
    counts = {member.name: _known_classes(member, store) for member in members if not member.random}
    (first, count), *others = counts.items() or [("", 0)]
    for name, other in others:
        if other != count:
            raise InputError(
                f"members {first} and {name} know {count} and {other} classes: photographs without labels are explained"
                " by members of equally many; leave one out, or give dataset.classes"
            )
    if not count:
        raise InputError("all members have random weights, and no class folder says how many classes: dataset.classes")
    if count == 1000:
        say_once("dataset.classes: the members' 1000 logits are taken for ImageNet's classes")
    return count


def _known_classes(member: Member, store: Store) -> int:
    """`own_classes`, or the number that the member was once probed in: it then need not be built."""
    with suppress(InputError):
        known = read_json(store.probe(member.name))
        if known.get("member") == digest(member.settings()) and known.get("classes", 0) > 1:
            return int(known["classes"])
    return own_classes(member)


def _check_committee(committee: Mapping[str, Any], members: Sequence[Member]) -> None:
    """InputError naming a member that the committee lacks, or one that would stay at random weights unasked."""
    names = [member.name for member in members]
    for key in ("only", "scored"):
        for name in committee[key] or []:
            if name not in names:
                raise InputError(f"committee.{key}: {committee['name']} has no member {name}{nearest(name, names)}")
    for member in members:
        own = member.weights or member.pretrained or member.library == "module" or member.random
        if not (committee["finetune"] or own):
            raise InputError(
                f"member {member.name} has random weights: set committee.finetune=true to train it, or its"
                f" committee.members.{member.name}.weights or pretrained, or random=true to take it so"
            )
