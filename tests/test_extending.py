"""docs/extending.md: its examples, written to a folder as they stand there, and run."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Outcome, Project, done, paint, xconsensus
from safetensors.numpy import load_file

from xconsensus import own_code
from xconsensus.consensus import ballot_of
from xconsensus.datasets import load
from xconsensus.errors import InputError
from xconsensus.explainers import fewer_bits, make

DOCUMENT = (Path(__file__).parents[1] / "docs/extending.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (my/\S+)\n(.*?)```", DOCUMENT, re.DOTALL))
COMMANDS = [
    shlex.split(line.split("#")[0])
    for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
SMALL = ("finetune.epochs=1", "finetune.batch_size=4", "explain.only_correct=none", "explain.images=3", "threads=1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with my/ as in the document, and photographs/ with twelve images in a table."""
    assert len(FILES) == 7
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        paint(
            tmp_path / f"photographs/{number}.png",
            rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(10, 0).repeat(10, 1),
        )
        rows.append((f"{number}.png", ("day", "night")[number % 2], "train" if number < 8 else "test"))
    pd.DataFrame(rows, columns=["file", "class", "split"]).to_csv(tmp_path / "photographs/labels.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_documented_commands_run_and_give_what_the_examples_say(folder: Path) -> None:
    (run, ls, vote) = (command[1:] for command in COMMANDS)
    outcome = done(*run, *SMALL)
    assert "3 images, 3 members, Occlusion" in outcome.out
    listed = done(*ls).out
    assert all(re.search(rf"{name} +\S", listed) for name in ("tabled", "colours", "occlusion"))

    root = folder / "outputs/tabled"
    members = [each.name for each in (root / "explanations/occlusion").iterdir()]
    assert sorted(members) == ["narrow", "resnet", "wide"]
    explained = {name: only_file(root / "explanations/occlusion" / name) for name in members}
    offsets = explained["wide"]["offsets"]
    ballots = []
    for own in explained.values():
        parts = [own["values"][a:b] for a, b in pairwise(offsets)]
        ballots.append(np.concatenate([part >= np.sort(part)[-max(1, len(part) // 10)] for part in parts]))
    np.testing.assert_allclose(only_file(root / "consensus/colours/occlusion")["values"], np.mean(ballots, axis=0))

    squares = np.concatenate(
        [
            np.mean(
                [part**2 / np.linalg.norm(part) for own in explained.values() for part in [own["values"][a:b]]], axis=0
            )
            for a, b in pairwise(offsets)
        ]
    )
    done(*vote, *SMALL)
    np.testing.assert_allclose(only_file(root / "consensus/colours/occlusion")["values"], squares, rtol=1e-5)


def only_file(folder: Path) -> dict[str, np.ndarray]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


@pytest.mark.usefixtures("folder")
def test_the_example_explains_by_what_hiding_a_superpixel_changes() -> None:
    """Of a network that reads the mean red of the left half, only superpixels there matter."""
    from test_lime import image_of, network_of

    class Left(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            red = inputs[:, 0, :, : inputs.shape[-1] // 2].mean((1, 2))
            return torch.stack([red, -red], 1)

    explainer = make("my/occlusion.py:Occlusion", {"power": 1.0})
    image = image_of()
    assert image.segments is not None
    found = explainer(network_of(Left()), image, 5).values
    matters = np.unique(image.segments[:, : image.segments.shape[1] // 2])
    assert set(np.flatnonzero(found)) <= set(matters.tolist())
    assert len(found) == int(image.segments.max()) + 1
    assert fewer_bits(explainer) == ()  # nobody measured it with any


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("dataset.loader", "my/gone.py:Tabled", "cannot import my/gone.py:Tabled"),
        ("dataset.loader", "my/nets.py:Colours", "unexpected keyword argument 'root'"),
        ("explainer.method", "my/occlusion.py:Oclusion", "cannot import"),
        ("explainer.method", "my/nets.py:Colours", "is no dataclass"),
        ("explainer.vote", "my/votes.py:top_fifth", "cannot import"),
        ("explainer.pover", "2", "pover"),
    ],
)
def test_own_code_that_is_wrong_is_named_in_one_line(key: str, value: str, reason: str) -> None:
    outcome: Outcome = xconsensus(*COMMANDS[0][1:], *SMALL, f"+{key}={value}" if "pover" in key else f"{key}={value}")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert key in line
    assert reason in line


def test_artefacts_name_own_code_by_its_content_and_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my/votes.py").write_text("first")
    (tmp_path / "votes.py").write_text("first")
    found = own_code.settled(f"{tmp_path}/my/votes.py:top_tenth")
    assert re.fullmatch(r"votes\.py@[0-9a-f]{12}:top_tenth", found)
    assert own_code.settled(f"{tmp_path}/votes.py:top_tenth") == found
    (tmp_path / "votes.py").write_text("second")
    assert own_code.settled(f"{tmp_path}/votes.py:top_tenth") != found
    assert own_code.settled("package.module.Vote") == "package.module.Vote"
    assert own_code.settled("lime") == "lime"


def test_installed_packages_are_found_by_their_names() -> None:
    assert ballot_of("torch.abs") is torch.abs
    with pytest.raises(InputError, match=r"explainer.vote: cannot import torch.abz"):
        ballot_of("torch.abz")


def test_a_class_that_lacks_a_part_of_a_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("class Half:\n    classes = ['a']\n    has_masks = False\n")
    with pytest.raises(InputError, match="has no records; see docs/extending.md"):
        load({"loader": f"{tmp_path}/half.py:Half"})


LABELLED = """\
import numpy as np

from xconsensus.datasets import Record


class Labelled:
    classes, has_masks = ["a", "b"], False

    def __init__(self, label):
        self.label = label

    def records(self, split):
        return [Record("first.png", 1), Record("second.png", self.label)]

    def image(self, record):
        return np.random.default_rng(len(record.image_id)).integers(0, 255, (32, 32, 3), dtype=np.uint8)

    def mask(self, record):
        raise ValueError
"""


@pytest.mark.parametrize("explainer", ["lime", "smoothgrad"])
@pytest.mark.parametrize(("label", "target"), [(-1, "label"), (-2, "label"), (2, "label"), (2, "predicted")])
def test_a_label_of_no_class_is_never_explained(
    photographs: Project, tmp_path: Path, label: int, target: str, explainer: str
) -> None:
    (tmp_path / "labelled.py").write_text(LABELLED)
    (tmp_path / "conf/dataset").mkdir(parents=True)
    keys = f"name: labelled\nloader: {tmp_path}/labelled.py:Labelled\nlabel: {label}\nresize: 32\nsize: 32\n"
    (tmp_path / "conf/dataset/labelled.yaml").write_text(keys)
    own = [each for each in photographs.arguments if not each.startswith("dataset.")]
    arguments = (
        *own,
        "dataset=labelled",
        f"explainer={explainer}",
        "explainer.samples=4",
        f"explainer.target={target}",
    )
    refused = xconsensus("explain", *arguments)
    assert refused.code == 2
    assert f"image second.png: label {label} is none of the 2 classes" in refused.errors[0]
    assert not (photographs.outputs / "labelled/explanations").exists()
