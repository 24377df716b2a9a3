"""vote: the members' explanations vote for the consensus of each image (Algorithm 2)."""

from collections.abc import Callable, Iterator, Sequence

from omegaconf import DictConfig
from torch import Tensor

from xconsensus.consensus import ballot_of, consensus
from xconsensus.experiment.artefacts import consensus_of, explained_images
from xconsensus.experiment.experiment import Experiment, start
from xconsensus.experiment.explanations import (
    IMAGES_AT_A_TIME,
    IN_CACHE,
    by_member,
    complete_explanations,
    in_full_precision,
    without_missing,
)
from xconsensus.progress import counter, log
from xconsensus.store.resume import discard, spoilt, turns
from xconsensus.store.shards import Shards


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    vote(start(config))


def vote(experiment: Experiment) -> None:
    """Write the consensus of each explained image that has none yet."""
    ballot = ballot_of(experiment.explainer["vote"])
    ids = [record.image_id for record in explained_images(experiment)]
    experiment = without_missing(experiment, ids)
    members, result = complete_explanations(experiment, ids), consensus_of(experiment)
    unusable = spoilt(result, experiment.config["overwrite"])
    missing = result.missing(ids)
    if experiment.config["dry_run"]:
        values = sum(members[0].values(image_id).numel() for image_id in missing)
        log.info(
            f"vote would let {len(members)} members vote on {len(missing)} images: {values * 4 / 1e6:.1f} MB on disk"
        )
        return
    discard(result, unusable)
    with counter(f"vote {experiment.explainer_name}", len(missing), "images", experiment.config["progress"]) as count:
        for some in turns(experiment.store.root, result, ids, IMAGES_AT_A_TIME):
            size = IN_CACHE if _alike(members) else 1
            agreed = consensus(_ballots(explanations, some, ballot, size) for explanations in by_member(members, some))
            result.write(some, [each.float() for block in agreed for each in block])
            count.add(len(some))
    log.info(f"{experiment.explainer_name}: {len(members)} members voted on {len(ids)} images")


def _alike(members: Sequence[Shards]) -> bool:
    """Whether all members' files hold the same images, so that the same ones lie together."""
    return all(shards.index is members[0].index for shards in members)


def _ballots(
    explanations: Shards, ids: Sequence[str], ballot: Callable[[Tensor], Tensor], size: int
) -> Iterator[Tensor]:
    """One member's ballots of some images, at most ``size`` in one tensor (n, K)."""
    for _, values in in_full_precision(explanations, ids, size):
        yield ballot(values)
