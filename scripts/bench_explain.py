"""Seconds an image of `explain` beside its bare passes, Captum and the lime package, and the superpixels' share.

Usage: python scripts/bench_explain.py [NETWORK] key=value ..., the keys of `xconsensus explain` that name photographs,
such as experiment=imagenet_sample root=FOLDER explain.images=20. Networks have random weights. The stage runs as a
whole: decoding, superpixels, reading weights, choosing the precision, passes, regression, writing. Captum and the lime
package get a process of their own, as with their users: in this one they would profit from its treatment of memory.
Needs the extra `test`.
"""

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from benchmark import config_of, scratch, seconds, show, with_random_weights
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import Lime as CaptumLime
from captum.attr import NoiseTunnel, Saliency
from lime.lime_image import LimeImageExplainer
from omegaconf import DictConfig
from torch import Tensor, nn

import xconsensus.compat  # noqa: F401  (networks that other processes are sent may need torchvision)
from xconsensus import explainers
from xconsensus.arithmetic.fewer_bits import FewerBits
from xconsensus.experiment.artefacts import label_maps
from xconsensus.experiment.choosing import choose_images
from xconsensus.experiment.experiment import start
from xconsensus.explainers.lime import mean_colours
from xconsensus.explainers.masks import even_batches
from xconsensus.jobs.process import batch_size_of
from xconsensus.members.network import Network
from xconsensus.members.weights import build
from xconsensus.stages import explain

NETWORKS = {
    "resnet50": {"library": "torchvision", "model": "resnet50"},
    "mobilenet_v2": {"library": "torchvision", "model": "mobilenet_v2"},
}
SETTINGS = {
    "LIME as in the paper": ["explainer=lime"],
    "LIME for equal fidelity": [
        "explainer=lime",
        "explainer.samples=256",
        "explainer.sampling=hadamard",
        "explainer.regression=gaussian_process",
    ],
    "SmoothGrad as in the paper": ["explainer=smoothgrad"],
}
THEIRS = 1000  # samples that other packages need of LIME
LIME_SAMPLES, OTHERS = 200, 2  # of these, what is measured, on so many images


def bare(found: Network | FewerBits, samples: int, batch_size: int, size: int, backward: bool) -> None:
    """The passes of one image alone, in the network's precision, on images made before."""
    network = found.rounded if isinstance(found, FewerBits) else found
    inputs = torch.zeros(batch_size, 3, size, size, device=network.device)
    inputs = inputs.to(network.device).contiguous(memory_format=torch.channels_last)
    for rows in even_batches(torch.arange(samples), batch_size):
        if backward:
            network.gradients(inputs[: len(rows)], 0)
        else:
            with torch.inference_mode():
                network(inputs[: len(rows)]).softmax(1)


def captum_lime(network: Network, image: Tensor, segments: Tensor, samples: int) -> Callable[[], object]:
    """Captum's Lime with the same superpixels and hidden colours, float32."""
    hidden = network.normalise(mean_colours(image.cpu(), segments.cpu()).to(network.device))
    shown = network.normalise(image)
    explainer = CaptumLime(lambda x: network.model(x).softmax(1), interpretable_model=SkLearnRidge(alpha=1))
    return lambda: explainer.attribute(
        shown[None],
        baselines=hidden[None],
        target=0,
        feature_mask=segments[None, None].long(),
        n_samples=samples,
        perturbations_per_eval=32,
    )


