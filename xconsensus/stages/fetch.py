"""fetch: say which of the weights that members start from are here, and download the others; nothing is run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Event

from omegaconf import DictConfig, OmegaConf

from xconsensus.experiment.config import plain
from xconsensus.experiment.experiment import committee_of, not_trained
from xconsensus.jobs.failures import Failures
from xconsensus.members.at_hand import cost_of, download, fetch_by_library, fetchable, file_of, lacking, same_file
from xconsensus.members.fetching import fetch_all, several
from xconsensus.members.member import Member
from xconsensus.progress import Counter, counter, log
from xconsensus.store.folders import Store

AT_ONCE = 4  # downloads


def run(config: DictConfig) -> None:
    """The stage; MembersError, after a line each, where a member's weights are not here at its end."""
    values = plain(_without_data(config))
    store, only = Store(Path(values["output_dir"]), values["dataset"]["name"]), values["committee"]["only"]
    members = [member for member in committee_of(values, store) if only is None or member.name in only]
    untrained = [member.name for member in not_trained(values, members, store)]
    failures = Failures("fetch")
    to_fetch = []
    for member in members:
        with failures.of(member.name):
            state = _state(member) if member.name in untrained else "trained already, needs no other weights"
            to_fetch += [] if state else [member]
            if not values["dry_run"]:
                print(f"{member.name}: {state or 'to be downloaded'}", flush=True)
    if values["dry_run"]:
        log.info(f"fetch would download {cost_of(to_fetch)}")
    else:
        needing = [member for member in members if member.name in untrained]
        failures.messages += _fetch(needing, to_fetch, values["progress"])
    failures.report()
    if not values["dry_run"]:
        log.info(f"fetch: the weights of all {len(members)} members are here")


def _without_data(config: DictConfig) -> DictConfig:
    """The config with a folder for data wherever it needs one and has none: no data is looked at."""
    for group, keys in ((config, ["root"]), (config.dataset, [*config.dataset])):  # experiments' root is above the rest
        for key in keys:
            if OmegaConf.is_missing(group, key):
                group[key] = "."
    return config


def _state(member: Member) -> str:
    """Where the member's weights are, and how large; empty where they are to be downloaded."""
    if file := file_of(member):
        return f"{file}, {file.stat().st_size / 1e6:.1f} MB"
    return "" if fetchable(member) else "needs no weights"


def _fetch(members: Sequence[Member], absent: Sequence[Member], mode: str) -> list[str]:
    """Download what is ``absent``, and compare what the members have with what was downloaded at first; a line for each
    that fails.
    """
    own = [each for member in members if (each := download(member))]
    of_libraries = {same_file(member): member for member in absent if not download(member)}
    lines = fetch_all(own, AT_ONCE, mode)
    with counter("download", len(of_libraries), "files", mode if of_libraries else "off") as counts:
        lines += several([partial(_by_library, member, counts) for member in of_libraries.values()], AT_ONCE)
    others = {member.name: advice for member in absent if (advice := lacking(member))}  # some share a file
    told = {name for name in others for line in lines if line.startswith(f"member {name}:")}
    return lines + [f"member {name}: its weights are not here: {others[name]}" for name in others if name not in told]


def _by_library(member: Member, counts: Counter, _stop: Event) -> None:
    fetch_by_library(member)
    counts.add()
