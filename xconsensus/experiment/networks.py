"""A member's network as stages take it: probed at its first use, which is remembered."""

from contextlib import suppress
from typing import Any

import torch

from xconsensus.errors import InputError
from xconsensus.experiment.experiment import Experiment
from xconsensus.members.costs import rehearsal
from xconsensus.members.member import Member
from xconsensus.members.network import Network, network_of
from xconsensus.members.probe import VERSION, probe
from xconsensus.members.weights import check_head
from xconsensus.progress import log
from xconsensus.seeding import seed_of
from xconsensus.store.files import read_json, write_json
from xconsensus.store.provenance import digest


def network_for(experiment: Experiment, member: Member, *, gradients: bool = False, untrained: bool = False) -> Network:
    """A member's network on the device; a dry run's has random weights where it would have to download them.

    It is probed (see `probe`), whether ``gradients`` reach its input too, unless the same weights and code were, in
    as many classes. A network that is still ``untrained`` is probed each time. Raises InputError naming the member.
    """
    config, classes = experiment.config, len(experiment.dataset.classes)
    new_head = config["committee"]["finetune"]
    if not new_head:
        check_head(member, classes)
    ready = rehearsal(member) if config["dry_run"] else member
    # own code that draws its weights has the same in every stage: nothing else may shape them
    torch.manual_seed(seed_of(experiment.seed if new_head else 0, member.name, "weights"))
    network = network_of(ready, classes, experiment.device, new_head)
    if untrained or ready is not member:
        _say(probe(network, classes, gradients, finite=False))
        return network
    path, known = experiment.store.probe(member.name), {}
    kept: dict[str, Any] = {"rules": VERSION, "classes": classes, "member": digest(member.settings())}
    with suppress(InputError):  # there is none, or not as it was written
        known = read_json(path)
    if all(known.get(key) == value for key, value in kept.items()) and (known.get("gradients") or not gradients):
        _say(known.get("warning"))
        return network
    kept |= {"gradients": gradients, "warning": probe(network, classes, gradients)}
    _say(kept["warning"])
    if not config["dry_run"]:
        with suppress(InputError):  # results may lie where nothing can be written
            write_json(path, kept)
    return network


def _say(warning: str | None) -> None:
    if warning:
        log.warning(warning)
