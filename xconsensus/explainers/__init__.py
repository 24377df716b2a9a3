"""Explainers: a network and an image in, one explanation out. Each module holds one; ``make`` finds it by name."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from xconsensus import own_code
from xconsensus.errors import InputError, check_type, nearest
from xconsensus.explainers.explanation import Explainer, Explanation
from xconsensus.explainers.lime import Lime
from xconsensus.explainers.smoothgrad import SmoothGrad

__all__ = ["Explainer", "Explanation", "Lime", "SmoothGrad", "fewer_bits", "make", "own_settings"]

METHODS: Mapping[str, type[Lime] | type[SmoothGrad]] = {"lime": Lime, "smoothgrad": SmoothGrad}


# keys of the explainer group that are no settings of the method: where explanations lie, and what is made of them
_OF_GROUP = ("name", "title", "method", "segmenter", "vote", "similarity", "sigma")


def own_settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the config's explainer ``group`` that are its method's own settings, those that `make` takes."""
    return {key: value for key, value in group.items() if key not in _OF_GROUP}


def make(method: str, settings: Mapping[str, Any]) -> Explainer:
    """The explainer of a method name, or of own code, a dataclass, with its settings.

    Raises InputError naming what is unknown, out of range or missing.
    """
    made = own_code.load(method, "explainer.method") if own_code.is_own(method) else METHODS.get(method)
    if made is None:
        raise InputError(f"explainer.method={method} is unknown{nearest(method, METHODS)}")
    if not (isinstance(made, type) and dataclasses.is_dataclass(made)):
        raise InputError(f"explainer.method={method}: is no dataclass, whose fields are its settings")
    for part in ("on_superpixels", "passes"):
        if not hasattr(made, part):
            raise InputError(f"explainer.method={method}: has no {part}; see docs/extending.md")
    known = {field.name: field.default for field in dataclasses.fields(made)}
    if unknown := sorted(set(settings) - set(known)):
        raise InputError(f"explainer.{unknown[0]}: {method} has no such setting{nearest(unknown[0], known)}")
    for name, default in known.items():
        if default is dataclasses.MISSING and name not in settings:
            raise InputError(f"explainer.{name} is missing: {method} needs it")
        check_type(f"explainer.{name}", settings.get(name, default), default)
    explainer: Explainer = made(**settings)  # type: ignore[assignment]
    return explainer


def fewer_bits(explainer: Explainer) -> Collection[str]:
    """The precisions besides float32 that explain.precision=auto may take for an explainer; of own code, which may say
    them as ``fewer_bits``, else none.
    """
    return getattr(explainer, "fewer_bits", ())
