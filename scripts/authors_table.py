"""docs/authors.md: what the last `make test-authors` found of every network of the authors.

Usage: python scripts/authors_table.py   (reads build/authors.xml)
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

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

`make test-authors` compares anew, in an environment of its own with PaddlePaddle (0.9 GB), and
`.venv/bin/python scripts/authors_table.py` writes this page. It shows nothing of the public files, which could not be
fetched here: `make test-authors-files` compares two of them with the models they were converted from.

| network | function of `xconsensus/members/paddle/networks.py` | factors | tensors | difference |
|---|---|---|---|---|
"""


def main() -> None:
    """Write the page; SystemExit where a network was not compared."""
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    tests = ElementTree.parse(ROOT / "build/authors.xml").iter("testcase")
    found = [{each.get("name"): str(each.get("value")) for each in test.iter("property")} for test in tests]
    measured = {properties["network"]: properties for properties in found if "network" in properties}
    if missing := table.entries().keys() - measured.keys():
        sys.exit(f"not compared: {', '.join(sorted(missing))}: make test-authors")
    lines = []
    for name, entry in sorted(table.entries().items()):
        arguments = ", ".join(f"{key}={value}" for key, value in entry.arguments.items())
        factors = ", ".join(f"{key} {value}" for key, value in entry.factors.items())
        one = measured[name]
        lines.append(
            f"| {name} | {entry.network}({arguments}) | {factors} | {one['tensors']} | {float(one['difference']):.0e} |"
        )
    page = TEXT.format(count=len(lines)) + "\n".join(lines) + "\n"
    (ROOT / "docs/authors.md").write_text(page)


if __name__ == "__main__":
    main()
