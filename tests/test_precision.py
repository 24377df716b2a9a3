"""16-bit passes, the rule that chooses them, and batches: what they may change, and what not."""

from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project
from safetensors.torch import load_file
from torch import Tensor, nn

from xconsensus.arithmetic import int8, precision
from xconsensus.arithmetic.fewer_bits import FewerBits, In16Bits, in_precision, noise
from xconsensus.arithmetic.int8 import Int8
from xconsensus.arithmetic.onednn import multiplies_bytes
from xconsensus.arithmetic.precision import by_rule, products_a_conversion
from xconsensus.experiment.removed import REMOVED
from xconsensus.keys.schema import defaults
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
    fewer = in_precision(network, kind, 5)
    assert isinstance(fewer, FewerBits)
    network.model.fc.register_forward_hook(lambda _m, _i, out: seen["head"].append(out.dtype))
    rounded = fewer.rounded(images)
    assert set(seen["convolution"]) == {getattr(torch, kind)}
    assert set(seen["head"]) == {torch.float32}
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert np.corrcoef(rounded.flatten(), exact.flatten())[0, 1] > 0.999


def test_a_network_stays_as_it_is_beside_itself_in_fewer_bits(network: Network, images: Tensor) -> None:
    before = network(images)
    for kind in ("float32", "bfloat16", "float16"):
        in_precision(network, kind, 5)
        assert torch.equal(network(images), before)


def taken(network: Network, allowed: Collection[str]) -> str:
    found = by_rule(network, allowed, 5)
    return found.precision if isinstance(found, FewerBits) else "float32"


@pytest.mark.parametrize(
    ("device", "capability", "has_bytes", "expected"),
    [
        ("cuda", (9, 0), False, "float16"),
        ("cuda", (7, 0), False, "float16"),
        ("cuda", (6, 1), False, "float32"),
        ("cpu", None, True, "int8"),
        ("cpu", None, False, "float32"),
        ("mps", None, False, "float32"),
    ],
)
def test_the_device_says_which_bits_are_its_fastest(
    monkeypatch: pytest.MonkeyPatch, device: str, capability: tuple[int, int], has_bytes: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: has_bytes)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert precision.native(torch.device(device)) == expected


@pytest.mark.parametrize(
    ("device", "capability", "bfloat16", "expected"),
    [
        ("cuda", (9, 0), True, "bfloat16"),
        ("cuda", (8, 0), True, "bfloat16"),
        ("cuda", (7, 5), False, "float16"),
        ("cuda", (7, 0), False, "float16"),
        ("cuda", (6, 0), False, "float32"),
        ("cpu", None, True, "float32"),
    ],
)
def test_training_takes_bfloat16_only_where_a_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, device: str, capability: tuple[int, int], bfloat16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    # as torch answers: by emulation all have it
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bfloat16
    )
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    assert precision.trained_in(torch.device(device)) == expected


@pytest.mark.parametrize("ability", ["_is_vnni_supported", "_is_amx_tile_supported"])
def test_either_kind_of_byte_instructions_will_do_and_a_torch_that_forgot_them_has_none(
    monkeypatch: pytest.MonkeyPatch, ability: str
) -> None:
    abilities = {"_is_vnni_supported", "_is_amx_tile_supported"}
    for name in abilities:
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == ability, raising=False)
    assert multiplies_bytes(torch.device("cpu"))
    assert not multiplies_bytes(torch.device("meta"))
    for name in abilities:
        monkeypatch.delattr(torch.cpu, name)
    assert not multiplies_bytes(torch.device("cpu"))


@pytest.mark.parametrize(
    ("native", "allowed", "bound", "expected"),
    [
        ("float32", ["float16"], 0.5, "float32"),
        ("float16", [], 0.5, "float32"),
        ("float16", ["bfloat16", "int8"], 0.5, "float32"),
        ("float16", ["float16", "int8"], 0.5, "float16"),
        ("float16", ["float16"], 1e-9, "float32"),
    ],
)
def test_auto_takes_fewer_bits_where_allowed_and_changing_little(
    network: Network, monkeypatch: pytest.MonkeyPatch, native: str, allowed: list[str], bound: float, expected: str
) -> None:
    monkeypatch.setattr(precision, "native", lambda _: native)
    monkeypatch.setattr(precision, "_FAITHFUL", bound)
    assert taken(network, allowed) == expected


