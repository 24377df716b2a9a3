"""Whether SmoothGrad gains from antithetic noise: each draw used twice, with either sign.

Usage: python scripts/study_noise.py key=value ..., the keys of `xconsensus explain`, such as
experiment=imagenet_sample root=FOLDER explain.images=5 'committee.only=[squeezenet1_1]'. Prints the correlation of
maps of 50 samples with a reference of 1000 independent ones, and the reliability beside the agreement of two maps.
"""

import sys

import numpy as np
import torch
from benchmark import config_of, show
from torch import Tensor

from xconsensus.datasets.selection import choose
from xconsensus.experiment.artefacts import with_trained_weights
from xconsensus.experiment.experiment import start
from xconsensus.explainers.smoothgrad import halves_reliability
from xconsensus.members.network import Network, network_of

REFERENCE, SAMPLES, NOISE = 1000, 50, 0.1


def halves(network: Network, inputs: Tensor, target: int, samples: int, seed: int, antithetic: bool) -> Tensor:
    """Summed gradients of the samples with even and with odd numbers, (2, 3, H, W), of ``samples`` noisy images."""
    draw = torch.Generator(inputs.device).manual_seed(seed)
    deviation = NOISE * (inputs.max() - inputs.min())
    sums = torch.zeros(2, *inputs.shape, dtype=torch.float64, device=inputs.device)
    for number in range(samples // 2):
        noise = torch.randn(inputs.shape, generator=draw, device=inputs.device)
        other = -noise if antithetic else torch.randn(inputs.shape, generator=draw, device=inputs.device)
        found = network.gradients(inputs + deviation * torch.stack([noise, other]), target).double()
        if antithetic:
            sums[number % 2] += found.sum(0)  # a pair stays together: its halves are not independent
        else:
            sums += found
    return sums


def map_of(sums: Tensor) -> Tensor:
    """SmoothGrad's map."""
    return sums.sum(0).abs().sum(0).flatten()


def main() -> None:
    """Print one table."""
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    experiment = start(config_of("explain", sys.argv[1:]))
    records = choose(
        experiment.dataset.records(experiment.explain_split), "random", experiment.config["explain"]["images"], None, 0
    )
    rows: list[dict[str, object]] = []
    classes = len(experiment.dataset.classes)
    for member in experiment.own_members:
        network = network_of(with_trained_weights(experiment, member), classes, experiment.device)
        found: dict[str, list[float]] = {}
        for record in records:
            inputs = network.normalise(
                torch.from_numpy(experiment.images.image(record)).to(network.device).permute(2, 0, 1)
            )
            with torch.no_grad():
                target = int(network(inputs[None]).argmax())
            reference = map_of(halves(network, inputs, target, REFERENCE, 0, antithetic=False))
            for name, antithetic in (("independent", False), ("antithetic", True)):
                pair = [halves(network, inputs, target, SAMPLES, seed, antithetic) for seed in (1, 2)]
                maps = [map_of(each) for each in pair]
                fidelity = np.mean([np.corrcoef(each, reference)[0, 1] for each in maps])
                expected = np.mean([halves_reliability(*(half.abs().sum(0) for half in each)) for each in pair])
                found.setdefault(f"{name}: fidelity", []).append(float(fidelity))
                found.setdefault(f"{name}: reliability", []).append(float(expected))
                found.setdefault(f"{name}: agreement", []).append(float(np.corrcoef(maps[0], maps[1])[0, 1]))
        rows.append({"member": member.name, **{name: float(np.mean(values)) for name, values in found.items()}})
        print(rows[-1], flush=True)
    show(f"SmoothGrad, {SAMPLES} samples, {len(records)} images, reference {REFERENCE}", rows)


if __name__ == "__main__":
    main()
