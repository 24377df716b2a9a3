"""A GPU gives the CPU's explanations, from draws made on the CPU, and halves what its memory does not hold.

Skipped without a GPU of CUDA: `pytest -m cuda` runs these alone.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import Project
from test_lime import image_of, network_of, small_model
from test_training import RECIPE
from test_training import images_of as images_of_training
from test_training import small as training_network
from torch import Tensor, nn

from xconsensus.arithmetic.fewer_bits import FewerBits, in_precision
from xconsensus.arithmetic.precision import by_rule, native, trained_in
from xconsensus.explainers import Lime, SmoothGrad
from xconsensus.jobs.memory import within_memory
from xconsensus.jobs.process import own_device, set_up
from xconsensus.members.member import members_of
from xconsensus.members.network import Network
from xconsensus.members.training import train
from xconsensus.members.weights import build
from xconsensus.store.tensors import read_header, read_tensors

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU of CUDA here"),
]
GPU, CPU = torch.device("cuda"), torch.device("cpu")


def wide_model(seed: int = 0) -> nn.Module:
    """Sums of a thousand products, which arithmetic of ten bits (TF32) would show."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 64, 5, stride=2), nn.ReLU(), nn.Conv2d(64, 64, 5, stride=2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(64 * 9, 4)).eval()


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.double().norm().clamp_min(1e-30))


@pytest.fixture(autouse=True)
def as_in_a_command() -> None:
    set_up(None, 1, None)


