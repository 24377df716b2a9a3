"""status: what is done, missing, running, failed and damaged, of every member and explainer; writes nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import escape

from omegaconf import DictConfig

from xconsensus.datasets import Record
from xconsensus.errors import DamagedError, InputError, MissingStageError, SettingsError
from xconsensus.experiment.artefacts import (
    check_training,
    consensus_of,
    explained_images,
    explanations_of,
    label_maps,
    predictions,
    segmenter_settings,
    with_trained_weights,
)
from xconsensus.experiment.experiment import Experiment, start_all
from xconsensus.experiment.explanations import without_missing
from xconsensus.experiment.score_settings import check_scores, tables_settings
from xconsensus.jobs.worklog import Entry, read_entry
from xconsensus.members.member import Member
from xconsensus.progress import duration
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_header, verify

FAILED, MISSING = 2, 3  # exit codes


@dataclass
class Found:
    """What goes below the table: lines on what is wrong, and whether anything failed or is missing."""

    lines: list[str] = field(default_factory=list)
    failed: bool = False
    missing: bool = False

    def wrong(self, line: str) -> None:
        """Note what has failed or is damaged, once."""
        self.failed = True
        if line not in self.lines:
            self.lines.append(line)


def run(configs: Sequence[DictConfig]) -> int:
    """Print the tables; the exit code: 2 when something failed or is damaged, else 3 when something is missing."""
    experiments = start_all(configs, only_reads=True)
    experiment, found = experiments[0], Found()
    records: list[Record] = []
    try:
        records = explained_images(experiment)
        images = f"{len(records)} images"
    except MissingStageError:
        images = "images not chosen yet"
        found.missing = True
    except InputError as error:
        images = "images unknown"
        found.wrong(str(error))
    ids = [record.image_id for record in records]
    columns = {each.explainer_name: _explained(each, ids, found) for each in experiments}
    print(f"{experiment.store.dataset}: {len(experiment.members)} members of {experiment.committee}, {images}")
    _print(_members(experiment, columns, len(ids), found))
    print()
    _print(_explainers(experiments, columns, records, found))
    if experiment.config["verify"]:
        _verify_others(experiments, found)
    for line in found.lines:
        print(line)
    return FAILED if found.failed else MISSING if found.missing else 0


def _members(experiment: Experiment, columns: dict[str, dict[str, int]], images: int, found: Found) -> list[list[str]]:
    """A row a member: weights, predictions, explanations done, and what is going on."""
    rows = [["member", "trained", "predicted", *columns, "now"]]
    trains = experiment.config["committee"]["finetune"]
    for member in experiment.members:
        trained = experiment.store.weights(member.name).is_file() if trains else None
        predicted = all(
            experiment.store.predictions(s, member.name).is_file() for s in {"test", experiment.explain_split}
        )
        now = list(_now(experiment, "finetune", member, trained is not False and predicted, found))
        for name, done in columns.items():
            whole = 0 < images == done[member.name]
            now += _now(experiment, f"explain/{name}", member, whole, found)
            found.missing |= not whole
        found.missing |= trained is False or not predicted
        counts = [f"{done[member.name]}/{images or '?'}" for done in columns.values()]
        rows.append([member.name, _word(trained), _word(predicted), *counts, "; ".join(now)])
    return rows


def _word(done: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[done]


def _now(experiment: Experiment, stage: str, member: Member, whole: bool, found: Found) -> Iterator[str]:
    """What the logs of a member's work in a stage say; of what failed before it succeeded, nothing."""
    for entry in _entries(experiment, stage, member.name):
        if entry.state == "running" or (not whole and entry.state != "done"):
            where = ", in another container or on a machine of this name" if entry.state == "unknown" else ""
            yield f"{stage} {entry.state} ({entry.host}, process {entry.pid}{where})"
            if entry.state in ("failed", "crashed"):
                why = entry.message or f"its process ended without a word, {entry.deaths} times so far"
                found.wrong(f"{entry.state}: {stage} {member.name} on {entry.host}, begun {entry.started}: {why}")


def _entries(experiment: Experiment, stage: str, member: str) -> list[Entry]:
    whole = experiment.store.worklog(stage, member)
    paths = [whole, *sorted(whole.parent.glob(f"{escape(member)}.*of*.json"))]  # of shards of a sweep
    return [entry for path in paths if (entry := read_entry(path))]


