"""Every file of every config group composes and resolves, under every stage that could use it."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from xconsensus.cli import STAGES
from xconsensus.explainers import METHODS, make, own_settings
from xconsensus.figures.index import FIGURES, TABLES
from xconsensus.members.catalogue import specifications

CONF = Path(__file__).parents[1] / "conf"
FILES = [
    (path.parent.name, path.stem)
    for group in ("committee", "dataset", "explainer")
    for path in (CONF / group).iterdir()
]
EXPERIMENTS = [path.stem for path in (CONF / "experiment").iterdir()]
# The keys that only the user can know.
ROOT = ["dataset.root=photographs"]
GIVEN = {
    **{("dataset", path.stem): ROOT for path in (CONF / "dataset").iterdir() if path.stem != "shapes"},
    **{("committee", path.stem): ROOT for path in (CONF / "committee").iterdir() if path.stem != "tiny"},
    **{("committee", name): [*ROOT, "committee.weights_dir=models"] for name in ("imagenet7", "pets10")},
    **{
        ("experiment", name): ["root=real"]
        for name in EXPERIMENTS
        if name not in ("shapes", "shapes_diluted", "shapes_several", "smoke")
    },
}


def resolved(stage: str, *overrides: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        config = compose(stage, overrides=[*overrides], return_hydra_config=False)
    found = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_composes_to_the_same_config(stage: str) -> None:
    assert resolved(stage) == resolved("run")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_makes_no_folder_of_its_own(stage: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        config = compose(stage, return_hydra_config=True)
    HydraConfig.instance().cfg = None
    assert (config.hydra.job.name, config.hydra.run.dir, config.hydra.output_subdir) == (stage, ".", None)


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_group_file_resolves_and_is_named_like_its_file(group: str, name: str) -> None:
    config = resolved("run", f"{group}={name}", *GIVEN.get((group, name), []))
    assert config[group]["name"] == name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_resolves_with_existing_figures_and_explainers(name: str) -> None:
    config = resolved("run", f"experiment={name}", *GIVEN.get(("experiment", name), []))
    assert specifications(config["committee"])
    assert set(config["plot"]["figures"]) <= set(FIGURES)
    assert set(config["plot"]["tables"]) <= set(TABLES)
    assert {path.stem for path in (CONF / "explainer").iterdir()} >= set(config["explainers"])


@pytest.mark.parametrize("name", METHODS)
def test_an_explainer_s_file_gives_every_setting_of_its_method_at_its_default(name: str) -> None:
    config = resolved("explain", f"explainer={name}")["explainer"]
    settings = own_settings(config)
    explainer = make(config["method"], settings)
    assert vars(explainer) == settings
    assert explainer == METHODS[name]()


@pytest.mark.parametrize(("group", "name"), [*GIVEN])
def test_keys_that_only_the_user_knows_are_asked_for(group: str, name: str) -> None:
    from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

    with pytest.raises((MissingMandatoryValue, InterpolationToMissingValueError)):
        resolved("run", f"{group}={name}")