@pytest.fixture
def little_memory() -> Iterator[int]:
    """Bytes of the GPU's memory that this process may take."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    allowed = 2**30
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + allowed) / total)
    yield allowed
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize("seed", range(3))
def test_logits_in_float32_are_the_cpus(seed: int) -> None:
    model, images = wide_model(seed), torch.randn(16, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    exact = model.double()(images.double()).detach()
    found = network_of(model.float()).to(GPU)(images.to(GPU)).cpu()
    assert error(found, exact) < 1e-5


@pytest.mark.parametrize("explainer", [Lime(200), Lime(60, sampling="hadamard", regression="gaussian_process")])
def test_lime_is_the_cpus(explainer: Lime) -> None:
    image = image_of(1)
    network = network_of(wide_model(1))
    expected = explainer(network, image, 64)
    found = explainer(network.to(GPU), image, 64)
    assert found.predicted == expected.predicted
    assert found.probability == pytest.approx(expected.probability, rel=1e-4)
    assert error(found.values, expected.values) < 1e-3


def test_smoothgrad_of_the_same_noise_is_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    image, drawn = image_of(2), torch.randn
    network, explainer = network_of(wide_model(2)), SmoothGrad(20)
    expected = explainer(network, image, 8)
    draws = torch.Generator().manual_seed(image.generator().initial_seed())

    def on_the_cpu(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
        assert generator.device.type == device.type == "cuda"
        return drawn(shape, generator=draws).to(device)

    monkeypatch.setattr(torch, "randn", on_the_cpu)
    found = explainer(network.to(GPU), image, 8)
    assert error(found.values, expected.values) < 1e-3


def test_smoothgrad_of_a_gpus_own_noise_agrees_as_two_draws_do() -> None:
    image = image_of(3)
    network, explainer = network_of(wide_model(3)), SmoothGrad(20, 1.0)
    expected, found = explainer(network, image, 50), explainer(network.to(GPU), image, 50)
    agreement = np.corrcoef(found.values.flatten(), expected.values.flatten())[0, 1]
    assert not torch.equal(found.values, expected.values)
    assert agreement == pytest.approx(found.fields["reliability"], abs=0.05)


@pytest.mark.parametrize("explainer", [Lime(50), SmoothGrad(20)])
def test_the_batch_size_changes_no_draw(explainer: Lime | SmoothGrad) -> None:
    network, image = network_of(wide_model(4)).to(GPU), image_of(4)
    one, other = (explainer(network, image, size).values for size in (7, 64))
    assert error(one, other) < 1e-3


def test_auto_takes_float16_and_leaves_out_what_exceeds_it() -> None:
    """Of a member that its library can build again: how it does tells the head, which stays in float32."""
    (member,) = members_of({"net": {"library": "timm", "model": "test_resnet"}}, defaults={}, size=32, resize=32)
    torch.manual_seed(0)
    network = Network(member, build(member, 4)).to(GPU)
    found = by_rule(network, Lime().fewer_bits, 4)
    assert isinstance(found, FewerBits), f"native {native(GPU)}, {in_precision(network, 'float16', 4)}"
    assert found.precision == "float16"
    next(network.model.parameters()).data.mul_(1e6)
    assert by_rule(network, Lime().fewer_bits, 4) is network


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_16_bits_ends_near_float32(precision: str) -> None:
    full, half = training_network().to(GPU), training_network().to(GPU)
    start = {key: tensor.clone() for key, tensor in full.model.named_parameters()}
    list(train(full, images_of_training(), replace(RECIPE, epochs=1), seed=0))
    (state,) = train(half, images_of_training(), replace(RECIPE, epochs=1, precision=precision), seed=0)
    assert bool(state.scale) == (precision == "float16")
    for (key, one), other in zip(full.model.named_parameters(), half.model.parameters(), strict=True):
        assert other.dtype == torch.float32
        if key != "0.bias":  # batch normalisation takes it away: its gradient is rounding alone
            assert 0 < error(other, one.double()) * one.norm() < 0.2 * (one - start[key]).norm(), key


def test_training_by_rule_is_in_bits_that_the_gpu_has() -> None:
    has = torch.cuda.get_device_capability(GPU) >= (8, 0) or torch.version.hip
    assert trained_in(GPU) == ("bfloat16" if has else native(GPU))


def test_two_gpus_are_taken_in_turn_and_give_the_same() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU of CUDA here, two are needed")
    image, explainer = image_of(7), Lime(50)
    devices = [own_device(job) for job in (0, 1, 2)]
    assert [device.index for device in devices] == [0, 1, 2 % torch.cuda.device_count()]
    one, other = (explainer(network_of(wide_model(7)).to(device), image, 64).values for device in devices[:2])
    assert error(one, other) < 1e-5


def test_a_batch_beyond_the_memory_is_halved_and_gives_the_same(little_memory: int) -> None:
    network, image, explainer = network_of(small_model(6)).to(GPU), image_of(6), Lime(400)
    expected = explainer(network, image, 50)

    class Hungry(nn.Module):
        """16 MiB an image beside what it computes."""

        def forward(self, inputs: Tensor) -> Tensor:
            spare = torch.empty(len(inputs), 2**22, device=inputs.device)
            logits: Tensor = model(inputs) + 0 * spare.new_zeros(())
            return logits

    model = network.model
    hungry = network_of(Hungry()).to(GPU)
    found, size = within_memory(partial(explainer, hungry, image), 400, "hungry", "explain.batch_size")
    assert little_memory // 2**25 // 2 <= size < little_memory // 2**24
    assert error(found.values, expected.values) < 1e-3


def test_a_committee_is_trained_and_explained_on_the_gpu_as_on_the_cpu(untrained: Project) -> None:
    """Trained on the GPU in 16 bits, then explained on either device in float32."""
    untrained.done("finetune", "device=cuda")
    trained = sorted(untrained.outputs.glob("*/weights/**/*.safetensors"))
    assert len(trained) == 4
    assert {read_header(path)["settings"]["finetune"]["precision"] for path in trained} == {trained_in(GPU)}
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for device in ("cuda", "cpu"):
        untrained.done("explain", f"device={device}", f"explainer.name=on_{device}")
        files = untrained.outputs.rglob(f"explanations/on_{device}/**/*.safetensors")
        found[device] = {path.parent.name: read_tensors(path) for path in files}
    assert {*found["cuda"]} == {*found["cpu"]} == {"resnet", "efficient", "byob", "shuffle"}
    compared = [name for name in found["cpu"] if is_as_on_the_cpu(name, found["cuda"][name], found["cpu"][name])]
    assert len(compared) >= 2, compared


def is_as_on_the_cpu(name: str, on_gpu: dict[str, Tensor], on_cpu: dict[str, Tensor]) -> bool:
    """Whether a member's maps are more than rounding, and so compared by their correlation.

    Two epochs leave some networks whose probability hardly changes from one perturbed image to the next: in its last
    bits, of which also two CPUs make other maps. Their maps are as small on either device.
    """
    on_gpu_values, on_cpu_values = on_gpu["values"].double(), on_cpu["values"].double()
    predicted = (
        f"{name}: predicted {on_gpu['predicted'].tolist()} on the GPU, {on_cpu['predicted'].tolist()} on the CPU"
    )
    assert torch.equal(on_gpu["predicted"], on_cpu["predicted"]), predicted
    assert (on_gpu["probability"] - on_cpu["probability"]).abs().max() < 1e-5, name
    largest, apart = float(on_cpu_values.abs().max()), float((on_gpu_values - on_cpu_values).abs().max())
    said = f"{name}: maps up to {largest:.3g} differ by up to {apart:.3g}"
    assert apart < max(1e-6, 1e-2 * largest), said
    if largest < 2e-5:  # 20 times what rounding may change
        return False
    assert np.corrcoef(on_gpu_values, on_cpu_values)[0, 1] > 0.999, said
    return True


@pytest.mark.parametrize("explainer", ["lime", "smoothgrad"])
def test_jobs_of_a_sweep_that_share_the_gpus_write_the_files_of_one(predicted: Project, explainer: str) -> None:
    given = (f"explainer={explainer}", "explain.shard_images=2", "device=auto")
    predicted.done("explain", *given, "explainer.name=alone")
    swept = predicted.run("explain", "-m", "shard=0,1,2", "shards=3", *given, "explainer.name=swept")
    assert swept.code == 0, swept.err
    found = {}
    for name in ("alone", "swept"):
        files = predicted.outputs.rglob(f"explanations/{name}/**/*.safetensors")
        found[name] = {re.sub(f".*explanations/{name}/", "", str(path)): read_tensors(path)["values"] for path in files}
    assert found["alone"].keys() == found["swept"].keys()
    assert len(found["alone"]) == 12  # four members, six photographs in twos
    for name, values in found["alone"].items():
        apart = float((found["swept"][name] - values).abs().max())
        said = f"{name}: maps up to {float(values.abs().max()):.3g} differ by up to {apart:.3g}"
        assert error(found["swept"][name], values) < 1e-3, said