def package_lime(network: Network, image: Tensor, segments: Tensor, samples: int) -> Callable[[], object]:
    """The lime package with the same superpixels, float32."""

    def probabilities(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = network.model(network.normalise(torch.from_numpy(batch).permute(0, 3, 1, 2)))
            return np.asarray(logits.softmax(1))

    pixels = image.permute(1, 2, 0).numpy()
    return lambda: LimeImageExplainer().explain_instance(
        pixels,
        probabilities,
        num_samples=samples,
        batch_size=32,
        segmentation_fn=lambda _: segments.numpy(),
    )


def captum_smoothgrad(network: Network, image: Tensor, samples: int) -> Callable[[], object]:
    """Captum's NoiseTunnel over Saliency, float32."""
    tunnel = NoiseTunnel(Saliency(lambda x: network.model(x).softmax(1)))
    shown = network.normalise(image)[None]
    return lambda: tunnel.attribute(
        shown, nt_type="smoothgrad", nt_samples=samples, nt_samples_batch_size=25, stdevs=0.4, target=0, abs=False
    )


def of_others(explain: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """Seconds an image by another package, in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(timed, explain, *arguments).result()


def timed(explain: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """Seconds an image, after one to warm up."""
    explain_once = explain(*arguments)
    explain_once()
    return seconds(explain_once, OTHERS)


def measure(config: DictConfig, folder: Path) -> dict[str, object]:
    """One row: a network and an explainer."""
    experiment = start(config)
    explainer = explainers.make(config.explainer.method, explainers.own_settings(experiment.explainer))
    samples, backward = explainer.passes()[0], explainer.passes()[1] > 0
    (member,) = experiment.members
    size = experiment.images.size
    batch_size = batch_size_of("auto", experiment.device, size)
    records = choose_images(experiment)
    superpixels = 0.0
    if not backward:
        apart = start(config_like(config, folder / "apart"))
        superpixels = seconds(lambda: explain.cut_superpixels(apart, records))
    whole = seconds(lambda: explain.run(config))
    network = explain.prepared(experiment, explainer, member)
    bare(network, batch_size, batch_size, size, backward)
    passes = seconds(lambda: bare(network, samples, batch_size, size, backward), 2) * len(records)
    image = torch.from_numpy(experiment.images.image(records[0])).permute(2, 0, 1)
    plain = Network(member, nn.Identity())
    # as users have it, not as `Network` arranges it
    plain.model = build(member, len(experiment.dataset.classes)).eval()
    row: dict[str, object] = {
        "network": member.name,
        "explainer": f"{config.explainer.method}, {samples} samples",
        "precision": network.precision if isinstance(network, FewerBits) else "float32",
        "images": len(records),
        "stage, s/image": whole / len(records),
        "bare passes, s/image": passes / len(records),
        "stage / bare": whole / passes,
    }
    if backward:
        captum = of_others(captum_smoothgrad, plain, image, samples)
        return row | {"captum, s/image": captum, "captum / stage": captum * len(records) / whole}
    segments = label_maps(experiment).values(records[0].image_id).reshape(size, size)
    usual = THEIRS / LIME_SAMPLES  # their time grows with the samples
    captum = of_others(captum_lime, plain, image, segments, LIME_SAMPLES) * usual
    package = of_others(package_lime, plain, image, segments, LIME_SAMPLES) * usual
    return row | {
        "captum, s/image": captum,
        "lime package, s/image": package,
        "captum / stage": captum * len(records) / whole,
        "lime package / stage": package * len(records) / whole,
        "superpixels, s/image": superpixels / len(records),
        "superpixels' share of 10 members": superpixels / (superpixels + 10 * (whole - superpixels)),
    }


def config_like(config: DictConfig, folder: Path) -> DictConfig:
    """The config with another output folder."""
    other = config.copy()
    other.output_dir = str(folder)
    return other


def main() -> None:
    """Print a row and then a table a setting."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    names = [argument for argument in sys.argv[1:] if argument in NETWORKS] or list(NETWORKS)
    given = [argument for argument in sys.argv[1:] if "=" in argument]
    explain.ROUNDING = float("inf")  # outputs of random weights hardly vary, beside which rounding seems large
    with scratch() as folder:
        members = with_random_weights(folder, {name: NETWORKS[name] for name in names}, 1000, 224)
        for title, setting in SETTINGS.items():
            rows = []
            for number, (name, specification) in enumerate(members.items()):
                out = folder / f"{title}_{number}"
                fixed = [*setting, "explain.only_correct=none", f"output_dir={out}"]
                rows.append(measure(config_of("explain", [*fixed, *given], {name: specification}), out))
                print(rows[-1], flush=True)
            show(title, rows)


if __name__ == "__main__":
    main()
