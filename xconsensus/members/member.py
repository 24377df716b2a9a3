"""Members of a committee: architecture, weights and preprocessing, resolved in this one place."""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from xconsensus import own_code
from xconsensus.errors import InputError, check_type, nearest, safe_name
from xconsensus.keys.schema import LARGEST_SIDE
from xconsensus.members import upstream
from xconsensus.published import CENTRED, ENSEMBLE
from xconsensus.resampling import OF_IMAGES

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LIBRARIES = ("timm", "torchvision", "paddle", "module")
CROP_MODES = ("center", "squash", "border")  # timm's
_PREPROCESSING = ("input_size", "resize", "mean", "std", "interpolation")


@dataclass(frozen=True)
class Member:
    """One model of a committee and how it wants its input.

    ``library`` is timm, torchvision, paddle (PaddleClas's networks) or module; with ``module``, ``model`` is
    ``package.module.Class`` or ``path/to/file.py:Class``: code that the user names and that is run.
    ``weights`` is a file of trained weights, of which ``weights_key`` names the state dict where the file holds
    several, ``pretrained`` a weights tag of the library (True for its default), read from ``pretrained_file`` where
    there is one, else through the library's own cache; neither means random weights, to be trained, or, of a
    ``random`` member, to stay. The member's own preprocessing are ``resize``, ``input_size`` (pixels), ``mean``,
    ``std`` (of RGB in 0..1), ``interpolation`` and ``crop_mode``: center crops from the short edge at ``resize``,
    squash from both edges, border from the long edge, with borders of the colour ``mean``. Where they are the
    library's, ``as_library``, images are resized and cut as it does it; the others' crops lie as what is explained.
    The convolutions of a ``folded`` member's file hold the batch normalisation that followed them: training may put it
    back (`preparing`).
    """

    name: str
    family: str
    library: str
    model: str
    input_size: int
    resize: int
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    weights_key: str | None = None
    pretrained: str | bool = False
    pretrained_file: str | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    as_library: bool = False
    random: bool = False
    folded: bool = False

    def weights_file(self) -> Path | None:
        """The file that the weights are read from, None without one; InputError naming the member that lacks it."""
        file = self.weights or self.pretrained_file
        if file and not Path(file).is_file():
            hint = upstream.if_it_is_a_tag(self.library, self.model, Path(file).name)
            raise InputError(f"member {self.name}: no weights file {file}{hint}")
        return Path(file) if file else None

    def settings(self) -> dict[str, Any]:
        """All that shapes the member's outputs, without folders: weights of a file are named by their digest.

        ``crop_mode`` shapes predictions only (`preprocessing.rule_of_predictions`): explained crops are the data set's.

        Raises InputError naming the member whose file is missing.
        """
        file = self.weights_file()
        settings = {
            "library": self.library,
            "model": own_code.settled(self.model) if self.library == "module" else self.model,
            "kwargs": dict(self.kwargs),
            "weights": file_digest(file) if file else self.pretrained,
            "input_size": self.input_size,
            "resize": self.resize,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }
        settings |= {"weights_key": self.weights_key} if self.weights_key else {}
        return settings | ({"random": True} if self.random else {})


_FIELDS = tuple(name for name in Member.__dataclass_fields__ if name not in ("name", "pretrained_file", "as_library"))


