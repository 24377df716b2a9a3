"""PaddleClas's own networks with random weights: their files and float64 logits, for tests/test_authors.py.

Usage: python scripts/paddle_reference.py OUT [NAME...]

Names are the paper's; without any they are read line by line from standard input. A name whose files are written is
printed. In OUT, which need not exist:

OUT/input.npy     float32, 1 x 3 x 224 x 224, normal
OUT/NAME.2.pdparams, NAME.4.pdparams   the same weights by paddle.save with pickle's protocols 2 and 4
OUT/NAME.npy      the logits of that input, float64, 1 x 1000, computed in float64 from the float32 weights

It runs in the environment of scripts/paddle_reference.txt, which `make test-authors` makes. Weights depend on the name
alone.
"""

import importlib
import importlib.util
import re
import sys
import warnings
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import numpy as np

SIZE = 224
PROTOCOLS = (2, 4)
# the paper's names of the networks that PaddleClas calls otherwise
_RENAMED = {
    "DarkNet53_ImageNet1k": "DarkNet53",
    "EfficientNetB0_Small": "EfficientNetB0_small",
    "GoogleNet": "GoogLeNet",
    "ShuffleNetV2": "ShuffleNetV2_swish",
}


def modules() -> dict[str, str]:
    """Which module of PaddleClas has each function that builds a network, ready to be imported.

    Importing paddleclas itself needs packages that no network needs, so each of its packages on the way to a network's
    file stands in without its own code. SystemExit without paddleclas.
    """
    found = importlib.util.find_spec("paddleclas")
    if not found or not found.origin:
        sys.exit("paddleclas is missing: use the environment of make test-authors")
    root = Path(found.origin).parent
    files = [path.relative_to(root) for path in root.glob("ppcls/arch/backbone/*/*.py")]
    for folder in {parent for path in (Path("ppcls/utils/any"), *files) for parent in path.parents[:-1]}:
        hollow = ModuleType(".".join(folder.parts))
        sys.modules[hollow.__name__] = hollow
        hollow.__path__ = [str(root / folder)]
    sys.modules |= {f"ppcls.utils.{each}": Mock() for each in ("logger", "save_load")}  # nothing is fetched
    return {
        function: ".".join(path.with_suffix("").parts)
        for path in files
        for function in re.findall(r"^def (\w+)\(", (root / path).read_text(), re.MULTILINE)
    }


def draw(layer: Any, random: np.random.Generator) -> None:
    """Fill a layer's own parameters: He's scale for weights, and scales and shifts that nothing cancels."""
    norm = hasattr(layer, "_variance")
    for parameter in layer.parameters(include_sublayers=False):
        shape = tuple(parameter.shape)
        if len(shape) > 1:  # (in, out) of a linear layer, (out, in, height, width) of a convolution
            fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
            values = random.standard_normal(shape, dtype="float32") * np.float32((2 / fan_in) ** 0.5)
        elif norm and parameter is layer.weight:
            values = random.uniform(0.5, 1.5, shape).astype("float32")
        else:
            values = random.normal(0, 0.3, shape).astype("float32")
        parameter.set_value(values)


def observe(layer: Any, inputs: Any, random: np.random.Generator) -> None:
    """Set a batch normalisation's statistics near those of its inputs, away by random amounts, rounded to float32.

    So activations keep their size through any depth, and a statistic that is swapped, missing or another layer's
    changes the logits. No variance is near 0, which would magnify rounding.
    """
    values = inputs[0].numpy()
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))
    variance = np.maximum(variance, np.median(variance) / 10) * random.uniform(0.8, 1.3, mean.shape)
    mean += random.normal(0, 0.1, mean.shape) * np.sqrt(variance)
    for statistic, value in ((layer._mean, mean), (layer._variance, variance)):
        statistic.set_value(value.astype("float32").astype("float64"))


def write(out: Path, name: str, network: Any, image: np.ndarray, paddle: Any) -> None:
    """One network's files in a folder: two of weights, one of logits."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    layers = network.sublayers(include_self=True)
    for layer in layers:
        draw(layer, random)
    network.to(dtype="float64")
    for layer in layers:
        if hasattr(layer, "_variance"):
            layer.register_forward_pre_hook(lambda layer, inputs: observe(layer, inputs, random))
    with paddle.no_grad():
        logits = network(paddle.to_tensor(image.astype("float64")))
    logits = logits[0] if isinstance(logits, (list, tuple)) else logits  # GoogLeNet's auxiliary outputs come after
    network.to(dtype="float32")
    for protocol in PROTOCOLS:
        paddle.save(network.state_dict(), str(out / f"{name}.{protocol}.pdparams"), protocol=protocol)
    np.save(out / f"{name}.npy", logits.numpy())


def main() -> None:
    """Write the files of each name."""
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv):
        sys.exit(__doc__)
    warnings.filterwarnings("ignore", "No ccache")
    import paddle

    out, where = Path(sys.argv[1]), modules()
    out.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), dtype="float32")
    np.save(out / "input.npy", image)
    for name in sys.argv[2:] or map(str.strip, sys.stdin):
        function = _RENAMED.get(name, name)
        if function not in where:
            sys.exit(f"PaddleClas has no network {name}")
        with paddle.utils.unique_name.guard():  # two networks may give parameters the same name
            network = getattr(importlib.import_module(where[function]), function)()
        network.eval()
        write(out, name, network, image, paddle)
        print(name, flush=True)


if __name__ == "__main__":
    main()
