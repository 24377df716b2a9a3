"""run: all five stages in order, the middle three for every explainer."""

from collections.abc import Callable, Sequence
from functools import partial

from omegaconf import DictConfig

from xconsensus.errors import MembersError, MissingStageError
from xconsensus.experiment.experiment import Experiment, start_all
from xconsensus.progress import duration, log
from xconsensus.stages.explain import explain
from xconsensus.stages.finetune import finetune
from xconsensus.stages.plot import plot
from xconsensus.stages.score import score
from xconsensus.stages.vote import vote


def run(configs: Sequence[DictConfig]) -> None:
    """The stages; see the module. ``configs`` differ in their explainer alone; they share one experiment."""
    experiments = start_all(configs)
    steps: list[tuple[str, Callable[[], float | None]]] = [("finetune", partial(finetune, experiments[0]))]
    for each in experiments:
        for name, stage in (("explain", explain), ("vote", vote), ("score", score)):
            steps.append((f"{name} {each.explainer_name}", partial(stage, each)))
    steps.append(("plot", partial(plot, experiments)))
    failed: list[MembersError] = []
    seconds = sum(_take(name, step, experiments[0], failed) for name, step in steps)
    if failed:
        raise MembersError("; ".join(map(str, failed)))
    if experiments[0].config["dry_run"]:
        log.info(f"in all {duration(seconds)} of networks' passes on {experiments[0].device}")


def _take(name: str, step: Callable[[], float | None], experiment: Experiment, failed: list[MembersError]) -> float:
    """Run a stage; the seconds that a dry run expects of it, which says what it cannot plan before an earlier stage.

    With committee.allow_missing=true members that failed do not stop the stages after it; ``failed`` gets their error.
    """
    try:
        return step() or 0.0
    except MembersError as error:
        if not experiment.config["committee"]["allow_missing"] or experiment.config["dry_run"]:
            raise
        log.error(f"{name}: {error}; going on without")
        failed.append(error)
    except MissingStageError as error:
        if not experiment.config["dry_run"]:
            raise
        log.info(f"{name}: takes no pass of a network, and cannot be planned yet: {error}")
    return 0.0
