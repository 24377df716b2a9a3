"""Whether two output folders hold the same numbers: every CSV file of the one beside that of the other.

Usage: python scripts/compare_outputs.py BEFORE AFTER [TOLERANCE], folders below outputs/ or outputs/ itself. Numbers
may differ by TOLERANCE, 1e-6 unless given, absolutely or relative to the larger; texts must be equal, rows and columns
in the same order. Files that BEFORE lacks are listed and are no difference. Exit code 1 where something differs.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd


def difference(before: Path, after: Path, tolerance: float) -> str | None:
    """What differs first between two tables; None where they are alike."""
    one, other = (pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in (before, after))
    if list(one) != list(other) or len(one) != len(other):
        return f"{one.shape} with columns {list(one)}, {other.shape} with {list(other)}"
    for column in one:
        first, second = one[column], other[column]
        if pd.api.types.is_numeric_dtype(first) and pd.api.types.is_numeric_dtype(second):
            alike = np.isclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            alike = (first.fillna("") == second.fillna("")).to_numpy()
        if not alike.all():
            row = int(np.flatnonzero(~alike)[0])
            return f"column {column}, row {row}: {first[row]} and {second[row]} ({int((~alike).sum())} rows differ)"
    return None


def main() -> None:
    """Print what differs, and how many tables were compared."""
    if len(sys.argv) not in (3, 4) or {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    before, after, tolerance = Path(sys.argv[1]), Path(sys.argv[2]), float((sys.argv[3:] or ["1e-6"])[0])
    tables = sorted(path.relative_to(before) for path in before.rglob("*.csv"))
    found = {
        str(path): difference(before / path, after / path, tolerance) if (after / path).is_file() else "is missing"
        for path in tables
    }
    differing = {path: what for path, what in found.items() if what}
    for path, what in differing.items():
        print(f"{path}: {what}")
    new = sorted(str(path.relative_to(after)) for path in after.rglob("*.csv") if path.relative_to(after) not in tables)
    alike = f"{len(tables) - len(differing)} of {len(tables)} tables are alike to {tolerance:g}"
    print(f"{alike}; new: {', '.join(new) or '-'}")
    sys.exit(1 if differing or not tables else 0)


if __name__ == "__main__":
    main()
