"""Artefacts of the rule of preprocessing of before: which of them the present one makes from the very same pixels."""

from collections.abc import Callable, Iterable
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


def check_predictions_rule(
    experiment: Experiment, member: Member, path: Path, made: Settings, records: Iterable[Record]
) -> None:
    """SettingsError where predictions were made from other pixels.

    Parameters
    ----------
    experiment, member, path : whose predictions, and where they lie.
    made : their settings.
    records : their images.
    """
    before, after = partial(geometry_of_rule_1, member), partial(geometry, member)
    _check(experiment, path, (made, rule_of_predictions(member)), records, before, after)


def check_training_rule(
    experiment: Experiment, member: Member, path: Path, made: Settings, records: Iterable[Record]
) -> None:
    """SettingsError where weights were made from other pixels; where training's crops lie has not changed.

    Parameters
    ----------
    experiment, member, path : whose weights, and where they lie.
    made : their settings.
    records : their training images.
    """

    def after(width: int, height: int) -> Geometry:
        before = geometry_of_rule_1(member, width, height)
        return before._replace(interpolation=before.interpolation and member.interpolation)

    _check(experiment, path, (made, rule_of_training(member)), records, partial(geometry_of_rule_1, member), after)


def _check(
    experiment: Experiment,
    path: Path,
    made_and_now: tuple[Settings, Settings],
    records: Iterable[Record],
    before: Callable[[int, int], Geometry],
    after: Callable[[int, int], Geometry],
) -> None:
    """SettingsError where an artefact is of another rule, RuleError naming an image where of the one without number.

    Parameters
    ----------
    experiment, path : whose artefact.
    made_and_now : its settings, and what these would say of the rule now.
    records : its images.
    before, after : what rule 1 and the present one make of an image of some width and height.
    """
    made, now = made_and_now
    if stated := {key: made[key] for key in ("rule", "crop_mode") if key in made}:
        check_settings(path, stated, now)
        return
    alike: set[tuple[int, int]] = set()
    for record in records if now else ():
        if (size := _size(experiment, record)) is None or size in alike:
            continue
        if (one := before(*size)) != (other := after(*size)):
            raise RuleError(path, f"rule is 1 there, {RULE} now: {record.image_id} was {one}, is now {other}")
        alike.add(size)


def _size(experiment: Experiment, record: Record) -> tuple[int, int] | None:
    """Width and height of an image; None if it is skipped since it cannot be read."""
    try:
        return experiment.images.source_size(record)
    except InputError:
        if experiment.images.skip_bad:
            return None
        raise
