"""The config as plain values, checked before anything is read."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from xconsensus import published
from xconsensus.errors import InputError, nearest
from xconsensus.experiment.removed import take_removed
from xconsensus.keys.checks import check_keys, taken


def plain(config: DictConfig, say: bool = True) -> dict[str, Any]:
    """The config resolved; InputError naming the first key that there is not, without a value, or with one that cannot
    be.

    Options that were taken out are, with a line where one is to ``say`` so.
    """
    check_keys(OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    try:
        given: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
        raise InputError(f"{_missing_key(config, error)} is not set: give it on the command line") from error
    take_removed(given, say)
    values = taken(given)
    dataset = values["dataset"]
    if dataset["size"] > dataset["resize"]:
        raise InputError(f"dataset.size={dataset['size']} is more than dataset.resize={dataset['resize']}")
    if not 0 <= values["shard"] < values["shards"]:
        raise InputError(
            f"shard={values['shard']} is not one of 0..{values['shards'] - 1}: give shards=N with shard=range(N)"
        )
    own, known = values["plot"]["published"], published.all_datasets()
    if own is not None and own not in known:
        raise InputError(f"plot.published={own}: the paper has no such data set{nearest(own, known)}")
    return values


def _missing_key(config: DictConfig, error: Exception) -> str:
    """The mandatory key without a value, the plainest one first: values may refer to it by interpolation."""
    missing = sorted(OmegaConf.missing_keys(config), key=lambda key: (key.count("."), key))
    return missing[0] if missing else str(error).split("\n")[0]
