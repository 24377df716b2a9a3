"""Which part of the work is this job's, where `shards` jobs share it: the same in every job, whatever is done."""

from collections.abc import Sequence

from xconsensus.datasets import Record
from xconsensus.jobs.shares import partition
from xconsensus.members.costs import operations_a_pass
from xconsensus.members.member import Member
from xconsensus.progress import log
from xconsensus.stages.context import Context


def own_members(context: Context) -> list[Member]:
    """The members that this job trains, of near-equal work in all jobs."""
    members = context.working()
    if context.shards == 1:
        return members
    costs = {member.name: _operations(context, member) for member in members}
    own = partition(costs, context.shards)[context.shard]
    _say(context, f"{len(own)} of {len(members)} members", sum(costs[name] for name in own), sum(costs.values()))
    return [member for member in members if member.name in own]


def own_images(context: Context, records: Sequence[Record]) -> list[tuple[Member, list[Record]]]:
    """Members and the images that this job explains with each: whole chunks of ``explain.shard_images``, in order.

    Members without any are left out.
    """
    members, size = context.working(), context.config["explain"]["shard_images"]
    if context.shards == 1:
        every = list(records)
        return [(member, every) for member in members]
    chunks = [records[start : start + size] for start in range(0, len(records), size)]
    operations = {member.name: _operations(context, member) for member in members}
    costs = {
        (member.name, number): operations[member.name] * len(chunk)
        for member in members
        for number, chunk in enumerate(chunks)
    }
    own = partition(costs, context.shards)[context.shard]
    what = f"{len(own)} of {len(costs)} pieces (one member, up to {size} images)"
    _say(context, what, sum(costs[unit] for unit in own), sum(costs.values()))
    images: dict[str, list[Record]] = {member.name: [] for member in members}
    for name, number in own:
        images[name] += chunks[number]
    return [(member, images[member.name]) for member in members if images[member.name]]


def _operations(context: Context, member: Member) -> int:
    return operations_a_pass(member, len(context.dataset.classes))


def _say(context: Context, what: str, own: int, total: int) -> None:
    share = 100 * own / total if total else 0.0
    log.info(f"shard {context.shard} of {context.shards}: {what}, {share:.3g} % of all work")
    if not own:
        log.info(f"shard {context.shard} of {context.shards} has nothing to do: there is less work than jobs")
