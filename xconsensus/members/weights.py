"""A member's network: built by its library or own code, and filled with weights."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xconsensus import own_code
from xconsensus.errors import InputError
from xconsensus.members import upstream
from xconsensus.members.at_hand import fetched, look_for_hub
from xconsensus.members.checkpoints import as_named_by, is_counter, is_paddles, read_arrays, read_weights
from xconsensus.members.member import Member, check_model
from xconsensus.members.paddle import table
from xconsensus.members.paddle.tensors import as_torch_has_them, named_by, of_the_network


def build(member: Member, num_classes: int, new_head: bool = True) -> nn.Module:
    """The member's network with random or library-pretrained weights and ``num_classes`` logits, float32, in eval mode.

    Pretrained weights of other classes get a random head, unless ``new_head`` is ruled out. Raises InputError naming
    the member then, when the architecture refuses its kwargs, and, with the file to fetch and
    where to put it, when its pretrained weights can neither be read nor downloaded.
    """
    check_model(member)
    constructor = _constructor(member, new_head)
    kwargs = dict(member.kwargs)
    if member.library != "module" or "num_classes" in inspect.signature(constructor).parameters:
        kwargs["num_classes"] = num_classes
    try:
        with own_code.contained():
            model = constructor(**kwargs).eval().float()
        if any(map(is_lazy, model.parameters())):
            raise ValueError("it has lazy layers without a size: give them one, or call it once in its __init__")
        return model
    except InputError:
        raise
    except Exception as error:  # constructors and downloads raise nearly anything
        reason = _one_line(error)
        if member.pretrained and member.library != "paddle":
            architecture(member, num_classes)  # raises where the kwargs are at fault
            advice = upstream.how_to_get(member.name, member.library, member.model, member.pretrained)
            raise InputError(f"member {member.name}: {advice} ({reason})") from error
        raise InputError(f"member {member.name}: {member.model} cannot be built with {kwargs} ({reason})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _constructor(member: Member, new_head: bool) -> Callable[..., nn.Module]:
    match member.library:
        case "timm":
            return partial(_timm_model, member, new_head)
        case "torchvision":
            return partial(_torchvision_model, member, new_head)
        case "paddle":
            return partial(_paddle_model, member, new_head)
        case _:
            constructor: Callable[..., nn.Module] = own_code.load(member.model, f"member {member.name}")
            return constructor


def _timm_model(member: Member, new_head: bool, num_classes: int, **kwargs: Any) -> nn.Module:
    from xconsensus.compat import torchvision  # noqa: F401, I001  (timm imports torchvision)
    import timm

    full = upstream.timm_name(member.model, member.pretrained)
    if not (member.pretrained and member.pretrained_file):
        if member.pretrained:
            look_for_hub()
        return timm.create_model(full, pretrained=bool(member.pretrained), num_classes=num_classes, **kwargs)  # type: ignore[no-any-return]
    content = content_of(member)
    model: nn.Module = timm.create_model(full, num_classes=num_classes, **kwargs)
    tensors = as_named_by(model.state_dict(), content)
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}  # of names that only timm knows
    try:  # with all classes of the file: for others, timm overlooks tensors that are missing
        whole = timm.create_model(full, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors}, **kwargs)
    except Exception as error:  # a filter of foreign tensors raises nearly anything
        reason = f"{member.pretrained_file} does not fit {full} ({_one_line(error)})"
        raise InputError(f"member {member.name}: {reason}") from error
    fill(model, member, whole.state_dict(), member.pretrained_file, _head(member, num_classes, new_head))
    return model


def _torchvision_model(member: Member, new_head: bool, num_classes: int, **kwargs: Any) -> nn.Module:
    from xconsensus.compat import torchvision

    if member.model in upstream.WITH_AUXILIARY_HEADS:
        kwargs.setdefault("init_weights", True)  # the present default, named, since torchvision warns otherwise
    model: nn.Module = torchvision.models.get_model(member.model, num_classes=num_classes, **kwargs)
    if member.pretrained:
        tag = upstream.torchvision_weights(member.name, member.model, member.pretrained)
        if member.pretrained_file:
            source = member.pretrained_file
            tensors = placed(model, member, content_of(member), num_classes)
        else:
            tensors, source = tag.get_state_dict(progress=False, check_hash=True), str(tag)
        if not kwargs.get("aux_logits", True):
            tensors = {key: value for key, value in tensors.items() if not _is_auxiliary(key)}
        fill(model, member, tensors, source, _head(member, num_classes, new_head))
    return model


def _paddle_model(
    member: Member, new_head: bool, num_classes: int, release: str = table.RELEASES[0], **kwargs: Any
) -> nn.Module:
    from xconsensus.members.paddle.networks import NETWORKS

    entry = table.entry(member.model, member.name)
    if member.pretrained and not member.pretrained_file:
        member = replace(member, pretrained_file=str(fetched(member)))
    content = content_of(member) if member.pretrained else {}
    model = NETWORKS[entry.network](num_classes=num_classes, **entry.arguments_of(release), **kwargs)
    if member.pretrained:
        fill_from(model, member, content, num_classes, new_head)
    return model


def _head(member: Member, num_classes: int, new_head: bool) -> Iterator[str]:
    """The tensors of a new head, or none; worked out once they are asked for, as it takes two networks."""
    if new_head:
        yield from head_tensors(member, num_classes)


def content_of(member: Member) -> dict[str, Any]:
    """What the member's file of weights holds: name -> tensor, or name -> array of one that Paddle wrote.

    It is read before the network is built: while it is, it may take twice its size. Raises InputError naming both.
    """
    file = member.weights_file()
    assert file, member
    of_paddle = is_paddles(file)
    if member.pretrained_file and of_paddle and member.library != "paddle":
        raise InputError(
            f"member {member.name}: {file} is Paddle's and holds no weights of {member.library}'s"
            f" pretrained={member.pretrained}: library: paddle takes PaddleClas's, weights: FILE your own"
        )
    if not of_paddle:
        tensors = read_weights(file, member.name, member.weights_key)
        if member.pretrained_file and member.library == "paddle":
            raise InputError(
                f"member {member.name}: {file} holds no weights of PaddleClas's: committee.weights=libraries takes"
                " timm's and torchvision's, weights: FILE your own"
            )
        return tensors
    if member.weights_key:
        raise InputError(f"member {member.name}: {file} is Paddle's and has no parts: leave weights_key out")
    return read_arrays(file, member.name)


def fill_from(model: nn.Module, member: Member, content: dict[str, Any], num_classes: int, new_head: bool) -> None:
    """Load the content of the member's file into a model.

    Parameters
    ----------
    model, member : the network to fill, and whose it is.
    content : of the member's file, by `content_of`.
    num_classes : the model's logits.
    new_head : whether the head's tensors are taken only if they fit.

    Raises InputError naming the member, the file and what does not fit.
    """
    file = str(member.weights or member.pretrained_file)
    tensors = placed(model, member, content, num_classes)
    fill(model, member, tensors, file, _head(member, num_classes, new_head))
    if member.library == "paddle" and is_paddles(Path(file)):
        release = member.kwargs.get("release", table.RELEASES[0])
        for key, factor in table.entry(member.model, member.name).factors_of(release).items():
            weight = model.get_parameter(key)
            if weight.shape == tensors[key].shape:  # else a new head
                weight.data.mul_(factor)  # in place: these are the largest


def placed(model: nn.Module, member: Member, content: dict[str, Any], num_classes: int) -> Mapping[str, Tensor]:
    """The tensors of a file; of one that Paddle wrote, under the names and in the layout that the model has."""
    file = Path(member.weights or member.pretrained_file or "")
    if not is_paddles(file):
        return content
    how: dict[str, Any] = {"head": head_tensors(member, num_classes)}
    source = f"member {member.name}: {file}"
    if member.library == "paddle":
        entry = table.entry(member.model, member.name)
        content = of_the_network(entry.name, content, source) if entry.url.endswith(".pdparams") else content
        how["network"] = entry.network
    elif member.library != "module" and (name := named_by(content)):
        raise InputError(
            f"{source} is of PaddleClas's {name}, which may compute otherwise than {member.library}'s {member.model}:"
            f" write library: paddle, model: {name}"
        )
    return as_torch_has_them(model, content, source, **how)


def _is_auxiliary(key: str) -> bool:
    return any(part.startswith("aux") for part in key.lower().split("."))


def fill(
    model: nn.Module, member: Member, tensors: Mapping[str, Tensor], source: str, new_head: Iterable[str] = ()
) -> None:
    """Load tensors into a model.

    Parameters
    ----------
    model, member : the network to fill, and whose it is.
    tensors : name -> tensor, any float dtype; names may have the prefix of a wrapper (`as_named_by`).
    source : where they come from, for messages.
    new_head : names of tensors that keep their initial values where the given ones have another shape.

    Raises InputError naming the member, the source and the first tensor that does not fit.
    """
    expected = model.state_dict()
    given = as_named_by(expected, tensors)
    unlike = {key for key in expected.keys() & given.keys() if given[key].shape != expected[key].shape}
    for key in unlike and unlike.intersection(new_head):
        given[key] = expected[key]
    for key in expected.keys() - given.keys():
        if is_counter(key):
            given[key] = expected[key]
    for key in (*expected, *given):
        if key not in given:
            raise InputError(f"member {member.name}: {source} lacks tensor {key} of {member.model}")
        if key not in expected:
            raise InputError(f"member {member.name}: {source} has tensor {key}, {member.model} does not")
        if given[key].shape != expected[key].shape:
            shapes = f"{list(given[key].shape)}, {member.model} needs {list(expected[key].shape)}"
            known = _of_other_classes(member, key, given[key], expected[key])
            raise InputError(f"member {member.name}: {source} has tensor {key} of shape {shapes}{known}")
    try:
        model.load_state_dict(given)
    except (RuntimeError, NotImplementedError) as error:  # sparse, or without data
        raise InputError(f"member {member.name}: {source} has tensors of a kind that cannot be loaded") from error


def _of_other_classes(member: Member, key: str, given: Tensor, expected: Tensor) -> str:
    """A clause on what to do where a tensor does not fit since it is the head of other classes; else empty."""
    if given.ndim != expected.ndim or given.shape[1:] != expected.shape[1:]:
        return ""
    if key not in head_tensors(member, len(expected)):
        return ""
    return f": it knows {len(given)} classes, the data set has {len(expected)}{other_classes(len(given))}"


def other_classes(known: int) -> str:
    """A clause that says how a data set takes the ``known`` classes of a member that is not trained on it."""
    if known == 1000:
        return (
            "; dataset.classes=imagenet labels folders named by WordNet id, and photographs in one folder, without"
            " class folders, need no labels"
        )
    return f"; dataset.classes=[...] names all {known}, or committee.finetune=true trains a new head"


def check_head(member: Member, num_classes: int) -> None:
    """InputError for a member whose library's weights tell other classes apart: their head would be a random one."""
    if not member.pretrained or member.pretrained_file:  # which shows its classes when it is read
        return
    known = upstream.classes_of(member.name, member.library, member.model, member.pretrained)
    if known != num_classes:
        raise InputError(
            f"member {member.name}: pretrained={member.pretrained} of {member.model} knows {known} classes, the data"
            f" set has {num_classes}: train a new head with committee.finetune=true, or name its own weights:"
            f" FILE{other_classes(known)}"
        )


def head_tensors(member: Member, num_classes: int) -> list[str]:
    """Names of the tensors whose shape follows the number of classes: the head that fine-tuning replaces."""
    one, other = (architecture(member, classes).state_dict() for classes in (num_classes, num_classes + 1))
    return [key for key, tensor in one.items() if tensor.shape != other[key].shape]


def architecture(member: Member, num_classes: int) -> nn.Module:
    """The member's network without its weights: for names and shapes. No draw of the caller's is used up.

    Without numbers, on torch's device meta, or with random ones where a constructor computes with its tensors, as some
    do for stochastic depth, and timm's RegNet for its widths. Raises InputError as `build` does.
    """
    bare = replace(member, weights=None, pretrained=False)
    with torch.random.fork_rng(devices=[]):
        with suppress(InputError), torch.device("meta"):
            return build(bare, num_classes)
        return build(bare, num_classes)
