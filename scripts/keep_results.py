"""Copy a run's tables and figures to docs/results; galleries of photographs are not ours to distribute.

Usage: python scripts/keep_results.py OUTPUTS/DATASET/ [--galleries]   (--galleries: figures 1 and 15 too, for `shapes`)
"""

import shutil
import sys
from pathlib import Path

from PIL import Image

RESULTS = Path(__file__).parents[1] / "docs/results"
GALLERIES = ("fig01", "fig02", "fig03", "fig09", "fig12", "fig13", "fig14", "fig15")


def main() -> None:
    """Replace docs/results/DATASET; SystemExit where the run has no tables of one committee."""
    words = [word for word in sys.argv[1:] if word != "--galleries"]
    if len(words) != 1:
        sys.exit(__doc__)
    source = Path(words[0])
    committees = sorted(source.glob("tables/*/"))
    if len(committees) != 1:
        sys.exit(f"{source}: tables/ of one committee are wanted, there are {[path.name for path in committees]}")
    left_out = tuple(set(GALLERIES) - ({"fig01", "fig15"} if "--galleries" in sys.argv else set()))
    tables = [path for path in committees[0].iterdir() if path.suffix in (".csv", ".md")]
    figures = (source / "figures" / committees[0].name).glob("*.png")
    kept = sorted([*tables, *(path for path in figures if not path.name.startswith(left_out))])
    target = RESULTS / source.resolve().name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in kept:
        if path.suffix == ".png":  # in 256 colours, a third of the size
            Image.open(path).convert("RGB").quantize(256).save(target / path.name, optimize=True)
        else:
            shutil.copyfile(path, target / path.name)
    print(f"{len(kept)} files in {target}")


if __name__ == "__main__":
    main()
