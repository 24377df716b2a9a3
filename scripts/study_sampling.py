"""How many samples LIME needs: each way to draw masks against a reference of many independent ones.

Usage: python scripts/study_sampling.py OUT.csv key=value ..., the keys of `xconsensus explain`, such as
experiment=imagenet_sample root=FOLDER explain.images=20 'committee.only=[squeezenet1_1]'. Rows are appended to
OUT.csv, member and image pairs that it holds are not made again, and all of it is summed up at the end.

fidelity: correlation of a fit's weights with the reference's. agreement: of the fits of two independent draws, which
is what `reliability` estimates from one of them.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from benchmark import config_of
from torch import Tensor

from xconsensus.arithmetic.folding import fold
from xconsensus.datasets import Record
from xconsensus.datasets.selection import choose
from xconsensus.experiment.artefacts import with_trained_weights
from xconsensus.experiment.experiment import Experiment, start
from xconsensus.explainers.gaussian_process import fit_process
from xconsensus.explainers.lime import POPULATION, REGRESSIONS, changes_by_hiding, kernel_weights, mean_colours, perturb
from xconsensus.explainers.masks import SAMPLINGS, draw_masks, draw_population
from xconsensus.explainers.regression import Fit, fit
from xconsensus.explainers.superpixels import segment
from xconsensus.jobs.process import batch_size_of
from xconsensus.members.network import Network, network_of
from xconsensus.seeding import generator

METHODS = (*SAMPLINGS, "glime")
REFERENCE = 8192
COUNTS = (64, 128, 192, 256, 350, 512, 724, 1000)
DRAWS = 2
WIDTH = 0.25


def glime_masks(samples: int, superpixels: int, draw: torch.Generator) -> Tensor:
    """Masks drawn with LIME's kernel as their probability, so that all weigh the same (Tan et al. 2023, GLIME)."""
    visible = torch.arange(superpixels + 1, dtype=torch.float64)
    binomial = torch.distributions.Binomial(superpixels, torch.tensor(0.5, dtype=torch.float64)).log_prob(visible).exp()
    kernel = torch.exp(-((1 - (visible / superpixels).sqrt()) ** 2) / WIDTH**2).sqrt()
    counts = torch.multinomial(binomial * kernel, samples, replacement=True, generator=draw)
    ranks = torch.rand(samples, superpixels, generator=draw).argsort(1).argsort(1)
    return ranks < counts[:, None]


def probability_of(network: Network, pixels: Tensor, segments: Tensor, batch_size: int) -> Callable[[Tensor], Tensor]:
    """The probability of the predicted class of one image under masks (n, K), as a function of these."""
    original, hidden = (network.normalise(part.to(network.device)) for part in (pixels, mean_colours(pixels, segments)))
    on_device = segments.to(network.device)

    def outputs(masks: Tensor) -> Tensor:
        with torch.inference_mode():
            batches = (
                perturb(original, hidden, on_device, part.to(network.device)) for part in masks.split(batch_size)
            )
            return torch.cat([network(batch).softmax(1).cpu() for batch in batches])

    target = int(outputs(torch.ones(1, int(segments.max()) + 1, dtype=torch.bool)).argmax())
    return lambda masks: outputs(masks)[:, target]


def study(experiment: Experiment, network: Network, record: Record) -> list[dict[str, object]]:
    """One row a sampling and count, of one image and member."""
    image = experiment.images.image(record)
    settings = {key: value for key, value in experiment.explainer["segmenter"].items() if key != "name"}
    segments = torch.from_numpy(segment(image, "quickshift", settings))
    superpixels = int(segments.max()) + 1
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    outputs, changes = (
        probability_of(network, pixels, segments, batch_size_of("auto", experiment.device, experiment.images.size)),
        changes_by_hiding(pixels, segments),
    )

    population = draw_population(POPULATION, superpixels, 0.5, generator(experiment.seed, record.image_id))
    importance = kernel_weights(population, WIDTH)

    def fitted(regression: str, masks: Tensor, probabilities: Tensor, weights: Tensor, pairs: bool) -> Fit:
        if regression == "linear":
            return fit(masks, probabilities, weights, pairs=pairs)
        return fit_process(masks, probabilities, weights, changes, population, importance, pairs=pairs)

    def fits(sampling: str, number: str, counts: tuple[int, ...], names: tuple[str, ...]) -> list[dict[str, Fit]]:
        """The regressions of these names of the first of these masks, for each count."""
        draw = generator(experiment.seed, f"{record.image_id} {sampling} {number}")
        if sampling == "glime":
            masks = glime_masks(counts[-1], superpixels, draw)
            weights = torch.ones(len(masks))
        else:
            masks = draw_masks(counts[-1], superpixels, sampling, 0.5, draw)
            weights = kernel_weights(masks, WIDTH)
        probabilities, pairs = outputs(masks), sampling == "hadamard"
        return [
            {name: fitted(name, masks[:n], probabilities[:n], weights[:n], pairs) for name in names} for n in counts
        ]

    reference = fits("iid", "reference", (REFERENCE,), ("linear",))[0]["linear"]
    rows: list[dict[str, object]] = []
    for sampling in METHODS:
        draws = [fits(sampling, str(number), COUNTS, REGRESSIONS) for number in range(DRAWS)]
        for count, pair in zip(COUNTS, zip(*draws, strict=True), strict=True):
            for regression in REGRESSIONS:
                one, other = (each[regression] for each in pair)
                rows.append(
                    {
                        "sampling": sampling if regression == "linear" else f"{sampling} {regression}",
                        "samples": count,
                        "superpixels": superpixels,
                        "fidelity": (_r(one, reference) + _r(other, reference)) / 2,
                        "agreement": _r(one, other),
                        "reliability": (one.reliability + other.reliability) / 2,
                        "reference_reliability": reference.reliability,
                    }
                )
    return rows


