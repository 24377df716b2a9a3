"""The config as plain values, checked before anything is read."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from xconsensus import published
from xconsensus.errors import InputError, nearest
from xconsensus.experiment.removed import take_removed
from xconsensus.keys.checks import check_keys, taken
from xconsensus.keys.words import faults_told


def plain(config: DictConfig, say: bool = True) -> dict[str, Any]:
    """The config resolved; InputError naming the first key that there is not, without a value, or with one that cannot
    be.

    Options that were taken out are, with a line where one is to ``say`` so.
    """
    check_keys(OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    with faults_told():
        given: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
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
