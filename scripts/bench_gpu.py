"""Seconds an image of LIME and SmoothGrad for six networks, beside the bare passes and Captum, and how busy the GPU is.

Usage: python scripts/bench_gpu.py [LIME_SAMPLES SMOOTHGRAD_SAMPLES [NETWORK ...]], 1000 and 50 unless given. LIME runs
also with a quarter of its samples, which are as certain by hadamard masks and the Gaussian process; Captum's has all of
them in both tables. Random weights; runs on a CPU too, where fewer samples are advisable. Needs the extra `test`.
"""

import copy
import shutil
import subprocess
import sys
import time
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
from xconsensus.jobs.process import batch_size_of
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


def steadily(function: Callable[[], object], at_least: float = 2.0) -> float:
    """Mean seconds of a call, of as many as take ``at_least`` seconds, after one to warm up."""
    function()
    once = seconds(function)
    times = round(at_least / once)
    return seconds(function, times) if times > 1 else once


def busy(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, and the mean utilisation of the GPU meanwhile, in per cent; NaN without one."""
    if not torch.cuda.is_available():
        return steadily(function), float("nan")
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200", "--id=0"]
    if shutil.which(query[0]) is None:
        return steadily(function, 3.0), float("nan")
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as watcher:
        time.sleep(0.5)  # until it reports
        spent = steadily(function, 3.0)
        watcher.terminate()
        found = [float(word) for word in (watcher.communicate()[0] or "").split() if word.isdigit()]  # or [N/A]
    return spent, float(np.mean(found[len(found) // 2 :] or [np.nan]))  # the first half also saw the start


def measure(name: str, lime: int, smoothgrad: int, device: torch.device) -> dict[str, dict[str, object]]:
    """One row an explainer, of a network."""
    (member,) = members_of({name: NETWORKS[name]}, defaults={}, size=SIZE, resize=SIZE)
    model = build(member, 1000)
    fit_norms(model)
    network = fold(Network(member, copy.deepcopy(model)).to(device))
    plain = Network(member, nn.Identity()).to(device)
    plain.model = model.eval().to(device)  # as users have it, not as `Network` arranges it
    image, few = drawn_image(), 256 if lime == 1000 else max(8, lime // 4)
    pixels = torch.from_numpy(image.pixels).permute(2, 0, 1).to(device)
    assert image.segments is not None
    captums_lime = captum_lime(plain, pixels, image.segments.to(device), lime)
    captums_smoothgrad = captum_smoothgrad(plain, pixels, smoothgrad)
    torch.backends.cudnn.allow_tf32 = True  # torch's default, as Captum's users have it
    theirs = {"LIME": steadily(captums_lime, 0), "SmoothGrad": steadily(captums_smoothgrad)}
    torch.backends.cudnn.allow_tf32 = False  # as commands set it
    explainers: dict[str, Explainer] = {
        f"LIME, {lime} samples": Lime(lime),
        f"LIME, {few} samples": Lime(few, sampling="hadamard", regression="gaussian_process"),
        f"SmoothGrad, {smoothgrad} samples": SmoothGrad(smoothgrad),
    }
    return {
        title: row(network, explainer, image, theirs[title.split(",")[0]]) for title, explainer in explainers.items()
    }


def row(network: Network, explainer: Explainer, image: Image, theirs: float) -> dict[str, object]:
    """One row of a table; Captum takes ``theirs`` seconds."""
    samples, backward = explainer.passes()[0] - 1, explainer.passes()[1] > 0
    batch_size = batch_size_of("auto", network.device, SIZE)
    found = by_rule(network, fewer_bits(explainer), 1000)
    spent, used = busy(lambda: explainer(for_image(found), image, batch_size))
    passes = steadily(lambda: bare(found, samples, batch_size, SIZE, backward))
    return {
        "network": network.member.name,
        "precision": found.precision if isinstance(found, FewerBits) else "float32",
        "s/image": spent,
        "bare passes": passes,
        "ratio": spent / passes,
        "Captum / own": theirs / spent,
        "GPU busy, %": used,
    }


def main() -> None:
    """Print each row, and then a table an explainer."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    lime, smoothgrad = map(int, sys.argv[1:3]) if sys.argv[2:] else (1000, 50)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    tables: dict[str, list[dict[str, object]]] = {}
    for name in sys.argv[3:] or NETWORKS:
        for title, found in measure(name, lime, smoothgrad, device).items():
            print(title, found, flush=True)
            tables.setdefault(title, []).append(found)
    for title, rows in tables.items():
        show(f"{title}, {where}", rows)


if __name__ == "__main__":
    main()