def members_of(
    specifications: Mapping[str, Mapping[str, Any]],
    *,
    defaults: Mapping[str, Any],
    size: int,
    resize: int,
    weights_dir: str | None = None,
    known: Collection[str] = (),
    trained: bool = False,
    input_size: int | None = None,
) -> list[Member]:
    """The members of a committee, in the order of ``specifications``.

    A ``pretrained`` member takes the preprocessing of its weights from the library, key by key unless it says
    otherwise, and so does one of timm or torchvision with a file of ``weights`` that of its architecture, unless it is
    ``trained``; of the others, one without its own sizes takes the data set's, in pixels and in proportion.

    Parameters
    ----------
    specifications : name -> keys of ``Member``.
    defaults : what stands under every specification.
    size, resize : the data set's.
    weights_dir : the folder of relative weights files and .py files, and of <member>.safetensors, .pth or .pt: files
        to read in place of a pretrained member's download.
    known : members whose model is known to exist: to look one up is to import its library, which takes seconds.
    trained : whether members are trained on the data set before they are used: files then hold what that starts from.
    input_size : pixels that all members see in place of what their library or the data set has, resized in proportion.

    No network is built and nothing downloaded. Raises InputError naming the member for unknown keys, models,
    libraries or weights tags, and for an own input_size that is not the committee's. A missing weights file is the
    error of who uses the member: others can do without it.
    """
    if not specifications:
        raise InputError("the committee is empty: name at least one member in committee.members or committee.catalogue")
    members = []
    for name, given in specifications.items():
        spec = _of_size(name, {**defaults, **(given or {})}, input_size)
        members.append(_member(name, spec, size, resize, weights_dir, trained))
        if name not in known:
            check_model(members[-1])
    return members


def _of_size(name: str, spec: dict[str, Any], input_size: int | None) -> dict[str, Any]:
    """The keys of a member with the committee's input size, if it has one; InputError where its own is another."""
    if input_size is None:
        return spec
    if (own := spec.get("input_size") or input_size) != input_size:
        raise InputError(f"member {name}: input_size={own} of its own, and committee.input_size={input_size}: drop one")
    return {**spec, "input_size": input_size}


def _member(name: str, spec: dict[str, Any], size: int, resize: int, weights_dir: str | None, trained: bool) -> Member:
    if unknown := sorted(set(spec) - set(_FIELDS)):
        raise InputError(f"member {name}: unknown key {unknown[0]!r}{nearest(unknown[0], _FIELDS)}")
    if absent := [key for key in ("library", "model") if not spec.get(key)]:
        raise InputError(f"member {name}: committee.members.{name}.{absent[0]} is missing")
    safe_name(name, "member")
    if name in (CENTRED, ENSEMBLE):
        raise InputError(f"member {name}: this is a row's name in the tables, of no member; call it otherwise")
    if spec["library"] not in LIBRARIES:
        raise InputError(f"member {name}: library={spec['library']} is unknown{nearest(spec['library'], LIBRARIES)}")
    spec = {key: value for key, value in spec.items() if value is not None}
    _check_words(name, spec)
    check_type(f"committee.members.{name}.random", random := spec.get("random", False), True)
    if random and (other := next((key for key in ("weights", "pretrained") if spec.get(key)), None)):
        raise InputError(f"member {name}: random=true and {other}={spec[other]}: drop one")
    check_type(f"committee.members.{name}.folded", spec.get("folded", False), True)
    spec.setdefault("family", name)
    folder = Path(weights_dir) if weights_dir else Path()
    if spec["library"] == "module" and ".py:" in spec["model"]:
        spec["model"] = str(folder / spec["model"])
    if "weights" in spec:
        spec["weights"] = str(folder / spec["weights"])
    _check_sizes(name, spec)
    resize_given = "resize" in spec
    if found := _of_the_library(name, spec, trained):
        size, resize, spec["as_library"] = found.pop("input_size"), found.pop("resize"), True
        if resize_given:  # the short edge's
            del found["crop_mode"]
        spec = {**found, **spec, "kwargs": {**found["kwargs"], **spec.get("kwargs", {})}}
    if spec.get("pretrained"):
        if "weights" in spec:  # in place of the library's
            spec["pretrained"] = False
        elif weights_dir:
            spec["pretrained_file"] = upstream.local_file(name, spec["library"], folder)
    if "weights_key" in spec and not (spec.get("weights") or spec.get("pretrained_file")):
        raise InputError(f"member {name}: weights_key={spec['weights_key']} is of no use without weights: FILE")
    input_size = spec.setdefault("input_size", size)
    spec.setdefault("resize", round(resize * input_size / size))
    _check_colours(name, spec)
    for key, known in (("interpolation", OF_IMAGES), ("crop_mode", CROP_MODES)):
        if spec.get(key, known[0]) not in known:
            raise InputError(f"member {name}: {key}={spec[key]} is none of {', '.join(known)}")
    if resize_given and spec["resize"] < spec["input_size"]:  # some of timm's own weights do see borders
        raise InputError(f"member {name}: resize={spec['resize']} is less than input_size={input_size}")
    return Member(name=name, **spec)


