"""Own files that import their neighbours: what they find, and what counts in their digest."""

import re
from pathlib import Path

import pytest
from conftest import MODULE, Project

from xconsensus import own_code
from xconsensus.errors import InputError


def write(folder: Path, **files: str) -> None:
    """Files of Python; a__b stands for a/b.py."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def load(path: Path, name: str = "VALUE") -> object:
    return own_code.load(f"{path}:{name}", "member a")


@pytest.mark.parametrize(
    "line",
    [
        "from blocks import VALUE",
        "import blocks; VALUE = blocks.VALUE",
        "import blocks as b; VALUE = b.VALUE",
        "from .blocks import VALUE",
        "from . import blocks; VALUE = blocks.VALUE",
        "from parts.levels import VALUE",
        "import parts.levels; VALUE = parts.levels.VALUE",
        "import parts.levels as p; VALUE = p.VALUE",
        "from parts import levels; VALUE = levels.VALUE",
        "from parts import levels as p; VALUE = p.VALUE",
        "from whole import VALUE",
        "from whole import *",
        "import whole.inner; VALUE = whole.inner.VALUE",
        "def late():\n    from blocks import VALUE\n    return VALUE\nVALUE = late()",
    ],
)
def test_a_file_imports_its_neighbours_and_they_count(tmp_path: Path, line: str) -> None:
    write(tmp_path, net=line, blocks="VALUE = 3\n", parts__levels="VALUE = 3\n", unused="VALUE = 0\n")
    write(tmp_path / "whole", init="", inner="from blocks import VALUE\n")
    (tmp_path / "whole/init.py").replace(tmp_path / "whole/__init__.py").write_text("from .inner import VALUE\n")
    assert load(tmp_path / "net.py") == 3
    assert not list(tmp_path.rglob("__pycache__"))
    name = f"{tmp_path}/net.py:VALUE"
    before = own_code.settled(name)
    write(tmp_path, unused="VALUE = 9\n")
    assert own_code.settled(name) == before
    write(tmp_path, blocks="VALUE = 4\n", parts__levels="VALUE = 4\n")
    assert own_code.settled(name) != before
    assert load(tmp_path / "net.py") == 4


def test_a_file_without_neighbours_keeps_its_digest(tmp_path: Path) -> None:
    import hashlib

    write(tmp_path, net="import torch, math\nVALUE = 1\n", other="")
    digest = hashlib.sha256((tmp_path / "net.py").read_bytes()).hexdigest()[:12]
    assert own_code.settled(f"{tmp_path}/net.py:VALUE") == f"net.py@{digest}:VALUE"


def test_two_folders_may_have_modules_of_one_name_also_late(tmp_path: Path) -> None:
    text = "def value():\n    import blocks\n    return blocks.VALUE\n"
    for number in (1, 2):
        write(tmp_path / str(number), net=text, blocks=f"VALUE = {number}\n")
    first, second = (load(tmp_path / str(number) / "net.py", "value") for number in (1, 2))
    assert (first(), second(), first()) == (1, 2, 1)  # type: ignore[operator]


def test_a_file_called_as_a_library_imports_the_library(tmp_path: Path) -> None:
    write(tmp_path, numpy="import numpy\nVALUE = numpy.float32(2) + numpy.linalg.norm([3, 4])\n")
    (tmp_path / "torch").mkdir()  # a folder of weights, say
    write(tmp_path, net="import torch\nVALUE = int(torch.ones(3).sum())\n")
    assert (load(tmp_path / "numpy.py"), load(tmp_path / "net.py")) == (7, 3)


def test_dataclasses_with_annotations_that_are_texts(tmp_path: Path) -> None:
    write(
        tmp_path,
        net="from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Options:\n"
        "    width: int = 3\n\n\nVALUE = Options().width\n",
    )
    assert load(tmp_path / "net.py") == 3


def test_a_neighbour_that_fails_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, net="import blocks\n", blocks="import sys\nsys.exit(3)\n")
    with pytest.raises(InputError, match=r"sys.exit\(3\) \(.*blocks.py, line 2\)"):
        load(tmp_path / "net.py")


@pytest.mark.parametrize("changed", [True, False])
def test_a_changed_neighbour_stops_the_stage(photographs: Project, changed: bool) -> None:
    models = photographs.folder / "models"
    (models / "grids.py").write_text(f"from sides import SIDE\n{MODULE.replace('side=8', 'side=SIDE')}")
    write(models, sides="SIDE = 8\n", unused="SIDE = 8\n")
    photographs.done("finetune", "committee.only=[first]")
    files = photographs.files()
    write(models, **{"sides" if changed else "unused": "SIDE = 4\n"})
    outcome = photographs.run("finetune", "committee.only=[first]")
    assert (outcome.code, len(outcome.errors)) == ((2, 1) if changed else (0, 0)), outcome.err
    assert not changed or re.search(r"first.* made with other settings: .*grids\.py@", outcome.errors[0])
    assert photographs.files() == files
