"""status: what is done, missing, running, failed and damaged, of every member and explainer; writes nothing."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import escape

from omegaconf import DictConfig

from xconsensus.errors import DamagedError, InputError, MissingStageError, SettingsError
from xconsensus.jobs.worklog import Record, read_record
from xconsensus.members.member import Member
from xconsensus.stages.context import Context
from xconsensus.stages.each import each_explainer
from xconsensus.stages.vote import leave_out_missing
from xconsensus.store.files import read_settings
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import verify

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


def run(config: DictConfig) -> None:
    """Print the tables; exit with 2 when something failed or is damaged, else with 3 when something is missing."""
    configs = [config, *each_explainer(config).values()]
    for each in configs:
        each.dry_run = True  # nothing that is found is removed
    base, *contexts = [Context(each) for each in configs]
    found = Found()
    try:
        ids = [record.image_id for record in base.chosen()]
        images = f"{len(ids)} images"
    except MissingStageError:
        ids, images = [], "images not chosen yet"
        found.missing = True
    except InputError as error:
        ids, images = [], "images unknown"
        found.wrong(str(error))
    columns = {each.config["explainer"]["name"]: _explained(each, ids, found) for each in contexts}
    print(f"{base.store.dataset}: {len(base.initial)} members of {base.committee}, {images}")
    _print(_members(base, columns, len(ids), found))
    print()
    _print(_explainers(contexts, columns, ids, found))
    if base.config["verify"]:
        _verify_others(base, contexts, found)
    for line in found.lines:
        print(line)
    if found.failed or found.missing:
        sys.exit(FAILED if found.failed else MISSING)


def _members(context: Context, columns: dict[str, dict[str, int]], images: int, found: Found) -> list[list[str]]:
    """A row a member: weights, predictions, explanations done, and what is going on."""
    rows = [["member", "trained", "predicted", *columns, "now"]]
    for member in context.initial:
        trained = context.store.weights(member.name).is_file() if context.finetune else None
        predicted = all(context.store.predictions(s, member.name).is_file() for s in {"test", context.explain_split})
        now = list(_now(context, "finetune", member, trained is not False and predicted, found))
        for name, done in columns.items():
            whole = 0 < images == done[member.name]
            now += _now(context, f"explain/{name}", member, whole, found)
            found.missing |= not whole
        found.missing |= trained is False or not predicted
        counts = [f"{done[member.name]}/{images or '?'}" for done in columns.values()]
        rows.append([member.name, _word(trained), _word(predicted), *counts, "; ".join(now)])
    return rows


def _word(done: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[done]


def _now(context: Context, stage: str, member: Member, whole: bool, found: Found) -> Iterator[str]:
    """What the records of a member's work in a stage say; of what failed before it succeeded, nothing."""
    for record in _records(context, stage, member.name):
        if record.state == "running" or (not whole and record.state != "done"):
            yield f"{stage} {record.state} ({record.host}, process {record.pid})"
            if record.state in ("failed", "crashed"):
                why = record.message or f"its process ended without a word, {record.deaths} times so far"
                found.wrong(f"{record.state}: {stage} {member.name} on {record.host}, begun {record.started}: {why}")


def _records(context: Context, stage: str, member: str) -> list[Record]:
    whole = context.store.record(stage, member)
    paths = [whole, *sorted(whole.parent.glob(f"{escape(member)}.*of*.json"))]  # of shards of a sweep
    return [record for path in paths if (record := read_record(path))]


def _explained(context: Context, ids: Sequence[str], found: Found) -> dict[str, int]:
    """Member -> how many images are explained by the context's explainer."""
    done = {}
    for member in context.initial:
        try:
            shards = context.explanations(context.ready(member, read=context.config["verify"]))
            done[member.name] = _count(context, shards, ids, found)
        except MissingStageError:
            done[member.name] = 0
        except InputError as error:
            found.wrong(str(error))
            done[member.name] = 0
    return done


def _count(context: Context, shards: Shards, ids: Sequence[str], found: Found) -> int:
    errors = shards.inspect(values=context.config["verify"])
    others = [error for error in errors if isinstance(error, SettingsError)]
    for error in [*(error for error in errors if isinstance(error, DamagedError)), *others[:1]]:
        found.wrong(str(error))
    return len(ids) - len(shards.missing(ids))


def _explainers(
    contexts: list[Context], columns: dict[str, dict[str, int]], ids: list[str], found: Found
) -> list[list[str]]:
    """A row an explainer: explanations, consensus, scores, and how long the missing explanations would take."""
    rows = [["explainer", "explained", "consensus", "scores", "work left"]]
    for context in contexts:
        name = context.config["explainer"]["name"]
        done = columns[name]
        voted, scored = 0, False
        try:
            leave_out_missing(context, ids)
            voted = _count(context, context.consensus(read=context.config["verify"]), ids, found)
        except MissingStageError:
            pass
        except InputError as error:
            found.wrong(str(error))
        path = context.store.scores(context.committee, name) / "members.csv"
        try:
            scored = path.is_file() and read_settings(path)["images"] == len(ids)
        except InputError as error:
            found.wrong(str(error))
        found.missing |= not ids or voted < len(ids) or not scored
        whole = len(ids) * len(done)
        left = _time_left(context, done, len(ids))
        rows.append([name, f"{sum(done.values())}/{whole or '?'}", f"{voted}/{len(ids) or '?'}", _word(scored), left])
    return rows


def _time_left(context: Context, done: dict[str, int], images: int) -> str:
    """Missing explanations times the seconds that each took so far: the member's own, else the mean of all."""
    stage = f"explain/{context.config['explainer']['name']}"
    rates = {}
    for member in done:
        records = [record for record in _records(context, stage, member) if record.done]
        if records:
            rates[member] = sum(record.seconds for record in records) / sum(record.done for record in records)
    missing = {member: images - count for member, count in done.items() if count < images}
    if not missing:
        return "none"
    if not rates:
        return "unknown"
    mean = sum(rates.values()) / len(rates)
    seconds = sum(count * rates.get(member, mean) for member, count in missing.items())
    return f"about {seconds:.0f} s" if seconds < 3600 else f"about {seconds / 3600:.1f} h"


def _verify_others(base: Context, contexts: list[Context], found: Found) -> None:
    """Read what the tables above did not: weights, predictions, checkpoints and label maps."""
    folders = [base.store.root / name for name in ("weights", "predictions", "superpixels")]
    for path in sorted(path for folder in folders for path in folder.rglob("*.safetensors")):
        try:
            verify(path)
        except DamagedError as error:
            found.wrong(str(error))
    for context in contexts:
        if segmenter := context.segmenter_settings():
            _count(context, context.labels(segmenter["segmenter"]["name"]), [], found)


def _print(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