def _of_the_library(name: str, spec: Mapping[str, Any], trained: bool) -> dict[str, Any]:
    """The preprocessing that the library has for the member's weights, or for its architecture; empty without one."""
    library, model = spec["library"], spec["model"]
    if spec.get("pretrained"):
        return upstream.preprocessing(name, library, model, spec["pretrained"])
    if "weights" not in spec or trained or library == "module" or all(key in spec for key in _PREPROCESSING):
        return {}
    return upstream.of_the_architecture(name, library, model)


def _check_colours(name: str, spec: dict[str, Any]) -> None:
    """Make ``mean`` and ``std`` tuples; InputError unless they are three numbers of RGB in 0..1."""
    for key in {"mean", "std"}.intersection(spec):
        values = spec[key] if isinstance(spec[key], list | tuple) else [spec[key]]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            raise InputError(f"member {name}: {key}={spec[key]} are not three numbers (R, G, B)")
        if len(values) != 3:
            raise InputError(f"member {name}: {key} needs three numbers (R, G, B), has {len(values)}")
        spec[key] = tuple(float(value) for value in values)
    mean, std = spec.get("mean", IMAGENET_MEAN), spec.get("std", IMAGENET_STD)
    if min(std) <= 0:
        raise InputError(f"member {name}: std needs positive numbers, has {list(std)}")
    if max(*mean, *std) > 1:
        wrong = {"mean": mean} if max(mean) > 1 else {}
        wrong |= {"std": std} if max(std) >= 1 else {}
        right = ", ".join(f"{key}: {[round(value / 255, 6) for value in values]}" for key, values in wrong.items())
        raise InputError(f"member {name}: {' and '.join(wrong)} are of RGB in 0..255; of RGB in 0..1 write {right}")


def _check_words(name: str, spec: Mapping[str, Any]) -> None:
    for key in ("model", "weights", "weights_key"):
        if not isinstance(spec.get(key, ""), str):
            hint = "; the library's own weights are pretrained: true" if key == "weights" else ""
            raise InputError(f"member {name}: {key}={spec[key]} is not a word{hint}")


def _check_sizes(name: str, spec: Mapping[str, Any]) -> None:
    """InputError for sizes that are no number of pixels, with the number where libraries print it as a list."""
    for key in ("input_size", "resize"):
        value = spec.get(key, 1)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1 and value == value // 1:
            if value > LARGEST_SIDE:
                raise InputError(f"member {name}: {key}={value} is more than the {LARGEST_SIDE} pixels that are taken")
            continue
        square = isinstance(value, list | tuple) and value and value[-1] == value[-2:][0]  # timm prints [3, 224, 224]
        side = value[-1] if square and isinstance(value[-1], int) else 224
        raise InputError(f"member {name}: {key}={value} is not the side of a square in pixels; write {key}: {side}")


def check_model(member: Member) -> None:
    """InputError naming the member whose library or own code has no such model."""
    if member.library == "module":
        own_code.load(member.model, f"member {member.name}")
    else:
        upstream.check_model(member.name, member.library, member.model)


def file_digest(path: Path) -> str:
    """SHA-256 of a file as hexadecimal text."""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@cache  # asked for with every artefact of a member; a committee's files are gigabytes
def _digest(path: Path, _modified: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
