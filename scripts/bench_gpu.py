"""Seconds an image of LIME and SmoothGrad for six networks, beside the bare passes and Captum, and how busy the GPU is.

Usage: python scripts/bench_gpu.py [LIME_SAMPLES SMOOTHGRAD_SAMPLES [NETWORK ...]], 1000 and 50 unless given. Random
weights; runs on a CPU too, where fewer samples are advisable. Needs the extra `test`.
"""

import copy
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from bench_explain import bare, captum_lime, captum_smoothgrad
from benchmark import seconds, show
from torch import nn

from xconsensus.arithmetic.fewer_bits import FewerBits, for_image
from xconsensus.arithmetic.folding import fold
from xconsensus.arithmetic.precision import by_rule
from xconsensus.explainers import Explainer, Lime, SmoothGrad, fewer_bits
from xconsensus.explainers.explanation import Image
from xconsensus.explainers.superpixels import segment
from xconsensus.members.member import members_of
from xconsensus.members.network import Network
from xconsensus.members.weights import build
from xconsensus.seeding import generator

NETWORKS = {
    "resnet50": {"library": "timm", "model": "resnet50"},
    "densenet161": {"library": "timm", "model": "densenet161"},
    "vgg16": {"library": "timm", "model": "vgg16"},
    "mobilenet_v2": {"library": "timm", "model": "mobilenetv2_100"},
    "efficientnet_b0": {"library": "timm", "model": "efficientnet_b0"},
    "hrnet_w18": {"library": "timm", "model": "hrnet_w18"},
}
SIZE = 224


def fit_norms(model: nn.Module) -> None:
    """Fit batch normalisation to noise: signals through random weights otherwise grow beyond float16 (HRNet)."""
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of what was seen
    with torch.no_grad():
        model(torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))


def drawn_image() -> Image:
    """Smooth noise, so that it has superpixels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    segments = segment(pixels, "slic", {"n_segments": 60, "start_label": 0})
    return Image(pixels, 0, partial(generator, 0), torch.from_numpy(segments))


def busy(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, and the mean utilisation of the GPU meanwhile, in per cent; NaN without one."""
    found: list[float] = []
    done = threading.Event()

    def watch() -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not done.wait(0.1):
            found.append(float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]))

    watcher = threading.Thread(target=watch)
    if torch.cuda.is_available():
        watcher.start()
    spent = seconds(function)
    done.set()
    if watcher.ident:
        watcher.join()
    return spent, float(np.mean(found)) if found else float("nan")


def measure(name: str, explainer: Explainer, samples: int, device: torch.device) -> dict[str, object]:
    """One row: a network and an explainer."""
    (member,) = members_of({name: NETWORKS[name]}, defaults={}, size=SIZE, resize=SIZE)
    model = build(member, 1000)
    fit_norms(model)
    network = fold(Network(member, copy.deepcopy(model)).to(device))
    backward, batch_size = explainer.passes()[1] > 0, 256 if device.type == "cuda" else 20
    found = by_rule(network, fewer_bits(explainer), 1000)
    image = drawn_image()
    explainer(for_image(found), image, batch_size)
    spent, used = busy(lambda: explainer(for_image(found), image, batch_size))
    passes = seconds(lambda: bare(found, samples, batch_size, SIZE, backward))
    plain = Network(member, nn.Identity()).to(device)
    plain.model = model.eval().to(device)  # as users have it, not as `Network` arranges it
    pixels = torch.from_numpy(image.pixels).permute(2, 0, 1).to(device)
    assert image.segments is not None
    other = (
        captum_smoothgrad(plain, pixels, samples)
        if backward
        else captum_lime(plain, pixels, image.segments.to(device), samples)
    )
    return {
        "network": name,
        "precision": found.precision if isinstance(found, FewerBits) else "float32",
        "s/image": spent,
        "bare passes": passes,
        "ratio": spent / passes,
        "captum / own": seconds(other) / spent,
        "GPU busy, %": used,
    }


def main() -> None:
    """Print a table an explainer."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    lime, smoothgrad = map(int, sys.argv[1:3]) if sys.argv[2:] else (1000, 50)
    names = sys.argv[3:] or list(NETWORKS)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    for title, explainer, samples in (
        (f"LIME, {lime} samples", Lime(lime), lime),
        (f"SmoothGrad, {smoothgrad} samples", SmoothGrad(smoothgrad), smoothgrad),
    ):
        show(f"{title}, {where}", [measure(name, explainer, samples, device) for name in names])


if __name__ == "__main__":
    main()
