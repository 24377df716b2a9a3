"""What docs/results keeps of a run is its tables, and figures that show no photograph."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "scripts/keep_results.py"


def keep(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> set[str]:
    """The files that the script leaves of a run in ``folder``/pets."""
    script = runpy.run_path(str(SCRIPT))
    script["main"].__globals__["RESULTS"] = folder / "results"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder / "pets"), *words])
    script["main"]()
    return {path.name for path in (folder / "results/pets").iterdir()}


def test_galleries_are_left_out_and_old_results_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tables/ten/table2.csv", "tables/ten/table2.md", "tables/ten/table2.tex", "tables/earlier.txt"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).touch()
    (tmp_path / "pets/figures/ten").mkdir(parents=True)
    for name in ("fig05.png", "fig05.pdf", "fig03_1.png", "fig15.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "pets/figures/ten" / name)
    (tmp_path / "results/pets").mkdir(parents=True)
    (tmp_path / "results/pets/old.csv").touch()
    plain = {"table2.csv", "table2.md", "fig05.png"}
    assert keep(monkeypatch, tmp_path) == plain
    assert keep(monkeypatch, tmp_path, "--galleries") == plain | {"fig15.png"}
    (tmp_path / "pets/tables/other").mkdir()
    with pytest.raises(SystemExit, match="tables/ of one committee are wanted"):
        keep(monkeypatch, tmp_path)
