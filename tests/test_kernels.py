"""A device that cannot compute here is refused in one line that says what can."""

import pytest
import torch
from conftest import Project

from xconsensus.errors import InputError
from xconsensus.jobs.kernels import check_kernels
from xconsensus.jobs.process import device_of

# what PyTorch's own builds have, by their support matrices: of CUDA 12.6, of 12.8 until 2.10, and of 13.0
CUDA_12_6 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CUDA_12_8 = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CUDA_13_0 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def fake_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kernels: list[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla X100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kernels)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # as such GPUs do: memory is there, kernels are not


@pytest.mark.parametrize(
    ("capability", "kernels"),
    [
        ((7, 0), CUDA_12_6),  # V100
        ((6, 1), CUDA_12_6),  # of its generation, newer
        ((7, 0), CUDA_12_8),
        ((7, 5), CUDA_13_0),  # T4
        ((8, 9), CUDA_13_0),  # L4: code for 8.6
        ((9, 0), CUDA_13_0),  # H100
        ((12, 1), CUDA_13_0),
        ((13, 0), CUDA_13_0),  # by PTX
        ((9, 0), ["sm_90a"]),
    ],
)
def test_a_gpu_with_kernels_is_taken(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kernels: list[str]
) -> None:
    fake_gpu(monkeypatch, capability, kernels)
    assert device_of("cuda") == torch.device("cuda")
    assert device_of("auto").type == "cuda"


@pytest.mark.parametrize(
    ("capability", "kernels", "advice"),
    [
        ((7, 0), CUDA_13_0, ["torch<2.11 ", "CUDA 12.6", "Volta"]),
        ((7, 2), CUDA_13_0, ["torch<2.11 ", "CUDA 12.6"]),
        ((6, 0), CUDA_13_0, ["torch<2.8 ", "CUDA 12.6", "Pascal"]),
        ((6, 1), CUDA_12_8, ["torch<2.8 ", "CUDA 12.6"]),
        ((5, 2), CUDA_12_8, ["torch<2.8 ", "CUDA 12.6", "Maxwell"]),
        ((3, 5), CUDA_12_6, ["nothing newer"]),
        ((12, 0), CUDA_12_6, ["a newer torch"]),
        ((13, 0), CUDA_12_8, ["a newer torch"]),
        ((9, 1), ["sm_90a"], ["a newer torch"]),
        ((8, 0), ["sm_86"], ["a newer torch"]),
    ],
)
@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_a_gpu_without_kernels_is_told_which_torch_has_them(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], kernels: list[str], advice: list[str], name: str
) -> None:
    fake_gpu(monkeypatch, capability, kernels)
    with pytest.raises(InputError) as error:
        device_of(name)
    line = str(error.value)
    assert "\n" not in line
    assert all(part in line for part in (*advice, "Tesla X100", f"{capability[0]}.{capability[1]}", "device=cpu"))


def test_rocm_names_its_kernels_otherwise_and_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(monkeypatch, (9, 4), ["gfx942"])
    monkeypatch.setattr(torch.version, "hip", "6.2")
    check_kernels(torch.device("cuda"))


def test_a_command_says_so_in_one_line(photographs: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(monkeypatch, (7, 0), CUDA_13_0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    outcome = photographs.run("explain")
    assert (outcome.code, len(outcome.errors)) == (2, 1)
    assert "torch<2.11" in outcome.errors[0]


@pytest.mark.parametrize("name", ["mps", "meta", "xpu"])
def test_devices_that_are_not_supported_are_refused_by_name(photographs: Project, name: str) -> None:
    outcome = photographs.run("explain", f"device={name}")
    assert (outcome.code, len(outcome.errors)) == (2, 1)
    assert f"device={name} " in outcome.errors[0]
    assert "device=cpu" in outcome.errors[0]


def test_emulated_hardware_is_no_reason_to_warn_twice(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """torch warns over many lines when it first looks at such a GPU."""
    import warnings

    fake_gpu(monkeypatch, (7, 0), CUDA_13_0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: warnings.warn("Tesla\n\nV100", stacklevel=1) or "V100")
    with pytest.raises(InputError):
        check_kernels(torch.device("cuda"))
    assert not recwarn.list
