"""run: all five stages in order, the middle three for every explainer."""

from collections.abc import Callable, Sequence
from functools import partial

from omegaconf import DictConfig

from xconsensus.errors import MembersError, MissingStageError
from xconsensus.experiment.experiment import Experiment, start_all
from xconsensus.progress import log
from xconsensus.stages.explain import explain
from xconsensus.stages.finetune import finetune
from xconsensus.stages.plot import plot
from xconsensus.stages.score import score
from xconsensus.stages.vote import vote


def run(configs: Sequence[DictConfig]) -> None:
    """The stages; see the module. ``configs`` differ in their explainer alone; they share one experiment."""
    experiments = start_all(configs)
    steps: list[tuple[str, Callable[[], None]]] = [("finetune", partial(finetune, experiments[0]))]
    for each in experiments:
        for name, stage in (("explain", explain), ("vote", vote), ("score", score)):
            steps.append((f"{name} {each.explainer_name}", partial(stage, each)))
    steps.append(("plot", partial(plot, experiments)))
    failed = [error for name, step in steps if (error := _take(name, step, experiments[0]))]
    if failed:
        raise MembersError("; ".join(map(str, failed)))


def _take(name: str, step: Callable[[], None], experiment: Experiment) -> MembersError | None:
    """Run a stage; a dry run says which stages cannot be planned before an earlier one has run.

    With committee.allow_missing=true members that failed do not stop the stages after it; their error is returned.
    """
    try:
        step()
    except MembersError as error:
        if not experiment.config["committee"]["allow_missing"] or experiment.config["dry_run"]:
            raise
        log.error(f"{name}: {error}; going on without")
        return error
    except MissingStageError as error:
        if not experiment.config["dry_run"]:
            raise
        log.info(f"{name}: cannot be planned yet, {error}")
    return None
