"""Artefacts of the rule of preprocessing of before: which of them the present one makes from the very same pixels."""

from collections.abc import Iterable
from pathlib import Path

from xconsensus.datasets import Record
from xconsensus.errors import InputError, RuleError
from xconsensus.experiment.experiment import Experiment
from xconsensus.members.member import Member
from xconsensus.members.preprocessing import (
    RULE,
    geometry,
    geometry_in_training,
    geometry_of_rule_1,
    rule_of_predictions,
    rule_of_training,
)
from xconsensus.store.provenance import Settings, check_settings


def check_rule(
    experiment: Experiment,
    member: Member,
    path: Path,
    made: Settings,
    records: Iterable[Record],
    training: bool = False,
) -> None:
    """SettingsError where an artefact was made from other pixels than the member sees now.

    Parameters
    ----------
    experiment, member, path : whose artefact, and where it lies.
    made : its settings. Where they have no number of a rule, it is of rule 1, and what counts is whether both rules see
        the same of each image: the RuleError names the first of which they do not.
    records : its images.
    training : whether it is weights that were trained on these, not predictions.
    """
    now = rule_of_training(member) if training else rule_of_predictions(member)
    if stated := {key: made[key] for key in ("rule", "crop_mode") if key in made}:
        check_settings(path, stated, now)
        return
    seen = geometry_in_training if training else geometry
    alike: set[tuple[int, int]] = set()
    for record in records if now else ():
        if (size := _size(experiment, record)) is None or size in alike:
            continue
        if (one := geometry_of_rule_1(member, *size)) != (other := seen(member, *size)):
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
