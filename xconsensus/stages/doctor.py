"""doctor: what works on this machine, and whether the data set's files, its masks and the members' weights are there.

Nothing is built, trained or downloaded. Modules that import torch are imported where they are asked: a torch that
cannot be imported is a line, too.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xconsensus.jobs import job
from xconsensus.jobs import surroundings as here
from xconsensus.jobs.surroundings import MISSING, NOTE, OK, WRONG, Line, look

EXIT = {WRONG: 2, MISSING: 3, NOTE: 0, OK: 0}
_NAMED = 5  # members named in a line at most


def run(config: DictConfig) -> int:
    """Print a line a finding, or JSON; the exit code: 2 where something is wrong, else 3 where something is missing."""
    every = {(line.state, line.found): line for line in reversed([*machine(config), *work(config)])}
    lines = [*every.values()][::-1]  # what stops several checks is said once, by the first
    codes = {EXIT[line.state] for line in lines}
    code = next((code for code in (EXIT[WRONG], EXIT[MISSING]) if code in codes), 0)
    if job.as_json:
        print(json.dumps({"exit_code": code, "lines": [vars(line) for line in lines]}, indent=2, ensure_ascii=False))
    else:
        for line in lines:
            print(f"{line.state:<8}{line.what}: {line.found}" + f"; {line.advice}" * bool(line.advice))
    return code


def machine(config: DictConfig) -> list[Line]:
    """What does not depend on data set and members."""
    folder = Path(str(config.output_dir))
    return [
        look("system", here.platform_of),
        look("packages", here.packages),
        look("device", lambda: here.device(str(config.device))),
        look("arithmetic", lambda: _arithmetic(str(config.device))),
        look("memory", lambda: here.memory(float(config.finetune.cache_gib))),
        look("threads", lambda: here.threads(config.threads)),
        look("downloads", _downloads),
        look("disk", lambda: here.disk(folder)),
        look("locks", lambda: here.locks(folder)),
        look("fonts", here.fonts),
        look("launchers", here.launchers),
    ]


def _arithmetic(name: str) -> tuple[str, ...]:
    """What `auto` takes to explain and to train."""
    from xconsensus.arithmetic.precision import native, trained_in
    from xconsensus.jobs.process import device_of

    device = device_of(name)
    explains = native(device)
    found = f"explain in {explains}, finetune in {trained_in(device)}"
    if explains == "float32":
        what = "instructions for bytes (VNNI)" if device.type == "cpu" else "fast float16 (from 7.0 on)"
        return NOTE, f"{found}: no {what} here", "all works, LIME takes two to three times as long as with them"
    return OK, found


def _downloads() -> tuple[str, ...]:
    """Where weights that are downloaded are kept, and whether anything may be."""
    from xconsensus.members.at_hand import caches
    from xconsensus.members.fetching import cache_dir, offline

    folders = caches() | {"the authors' files": cache_dir()}
    found = "kept in " + " and ".join(f"{folder} ({name})" for name, folder in folders.items())
    if flags := offline():
        return NOTE, f"{found}; {' and '.join(flags)} forbid them", f"unset {' '.join(flags)}, or see weights below"
    shut = [str(folder) for folder in folders.values() if not os.access(here.existing(folder), os.W_OK)]
    if shut:
        return (
            NOTE,
            f"{' and '.join(shut)} cannot be written",
            "set HF_HOME, TORCH_HOME and XCONSENSUS_CACHE to folders of yours",
        )
    return OK, found


def work(config: DictConfig) -> list[Line]:
    """Data set, masks and weights of the experiment; one line alone where the config cannot be."""
    values: dict[str, Any] = {}

    def check() -> tuple[str, ...]:
        from xconsensus.experiment.config import plain

        values.update(plain(config, say=False))
        return OK, f"dataset {values['dataset']['name']}, committee {values['committee']['name']}"

    line = look("config", check)
    if line.state != OK:
        return [line]
    return [
        line,
        look("images", lambda: _images(values)),
        look("masks", lambda: _masks(values)),
        look("weights", lambda: _weights(values)),
    ]


def _images(values: Mapping[str, Any]) -> tuple[str, ...]:
    """How many images of each split there are; a file that is named and not there is missing."""
    from xconsensus import datasets

    dataset = datasets.load(values["dataset"])
    trained = ["train"] * values["committee"]["finetune"]
    records = {s: dataset.records(s) for s in dict.fromkeys([*trained, "test", values["dataset"]["explain_split"]])}
    counts = ", ".join(f"{len(found)} of {split}" for split, found in records.items())
    if absent := _absent([record.path for found in records.values() for record in found if record.path]):
        return MISSING, f"{len(absent)} image files, the first {absent[0]}", "unpack the archive of images again"
    return OK, f"{counts}, {f'{len(dataset.classes)} classes' if dataset.classes else 'labels unknown'}"


def _absent(paths: Sequence[str]) -> list[str]:
    """The paths of no file, each folder listed once."""
    names: dict[str, frozenset[str]] = {}
    for folder in {os.path.dirname(path) for path in paths}:
        names[folder] = frozenset(os.listdir(folder) if os.path.isdir(folder) else ())
    return [path for path in paths if os.path.basename(path) not in names[os.path.dirname(path)]]


def _masks(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Whether each image that may be explained has its mask, where the data set can tell without reading any."""
    from xconsensus import datasets
    from xconsensus.errors import InputError

    dataset = datasets.load(values["dataset"])
    if not dataset.has_masks:
        return NOTE, "none", "scores and figures leave average precision out; dataset.masks names a folder of masks"
    records, lacking = dataset.records(values["dataset"]["explain_split"]), list[str]()
    if not hasattr(dataset, "mask_file"):
        return OK, f"of {len(records)} images, read with them"
    for record in records:
        try:
            dataset.mask_file(record)
        except InputError as error:
            lacking.append(str(error))
    if lacking:
        as_it_should = getattr(dataset, "some_without_mask", False) and len(lacking) < len(records)
        return NOTE if as_it_should else MISSING, f"{len(lacking)} of {len(records)} images have none", lacking[0]
    return OK, f"of {len(records)} images"


def _weights(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Whether the weights that members start from are here; trained ones need no others."""
    from xconsensus.experiment.experiment import committee_of, not_trained
    from xconsensus.members.at_hand import fetchable, lacking
    from xconsensus.members.fetching import offline
    from xconsensus.store.folders import Store

    store = Store(Path(values["output_dir"]), values["dataset"]["name"])
    members = committee_of(values, store)
    absent = [(member, advice) for member in not_trained(values, members, store) if (advice := lacking(member))]
    if not absent:
        return OK, f"of {len(members)} members"
    names = ", ".join(member.name for member, _ in absent[:_NAMED])
    names += f" and {len(absent) - _NAMED} more" * (len(absent) > _NAMED)
    first, advice = absent[0]
    way = f"xconsensus fetch downloads them, or {advice}" if fetchable(first) and not offline() else advice
    return MISSING, f"{len(absent)} of {len(members)} members' are not here: {names}", way
