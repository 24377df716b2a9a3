"""The config of a run, once for each explainer it goes through."""

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from xconsensus.errors import InputError


def each_explainer(config: DictConfig) -> dict[str, DictConfig]:
    """Explainer -> the config with that explainer, for those in ``explainers``.

    ``explainer=X`` on the command line leaves X alone. Raises InputError when there is none.
    """
    overrides = list(HydraConfig.get().overrides.task)
    given = [override.split("=", 1)[1] for override in overrides if override.startswith("explainer=")]
    others = [override for override in overrides if not override.startswith("explainer=")]
    if not (given or config.explainers):
        raise InputError("explainers is empty: name at least one, as in explainers=[lime]")
    return {name: compose("run", overrides=[*others, f"explainer={name}"]) for name in given or config.explainers}
