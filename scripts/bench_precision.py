"""What reduced precision does to explanations and scores, and to speed: explain.precision against float32.

Usage: python scripts/bench_precision.py [lime] [smoothgrad] key=value ..., the keys of `xconsensus run`, such as
experiment=imagenet_sample root=FOLDER explain.images=20 output_dir=FOLDER. Runs both, vote and score included, in
explain.precision, auto unless given, and in float32.

Or: python scripts/bench_precision.py speed FOLDER, which holds models.json (a list of name, file, library,
architecture, kwargs, input_size, resize, mean, std), weights, and extra_archs.py. Forward passes of each model in
float32 and in what this device has besides, int8 on a CPU or float16 on a GPU, and which of them auto takes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from benchmark import config_of, images_per_second, show

from xconsensus.arithmetic.fewer_bits import FewerBits, in_precision, noise
from xconsensus.arithmetic.folding import fold
from xconsensus.arithmetic.int8 import Int8
from xconsensus.arithmetic.precision import by_rule, check_precision, products_a_conversion
from xconsensus.errors import InputError
from xconsensus.experiment.artefacts import explained_images, explanations_of
from xconsensus.experiment.experiment import start
from xconsensus.members.checkpoints import read_weights
from xconsensus.members.member import members_of
from xconsensus.members.network import Network
from xconsensus.members.weights import build, fill
from xconsensus.scores.metrics import correlation
from xconsensus.stages import explain, finetune, score, vote
from xconsensus.store.files import read_csv

SAMPLES = {"lime": 350, "smoothgrad": 50}


def table_of(method: str, overrides: list[str]) -> list[dict[str, object]]:
    """One row a member."""
    experiments = {}
    given = dict(each.split("=", 1) for each in overrides).get("explain.precision", "auto")
    for precision in (given, "float32"):
        fixed = [f"explainer={method}", f"explainer.name={method}_{precision}", f"explain.precision={precision}"]
        config = config_of("run", [*overrides, *fixed])
        for stage in (finetune, explain, vote, score):
            stage.run(config)
        experiments[precision] = start(config)
    fewer, exact = experiments.values()
    ids = [record.image_id for record in explained_images(exact)]
    scores = {
        precision: read_csv(
            experiment.store.scores(experiment.committee, experiment.explainer_name) / "members.csv"
        ).set_index("member")["consensus_score"]
        for precision, experiment in experiments.items()
    }
    rows: list[dict[str, object]] = []
    for member in exact.members:
        one, other = explanations_of(fewer, member), explanations_of(exact, member)
        agreements = [np.corrcoef(one.values(i), other.values(i))[0, 1] for i in ids]
        same = [one.number(i, "predicted") == other.number(i, "predicted") for i in ids]
        rows.append(
            {
                "member": member.name,
                "took": one.note("precision"),
                "mean correlation": float(np.mean(agreements)),
                "least": float(np.min(agreements)),
                "where the label is the same": float(np.mean([a for a, s in zip(agreements, same, strict=True) if s])),
                "same label": f"{sum(same)}/{len(same)}",
                "score": float(scores[given][member.name]),
                "score float32": float(scores["float32"][member.name]),
            }
        )
    names = [member.name for member in exact.members]
    ranks = correlation(scores[given][names], scores["float32"][names]).spearman_r
    mean = float(np.mean([row["mean correlation"] for row in rows]))
    print(f"{method}: mean correlation {mean:.4f}, Spearman's r of the scores {ranks:.3f}")
    return rows


def networks_of(folder: Path) -> list[Network]:
    """The networks that FOLDER/models.json lists, with their weights."""
    specifications = {}
    for model in json.loads((folder / "models.json").read_text()):
        own = model["library"] == "extra_archs"
        specifications[model["name"]] = {
            "library": "module" if own else model["library"],
            "model": f"extra_archs.py:{model['architecture']}" if own else model["architecture"],
            "weights": model["file"],
            **{key: model[key] for key in ("kwargs", "input_size", "resize", "mean", "std")},
        }
    found = []
    for member in members_of(specifications, defaults={}, size=224, resize=256, weights_dir=str(folder)):
        model, file = build(member, 1000), str(member.weights)
        fill(model, member, read_weights(Path(file), member.name), file)
        found.append(Network(member, model))
    return found


def speed_of(network: Network) -> dict[str, object]:
    """One row: images a second in float32 and in the device's fewer bits, and what decides between them."""
    size, cuda = network.member.input_size, network.device.type == "cuda"
    batch_size, precision = (256, "float16") if cuda else (min(64, max(1, 2**20 // size**2)), "int8")
    row: dict[str, object] = {"member": network.member.name, "float32": images_per_second(network, size, batch_size)}
    taken = by_rule(network, [precision], 1000)
    try:
        fewer = in_precision(network, precision, 1000)
    except InputError:  # it has nothing that could
        return row | {precision: None, "ratio": None, "products a conversion": None, "auto": "float32"}
    assert isinstance(fewer, FewerBits)
    row[precision] = rate = images_per_second(fewer.rounded, size, batch_size)
    row["ratio"] = rate / float(str(row["float32"]))
    model = fewer.rounded.model
    row["products a conversion"] = products_a_conversion(model, noise(network)) if isinstance(model, Int8) else None
    return row | {"auto": taken.precision if isinstance(taken, FewerBits) else "float32"}


def main() -> None:
    """Print a table an explainer, or one of speed."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    if sys.argv[1:2] == ["speed"]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        check_precision("float16" if device.type == "cuda" else "int8", device, ["int8"])
        show("images a second", [speed_of(fold(network.to(device))) for network in networks_of(Path(sys.argv[2]))])
        return
    overrides = [argument for argument in sys.argv[1:] if "=" in argument]
    for method in [argument for argument in sys.argv[1:] if argument in SAMPLES] or SAMPLES:
        show(method, table_of(method, [*overrides, f"explainer.samples={SAMPLES[method]}"]))


if __name__ == "__main__":
    main()