def _explained(experiment: Experiment, ids: Sequence[str], found: Found) -> dict[str, int]:
    """Member -> how many images are explained by the experiment's explainer."""
    done = {}
    for member in experiment.members:
        try:
            shards = explanations_of(
                experiment, with_trained_weights(experiment, member, read=experiment.config["verify"])
            )
            done[member.name] = _count(experiment, shards, ids, found)
        except MissingStageError:
            done[member.name] = 0
        except InputError as error:
            found.wrong(str(error))
            done[member.name] = 0
    return done


def _count(experiment: Experiment, shards: Shards, ids: Sequence[str], found: Found) -> int:
    errors = shards.inspect(values=experiment.config["verify"])
    others = [error for error in errors if isinstance(error, SettingsError)]
    for error in [*(error for error in errors if isinstance(error, DamagedError)), *others[:1]]:
        found.wrong(str(error))
    return len(ids) - len(shards.missing(ids))


def _explainers(
    experiments: Sequence[Experiment], columns: dict[str, dict[str, int]], records: list[Record], found: Found
) -> list[list[str]]:
    """A row an explainer: explanations, consensus, scores, and how long the missing explanations would take."""
    ids = [record.image_id for record in records]
    rows = [["explainer", "explained", "consensus", "scores", "work left"]]
    for experiment in experiments:
        name = experiment.explainer_name
        done = columns[name]
        voted, scored = 0, False
        try:
            present = without_missing(experiment, ids)
            consensus = consensus_of(present, read=experiment.config["verify"])
            voted = _count(experiment, consensus, ids, found)
            scored = _is_scored(present, consensus, records, found)
        except MissingStageError:
            pass
        except InputError as error:
            found.wrong(str(error))
        found.missing |= not ids or voted < len(ids) or not scored
        whole = len(ids) * len(done)
        left = _time_left(experiment, done, len(ids))
        rows.append([name, f"{sum(done.values())}/{whole or '?'}", f"{voted}/{len(ids) or '?'}", _word(scored), left])
    return rows


def _is_scored(experiment: Experiment, consensus: Shards, records: Sequence[Record], found: Found) -> bool:
    """Whether there are scores, made of what is there now; a line says what they were made of otherwise."""
    folder = experiment.store.scores(experiment.committee, experiment.explainer_name)
    if not (records and (folder / "members.csv").is_file()):
        return False
    try:
        check_scores(experiment, folder, tables_settings(experiment, consensus, len(records)), records)
    except MissingStageError as error:
        found.lines.append(str(error))
        return False
    return True


def _time_left(experiment: Experiment, done: dict[str, int], images: int) -> str:
    """Missing explanations times the seconds that each took so far: the member's own, else the mean of all."""
    stage = f"explain/{experiment.explainer_name}"
    rates = {}
    for member in done:
        entries = [entry for entry in _entries(experiment, stage, member) if entry.done]
        if entries:
            rates[member] = sum(entry.seconds for entry in entries) / sum(entry.done for entry in entries)
    missing = {member: images - count for member, count in done.items() if count < images}
    if images and not missing:
        return "none"
    if not (images and rates):
        return "unknown"
    mean = sum(rates.values()) / len(rates)
    seconds = sum(count * rates.get(member, mean) for member, count in missing.items())
    return duration(seconds)


def _verify_others(experiments: Sequence[Experiment], found: Found) -> None:
    """Read what the tables above did not: weights, predictions, checkpoints, label maps, and their images."""
    folders = [experiments[0].store.root / name for name in ("weights", "predictions", "superpixels")]
    for path in sorted(path for folder in folders for path in folder.rglob("*.safetensors")):
        try:
            verify(path)
        except DamagedError as error:
            found.wrong(str(error))
    for each in experiments:
        if segmenter_settings(each):
            _count(each, label_maps(each), [], found)
    for member in experiments[0].members:
        try:
            _check_inputs(experiments[0], member)
        except InputError as error:
            found.wrong(str(error))


def _check_inputs(experiment: Experiment, member: Member) -> None:
    """SettingsError where a member was trained on, or predicts, images that hold something else now."""
    for split in {"test", experiment.explain_split}:
        if experiment.store.predictions(split, member.name).is_file():
            predictions(experiment, split, with_trained_weights(experiment, member, read=False))
    weights = experiment.store.weights(member.name)
    if experiment.config["committee"]["finetune"] and weights.is_file():
        check_training(experiment, weights, read_header(weights))


def _print(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
