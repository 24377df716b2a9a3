"""The config as plain values, checked before anything is read."""

import importlib.resources
import math
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from xconsensus import published
from xconsensus.arithmetic.precision import PRECISIONS
from xconsensus.errors import InputError, check_type, nearest
from xconsensus.experiment.removed import take_removed
from xconsensus.members.member import LARGEST_SIDE
from xconsensus.progress import MODES
from xconsensus.scores.accuracy import ENSEMBLES
from xconsensus.scores.metrics import AP_WEIGHTS
from xconsensus.store.provenance import flat

# whole numbers of at least 1; null where that stands for no limit
_COUNTS = (
    "dataset.size",
    "dataset.resize",
    "committee.input_size",
    "threads",
    "shards",
    "explain.images",
    "explain.per_class",
    "explain.shard_images",
    "finetune.eval_batch_size",
    "score.bootstrap",
    "score.draws",
    "plot.gallery",
    "plot.gallery_members",
    "plot.gallery_rows",
    "plot.trials",
)


def plain(config: DictConfig, say: bool = True) -> dict[str, Any]:
    """The config resolved; InputError naming the first key without a value, or with one that cannot be.

    Options that were taken out are, with a line where one is to ``say`` so.
    """
    try:
        values: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
        raise InputError(f"{_missing_key(config, error)} is not set: give it on the command line") from error
    take_removed(values, say)
    _check(values)
    if values["progress"] not in MODES:
        raise InputError(f"progress={values['progress']} is none of {', '.join(MODES)}")
    if (precision := values["explain"]["precision"]) not in ("auto", *PRECISIONS):
        raise InputError(f"explain.precision={precision} is unknown{nearest(precision, ['auto', *PRECISIONS])}")
    if (weights := values["score"]["ap_weights"]) not in AP_WEIGHTS:
        raise InputError(f"score.ap_weights={weights} is unknown{nearest(weights, AP_WEIGHTS)}")
    if (ensemble := values["plot"]["ensemble"]) not in ENSEMBLES:
        raise InputError(f"plot.ensemble={ensemble} is unknown{nearest(ensemble, ENSEMBLES)}")
    if not 0 <= (clip := values["plot"]["clip_percent"]) < 100:
        raise InputError(f"plot.clip_percent={clip} is not from 0 to below 100")
    own, known = values["plot"]["published"], published.all_datasets()
    if own is not None and own not in known:
        raise InputError(f"plot.published={own}: the paper has no such data set{nearest(str(own), known)}")
    if values["on_bad_image"] not in ("stop", "skip"):
        raise InputError(f"on_bad_image={values['on_bad_image']} is neither stop nor skip")
    return values


def _check(config: dict[str, Any]) -> None:
    """InputError naming the first value of another kind than its default in base.yaml, or out of range."""
    file = OmegaConf.load(str(importlib.resources.files("xconsensus.conf") / "base.yaml"))
    base = OmegaConf.to_container(file, resolve=True)
    values = flat(config)
    for key, default in flat(base).items():  # type: ignore[arg-type]
        if key not in (*_COUNTS, "explain.batch_size", "locate.threshold"):
            check_type(key, values.get(key), default)
    for key in _COUNTS:
        if (value := values.get(key)) is not None:
            check_type(key, value, 1)
            if value < 1:
                raise InputError(f"{key}={value} is less than 1")
        elif key not in ("committee.input_size", "threads", "explain.images", "explain.per_class"):
            raise InputError(f"{key} is null: give a whole number")
    for key in ("dataset.resize", "committee.input_size"):
        if (side := values[key]) is not None and side > LARGEST_SIDE:
            raise InputError(f"{key}={side} is more than the {LARGEST_SIDE} pixels that are taken")
    if config["dataset"]["size"] > config["dataset"]["resize"]:
        raise InputError(
            f"dataset.size={values['dataset.size']} is more than dataset.resize={values['dataset.resize']}"
        )
    if not 0 <= config["shard"] < config["shards"]:
        raise InputError(
            f"shard={config['shard']} is not one of 0..{config['shards'] - 1}: give shards=N with shard=range(N)"
        )
    for key, kind, low, high in (("score.shares", 0.5, 0, 1), ("score.labelled", 1, 1, math.inf)):
        if not isinstance(values[key], list):
            raise InputError(f"{key}={values[key]} is no list: write {key}=[{values[key]}]")
        for each in values[key]:
            check_type(key, each, kind)
            if not low <= each < high:
                raise InputError(f"{key}: {each} is not at least {low}{' and below 1' if high == 1 else ''}")
    if not 0 < config["score"]["level"] < 1:
        raise InputError(f"score.level={config['score']['level']} is not between 0 and 1")
    if (threshold := config["locate"]["threshold"]) != "otsu":
        if isinstance(threshold, str) or threshold is None:
            raise InputError(f"locate.threshold={threshold} is neither otsu nor a number")
        check_type("locate.threshold", threshold, 0.2)
        if not 0 < threshold <= 1:
            raise InputError(f"locate.threshold={threshold} is not between 0 and 1")


def _missing_key(config: DictConfig, error: Exception) -> str:
    """The mandatory key without a value, the plainest one first: values may refer to it by interpolation."""
    missing = sorted(OmegaConf.missing_keys(config), key=lambda key: (key.count("."), key))
    return missing[0] if missing else str(error).split("\n")[0]
