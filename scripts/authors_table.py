"""docs/authors.md: what tests/test_authors.py found of every network of the authors; `make authors-table` runs both.

Usage: python scripts/authors_table.py   (reads build/authors.csv: name, tensors, difference)
"""

import csv
import sys
from pathlib import Path

from xconsensus.members.paddle import table

ROOT = Path(__file__).parents[1]
TEXT = """\
# The authors' networks

The paper's committees are PaddlePaddle's public models. `library: paddle` builds {count} of them from layers of timm
and torchvision and fills them from the authors' own files. This table shows that they are the same networks: each was
built by PaddleClas 2.6.0 with random weights, written by pickle's protocols 2 and 4, and read by `xconsensus`.

The last column is the largest difference between both libraries' logits of one random image of 224x224, over the
largest logit. All is computed in float64 from the same float32 weights: deep random networks magnify float32's
rounding up to 3e-4, as much as a small fault would. A factor is that by which Paddle scales a layer's input at
inference, where it has dropout; `xconsensus` scales the layer's weight instead, here in float64. The factors and batch
normalisation's epsilon are rounded to float32, as Paddle holds them.

`make test-authors` compares anew, in an environment of its own with PaddlePaddle (0.9 GB); `make authors-table` does so
for what `build/authors.csv` lacks, and writes this page. It shows nothing of the public files, which could not be
fetched here: `make test-authors-files` compares two of them with the models they were converted from.

## What the table does not show

- **Releases.** PaddleClas 2.x, from which these are, and release 1.8 of PaddlePaddle/models, which the paper cites,
  compute differently in four networks. 1.8 has dropout in front of the last layer of SE_ResNeXt50_32x4d,
  SE_ResNeXt101_32x4d (0.5) and SENet154_vd (0.2), so its inference multiplies what comes in by 0.5 or 0.8:
  probabilities are flatter, ranks stay but for the bias. 1.8's EfficientNetB0_Small pads on one side unless a flag
  says otherwise, which costs accuracy (the paper has 0.708, PaddleClas publishes 0.758). Which of them the authors
  ran is not said. `committee.release=1.8` takes all four as 1.8 has them; 2.x is the default.
- **ResNet50_ACNet** exists in 1.8 alone, as a tar. Its three branches are folded into a ResNet-50. A test folds a
  network of random weights; names and layout are read from the source, and no real tar has been seen.
- **AutoDL_4M and AutoDL_6M** exist in 1.8 alone. Their tars name most tensors by a counter, and which is which cannot
  be told without one, so timm's networks of like kind stand for them.
- **Input size.** The paper gives 224x224 to all. EfficientNetB1 to B5, Inception v4, Xception and DarkNet53 were
  trained and published at others. EfficientNets pad here as PaddleClas does at 224.
- **Preprocessing** is PaddleClas's: short edge 256 by OpenCV's bilinear filter, which does not smooth, then the
  centre 224x224. torch's filter, rounded, is within one grey level.

## The comparison

| network | function of `xconsensus/members/paddle/networks.py` | factors | tensors | difference |
|---|---|---|---|---|
"""


def main() -> None:
    """Write the page; SystemExit where a network was not compared."""
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    with (ROOT / "build/authors.csv").open() as file:
        measured = {name: (tensors, difference) for name, tensors, difference in csv.reader(file)}
    entries = {name: entry for name, entry in table.entries().items() if entry.url.endswith(".pdparams")}
    if missing := entries.keys() - measured.keys():
        sys.exit(f"not compared: {', '.join(sorted(missing))}: make authors-table")
    lines = []
    for name, entry in sorted(entries.items()):
        arguments = ", ".join(f"{key}={value}" for key, value in entry.arguments.items())
        factors = ", ".join(f"{key} {value}" for key, value in entry.factors.items())
        lines.append(f"| {name} | {entry.network}({arguments}) | {factors} | {' | '.join(measured[name])} |")
    page = TEXT.format(count=len(lines)) + "\n".join(lines) + "\n"
    (ROOT / "docs/authors.md").write_text(page)


if __name__ == "__main__":
    main()
