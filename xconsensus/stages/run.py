"""run: all five stages in order, the middle three for every explainer."""

from collections.abc import Callable

from omegaconf import DictConfig

from xconsensus.errors import MembersError, MissingStageError
from xconsensus.progress import log
from xconsensus.stages import explain, finetune, plot, score, vote
from xconsensus.stages.each import each_explainer


def run(config: DictConfig) -> None:
    """The stage; see the module. ``explainer=X`` on the command line makes X the only explainer."""
    explainers = each_explainer(config)  # composed before any work: a key that one of them lacks stops here
    failed = [_stage("finetune", finetune.run, config)]
    for explainer, each in explainers.items():
        for name, stage in (("explain", explain.run), ("vote", vote.run), ("score", score.run)):
            failed.append(_stage(f"{name} {explainer}", stage, each))
    failed.append(_stage("plot", plot.run, config))
    if messages := [str(error) for error in failed if error]:
        raise MembersError("; ".join(messages))


def _stage(name: str, stage: Callable[[DictConfig], None], config: DictConfig) -> MembersError | None:
    """Run a stage; a dry run says which stages cannot be planned before an earlier one has run.

    With committee.allow_missing=true members that failed do not stop the stages after it; their error is returned.
    """
    try:
        stage(config)
    except MembersError as error:
        if not config.committee.allow_missing or config.dry_run:
            raise
        log.error(f"{name}: {error}; going on without")
        return error
    except MissingStageError as error:
        if not config.dry_run:
            raise
        log.info(f"{name}: cannot be planned yet, {error}")
    return None
