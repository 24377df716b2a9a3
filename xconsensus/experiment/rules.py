"""Artefacts of the rule of preprocessing of before: which of them the present one makes from the very same pixels."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xconsensus.datasets import Record
from xconsensus.errors import InputError, RuleError
from xconsensus.experiment.experiment import Experiment
from xconsensus.members.member import Member
from xconsensus.members.preprocessing import (
    RULE,
    Geometry,
    geometry,
    geometry_of_rule_1,
    rule_of_predictions,
    rule_of_training,
)
from xconsensus.store.provenance import Settings, check_settings


@dataclass(frozen=True)
class Rules:
    """What rule 1 (``before``) and the present one (``after``) make of ``records`` of some width and height.

    ``now`` is what settings say of the present rule.
    """

    experiment: Experiment
    records: Iterable[Record]
    now: Settings
    before: Callable[[int, int], Geometry]
    after: Callable[[int, int], Geometry]

    def check(self, path: Path, made: Settings, wanted: Settings) -> None:
        """SettingsError where an artefact at ``path`` was ``made`` with other settings than ``wanted``, or from other
        pixels: the key is named, or the first image that shows the difference.
        """
        of_rule_1 = "rule" not in made
        check_settings(path, {**made, **self.now} if of_rule_1 else made, wanted)
        if of_rule_1 and self.now:
            self.check_pixels(path)

    def check_pixels(self, path: Path) -> None:
        """RuleError naming the first image of which the two rules make different pixels."""
        alike: set[tuple[int, int]] = set()
        for record in self.records:
            if (size := self._size(record)) is None or size in alike:
                continue
            before, after = self.before(*size), self.after(*size)
            if before != after:
                raise RuleError(path, f"rule is 1 there, {RULE} now: {record.image_id} was {before}, is now {after}")
            alike.add(size)

    def _size(self, record: Record) -> tuple[int, int] | None:
        """Width and height; None of an image that is skipped since it cannot be read."""
        try:
            return self.experiment.images.source_size(record)
        except InputError:
            if self.experiment.images.skip_bad:
                return None
            raise


def rules_of_predictions(experiment: Experiment, member: Member, records: Iterable[Record]) -> Rules:
    """Those of a member's predictions on some images."""
    before, after = partial(geometry_of_rule_1, member), partial(geometry, member)
    return Rules(experiment, records, rule_of_predictions(member), before, after)


def rules_of_training(experiment: Experiment, member: Member, records: Iterable[Record]) -> Rules:
    """Those of the weights that a member is trained to, on random crops: where they lie has not changed."""

    def after(width: int, height: int) -> Geometry:
        before = geometry_of_rule_1(member, width, height)
        return before._replace(interpolation=before.interpolation and member.interpolation)

    return Rules(experiment, records, rule_of_training(member), partial(geometry_of_rule_1, member), after)
