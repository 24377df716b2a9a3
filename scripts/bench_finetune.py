"""Images per second of fine-tuning beside the bare forward-backward loop on a batch already in memory.

Usage: python scripts/bench_finetune.py [key=value ...], the keys of `xconsensus finetune`. Drawn images.
"""

import sys
from functools import partial

import torch
from benchmark import config_of, seconds, show
from torch.nn import functional as F

from xconsensus.experiment.experiment import start
from xconsensus.members.network import Network
from xconsensus.members.training import Images, Recipe, train
from xconsensus.members.weights import build

NETWORKS = {
    "resnet18": {"library": "torchvision", "model": "resnet18"},
    "mobilenet_v2": {"library": "torchvision", "model": "mobilenet_v2"},
}
IMAGES = 512


def bare(network: Network, batch_size: int, steps: int) -> None:
    """Forward, backward and step on the same batch again and again."""
    size = network.member.input_size
    inputs = torch.rand(batch_size, 3, size, size, device=network.device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch_size, dtype=torch.long, device=network.device)
    network.model.requires_grad_(True).train()
    optimizer = torch.optim.SGD(network.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network.model(inputs), labels).backward()
        optimizer.step()


def main() -> None:
    """Print one table."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    size = ["dataset.size=112", "dataset.resize=128"]
    recipe_keys = ["finetune.epochs=4", "finetune.precision=float32", "finetune.learning_rate=0.001"]
    config = config_of("finetune", [*size, *recipe_keys, *sys.argv[1:]], NETWORKS)
    config.committee.finetune = True
    experiment = start(config)
    recipe = Recipe(**{key: experiment.config["finetune"][key] for key in Recipe.__dataclass_fields__})
    records = experiment.dataset.records("train")[:IMAGES]
    images = Images(
        lambda i: experiment.images.resized(records[i], experiment.images.resize), [record.label for record in records]
    )
    rows: list[dict[str, object]] = []
    for member in experiment.members:
        network = Network(member, build(member, len(experiment.dataset.classes))).to(experiment.device)
        epochs = train(network, images, recipe, 0)
        first = seconds(partial(next, epochs))
        later = seconds(partial(next, epochs), recipe.epochs - 1)
        steps = IMAGES // recipe.batch_size
        bare(network, recipe.batch_size, 2)
        alone = seconds(partial(bare, network, recipe.batch_size, steps), 2)
        rows.append(
            {
                "network": member.name,
                "first epoch, images/s": IMAGES / first,
                "later, images/s": IMAGES / later,
                "bare loop, images/s": IMAGES / alone,
                "later / bare": alone / later,
            }
        )
    side = experiment.images.size
    show(f"fine-tuning at {side}x{side}, batches of {recipe.batch_size}, {experiment.device}", rows)


if __name__ == "__main__":
    main()
