"""Which images a committee explains: chosen once, by what its members are right about."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xconsensus.datasets import Record
from xconsensus.datasets.selection import choose, right_images
from xconsensus.errors import ContentsError, InputError, RuleError
from xconsensus.experiment.artefacts import (
    check_contents,
    explained_images,
    image_settings,
    members_with_predictions,
    predictions,
    right_note,
)
from xconsensus.experiment.experiment import Experiment
from xconsensus.members.member import Member
from xconsensus.progress import log, say_once
from xconsensus.store.contents import Contents
from xconsensus.store.files import read_settings, write_csv
from xconsensus.store.provenance import check_settings
from xconsensus.store.resume import is_made

RULE = 2  # of `choose`; by rule 1 fewer images than classes were of the first labels. Tables without number are of it


def choose_images(experiment: Experiment) -> list[Record]:
    """The images this committee explains; written to images/<committee>.csv, with how they were chosen beside it.

    The number of the rule stands there where the rule before would have chosen others.
    """
    path, options = experiment.store.images(experiment.committee), experiment.config["explain"]
    candidates = experiment.inputs.records(experiment.explain_split)
    if options["only_correct"] != "none" and all(record.label < 0 for record in candidates):
        say_once(f"explain.only_correct={options['only_correct']}: labels are unknown, so none is asked to be right")
        options = {**options, "only_correct": "none"}
    settings: dict[str, Any] = {
        "dataset": image_settings(experiment),
        **{key: options[key] for key in ("images", "per_class", "sample", "only_correct")},
        "split": experiment.explain_split,
        "seed": experiment.seed,
        "candidates": len(candidates),
    }
    members = [] if options["only_correct"] == "none" else _judges(experiment)
    if members:
        settings["members"] = {member.name: member.settings()["weights"] for member in members}
        settings["right"] = {member.name: note for member in members if (note := right_note(experiment, member))}
    judged = cache(partial(Judged.by, experiment, members, candidates))
    check = partial(_check_table, experiment, settings, judged)
    if is_made(path, check, experiment.config["overwrite"]):
        return explained_images(experiment)
    right = judged().usable(options["only_correct"])
    chosen = chosen_of(experiment, right)
    if options["only_correct"] == "all":
        _say_what_any_gives(judged(), len(chosen))
    if experiment.dataset.has_masks:
        for record in chosen:
            experiment.images.mask(record)  # a wrong mask is better found before the hours than after
        experiment.images.say_inverted(chosen)
    classes = len({record.label for record in chosen if record.label >= 0})
    log.info(
        f"{len(chosen)} images{f' of {classes} classes' * bool(classes)} to explain, of {len(right)} that remain of"
        f" {len(candidates)}{_why(options, len(chosen) == len(right) < len(candidates))}"
    )
    if not experiment.config["dry_run"]:
        experiment.inputs.contents(experiment.explain_split)  # at the first look the labels of before are read there
        rows = [(r.image_id, _below_root(experiment, r.path), r.label) for r in chosen]
        if _rule_matters(experiment, chosen, right):
            settings["rule"] = RULE
        if members:
            settings["contents"] = _contents_judged(experiment).of(record.image_id for record in candidates)
        write_csv(path, pd.DataFrame(rows, columns=["image_id", "path", "label"]), settings)
    return chosen


def _judges(experiment: Experiment) -> list[Member]:
    """The members that decide which images are explained: all with predictions but random ones, which guess."""
    if members := [member for member in members_with_predictions(experiment) if not member.random]:
        return members
    mode = experiment.config["explain"]["only_correct"]
    raise InputError(f"explain.only_correct={mode}: all members have random weights; set explain.only_correct=none")


def _check_table(experiment: Experiment, settings: Mapping[str, Any], judged: Callable[[], "Judged"]) -> None:
    """SettingsError where the images were chosen otherwise, or judged by other contents, labels or predictions.

    Parameters
    ----------
    experiment, settings : how images are chosen now.
    judged : gives what they are chosen from, and by whom.
    """
    path, by_members = experiment.store.images(experiment.committee), "members" in settings
    made = read_settings(path)
    note, rule = {"contents": made.pop("contents", None)}, made.pop("rule", None)
    known = {"right": settings["right"]} if by_members else {}  # tables of before have no note of it
    check_settings(path, {**known, **made, "rule": rule or RULE}, {**settings, "rule": RULE})
    chosen = explained_images(experiment)
    if by_members:
        candidates = experiment.inputs.records(experiment.explain_split)
        check_contents(_contents_judged(experiment), path, [record.image_id for record in candidates], note)
    if by_members and settings["right"] and "right" not in made:  # of before, and of predictions made since, maybe
        right = {*judged().right(settings["only_correct"])}
        if wrong := [record.image_id for record in chosen if record not in right]:
            raise ContentsError(path, wrong, f"the members are no longer right about image {wrong[0]}")
    if rule or not _may_be_of_first_labels(experiment, chosen):
        return
    right_now = judged().usable(settings["only_correct"])
    if _rule_matters(experiment, chosen, right_now):
        last = max(record.label for record in chosen)
        raise RuleError(
            path,
            f"rule is 1 there, {RULE} now: its {len(chosen)} images are of the first classes alone, up to label {last},"
            " and are now spread over all",
        )


def chosen_of(experiment: Experiment, right: Sequence[Record]) -> list[Record]:
    """Those of the images that members are ``right`` about that ``explain`` in the config asks for."""
    options = experiment.config["explain"]
    return choose(right, options["sample"], options["images"], options["per_class"], experiment.seed)


def _may_be_of_first_labels(experiment: Experiment, chosen: Sequence[Record]) -> bool:
    """Whether rule 1 may have met fewer images than classes: as many ``first`` ones as asked for, of a class each."""
    options, classes = experiment.config["explain"], {record.label for record in chosen}
    return bool(options["sample"] == "first" and options["images"] == len(classes) == len(chosen))


def _rule_matters(experiment: Experiment, chosen: Sequence[Record], right: Sequence[Record]) -> bool:
    """Whether the rule before and the present one choose other images of ``right``: there are more classes in it."""
    return _may_be_of_first_labels(experiment, chosen) and len(chosen) < len({record.label for record in right})


def _contents_judged(experiment: Experiment) -> Contents:
    """What members are right or wrong about: images and labels."""
    return experiment.inputs.contents(experiment.explain_split, labels=True)


def _below_root(experiment: Experiment, path: str) -> str:
    """A path relative to the data set's folder, where it lies in it: the folder may move."""
    root = experiment.config["dataset"].get("root")
    return os.path.relpath(path, root) if root and Path(path).is_relative_to(root) else path


