"""How many classes members tell apart by themselves, where the data set does not say."""

import inspect

import torch

from xconsensus import own_code
from xconsensus.errors import InputError
from xconsensus.members import upstream
from xconsensus.members.checkpoints import as_named_by
from xconsensus.members.member import Member
from xconsensus.members.network import logits_of
from xconsensus.members.weights import architecture, build, content_of, placed


def own_classes(member: Member) -> int:
    """The number of logits that the member's own weights or code give; InputError naming a member that does not say."""
    if member.pretrained:
        return upstream.classes_of(member.name, member.library, member.model, member.pretrained)
    own = member.library == "module"
    argument = inspect.signature(own_code.load(member.model, f"member {member.name}")).parameters if own else {}
    takes = not own or "num_classes" in argument
    if takes and (found := _in_file(member)):
        return found
    default = member.kwargs.get("num_classes", argument["num_classes"].default if own and takes else 0)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(), own_code.contained():
            model = build(member, default, new_head=False)
            return int(logits_of(model(torch.zeros(2, 3, member.input_size, member.input_size))).shape[1])
    except Exception as error:  # the user's code raises anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"member {member.name}: how many classes it knows cannot be told ({type(error).__name__}: {reason}): give"
            " dataset.classes"
        ) from error


def _in_file(member: Member) -> int | None:
    """The classes that the head in the member's file of weights has, None where it has no head."""
    if not member.weights_file():
        return None
    ten_classes, eleven_classes = (architecture(member, classes) for classes in (10, 11))
    one, other = ten_classes.state_dict(), eleven_classes.state_dict()
    given = as_named_by(one, placed(ten_classes, member, content_of(member), 10))
    for key in one:
        for ten, eleven, found in zip(one[key].shape, other[key].shape, given.get(key, one[key]).shape, strict=False):
            if key in given and ten != eleven:  # an axis that follows the number of classes
                return int(10 + (found - ten) // (eleven - ten))
    return None
