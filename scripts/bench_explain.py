"""Seconds an image of `explain` beside its bare passes, Captum and the lime package, and the superpixels' share.

Usage: python scripts/bench_explain.py key=value ..., the keys of `xconsensus explain` that name photographs, such as
experiment=imagenet_sample root=FOLDER explain.images=20. Networks have random weights. The stage runs as a whole:
decoding, superpixels, reading weights, choosing the precision, passes, regression, writing. Needs the extra `test`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmark import config_of, scratch, seconds, show, with_random_weights
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import Lime as CaptumLime
from captum.attr import NoiseTunnel, Saliency
from lime.lime_image import LimeImageExplainer
from omegaconf import DictConfig
from torch import Tensor

from xconsensus.committee import Network
from xconsensus.explainers.lime import mean_colours
from xconsensus.explainers.sampling import even_batches
from xconsensus.explainers.smoothgrad import gradients
from xconsensus.precision import set_precision
from xconsensus.stages import explain
from xconsensus.stages.context import Context

NETWORKS = {
    "resnet50": {"library": "torchvision", "model": "resnet50"},
    "mobilenet_v2": {"library": "torchvision", "model": "mobilenet_v2"},
}
SAMPLES = {"lime": 320, "smoothgrad": 50}
OTHERS = 2  # images that other packages explain


def bare(network: Network, samples: int, batch_size: int, size: int, backward: bool) -> None:
    """The passes of one image alone, in the network's precision, on images made before."""
    inputs = torch.zeros(batch_size, 3, size, size, device=network.device)
    inputs = inputs.to(network.device).contiguous(memory_format=torch.channels_last)
    for rows in even_batches(torch.arange(samples), batch_size):
        if backward:
            gradients(network, inputs[: len(rows)], 0)
        else:
            with torch.inference_mode():
                network(inputs[: len(rows)].to(network.dtype)).softmax(1)


def captum_lime(network: Network, image: Tensor, segments: Tensor, samples: int) -> Callable[[], object]:
    """Captum's Lime with the same superpixels and hidden colours, float32."""
    hidden = network.normalise(mean_colours(image, segments))
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


def measure(config: DictConfig, method: str, folder: Path) -> dict[str, object]:
    """One row: a network and an explainer."""
    context = Context(config)
    samples, backward = SAMPLES[method], method == "smoothgrad"
    (member,) = context.initial
    records = explain._choose_images(context)
    superpixels = 0.0
    if not backward:
        apart = Context(config_like(config, folder / "apart"))
        superpixels = seconds(lambda: explain._cut_superpixels(apart, records))
    network = context.network(member)
    warm = context.network(member)
    bare(warm, 32, 32, context.size, backward)
    whole = seconds(lambda: explain.run(config))
    shards = context.explanations(member)
    precision = shards.note("precision")
    set_precision(network, precision, len(context.dataset.classes))
    bare(network, context.batch_size, context.batch_size, context.size, backward)
    passes = seconds(lambda: bare(network, samples, context.batch_size, context.size, backward), 5) * len(records)
    image = torch.from_numpy(context.image(records[0])).permute(2, 0, 1)
    plain = context.network(member)
    plain.model.to(memory_format=torch.contiguous_format)
    row: dict[str, object] = {
        "network": member.name,
        "explainer": f"{method}, {samples} samples",
        "precision": precision,
        "images": len(records),
        "stage, s/image": whole / len(records),
        "bare passes, s/image": passes / len(records),
        "stage / bare": whole / passes,
    }
    if backward:
        captum = seconds(captum_smoothgrad(plain, image, samples), OTHERS)
        return row | {"captum / stage": captum * len(records) / whole}
    segments = context.labels("quickshift").values(records[0].image_id).reshape(context.size, context.size)
    captum = seconds(captum_lime(plain, image, segments, samples), OTHERS)
    package = seconds(package_lime(plain, image, segments, samples), OTHERS)
    return row | {
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
    """Print a table an explainer."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    with scratch() as folder:
        members = with_random_weights(folder, NETWORKS, 1000, 224)
        for method, precision in (("lime", "auto"), ("smoothgrad", "auto"), ("smoothgrad", "bfloat16")):
            rows, samples = [], SAMPLES[method]
            for name, specification in members.items():
                out = folder / f"{name}_{method}_{precision}"
                fixed = [f"explainer={method}", f"explainer.samples={samples}", "explain.only_correct=none"]
                fixed += [f"output_dir={out}", "explain.compile=never", f"explain.precision={precision}"]
                rows.append(measure(config_of("explain", [*sys.argv[1:], *fixed], {name: specification}), method, out))
                print(rows[-1], flush=True)
            show(f"{method}, explain.precision={precision}", rows)


if __name__ == "__main__":
    main()
