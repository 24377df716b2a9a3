"""Explainers: a network and an image in, one explanation out. Each module holds one; ``make`` finds it by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from xconsensus.errors import InputError, check_type, nearest
from xconsensus.explainers.explanation import Explainer, Explanation
from xconsensus.explainers.lime import Lime
from xconsensus.explainers.smoothgrad import SmoothGrad

__all__ = ["Explainer", "Explanation", "Lime", "SmoothGrad", "make"]

METHODS: Mapping[str, type[Lime] | type[SmoothGrad]] = {"lime": Lime, "smoothgrad": SmoothGrad}


def make(method: str, settings: Mapping[str, Any]) -> Explainer:
    """The explainer of a method name, with its settings; InputError naming what is unknown or out of range."""
    if method not in METHODS:
        raise InputError(f"explainer.method={method} is unknown{nearest(method, METHODS)}")
    known = {field.name for field in dataclasses.fields(METHODS[method])}
    if unknown := sorted(set(settings) - known):
        raise InputError(f"explainer.{unknown[0]}: {method} has no such setting{nearest(unknown[0], known)}")
    for field in dataclasses.fields(METHODS[method]):
        check_type(f"explainer.{field.name}", settings.get(field.name, field.default), field.default)
    return METHODS[method](**settings)
