"""How the time of `explain` grows with members, images, samples, superpixels and pixels: four sizes of each.

Usage: python scripts/bench_growth.py [key=value ...]. Drawn images and a small network with random weights.
"""

import sys
from pathlib import Path

import numpy as np
from benchmark import config_of, scratch, seconds, show, with_random_weights

from xconsensus.stages import explain

BASE = {"members": 2, "images": 8, "side": 224}
SIZES = {"members": (1, 2, 4, 8), "images": (4, 8, 16, 32), "side": (64, 112, 160, 224)}
CASES = {
    "lime": (
        {**BASE, "samples": 256, "superpixels": 50},
        {**SIZES, "samples": (128, 256, 512, 1024), "superpixels": (25, 50, 100, 200)},
    ),
    "smoothgrad": ({**BASE, "samples": 50}, {**SIZES, "samples": (25, 50, 100, 200)}),
}


def run(method: str, case: dict[str, int], overrides: list[str]) -> float:
    """Seconds of the stage."""
    with scratch() as folder:
        network = {"library": "timm", "model": "mobilenetv3_small_050"}
        networks = {f"network{number}": network for number in range(case["members"])}
        members = with_random_weights(Path(folder), networks, 12, case["side"])
        fixed = [f"explainer={method}", f"explainer.samples={case['samples']}", f"output_dir={folder}/outputs"]
        fixed += [f"dataset.size={case['side']}", f"dataset.resize={case['side'] * 8 // 7}"]
        fixed += [f"explain.images={case['images']}", "explain.only_correct=none", "explain.precision=float32"]
        if method == "lime":
            fixed.append("~explainer.segmenter")
            segmenter = {"name": "slic", "n_segments": case["superpixels"], "compactness": 10, "start_label": 0}
            fixed += [f"+explainer.segmenter.{key}={value}" for key, value in segmenter.items()]
        config = config_of("explain", [*overrides, *fixed], members)
        return seconds(lambda: explain.run(config))


def main() -> None:
    """Print a table an explainer: seconds at each size, and the exponent of the growth."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    for method, (base, cases) in CASES.items():
        run(method, {**base, "samples": 16}, sys.argv[1:])  # first times of everything
        rows: list[dict[str, object]] = []
        for name, sizes in cases.items():
            spent = [run(method, {**base, name: size}, sys.argv[1:]) for size in sizes]
            amounts = [size**2 for size in sizes] if name == "side" else list(sizes)
            exponent = float(np.polyfit(np.log(amounts), np.log(spent), 1)[0])
            slope = (spent[-1] - spent[0]) / (amounts[-1] - amounts[0])
            rows.append(
                {
                    "of": "pixels" if name == "side" else name,
                    "sizes": ", ".join(map(str, amounts)),
                    "seconds": ", ".join(f"{each:.2f}" for each in spent),
                    "exponent": exponent,
                    "seconds for one more": slope,
                }
            )
        show(f"{method}, otherwise {base}", rows)


if __name__ == "__main__":
    main()
