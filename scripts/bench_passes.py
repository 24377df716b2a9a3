"""Images per second of every member's bare passes: the physical limit of `explain` on this machine.

Usage: python scripts/bench_passes.py [key=value ...], the keys of `xconsensus explain`, such as committee=tiny.
Members have random weights, so nothing has to be trained first.
"""

import sys
from dataclasses import replace

from benchmark import images_per_second
from hydra import compose, initialize_config_module

from xconsensus.experiment.experiment import start
from xconsensus.jobs.process import batch_size_of
from xconsensus.members.network import Network
from xconsensus.members.weights import build


def main() -> None:
    """Print one line a member."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        experiment = start(compose("explain", overrides=sys.argv[1:]))
    batch_size = batch_size_of("auto", experiment.device, experiment.images.size)
    print(f"{'member':<28}{'forward/s':>12}{'forward+backward/s':>20}   batches of {batch_size} on {experiment.device}")
    for member in experiment.own_members:
        bare = replace(member, weights=None, pretrained=False)
        network = Network(bare, build(bare, len(experiment.dataset.classes))).to(experiment.device)
        forward, both = (
            images_per_second(network, experiment.images.size, batch_size, backward) for backward in (False, True)
        )
        print(f"{member.name:<28}{forward:>12.0f}{both:>20.0f}", flush=True)


if __name__ == "__main__":
    main()
