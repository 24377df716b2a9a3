"""vote: the members' explanations vote for the consensus of each image (Algorithm 2)."""

from collections.abc import Callable, Iterator

import torch
from omegaconf import DictConfig
from torch import Tensor

from xconsensus.consensus import ballot_of, consensus
from xconsensus.progress import counter, log
from xconsensus.stages.context import Context
from xconsensus.tensors import Shards

IMAGES_AT_A_TIME = 64


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    context = Context(config)
    ballot = ballot_of(context.config["explainer"]["vote"])
    ids = [record.image_id for record in context.chosen()]
    members = complete_explanations(context, ids)
    result = context.consensus()
    missing = context.missing(result, ids)
    name = context.config["explainer"]["name"]
    if context.dry_run:
        values = sum(members[0].values(image_id).numel() for image_id in missing)
        log.info(
            f"vote would let {len(members)} members vote on {len(missing)} images: {values * 4 / 1e6:.1f} MB on disk"
        )
        return
    with counter(f"vote {name}", len(missing), "images", context.progress) as count:
        for start in range(0, len(missing), IMAGES_AT_A_TIME):
            some = missing[start : start + IMAGES_AT_A_TIME]
            lengths = [members[0].values(image_id).numel() for image_id in some]
            total = consensus(_ballots(members, some, ballot))
            result.write(some, [part.float() for part in total.split(lengths)])
            count.add(len(some))
    log.info(f"{name}: {len(members)} members voted on {len(ids)} images")


def _ballots(members: list[Shards], ids: list[str], ballot: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """Each member's ballots of some images in a row; memory holds one member's explanations at a time."""
    for explanations in members:
        yield torch.cat([ballot(explanations.values(image_id).double()) for image_id in ids])
        explanations.release()


def complete_explanations(context: Context, ids: list[str]) -> list[Shards]:
    """Every member's explanations; InputError naming the members that lack some of the images."""
    members = {member.name: context.explanations(context.ready(member)) for member in context.initial}
    lacking = [name for name, shards in members.items() if shards.missing(ids)]
    if lacking:
        explainer = context.config["explainer"]["name"]
        raise context.needs(
            "explain",
            f"{explainer} explanations are missing of {len(lacking)} of {len(members)} members"
            f" ({', '.join(lacking[:5])}{' ...' if len(lacking) > 5 else ''})",
        )
    return list(members.values())
