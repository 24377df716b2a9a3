"""The config of a job, for each of its explainers: keys of one explainer apply where they exist."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from xconsensus.errors import InputError, nearest
from xconsensus.keys.schema import METHODS, keys_of
from xconsensus.keys.words import check_option


def for_each_explainer(config: DictConfig, several: bool) -> list[DictConfig]:
    """The job's config with each of its ``explainers`` in turn; ``explainer=X`` on the command line leaves X alone, and
    so do stages that are not for ``several``.

    What the environment and the clock gave the job's config holds in all of them. Raises InputError when there is no
    explainer, and for a key that none of them has.
    """
    hydra = HydraConfig.get()
    raw: list[str] = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # type: ignore[assignment]
    words = [word for word in raw if not word.startswith("explainer=")]
    chosen = str(hydra.runtime.choices["explainer"])
    names = _names(config) if several and words == raw else [chosen]
    search = [word for word in hydra.overrides.hydra if word.startswith("hydra.searchpath=")]
    with suppress(OmegaConfBaseException):  # said where a value is asked for
        OmegaConf.to_container(config, resolve=True)
    configs = []
    for name in names:
        if name == chosen:
            configs.append(config)
            continue
        check_option("explainer", name)
        configs.append(compose("run", overrides=[*search, *words, f'explainer="{name}"']))
        OmegaConf.copy_cache(config, configs[-1])
    own = {name: _own_keys(name, each, search) for name, each in zip(names, configs, strict=True)}
    _keep_own(configs, own)
    return configs


def _names(config: DictConfig) -> list[str]:
    names = config.explainers
    if not OmegaConf.is_list(names):
        raise InputError(f"explainers={names} is not a list; write explainers=[{names}]")
    if not names:
        raise InputError("explainers is empty: name at least one, as in explainers=[lime]")
    return [str(name) for name in names]


class _Keys(NamedTuple):
    """The keys that an explainer has, and whether those are all: own code alone knows the others."""

    names: Collection[str]
    all: bool


def _own_keys(name: str, config: DictConfig, search: Sequence[str]) -> _Keys:
    if method := METHODS.get(str(config.explainer.get("method"))):
        return _Keys(keys_of(method), all=True)
    return _Keys(compose("run", overrides=[*search, f'explainer="{name}"']).explainer, all=False)


def _keep_own(configs: Sequence[DictConfig], own: Mapping[str, _Keys]) -> None:
    """Take from each explainer's group the keys that are another's, and add those of ``of_explainer``."""
    every = {str(key) for keys in own.values() for key in keys.names}
    unknown = {str(key) for each in configs for key in each.explainer} - every
    if unknown and all(keys.all for keys in own.values()):
        raise _unknown("explainer", min(unknown), " or ".join(own), every)
    for each, (name, keys) in zip(configs, own.items(), strict=True):
        with open_dict(each):
            for key in {*each.explainer} & (every - {*keys.names}):
                del each.explainer[key]
            for key, value in (each.of_explainer.get(name) or {}).items():
                if keys.all and key not in keys.names:
                    raise _unknown(f"explainers.{name}", str(key), name, keys.names)
                each.explainer[key] = value


def _unknown(group: str, key: str, explainers: str, known: Collection[str]) -> InputError:
    whose = [name for name, method in METHODS.items() if key in keys_of(method)]
    near = nearest(f"{group}.{key}", [f"{group}.{each}" for each in known])
    hint = f"; it is a key of {' and '.join(whose)}" if whose else near
    return InputError(f"{group}.{key}: no such key of {explainers}{hint}")
