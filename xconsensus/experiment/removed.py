"""Options that were taken out: the value that changed nothing is still taken, with a line; any other one stops."""

from collections.abc import Mapping
from typing import Any

from xconsensus.errors import InputError
from xconsensus.progress import log

ANY = object()
# key -> the value that changed nothing, and what to do in place of another one
REMOVED: Mapping[str, tuple[object, str]] = {
    "finetune.schedule": ("cosine", "the rate falls as a cosine, from finetune.learning_rate to 0"),
    "finetune.keep": ("last", "the last epoch's weights are kept; give finetune.epochs=N to end earlier"),
    "finetune.validation": (ANY, "no training image is held out"),
    "explain.compile": ("never", "networks are not compiled any more; explain.precision=auto makes them faster"),
    "finetune.label_smoothing": (0.0, "training is without it, as in the paper; raise finetune.weight_decay instead"),
}


def take_removed(values: dict[str, Any], say: bool = True) -> None:
    """Take the removed keys out of the config's ``values``, where null stands for absent; ``say`` so in a line each.

    Raises InputError saying what replaces the first one that asks for anything.
    """
    for key, (neutral, instead) in REMOVED.items():
        group, name = key.split(".")
        given = values[group].pop(name, None)
        if given is None:
            continue
        if neutral is not ANY and given != neutral:
            raise InputError(f"{key}={given} was taken out: {instead}")
        if say:
            log.info(f"{key}={given} was taken out and changes nothing: leave it out")
    if values["explainer"].get("sampling") == "paired":
        raise InputError("explainer.sampling=paired was taken out: hadamard needs fewer samples at every count")
