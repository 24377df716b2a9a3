"""Who imports whom: CONTRIBUTING.md's table holds for every file, also for imports inside functions."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import xconsensus

PACKAGE = Path(xconsensus.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
ROOMS_OF_ONE = {"consensus", "tensors", "__main__"}
GROUND = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} - ROOMS_OF_ONE
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def table() -> dict[str, set[str]]:
    """Package -> the packages that it may use, as CONTRIBUTING.md has it."""
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|[^|]*\|([^|]*)\|$", CONTRIBUTING.read_text(), re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", used)) for room, used in rows}


def imports(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it, without the package's name."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("xconsensus."):
                yield name.removeprefix("xconsensus.")


def breaches(path: Path) -> list[str]:
    """What a file imports although its room may not."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if path.parent == PACKAGE and room not in ROOMS_OF_ONE:
        allowed: set[str] = set()
    else:
        allowed = table()[room] | {room}
    found = []
    for name in imports(path):
        used = name.split(".")[0]
        other_stage = room == used == "stages" and path.stem != "run"
        if (used != "__version__" and used not in allowed | GROUND) or other_stage:
            found.append(name)
    return found


def test_the_table_names_every_room() -> None:
    assert set(table()) == ROOMS | ROOMS_OF_ONE


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may_use(path: Path) -> None:
    assert breaches(path) == []


def test_a_breach_is_seen_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_imports.PACKAGE", tmp_path)
    for room, line in (
        ("figures", "from xconsensus.store.files import read_csv"),
        ("stages", "from xconsensus.stages import vote"),
    ):
        (tmp_path / room).mkdir()
        path = tmp_path / room / "score.py"
        path.write_text(f"def late():\n    {line}\n")
        assert len(breaches(path)) == 1
