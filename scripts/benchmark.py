"""What the benchmarks share: a config with members of its own, random weights in files, a stopwatch, a table."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file

from xconsensus.members.member import members_of
from xconsensus.members.network import Network
from xconsensus.members.weights import build
from xconsensus.progress import set_up_log


def config_of(stage: str, overrides: list[str], members: Mapping[str, Any] | None = None) -> DictConfig:
    """The config of a stage; with ``members``, specifications by name, a committee of these, taken as they are."""
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        config = compose(stage, overrides=["progress=off", *overrides])
    if members is not None:
        own = {"name": "benchmark", "finetune": False, "catalogue": None, "members": dict(members)}
        for key, value in {**own, "member_defaults": {}, "weights_dir": None}.items():
            OmegaConf.update(config, f"committee.{key}", value, merge=False, force_add=True)
    set_up_log()
    return config


def with_random_weights(
    folder: Path, members: Mapping[str, Mapping[str, Any]], classes: int, size: int
) -> dict[str, Any]:
    """The specifications with a weights file each, of random numbers: what a pass costs does not depend on them."""
    found: dict[str, Any] = {}
    for name, given in members.items():
        specification: dict[str, Any] = {"family": name, "input_size": size, "resize": size, **given}
        (member,) = members_of({name: specification}, defaults={}, size=size, resize=size, weights_dir=None)
        torch.manual_seed(0)
        path = folder / f"{name}.safetensors"
        save_file(build(replace(member, pretrained=False), classes).state_dict(), path)
        found[name] = {**specification, "weights": str(path)}
    return found


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed afterwards."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def seconds(function: Callable[[], object], times: int = 1) -> float:
    """Seconds of one call, the mean of several."""
    started = time.perf_counter()
    for _ in range(times):
        function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def images_per_second(network: Network, size: int, batch_size: int, gradients: bool = False) -> float:
    """Images of ``size`` pixels a side a second, forward or to ``gradients`` and back, the best of two batches."""
    inputs = torch.zeros(batch_size, 3, size, size, device=network.device, requires_grad=gradients)
    spent = []
    for _ in range(3):
        with torch.inference_mode(not gradients):
            spent.append(seconds(lambda: network.gradients(inputs, 0) if gradients else network(inputs)))
    return batch_size / min(spent[1:])  # the first one warms up


def show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as a Markdown table."""
    table = pd.DataFrame(rows)
    lines = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row] for row in table.values]
    print(f"\n{title}\n")
    for line in ([str(name) for name in table.columns], ["---"] * table.shape[1], *lines):
        print(f"| {' | '.join(line)} |")
    print(flush=True)
