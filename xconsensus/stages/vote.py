"""vote: the members' explanations vote for the consensus of each image (Algorithm 2)."""

from collections.abc import Callable, Iterator, Sequence

from omegaconf import DictConfig
from torch import Tensor

from xconsensus.consensus import ballot_of, consensus
from xconsensus.errors import MissingStageError
from xconsensus.progress import counter, log
from xconsensus.stages.context import Context
from xconsensus.store.shards import Shards

IMAGES_AT_A_TIME = 64
_IN_CACHE = 8  # images computed with at once: their maps of 224x224 stay in the cores' caches from step to step


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    context = Context(config)
    ballot = ballot_of(context.config["explainer"]["vote"])
    ids = [record.image_id for record in context.chosen()]
    leave_out_missing(context, ids)
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
        for some in context.chunks(result, ids, IMAGES_AT_A_TIME):
            size = _IN_CACHE if _alike(members) else 1
            agreed = consensus(_ballots(explanations, some, ballot, size) for explanations in in_turn(members, some))
            result.write(some, [each.float() for block in agreed for each in block])
            count.add(len(some))
    log.info(f"{name}: {len(members)} members voted on {len(ids)} images")


def in_turn(members: Sequence[Shards], ids: Sequence[str]) -> Iterator[Shards]:
    """Each member's explanations, the next one's fetched meanwhile, forgotten before the next: memory holds one's."""
    for shards, following in zip(members, [*members[1:], None], strict=True):
        if following:
            following.fetch(ids)
        yield shards
        shards.release()


def _alike(members: Sequence[Shards]) -> bool:
    """Whether all members' files hold the same images, so that the same ones lie together."""
    return all(shards.index is members[0].index for shards in members)


def _ballots(
    explanations: Shards, ids: Sequence[str], ballot: Callable[[Tensor], Tensor], size: int
) -> Iterator[Tensor]:
    """One member's ballots of some images, at most ``size`` in one tensor (n, K)."""
    for _, values in exact(explanations, ids, size):
        yield ballot(values)


def exact(explanations: Shards, ids: Sequence[str], size: int = _IN_CACHE) -> Iterator[tuple[slice, Tensor]]:
    """Explanations, at most ``size`` at once (n, K), with their place in ``ids``, as votes and similarities take them.

    float64; of maps packed as float16, float32: that rounds 2,000 times less than their packing did.
    """
    for place, values in explanations.blocks(ids, size):
        yield place, values if explanations.packed else values.double()


def complete_explanations(context: Context, ids: list[str]) -> list[Shards]:
    """Every member's explanations; InputError naming the members that lack some of the images."""
    members = _explanations(context)
    if lacking := _lacking(members, ids):
        explainer = context.config["explainer"]["name"]
        raise context.needs(
            "explain",
            f"{explainer} explanations are missing of {len(lacking)} of {len(members)} members"
            f" ({', '.join(lacking[:5])}{' ...' if len(lacking) > 5 else ''}), and committee.allow_missing=true,"
            " which goes on without them, is not set",
        )
    return [shards for shards in members.values() if shards is not None]


def leave_out_missing(context: Context, ids: list[str]) -> None:
    """With committee.allow_missing=true, leave out the members that lack explanations, unless all do, and say which."""
    lacking = _lacking(_explanations(context), ids) if context.allow_missing else []
    if 0 < len(lacking) < len(context.initial):
        log.info(f"{context.config['explainer']['name']}: without {', '.join(lacking)}, whose explanations are missing")
        context.leave_out(lacking)


def _explanations(context: Context) -> dict[str, Shards | None]:
    """Each member's explanations; None of one that is not even trained."""
    found: dict[str, Shards | None] = {}
    for member in context.initial:
        try:
            found[member.name] = context.explanations(context.ready(member))
        except MissingStageError:
            found[member.name] = None
    return found


def _lacking(members: dict[str, Shards | None], ids: list[str]) -> list[str]:
    return [name for name, shards in members.items() if shards is None or shards.missing(ids)]