def _r(first: Fit, second: Fit) -> float:
    return float(torch.corrcoef(torch.stack([first.coefficients, second.coefficients]))[0, 1])


def samples_needed(fidelity: pd.Series, goal: float) -> float:
    """The count at which fidelity, indexed by count, first reaches the goal; linear in log count between two counts."""
    counts, values = np.log(fidelity.index.to_numpy(float)), np.maximum.accumulate(fidelity.to_numpy())
    return float(np.exp(np.interp(goal, values, counts, right=np.nan)))


def summary(table: pd.DataFrame) -> None:
    """Print fidelity by count, the samples that reach that of iid at 1000, and whether reliability keeps its word."""
    pairs = table.groupby(["member", "image_id"]).ngroups
    print(f"\nmean fidelity, {table.member.nunique()} members, {pairs} explanations, reference {REFERENCE} iid masks")
    fidelity = table.pivot_table(index="samples", columns="sampling", values="fidelity")
    print(fidelity.round(3).to_string())
    print("\nsamples for the fidelity of 1000 iid ones")
    needed = {"all": table, **{str(name): part for name, part in table.groupby("member")}}
    large = table.superpixels > 100
    needed |= {"over 100 superpixels": table[large], "at most 100 superpixels": table[~large]}
    needed["clear (reliability of iid at 1000 >= 0.5)"] = _where(table, lambda values: values >= 0.5)
    needed["mostly noise (below 0.5)"] = _where(table, lambda values: values < 0.5)
    for name, part in needed.items():
        if part.empty:
            continue
        means = part.pivot_table(index="samples", columns="sampling", values="fidelity")
        goal = means["iid"][1000]
        counts = " ".join(f"{method} {samples_needed(means[method], goal):.0f};" for method in means)
        print(f"  {name} ({part.groupby(['member', 'image_id']).ngroups}), fidelity {goal:.3f}: {counts}")
    print("\nreliability against the agreement of two draws, by reliability (mean reliability / mean agreement, n)")
    bins = pd.cut(table.reliability, [-0.01, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
    for (method, interval), cell in table.groupby(["sampling", bins.astype(str)]):
        print(
            f"  {method:<18}{interval:<14} {cell.reliability.mean():.2f} / {cell.agreement.mean():.2f}  ({len(cell)})"
        )


def _where(table: pd.DataFrame, test: Callable[[pd.Series], pd.Series]) -> pd.DataFrame:
    usual = table[(table.sampling == "iid") & (table.samples == 1000)].set_index(["member", "image_id"])
    kept = usual.index[test(usual.reliability)]
    return table[pd.MultiIndex.from_frame(table[["member", "image_id"]]).isin(kept)]


def main() -> None:
    """Study every member and image that the file lacks, then sum the file up."""
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv[1:]) or "=" in sys.argv[1]:
        print(__doc__)
        return
    path, overrides = Path(sys.argv[1]), sys.argv[2:]
    experiment = start(config_of("explain", overrides))
    records = experiment.dataset.records(experiment.explain_split)
    records = choose(records, "random", experiment.config["explain"]["images"], None, experiment.seed)
    done = set()
    if path.exists():
        done = set(pd.read_csv(path)[["member", "image_id"]].itertuples(index=False, name=None))
    classes = len(experiment.dataset.classes)
    for member in experiment.own_members:
        network = fold(network_of(with_trained_weights(experiment, member), classes, experiment.device))
        missing = [record for record in records if (member.name, record.image_id) not in done]
        for number, record in enumerate(missing, 1):
            rows = study(experiment, network, record)
            frame = pd.DataFrame(rows).assign(member=member.name, image_id=record.image_id)
            frame.to_csv(path, mode="a", header=not path.exists(), index=False)
            print(f"{member.name} {number}/{len(missing)}", flush=True)
    summary(pd.read_csv(path))


if __name__ == "__main__":
    main()
