"""Members of a committee: architecture, weights and preprocessing, resolved in this one place."""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from xconsensus import libraries, own_code
from xconsensus.errors import InputError, nearest
from xconsensus.store import safe_name

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic")  # those that torch can smooth before it shrinks an image


@dataclass(frozen=True)
class Member:
    """One model of a committee and how it wants its input.

    ``library`` is timm, torchvision or module; with ``module``, ``model`` is ``package.module.Class`` or
    ``path/to/file.py:Class``: code that the user names and that is run. ``weights`` is a file of trained weights,
    ``pretrained`` a weights tag of the library (True for its default), read from ``pretrained_file`` where there is
    one, else through the library's own cache; neither means random weights, to be trained. ``resize``,
    ``input_size`` (pixels), ``mean``, ``std`` (of RGB in 0..1) and ``interpolation`` are the member's own
    preprocessing.
    """

    name: str
    family: str
    library: str
    model: str
    input_size: int
    resize: int
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    pretrained: str | bool = False
    pretrained_file: str | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"

    def settings(self) -> dict[str, Any]:
        """All that shapes the member's outputs, without folders: weights of a file are named by their digest.

        Raises InputError naming the member whose file is missing.
        """
        file = self.weights or self.pretrained_file
        if file and not Path(file).is_file():
            raise InputError(f"member {self.name}: no weights file {file}")
        return {
            "library": self.library,
            "model": own_code.settled(self.model) if self.library == "module" else self.model,
            "kwargs": dict(self.kwargs),
            "weights": file_digest(Path(file)) if file else self.pretrained,
            "input_size": self.input_size,
            "resize": self.resize,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }


_FIELDS = tuple(name for name in Member.__dataclass_fields__ if name not in ("name", "pretrained_file"))


def members_of(
    specifications: Mapping[str, Mapping[str, Any]],
    *,
    defaults: Mapping[str, Any],
    size: int,
    resize: int,
    weights_dir: str | None = None,
) -> list[Member]:
    """The members of a committee, in the order of ``specifications`` (name -> keys of ``Member``).

    ``defaults`` stand under every specification. A ``pretrained`` member takes the preprocessing of its weights from
    the library, key by key unless it says otherwise; of the others, one without its own sizes takes the data set's
    ``size`` and ``resize``, in pixels and in proportion. ``weights_dir`` is the folder of relative weights files and
    .py files, and of <member>.safetensors, .pth or .pt: files to read in place of a pretrained member's download.

    No network is built and nothing downloaded. Raises InputError naming the member for unknown keys, models,
    libraries or weights tags. A missing weights file is the error of who uses the member: others can do without it.
    """
    if not specifications:
        raise InputError("the committee is empty: name at least one member in committee.members or committee.catalogue")
    return [
        _member(name, {**defaults, **(spec or {})}, size, resize, weights_dir) for name, spec in specifications.items()
    ]


