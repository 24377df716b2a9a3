"""The authors' networks against PaddleClas itself, and two of their files against those they were converted from."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xconsensus.members.checkpoints import is_counter, read_arrays
from xconsensus.members.fetching import fetch
from xconsensus.members.member import Member, members_of
from xconsensus.members.network import logits_of, network_of
from xconsensus.members.paddle import table
from xconsensus.members.transfer import Download

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("XCONSENSUS_PADDLE")  # of an environment with PaddleClas
PROTOCOLS = (2, 4)
# a line for each network that was compared; those that it holds are not compared again
ROWS = Path(os.environ.get("XCONSENSUS_AUTHORS_ROWS", os.devnull))
_ENTRIES = sorted(table.entries().values(), key=lambda each: each.numbers)
NAMES = [each.name for each in _ENTRIES if each.url.endswith(".pdparams")]
# In a process of its own: how much memory an expression with the file `path` takes, as a multiple of its tensors.
GROWTH = """
import re
import sys
from pathlib import Path

{imports}


def memory(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


path = Path(sys.argv[1])
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
tensors = {expression}
print((memory("VmHWM") - before) / sum(each.nbytes for each in tensors.values()))
"""
READING = "from xconsensus.members.checkpoints import read_arrays"
BUILDING = """
import torch
from test_authors import member_of, network_of
network_of(member_of("SqueezeNet1_1", None), 1000, torch.device("cpu"))  # imports what it needs
"""


class Paddle:
    """A process that writes PaddleClas's networks, one after another."""

    def __init__(self, python: str, folder: Path) -> None:
        command = [python, str(ROOT / "scripts/paddle_reference.py"), str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.folder = folder

    @contextmanager
    def files(self, name: str) -> Iterator[list[Path]]:
        """A network's files, one a protocol, as long as they are wanted."""
        assert self.process.stdin
        assert self.process.stdout
        print(name, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline().strip() == name
        paths = [self.folder / f"{name}.{protocol}.pdparams" for protocol in PROTOCOLS]
        yield paths
        for path in paths:
            path.unlink()

    def array(self, name: str) -> Tensor:
        """The input, or the logits of a network."""
        return torch.from_numpy(np.load(self.folder / f"{name}.npy")).double()


@pytest.fixture(scope="module")
def paddle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paddle]:
    if not PYTHON:
        pytest.skip("needs PaddleClas in an environment of its own: make test-authors")
    paddle = Paddle(PYTHON, tmp_path_factory.mktemp("paddle"))
    yield paddle
    paddle.process.communicate()


def member_of(model: str, path: Path | None) -> Member:
    weights = {"weights": str(path)} if path else {}
    one = {"family": "authors", "library": "paddle", "model": model, **weights}
    (member,) = members_of({"authors": one}, defaults={}, size=224, resize=256)
    return member


def exactly(model: nn.Module, weights: Mapping[str, NDArray[np.float32]], factors: Mapping[str, float]) -> nn.Module:
    """The model in float64 with what Paddle holds in float32 and multiplies in float64: epsilon, and dropout's factors.

    A weight in which a factor is folded is rounded to float32, so the file's own one takes its place, scaled anew.
    """
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = float(np.float32(module.eps))
    for key, factor in factors.items():
        folded = model.get_parameter(key)
        turned = [array.T if array.ndim == 2 else array for array in weights.values()]
        scaled = [array * np.float64(np.float32(factor)) for array in turned if array.shape == folded.shape]
        (exact,) = (each for each in scaled if np.allclose(each, folded, rtol=2e-7, atol=0))
        folded.data.copy_(torch.from_numpy(exact))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_paddleclas(name: str, paddle: Paddle) -> None:
    if ROWS.exists() and any(line.startswith(f"{name},") for line in ROWS.read_text().splitlines()):
        pytest.skip(f"{ROWS} has it")
    with paddle.files(name) as paths:
        weights, others = (read_arrays(path, name) for path in paths)
        assert list(weights) == list(others)
        assert all(np.array_equal(others[key], array) for key, array in weights.items())
        member = member_of(name, paths[0])
        model = exactly(network_of(member, 1000, torch.device("cpu")).model, weights, table.entries()[name].factors)
    expected = paddle.array(name)
    with torch.inference_mode():
        found = logits_of(model(paddle.array("input")))
    difference = float((found - expected).abs().max() / expected.abs().max())
    assert difference <= 1e-10
    with ROWS.open("a") as rows:
        rows.write(f"{name},{len(weights)},{difference:.0e}\n")


def growth(path: Path, imports: str, expression: str) -> float:
    """The most memory that an expression takes on its way, as a multiple of its tensors."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("reads the highest memory of a process from Linux's /proc")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    code = GROWTH.replace("{imports}", imports).replace("{expression}", expression)
    command = [sys.executable, "-c", code, str(path)]
    return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reading_takes_at_most_two_and_a_half_times_the_tensors(tmp_path: Path, protocol: int) -> None:
    """Three quarters in one tensor, as in VGG; under protocol 2 the file is half as large again."""
    random = np.random.default_rng(0)
    weights = {f"{size}": random.standard_normal(size * 2**17, dtype="float32") for size in (96, 16, 12, 3, 1)}
    path = tmp_path / "large.pdparams"
    path.write_bytes(pickle.dumps({**weights, "StructuredToParameterName@@": {}}, protocol))
    assert (path.stat().st_size > 1.4 * 2**26) == (protocol == 2)
    assert 0.9 <= growth(path, READING, "read_arrays(path, 'large')") <= 2.5


@pytest.mark.parametrize("protocol", range(len(PROTOCOLS)), ids=PROTOCOLS)
def test_a_network_takes_at_most_two_and_a_half_times_its_tensors(paddle: Paddle, protocol: int) -> None:
    with paddle.files("AlexNet") as paths:
        built = "network_of(member_of('AlexNet', path), 1000, torch.device('cpu')).model.state_dict()"
        assert 0.9 <= growth(paths[protocol], BUILDING, built) <= 2.5


@pytest.mark.skipif(
    "XCONSENSUS_AUTHORS_FILES" not in os.environ,
    reason="fetches the authors' files and those of the Hugging Face hub, so needs the internet: make test-authors-files",
)
@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("ResNeXt101_32x8d_wsl", "resnext101_32x8d.fb_wsl_ig1b_ft_in1k"),
        ("EfficientNetB1", "tf_efficientnet_b1.aa_in1k"),
    ],
)
def test_a_converted_file_holds_what_it_was_converted_from(name: str, timm_name: str, tmp_path: Path) -> None:
    """Paddle converted these two from PyTorch's and TensorFlow's: reader, order and names are right if they are equal."""
    from xconsensus.compat import torchvision  # noqa: F401, I001  (timm imports torchvision)
    import timm

    path = tmp_path / f"{name}.pdparams"
    fetch(Download(name, table.entries()[name].url, path, 2**30))
    found = network_of(member_of(name, path), 1000, torch.device("cpu")).model.state_dict()
    expected = timm.create_model(timm_name, pretrained=True).state_dict()
    assert found.keys() == expected.keys()
    differing = [key for key in expected if not is_counter(key) and not torch.equal(found[key], expected[key])]
    assert not differing