def _why(options: Mapping[str, Any], limits: bool) -> str:
    """Who is right about the images, and the key to ask less by where that is what ``limits`` their number."""
    mode = options["only_correct"]
    who = {"all": ", right by every member", "any": ", right by some member"}.get(mode, "")
    less = {"all": "any or none", "any": "none"}.get(mode)
    return f"{who}; explain.only_correct={less} asks less" if limits and less else who


@dataclass(frozen=True)
class Judged:
    """Images of the explained split that all ``members`` have predicted, and which are ``correct`` (members, n).

    Without members, nobody was asked.
    """

    experiment: Experiment
    members: Sequence[Member]
    records: list[Record]
    correct: NDArray[np.bool_]

    @classmethod
    def by(cls, experiment: Experiment, members: Sequence[Member], candidates: Sequence[Record]) -> "Judged":
        """The candidates, by the members' stored predictions."""
        if not members:
            return cls(experiment, members, list(candidates), np.empty((0, len(candidates)), dtype=bool))
        by_id = {record.image_id: record for record in candidates}
        hits: dict[str, list[bool]] = {}
        for member in members:
            ids, probabilities, labels = predictions(experiment, experiment.explain_split, member)
            for image_id, hit in zip(ids, (probabilities.argmax(1) == labels).tolist(), strict=True):
                hits.setdefault(image_id, []).append(hit)
        ids = [image_id for image_id, found in hits.items() if len(found) == len(members) and image_id in by_id]
        correct = np.array([hits[image_id] for image_id in ids], dtype=bool).reshape(len(ids), len(members)).T
        return cls(experiment, members, [by_id[image_id] for image_id in ids], correct)

    def right(self, mode: str) -> list[Record]:
        """The images that all or any (``mode``) of the members classify correctly; with none, every one.

        Raises InputError where there is none.
        """
        kept = right_images(self.correct, mode)
        if not kept.any() and self.members:
            raise InputError(
                f"no image of split {self.experiment.explain_split} is classified correctly by {mode} of the"
                f" {len(self.members)} members{self._by_any(mode)}: set explain.only_correct=any or none, or leave out"
                " the weakest members"
            )
        return [record for record, keep in zip(self.records, kept, strict=True) if keep]

    def usable(self, mode: str) -> list[Record]:
        """Those of `right` that can be explained."""
        return self.experiment.images.usable(self.right(mode), masks=self.experiment.dataset.has_masks)

    def _by_any(self, mode: str) -> str:
        return f", {right_images(self.correct, 'any').sum()} by any" if mode == "all" else ""


def _say_what_any_gives(judged: Judged, chosen: int) -> None:
    """A line where members that must all be right leave fewer images than are asked for, and others would not."""
    experiment = judged.experiment
    options = experiment.config["explain"]
    if options["images"] is None and options["per_class"] is None:
        return
    by_all, by_any = judged.right("all"), judged.right("any")
    if chosen < (possible := len(chosen_of(experiment, by_any))):
        weakest = judged.members[int(judged.correct.mean(1).argmin())].name
        log.info(
            f"all {len(judged.members)} members are right about {len(by_all)} images, enough for {chosen}:"
            f" explain.only_correct=any would give {possible}, of {len(by_any)} that some member gets right"
            f" ({weakest} is right least often)"
        )
