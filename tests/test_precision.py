"""16-bit passes, compilation and batches: what they may change, and what not."""

import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project
from safetensors.torch import load_file
from torch import Tensor, nn

from xconsensus.arithmetic import precision
from xconsensus.arithmetic.precision import Padded, compile_if_worth, fastest, images_per_second, set_precision
from xconsensus.members.member import members_of
from xconsensus.members.network import Network
from xconsensus.members.weights import build
from xconsensus.stages import explain
from xconsensus.store.tensors import read_header

SIZE = 32


@pytest.fixture
def network() -> Network:
    specification = {"net": {"library": "timm", "model": "test_resnet"}}
    (member,) = members_of(specification, defaults={}, size=SIZE, resize=SIZE)
    torch.manual_seed(0)
    return Network(member, build(member, 5))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(7, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_the_body_computes_in_16_bits_and_the_head_in_32(network: Network, images: Tensor, kind: str) -> None:
    seen: dict[str, list[torch.dtype]] = {"convolution": [], "head": []}
    exact = network(images)
    for module in network.model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out: seen["convolution"].append(out.dtype))
    set_precision(network, kind, 5)
    network.model.fc.register_forward_hook(lambda _m, _i, out: seen["head"].append(out.dtype))
    rounded = network(images)
    assert set(seen["convolution"]) == {getattr(torch, kind)}
    assert set(seen["head"]) == {torch.float32}
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert np.corrcoef(rounded.flatten(), exact.flatten())[0, 1] > 0.999


def test_float32_changes_nothing(network: Network, images: Tensor) -> None:
    before = network(images)
    set_precision(network, "float32", 5)
    assert torch.equal(network(images), before)


@pytest.mark.parametrize(
    ("native", "speed", "bound", "chosen"),
    [
        ([], 9, 0.5, "float32"),
        (["bfloat16"], 9, 0.5, "float32"),
        (["float16"], 1.0, 0.5, "float32"),
        (["bfloat16", "float16"], 2, 0.5, "float16"),
        (["float16"], 2, 1e-9, "float32"),
    ],
)
@pytest.mark.parametrize("gradients", [False, True])
def test_auto_takes_fewer_bits_where_allowed_and_faster_and_changing_little(
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
    native: list[str],
    speed: float,
    bound: float,
    chosen: str,
    gradients: bool,
) -> None:
    monkeypatch.setattr(precision, "_native", lambda _: native)
    monkeypatch.setattr(precision, "_FAITHFUL", bound)
    rate = lambda network, *_: 1.0 if network.dtype == torch.float32 else speed  # noqa: E731
    monkeypatch.setattr(precision, "images_per_second", rate)
    assert fastest(network, SIZE, gradients, ["float16", "int8"]) == chosen
    assert network.dtype == torch.float32


@pytest.mark.parametrize("factor", [1.0, 1.25, 0.0])
def test_the_error_of_fewer_bits_is_relative_to_the_logits_in_float32(network: Network, factor: float) -> None:
    with network.computing(faster=lambda inputs: factor * network.model(inputs)):
        assert precision._error(network) == pytest.approx(abs(factor - 1), abs=1e-6)


