"""The lowest version of every direct dependency and of those of the tests, as pip takes them: name==version.

Usage: python scripts/lowest.py
"""

import re
import sys
import tomllib
from pathlib import Path


def lowest() -> list[str]:
    """Of each ``name>=version`` in pyproject.toml; ValueError for one without a lower bound."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    found = []
    for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        match = re.match(r"([\w.-]+)>=([\w.]+)(,|$)", text)
        if not match:
            raise ValueError(f"{text} has no lower bound")
        found.append(f"{match[1]}=={match[2]}")
    return found


def main() -> None:
    """Print them, one a line."""
    print(__doc__ if {"-h", "--help"} & set(sys.argv[1:]) else "\n".join(lowest()))


if __name__ == "__main__":
    main()