def _member(name: str, spec: dict[str, Any], size: int, resize: int, weights_dir: str | None) -> Member:
    if unknown := sorted(set(spec) - set(_FIELDS)):
        raise InputError(f"member {name}: unknown key {unknown[0]!r}{nearest(unknown[0], _FIELDS)}")
    if absent := [key for key in ("library", "model") if not spec.get(key)]:
        raise InputError(f"member {name}: committee.members.{name}.{absent[0]} is missing")
    safe_name(name, "member")
    spec = {key: value for key, value in spec.items() if value is not None}
    spec.setdefault("family", name)
    folder = Path(weights_dir) if weights_dir else Path()
    if spec["library"] == "module" and ".py:" in spec["model"]:
        spec["model"] = str(folder / spec["model"])
    if "weights" in spec:
        spec["weights"] = str(folder / spec["weights"])
    _check_model(name, spec["library"], spec["model"])
    if spec.get("pretrained"):
        found = libraries.preprocessing(name, spec["library"], spec["model"], spec["pretrained"])
        size, resize = found.pop("input_size"), found.pop("resize")
        spec = {**found, **spec, "kwargs": {**found["kwargs"], **spec.get("kwargs", {})}}
        if "weights" in spec:  # in place of the library's
            spec["pretrained"] = False
        elif weights_dir:
            spec["pretrained_file"] = libraries.local_file(name, folder)
    input_size = spec.setdefault("input_size", size)
    spec.setdefault("resize", round(resize * input_size / size))
    for key in ("mean", "std"):
        if key in spec:
            spec[key] = tuple(float(value) for value in spec[key])
            if len(spec[key]) != 3:
                raise InputError(f"member {name}: {key} needs three numbers (R, G, B), has {len(spec[key])}")
    if min(spec.get("std", IMAGENET_STD)) <= 0:
        raise InputError(f"member {name}: std needs positive numbers, has {list(spec['std'])}")
    if (mode := spec.get("interpolation", "bicubic")) not in INTERPOLATIONS:
        raise InputError(f"member {name}: interpolation={mode} is none of {', '.join(INTERPOLATIONS)}")
    if spec["resize"] < spec["input_size"]:
        raise InputError(f"member {name}: resize={spec['resize']} is less than input_size={input_size}")
    return Member(name=name, **spec)


def _check_model(name: str, library: str, model: str) -> None:
    match library:
        case "timm" | "torchvision":
            libraries.check_model(name, library, model)
        case "module":
            own_code.load(model, f"member {name}")
        case _:
            known = ["timm", "torchvision", "module"]
            raise InputError(f"member {name}: library={library} is unknown{nearest(library, known)}")


def build(member: Member, num_classes: int) -> nn.Module:
    """The member's network with random or library-pretrained weights and ``num_classes`` logits, in eval mode.

    Raises InputError naming the member when the architecture refuses its kwargs, and, with the file to fetch and
    where to put it, when its pretrained weights can neither be read nor downloaded.
    """
    constructor = _constructor(member)
    kwargs = dict(member.kwargs)
    if member.library != "module" or "num_classes" in inspect.signature(constructor).parameters:
        kwargs["num_classes"] = num_classes
    try:
        return constructor(**kwargs).eval()
    except InputError:
        raise
    except Exception as error:  # constructors and downloads raise nearly anything
        reason = _one_line(error)
        if member.pretrained:
            with torch.device("meta"):
                build(replace(member, pretrained=False), num_classes)  # raises where the kwargs are at fault
            advice = libraries.how_to_get(member.name, member.library, member.model, member.pretrained)
            raise InputError(f"member {member.name}: {advice} ({reason})") from error
        raise InputError(f"member {member.name}: {member.model} cannot be built with {kwargs} ({reason})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _constructor(member: Member) -> Callable[..., nn.Module]:
    match member.library:
        case "timm":
            return partial(_timm_model, member)
        case "torchvision":
            return partial(_torchvision_model, member)
        case _:
            constructor: Callable[..., nn.Module] = own_code.load(member.model, f"member {member.name}")
            return constructor


def _timm_model(member: Member, num_classes: int, **kwargs: Any) -> nn.Module:
    from xconsensus.compat import torchvision  # noqa: F401, I001  (timm imports torchvision)
    import timm

    full = libraries.timm_name(member.model, member.pretrained)
    if not (member.pretrained and member.pretrained_file):
        return timm.create_model(full, pretrained=bool(member.pretrained), num_classes=num_classes, **kwargs)  # type: ignore[no-any-return]
    model: nn.Module = timm.create_model(full, num_classes=num_classes, **kwargs)
    tensors = read_weights(Path(member.pretrained_file), member.name)
    try:  # with all classes of the file: for others, timm overlooks tensors that are missing
        whole = timm.create_model(full, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors}, **kwargs)
    except Exception as error:  # a filter of foreign tensors raises nearly anything
        reason = f"{member.pretrained_file} does not fit {full} ({_one_line(error)})"
        raise InputError(f"member {member.name}: {reason}") from error
    fill(model, member, whole.state_dict(), member.pretrained_file, head_tensors(member, num_classes))
    return model


