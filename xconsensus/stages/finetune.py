"""finetune: train each member if the committee is to be trained, and write every member's predictions."""

from collections.abc import Sequence
from functools import partial

from omegaconf import DictConfig

from xconsensus.arithmetic.precision import trained_in
from xconsensus.datasets import Record
from xconsensus.datasets.records import check_labels
from xconsensus.errors import InputError
from xconsensus.experiment.artefacts import weights_settings, with_trained_weights
from xconsensus.experiment.experiment import Experiment, start
from xconsensus.experiment.networks import network_for
from xconsensus.experiment.predicted import is_predicted, predict_member
from xconsensus.experiment.trained import draw_member, is_trained, train_member
from xconsensus.jobs.failures import Failures
from xconsensus.jobs.memory import release_freed_memory
from xconsensus.jobs.shares import own_share
from xconsensus.members.at_hand import cost_of, fetchable, file_of
from xconsensus.members.costs import operations_a_pass, seconds_a_pass
from xconsensus.members.member import Member
from xconsensus.members.preprocessing import described
from xconsensus.members.training import Recipe
from xconsensus.progress import Whole, duration, log
from xconsensus.store.files import write_json
from xconsensus.store.locks import claimed
from xconsensus.store.tensors import read_header


def run(config: DictConfig) -> None:
    """The stage; see the module."""
    finetune(start(config))


def finetune(experiment: Experiment) -> float:
    """Train what is not trained yet, and predict the test images and those that may be explained.

    The seconds that a dry run expects of it; else 0.
    """
    trained = experiment.config["committee"]["finetune"]
    recipe = recipe_of(experiment)
    members = own_members(experiment)
    splits = dict.fromkeys(["test", experiment.explain_split])
    records = {split: experiment.images.usable(experiment.inputs.records(split)) for split in splits}
    training = experiment.inputs.records("train") if trained else []
    for some in (*records.values(), training):
        check_labels(some, len(experiment.dataset.classes))
    experiment.images.find_masks(records[experiment.explain_split])
    if any(record.label < 0 for record in training):
        raise InputError("labels of training images are unknown: set committee.finetune=false, or dataset.labels")
    _say_what_is_seen(experiment, members)
    if experiment.config["dry_run"]:
        return _plan(experiment, members, recipe, training, records)
    failures = Failures("finetune", partial(experiment.worklog, "finetune"))
    members.sort(key=lambda member: failures.deaths(member.name))
    units = [(experiment.store.weights(member.name), member) for member in members]
    whole = Whole(recipe.epochs * sum(not member.random for member in members), len(members))
    for member in claimed(experiment.store.root, units):
        whole.next()
        with failures.of(member.name) as worklog:
            if trained and member.random:
                draw_member(experiment, member)
            elif trained:
                train_member(experiment, member, recipe, training, whole, worklog)
            for split in splits:
                ready = with_trained_weights(experiment, member)
                predict_member(experiment, ready, split, records[split], f"finetune {member.name}", worklog)
            if trained:
                _describe(experiment, member)
        release_freed_memory()
    failures.report()
    log.info(f"finetune: {len(members)} members ready, their predictions written")
    return 0.0


def _say_what_is_seen(experiment: Experiment, members: Sequence[Member]) -> None:
    """A line for each preprocessing, with the members that share it, and one for what is explained."""
    alike: dict[str, list[str]] = {}
    for member in members:
        alike.setdefault(described(member), []).append(member.name)
    for preprocessing, names in alike.items():
        log.info(f"predicted from {preprocessing}: {', '.join(names)}")
    size, resize = experiment.images.size, experiment.images.resize
    log.info(f"explained is {size}x{size} of short edge {resize} (bicubic), for all members alike")


def own_members(experiment: Experiment) -> list[Member]:
    """The members that this job trains, of near-equal work in all jobs."""
    members, shares = experiment.own_members, experiment.config["shards"]
    if shares == 1:
        return members
    costs = {member.name: operations_a_pass(member, len(experiment.dataset.classes)) for member in members}
    own = own_share(costs, experiment.config["shard"], shares, "members")
    return [member for member in members if member.name in own]


def recipe_of(experiment: Experiment) -> Recipe:
    """The hyper-parameters of the config, the precision settled for the device."""
    values = {key: value for key, value in experiment.config["finetune"].items() if key in Recipe.__annotations__}
    if values["precision"] == "auto":
        values["precision"] = trained_in(experiment.device)
    return Recipe(**values)


def _describe(experiment: Experiment, member: Member) -> None:
    """Write what stands in the headers of a member's weights and predictions as JSON beside the weights."""
    weights = experiment.store.weights(member.name)
    made, tested = read_header(weights), read_header(experiment.store.predictions("test", member.name))
    content = {"history": made["history"], "settings": made["settings"], "accuracy": tested["accuracy"]}
    content |= {"way": made["way"]} if "way" in made else {}
    write_json(weights.with_suffix(".json"), content)


def _plan(
    experiment: Experiment,
    members: Sequence[Member],
    recipe: Recipe,
    training: Sequence[Record],
    records: dict[str, list[Record]],
) -> float:
    """Say what the stage would do and cost, after checking that every member can be built and its weights fit.

    The seconds that it would take.
    """
    failures = Failures("finetune")
    new_head, classes = experiment.config["committee"]["finetune"], len(experiment.dataset.classes)
    size, passes, images, seconds = 0, 0, 0, 0.0
    absent = []
    for member in members:
        with failures.of(member.name):
            path = experiment.store.weights(member.name)
            settings = weights_settings(experiment, member, recipe, len(training)) if new_head else {}
            to_train = new_head and not member.random
            trained = to_train and is_trained(experiment, member, settings, training, path)
            ready = with_trained_weights(experiment, member) if trained else member
            absent += [member] * (not trained and fetchable(member) and not file_of(member))
            network = network_for(experiment, ready, untrained=new_head and not trained)
            steps = recipe.epochs * len(training) if to_train and not trained else 0
            what = "random weights" if member.random else "as it is"
            what = f"to train, {recipe.epochs} epochs of {len(training)} images" if steps else what
            parameters = sum(tensor.numel() for tensor in network.model.parameters())
            settled = ready if trained or not new_head else None  # whose predictions may be there already
            todo = [s for s in records if not (settled and is_predicted(experiment, settled, s, records[s]))]
            new = sum(len(records[split]) for split in todo)
            predicted = new + len(training) * bool(steps and recipe.prepare)  # to prepare is a pass over these
            estimate = predicted * seconds_a_pass(network, member.input_size) if predicted else 0.0
            estimate += steps * (
                seconds_a_pass(network, member.input_size, "weights", recipe.batch_size) if steps else 0
            )
            size, passes, seconds = size + (4 * parameters if steps else 0), passes + steps, seconds + estimate
            images += new
            what = "trained already" if trained else what
            what += "" if new else ", predictions made already"
            log.info(f"  {member.name}: {parameters / 1e6:.2f} M parameters, {what}, {duration(estimate)}")
    if absent:
        log.info(f"finetune would download {cost_of(absent)}")
    log.info(
        f"finetune would train {passes} forward and backward passes and predict {images} images by {len(members)}"
        f" members: {duration(seconds)} on {experiment.device}, {(size + images * classes * 4) / 1e6:.1f} MB on disk"
    )
    failures.report()
    return seconds