def test_auto_leaves_out_what_exceeds_float16(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_native", lambda _: ["float16"])
    monkeypatch.setattr(precision, "images_per_second", lambda network, *_: 1.0 + (network.dtype == torch.float16))
    assert fastest(network, SIZE, True, ["float16"]) == "float16"
    next(network.model.parameters()).data.mul_(1e6)
    assert fastest(network, SIZE, True, ["float16"]) == "float32"


def test_labels_are_those_of_float32_whatever_the_precision(network: Network, images: Tensor) -> None:
    exact = network(images)
    set_precision(network, "bfloat16", 5)
    network.faster = lambda inputs: torch.zeros(len(inputs), 5)
    assert torch.equal(network.exactly(images), exact)
    assert network.dtype == torch.bfloat16
    assert not network(images).any()


@pytest.mark.parametrize(
    ("explainer", "gradients", "allowed"),
    [("lime", False, {"bfloat16", "float16", "int8"}), ("smoothgrad", True, {"float16"})],
)
def test_auto_is_chosen_for_what_the_explainer_computes(
    predicted: Project, monkeypatch: pytest.MonkeyPatch, explainer: str, gradients: bool, allowed: set[str]
) -> None:
    asked = []

    def fastest(_network: Network, _size: int, gradients: bool, allowed: Collection[str]) -> str:
        asked.append((gradients, {*allowed}))
        return "float16"

    monkeypatch.setattr("xconsensus.stages.explain.fastest", fastest)
    predicted.done("explain", f"explainer={explainer}", "explain.precision=auto")
    found = list(predicted.outputs.rglob(f"explanations/{explainer}/*/*.safetensors"))
    assert found
    assert {read_header(path)["precision"] for path in found} == {"float16"}
    assert all(each == (gradients, allowed) for each in asked)


def explained(project: Project, explainer: str, kind: str, name: str = "") -> tuple[dict[Path, Tensor], str]:
    """Explanations in a precision, of two members by file, and what was said."""
    name = name or f"{explainer}_{kind}"
    settings = (f"explainer={explainer}", f"explain.precision={kind}", f"explainer.name={name}")
    outcome = project.done("explain", "committee.only=[first,second]", *settings)
    folder = project.outputs / f"pets/explanations/{name}"
    return {path.relative_to(folder): load_file(path)["values"] for path in folder.rglob("*.safetensors")}, outcome.err


def equal(one: dict[Path, Tensor], other: dict[Path, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(values, other[path]) for path, values in one.items())


@pytest.mark.parametrize("explainer", ["lime", "smoothgrad"])
def test_an_image_that_exceeds_float16_is_explained_in_float32(
    predicted: Project, monkeypatch: pytest.MonkeyPatch, explainer: str
) -> None:
    forward = Network.forward

    def exceeding(self: Network, inputs: Tensor) -> Tensor:
        return forward(self, inputs) * (torch.nan if self.dtype == torch.float16 else 1)

    monkeypatch.setattr(Network, "forward", exceeding)
    exact, quiet = explained(predicted, explainer, "float32")
    found, said = explained(predicted, explainer, "float16")
    assert exact
    assert equal(found, exact)
    assert "spoilt" not in quiet
    assert all(f"{name}: 6 of 6 images explained in float32, as float16 spoilt" in said for name in ("first", "second"))


def test_an_image_that_fewer_bits_change_too_much_is_explained_in_float32(
    predicted: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = explained(predicted, "lime", "float32")
    for bound, name in ((1e-12, "strict"), (1e12, "lax")):
        monkeypatch.setattr(explain, "ROUNDING", bound)
        found, said = explained(predicted, "lime", "bfloat16", name)
        assert equal(found, exact) == ("as bfloat16 spoilt them" in said) == (name == "strict")


def test_auto_is_what_the_first_job_found_though_it_has_written_nothing_yet(
    predicted: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter(["bfloat16", *["float32"] * 20])
    monkeypatch.setattr("xconsensus.stages.explain.fastest", lambda *_: next(found))
    job = ("explain", "explainer=lime", "explain.precision=auto", "committee.only=[first]")
    predicted.done(*job)
    made = list(predicted.outputs.rglob("explanations/lime/first/*.safetensors"))
    for path in made:
        path.unlink()
    predicted.done(*job)
    assert made
    assert {read_header(path)["precision"] for path in made} == {"bfloat16"}


def test_a_compiled_network_sees_batches_of_one_size_only() -> None:
    sizes = []

    def run(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return inputs.flatten(1)[:, :2]

    images = torch.randn(10, 3, 4, 4)
    padded = Padded(run, 4)
    assert torch.equal(torch.cat([padded(part) for part in images.split(4)]), images.flatten(1)[:, :2])
    assert sizes == [4, 4, 4]


def test_few_passes_are_not_worth_compiling(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    assert not compile_if_worth(network, SIZE, 4, passes=100)
    assert network.faster is None


def test_a_compiler_that_fails_leaves_the_network_as_it_was(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler")

    before = network(images)
    monkeypatch.setattr(torch, "compile", fail)
    assert not compile_if_worth(network, SIZE, 4, passes=10**12)
    assert torch.equal(network(images), before)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="torch.compile needs a C++ compiler")
def test_compiling_changes_no_result_beyond_rounding(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = network(images)
    monkeypatch.setattr(precision, "_WORTH", 0.0)  # whatever the times here
    assert compile_if_worth(network, SIZE, 4, passes=10**12)
    with torch.inference_mode():
        after = torch.cat([network(part) for part in images.split(4)])
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device whose memory holds three images; the batches that were tried."""
    tried: list[int] = []
    forward = Network.forward

    def bounded(self: Network, inputs: Tensor) -> Tensor:
        tried.append(len(inputs))
        if len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, inputs)

    monkeypatch.setattr(Network, "forward", bounded)
    return tried


def test_out_of_memory_halves_the_batch_and_changes_no_result(predicted: Project, one_device: list[int]) -> None:
    for size in (16, 3):
        settings = ("explainer=lime", "explain.precision=float32", f"explain.batch_size={size}")
        outcome = predicted.done("explain", *settings, f"explainer.name=lime_{size}")
        notes = [line for line in outcome.err.splitlines() if "going on with" in line]
        assert len(notes) == (3 if size == 16 else 0)
    assert max(one_device) > 3
    halved, small = (
        {path.name: path.read_bytes() for path in predicted.outputs.rglob(f"explanations/lime_{size}/*/*.safetensors")}
        for size in (16, 3)
    )
    assert halved == small


def test_out_of_memory_halves_the_batch_of_predictions_and_changes_no_result(
    photographs: Project, one_device: list[int]
) -> None:
    (photographs.folder / "images/cat/3.png").write_bytes((photographs.folder / "images/cat/0.png").read_bytes())
    found = []
    for size in (6, 3):
        outcome = photographs.done("finetune", f"finetune.eval_batch_size={size}", f"dataset.name=pets_{size}")
        notes = [line for line in outcome.err.splitlines() if "finetune.eval_batch_size=3" in line]
        assert len(notes) == (4 if size == 6 else 0)  # once a member, not once a batch
        folder = photographs.outputs / f"pets_{size}/predictions"
        found.append({path.name: path.read_bytes() for path in folder.rglob("*.safetensors")})
    assert max(one_device) > 3
    assert len(found[0]) == 4
    assert found[0] == found[1]


def full(*_: object, **__: object) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_out_of_memory_at_one_image_is_named(photographs: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "forward", full)
    outcome = photographs.run("finetune", "committee.only=[first]")
    assert outcome.code == 2
    assert outcome.errors == ["error: member first: out of memory at one image"]


def test_out_of_memory_in_training_says_what_to_lower(untrained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", full)
    outcome = untrained.run("finetune", "committee.only=[resnet]")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "member resnet: out of memory in training: lower finetune.batch_size" in line


@pytest.mark.parametrize("gradients", [False, True])
def test_rates_are_positive(network: Network, gradients: bool) -> None:
    assert images_per_second(network, SIZE, 2, gradients) > 0


@pytest.mark.parametrize(("key", "value"), [("precision", "float64"), ("compile", "always")])
def test_unknown_words_are_refused(photographs: Project, key: str, value: str) -> None:
    outcome = photographs.run("explain", f"explain.{key}={value}")
    assert outcome.code == 2
    assert f"explain.{key}={value}" in outcome.errors[0]