def _torchvision_model(member: Member, num_classes: int, **kwargs: Any) -> nn.Module:
    from xconsensus.compat import torchvision

    if member.model in libraries.WITH_AUXILIARY_HEADS:
        kwargs.setdefault("init_weights", True)  # the present default, named, since torchvision warns otherwise
    model: nn.Module = torchvision.models.get_model(member.model, num_classes=num_classes, **kwargs)
    if member.pretrained:
        tag = libraries.torchvision_weights(member.name, member.model, member.pretrained)
        if member.pretrained_file:
            tensors, source = read_weights(Path(member.pretrained_file), member.name), member.pretrained_file
        else:
            tensors, source = tag.get_state_dict(progress=False, check_hash=True), str(tag)
        if not kwargs.get("aux_logits", True):
            tensors = {key: value for key, value in tensors.items() if not key.lower().startswith("aux")}
        fill(model, member, tensors, source, head_tensors(member, num_classes))
    return model


def fill(
    model: nn.Module, member: Member, tensors: Mapping[str, Tensor], source: str, new_head: Iterable[str] = ()
) -> None:
    """Load ``tensors`` (name -> tensor, any float dtype) into ``model``.

    Tensors named in ``new_head`` keep their initial values where the given ones have another shape.

    Raises InputError naming the member, the source and the first tensor that does not fit.
    """
    expected = model.state_dict()
    given = dict(tensors)
    for key in set(new_head).intersection(given):
        if given[key].shape != expected[key].shape:
            given[key] = expected[key]
    for key in expected.keys() | given.keys():
        if key not in given and key.endswith("num_batches_tracked"):  # a counter that inference never reads
            given[key] = expected[key]
    for key in (*expected, *given):
        if key not in given:
            raise InputError(f"member {member.name}: {source} lacks tensor {key} of {member.model}")
        if key not in expected:
            raise InputError(f"member {member.name}: {source} has tensor {key}, {member.model} does not")
        if given[key].shape != expected[key].shape:
            shapes = f"{list(given[key].shape)}, {member.model} needs {list(expected[key].shape)}"
            raise InputError(f"member {member.name}: {source} has tensor {key} of shape {shapes}")
    try:
        model.load_state_dict(given)
    except (RuntimeError, NotImplementedError) as error:  # sparse, or without data
        raise InputError(f"member {member.name}: {source} has tensors of a kind that cannot be loaded") from error


def read_weights(path: Path, name: str) -> dict[str, Tensor]:
    """The named tensors of a safetensors file or torch checkpoint; never unpickles anything but tensors.

    Raises InputError naming member ``name`` and the file that is unreadable or holds no state dict.
    """
    if not path.is_file():
        raise InputError(f"member {name}: no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated archives raise nearly anything
        reason = "truncated, or not such a file"
        raise InputError(f"member {name}: {path} cannot be read as weights ({reason})") from error
    for key in ("state_dict", "model"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in checkpoint.items()
    ):
        raise InputError(f"member {name}: {path} holds no state dict (name -> tensor)")
    return {key.removeprefix("module."): value for key, value in checkpoint.items()}


def head_tensors(member: Member, num_classes: int) -> list[str]:
    """Names of the tensors whose shape follows the number of classes: the head that fine-tuning replaces."""
    architecture = replace(member, weights=None, pretrained=False)
    with torch.device("meta"):
        one, other = build(architecture, num_classes), build(architecture, num_classes + 1)
    shapes = {key: tensor.shape for key, tensor in other.state_dict().items()}
    return [key for key, tensor in one.state_dict().items() if tensor.shape != shapes[key]]


def file_digest(path: Path) -> str:
    """SHA-256 of a file as hexadecimal text."""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@cache  # asked for with every artefact of a member; a committee's files are gigabytes
def _digest(path: Path, _modified: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