@pytest.mark.parametrize("factor", [1.0, 1.25, 0.0])
def test_the_error_of_fewer_bits_is_relative_to_the_logits_in_float32(network: Network, factor: float) -> None:
    class Scaled(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = network.model(inputs)
            return factor * logits

    fewer = FewerBits(network, Network(network.member, Scaled()), "float16")
    assert precision._error(fewer) == pytest.approx(abs(factor - 1), abs=1e-6)


def test_auto_leaves_out_what_exceeds_float16(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native", lambda _: "float16")
    assert taken(network, ["float16"]) == "float16"
    next(network.model.parameters()).data.mul_(1e6)
    assert taken(network, ["float16"]) == "float32"


class Blocks(nn.Module):
    """Blocks of two convolutions of so many channels, their halves exchanged in float32 between blocks or not at all."""

    def __init__(self, channels: int, shuffled: bool) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(6)]
        self.stem, self.body = nn.Conv2d(3, channels, 3), nn.ModuleList(convolutions)
        self.head, self.shuffled = nn.Linear(channels, 5), shuffled

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.stem(inputs)
        for number, convolution in enumerate(self.body):
            x = convolution(x).relu()
            if self.shuffled and number % 2:
                halves = x.chunk(2, 1)
                x = torch.cat([halves[1], halves[0]], 1)
        found: Tensor = self.head(x.mean((2, 3)))
        return found


@pytest.mark.parametrize(
    ("channels", "shuffled", "products"),
    [
        (8, False, 6 * 9 * 8),  # one conversion, of the stem's result
        (8, True, 6 * 9 * 8 / 3),
        (4, True, 6 * 9 * 4 / 3),
        (32, True, 6 * 9 * 32 / 3),
    ],
)
def test_bytes_are_taken_where_there_is_enough_to_multiply_for_what_is_converted(
    monkeypatch: pytest.MonkeyPatch, channels: int, shuffled: bool, products: float
) -> None:
    monkeypatch.setattr(precision, "native", lambda _: "int8")
    monkeypatch.setattr(precision, "_error", lambda _: 0.0)  # processors without such instructions compute nonsense
    monkeypatch.setattr(int8, "_ALIKE", float("inf"))
    (member,) = members_of({"net": {"library": "timm", "model": "test_resnet"}}, defaults={}, size=SIZE, resize=SIZE)
    network = Network(member, Blocks(channels, shuffled))
    assert products_a_conversion(Int8(network.model, noise(network)), noise(network)) == pytest.approx(products)
    assert taken(network, ["int8"]) == ("int8" if products >= 100 else "float32")


@pytest.mark.parametrize(
    ("explainer", "allowed"), [("lime", {"bfloat16", "float16", "int8"}), ("smoothgrad", {"float16"})]
)
def test_auto_is_chosen_for_what_the_explainer_computes(
    predicted: Project, monkeypatch: pytest.MonkeyPatch, explainer: str, allowed: set[str]
) -> None:
    asked = []

    def rule(network: Network, allowed: Collection[str], classes: int) -> Network | FewerBits:
        asked.append({*allowed})
        return in_precision(network, "float16", classes)

    monkeypatch.setattr("xconsensus.stages.explain.by_rule", rule)
    predicted.done("explain", f"explainer={explainer}", "explain.precision=auto")
    found = list(predicted.outputs.rglob(f"explanations/{explainer}/*/*.safetensors"))
    assert found
    assert {read_header(path)["precision"] for path in found} == {"float16"}
    assert asked == [allowed] * 4


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
    forward = In16Bits.forward
    monkeypatch.setattr(In16Bits, "forward", lambda self, inputs: forward(self, inputs) * torch.nan)
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


def test_explanations_of_another_machine_s_bits_are_not_mixed_with_this_one_s(
    predicted: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rule(precision: str) -> None:
        here = lambda network, _, classes: in_precision(network, precision, classes)  # noqa: E731
        monkeypatch.setattr("xconsensus.stages.explain.by_rule", here)

    job = ("explain", "explainer=lime", "explain.precision=auto", "committee.only=[first]", "explain.shard_images=2")
    rule("bfloat16")
    predicted.done(*job)
    folder = predicted.outputs / "pets/explanations/lime/first"
    made = sorted(folder.iterdir())
    rule("float32")
    predicted.done(*job)  # nothing is missing
    made[1].unlink()
    before = predicted.files()
    outcome = predicted.run(*job)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert str(folder) in line
    assert "holds explanations in bfloat16, and this run takes float32" in line
    assert predicted.files() == before
    rule("bfloat16")
    predicted.done(*job)
    assert {read_header(path)["precision"] for path in made} == {"bfloat16"}
    predicted.done(*job[:2], *job[3:], "explain.precision=float32", "overwrite=true")  # as the line says
    assert {read_header(path)["precision"] for path in made} == {"float32"}


@pytest.mark.parametrize("explainer", ["lime", "smoothgrad"])
def test_a_shard_of_lime_says_how_far_fewer_bits_went(predicted: Project, explainer: str) -> None:
    for kind in ("float32", "bfloat16"):
        explained(predicted, explainer, kind)
        for path in predicted.outputs.rglob(f"explanations/{explainer}_{kind}/*/*.safetensors"):
            fields = load_file(path)
            assert ("rounding" in fields) == (explainer == "lime")
            if explainer == "lime":
                assert fields["rounding"].dtype == torch.float64
                assert (fields["rounding"] > 0).any() == (kind == "bfloat16")


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


def test_an_unknown_precision_is_refused(photographs: Project) -> None:
    outcome = photographs.run("explain", "explain.precision=float64")
    assert outcome.code == 2
    assert "explain.precision=float64" in outcome.errors[0]


def test_base_has_every_removed_key_as_null_or_the_command_line_would_not_know_it() -> None:
    base = defaults()
    for key in REMOVED:
        group, name = key.split(".")
        assert name in base[group]
        assert base[group][name] is None
