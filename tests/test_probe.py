"""A member's contract: what is refused before work begins, what is taken in another form, and what is remembered."""

import random
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Project
from torch import Tensor, nn

from xconsensus import own_code
from xconsensus.arithmetic.fewer_bits import in_precision
from xconsensus.arithmetic.folding import fold
from xconsensus.errors import InputError
from xconsensus.members.member import Member, members_of
from xconsensus.members.network import Network, network_of
from xconsensus.members.probe import noise, probe
from xconsensus.members.training import Images, Recipe, train

SIZE, CLASSES = 16, 3


class Plain(nn.Module):
    """A small network whose output, or input, a function changes."""

    def __init__(self, change: Callable[[Tensor], Any] = lambda logits: logits, norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.change, self.norm = change, norm or nn.BatchNorm2d(8)
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Any:
        return self.change(self.head(self.norm(self.conv(inputs)).relu().mean((2, 3))))


def network(model: nn.Module, size: int = SIZE) -> Network:
    return Network(Member("a", "A", "module", "here.Model", size, size), model)


def images() -> Tensor:
    return network(nn.Flatten()).normalise(noise(SIZE))


# --- outputs ---


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y[:, :1], "gives 1 logits for 3 classes"),
        (lambda y: torch.cat([y, y], 1), "gives 6 logits for 3 classes"),
        (lambda y: y.T, r"shape \[3, 2\]"),
        (lambda y: y.mean(0), r"shape \[3\]"),
        (lambda y: y[:, :, None, None].expand(-1, -1, 2, 2), r"shape \[2, 3, 2, 2\]"),
        (lambda y: y.argmax(1), r"shape \[2\]"),
        (lambda y: y.long(), "gives int64"),
        (lambda y: y > 0, "gives bool"),
        (lambda y: y.to(torch.complex64), "gives complex64"),
        (lambda y: y / 0, "NaN or infinite"),
        (lambda y: y * torch.nan, "NaN or infinite"),
        (lambda y: "a cat", "returns str"),  # noqa: ARG005
        (lambda y: None, "returns NoneType"),  # noqa: ARG005
        (lambda y: {"scores": y}, "returns dict"),
        (lambda y: (), "returns tuple"),  # noqa: ARG005
        (lambda y: y + torch.randn_like(y), "another output .* again"),
        (lambda y: nn.functional.dropout(y, 0.5), "another output .* again"),
        (lambda y: y - y.mean(0), "in a batch than alone"),
        (lambda y: y + y[0], "in a batch than alone"),
        (lambda y: y + 1e-2 * y.cumsum(0), "in a batch than alone"),
        (lambda y: sys.exit(0), r"ends the program, by sys.exit\(0\)"),  # noqa: ARG005
    ],
)
def test_an_output_that_is_no_logits_names_the_member(change: Callable[[Tensor], Any], reason: str) -> None:
    with pytest.raises(InputError, match=f"member a .*{reason}"):
        probe(network(Plain(change)), CLASSES)


def test_photographs_of_one_class_are_of_one_among_the_member_s() -> None:
    assert "dataset.classes" in str(probe(network(Plain()), 1))


@pytest.mark.parametrize("kept", [nn.BatchNorm2d(8), nn.Dropout(0.5), nn.InstanceNorm2d(8, track_running_stats=True)])
def test_a_layer_whose_owner_keeps_it_in_training_is_found(kept: nn.Module) -> None:
    model = Plain(norm=kept)
    model.register_forward_pre_hook(lambda *_: kept.train() and None)
    if isinstance(kept, nn.InstanceNorm2d):  # whose statistics of training are those of each image by itself
        probe(network(model), CLASSES)
    else:
        with pytest.raises(InputError, match="member a gives another output"):
            probe(network(model), CLASSES)


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y[:, :, None, None],
        lambda y: (y, y * 0),
        lambda y: [y, None],
        lambda y: SimpleNamespace(logits=y, loss=None),
        lambda y: {"logits": y, "features": y * 0},
        lambda y: (SimpleNamespace(logits=y[:, :, None, None]),),
        lambda y: y.double(),
    ],
)
def test_forms_of_logits_are_taken(form: Callable[[Tensor], Any]) -> None:
    plain, other = network(Plain()), network(Plain(form))
    assert probe(other, CLASSES, gradients=True) is None
    inputs = images()
    assert torch.equal(other(inputs), plain(inputs))
    assert torch.equal(other.gradients(inputs, 1), plain.gradients(inputs, 1))
    folded = fold(other)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.model.modules())
    torch.testing.assert_close(folded(inputs), plain(inputs))
    half = in_precision(network(Plain(form)), "float32", CLASSES)
    assert torch.equal(half(inputs), plain(inputs))  # type: ignore[operator]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_rounding_of_16_bits_is_no_statistics_of_a_batch(kind: torch.dtype) -> None:
    class Inside(Plain):
        def forward(self, inputs: Tensor) -> Tensor:
            with torch.autocast("cpu", kind):
                found: Tensor = super().forward(inputs)
            return found.float()

    assert probe(network(Inside()), CLASSES) is None
    assert probe(network(Plain(lambda y: y.to(kind))), CLASSES) is None
    with pytest.raises(InputError, match="again"):
        probe(network(Plain(lambda y: (y + 0.1 * torch.randn_like(y)).to(kind))), CLASSES)


def test_probabilities_are_named_and_their_logarithms_are_not() -> None:
    warning = probe(network(Plain(lambda y: y.softmax(1))), CLASSES)
    assert warning is not None
    assert "member a returns probabilities" in warning
    assert probe(network(Plain(lambda y: y.log_softmax(1))), CLASSES) is None


def test_outputs_of_a_sigmoid_are_named_and_logits_that_happen_to_lie_in_0_to_1_are_not() -> None:
    warning = probe(network(Plain(torch.sigmoid)), CLASSES)
    assert warning is not None
    assert "member a returns numbers in 0..1" in warning
    assert "sigmoid" in warning
    assert probe(network(Plain(torch.nn.functional.logsigmoid)), CLASSES) is None
    small = network(Plain(lambda y: 0.5 + y / 20))
    with torch.no_grad():
        logits = small(images())
    assert bool(((logits > 0) & (logits < 1)).all())
    assert probe(small, CLASSES) is None


def test_before_training_numbers_need_not_be_finite_yet() -> None:
    assert probe(network(Plain(lambda y: y / 0)), CLASSES, finite=False) is None


# --- inputs ---


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_named(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(channels, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=f"member a fails on images of 3 channels .*RuntimeError.* {channels} channel"):
        probe(network(model), CLASSES)


def test_a_network_that_takes_no_single_image_is_told_from_one_that_takes_none() -> None:
    several = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES), nn.BatchNorm1d(CLASSES))
    several.eval = lambda: several.train()  # type: ignore[method-assign]
    with pytest.raises(InputError, match="member a fails on one image alone, though not on two, .*more than 1 value"):
        probe(network(several), CLASSES)


@pytest.mark.parametrize(
    ("library", "model", "kwargs", "advice"),
    [
        ("timm", "vit_tiny_patch16_224", {"depth": 1}, r"kwargs: \{img_size: 96\} or input_size: 224"),
        ("timm", "vit_tiny_patch16_224", {"depth": 1, "img_size": 128}, r"kwargs: \{img_size: 96\} or input_size: 128"),
        ("torchvision", "vit_b_32", {}, r"kwargs: \{image_size: 96\} or input_size: 224"),
    ],
)
def test_a_transformer_of_another_size_is_answered_with_the_key(
    library: str, model: str, kwargs: dict[str, Any], advice: str
) -> None:
    member = Member("a", "A", library, model, 96, 96, kwargs)
    with pytest.raises(InputError, match=f"member a .*AssertionError.*{advice}"):
        probe(network_of(member, CLASSES, torch.device("cpu")), CLASSES)


def test_an_input_changed_in_place_changes_nothing() -> None:
    class InPlace(Plain):
        def forward(self, inputs: Tensor) -> Any:
            return super().forward(inputs.mul_(0.5).add_(1))

    class Copying(Plain):
        def forward(self, inputs: Tensor) -> Any:
            return super().forward(inputs * 0.5 + 1)

    changing, copying = network(InPlace()), network(Copying())
    inputs = images().contiguous(memory_format=torch.channels_last)
    before = inputs.clone()
    assert probe(changing, CLASSES, gradients=True) is None
    assert changing.label(inputs[0]) == copying.label(inputs[0])
    assert torch.equal(changing.gradients(inputs, 2), copying.gradients(inputs, 2))
    torch.testing.assert_close(fold(changing)(inputs), copying(inputs))
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("cut", [lambda y: y.detach(), lambda y: torch.tensor(y.tolist())])
def test_gradients_that_end_on_the_way_are_named_where_they_are_needed(cut: Callable[[Tensor], Tensor]) -> None:
    model = Plain(cut)
    assert probe(network(model), CLASSES) is None
    with pytest.raises(InputError, match="member a: no gradient reaches its input"):
        probe(network(model), CLASSES, gradients=True)


def test_the_probe_leaves_no_trace() -> None:
    model = Plain(lambda y: nn.functional.dropout(y, 0.0))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    probe(network(model), CLASSES, gradients=True)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# --- numbers ---

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, num_classes)
        for tensor in self.parameters():
            tensor.data = torch.randn(tensor.shape, generator=draws)

    def forward(self, inputs):
        return self.head(torch.relu(self.conv(inputs)).mean((2, 3)))

def made(form, num_classes=3):
    net = Net(num_classes).eval()
    if form == "script":
        return torch.jit.script(net)
    return net.to(getattr(torch, form))
"""


def own(folder: Path, model: str, **spec: Any) -> Member:
    specification = {"a": {"library": "module", "model": model, **spec}}
    return members_of(specification, defaults={}, size=SIZE, resize=SIZE, weights_dir=str(folder))[0]


@pytest.mark.parametrize(
    ("form", "rounding"), [("half", 1e-2), ("bfloat16", 5e-2), ("double", 1e-5), ("float", 0), ("script", 1e-5)]
)
def test_networks_of_other_numbers_compute_as_in_float32(tmp_path: Path, form: str, rounding: float) -> None:
    (tmp_path / "net.py").write_text(NET)
    cpu = torch.device("cpu")
    plain = network_of(own(tmp_path, "net.py:Net"), CLASSES, cpu)
    other = network_of(own(tmp_path, "net.py:made", kwargs={"form": form}), CLASSES, cpu)
    assert probe(other, CLASSES, gradients=True) is None
    inputs = images()
    for found, expected in (
        (fold(other)(inputs), plain(inputs)),
        (other.gradients(inputs, 1), plain.gradients(inputs, 1)),
    ):
        torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding * float(expected.abs().max()))


def test_torchscript_in_fewer_bits_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="explain.precision=bfloat16: member a is TorchScript; set float32"):
        in_precision(network(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))), "bfloat16", CLASSES)


# --- training ---


def trained(model: nn.Module, count: int, **recipe: Any) -> None:
    settings = {
        "epochs": 1,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "batch_size": 1,
        "weight_decay": 0.0,
        "warmup_epochs": 0.0,
        "clip_norm": None,
        "frozen_statistics": False,
        "random_crop": False,
        "flip": 0.0,
        "precision": "float32",
    }
    pixels = noise(SIZE).byte().permute(0, 2, 3, 1).numpy()
    shown = Images(lambda i: pixels[i % 2], [i % CLASSES for i in range(count)])
    list(train(network(model), shown, Recipe(**{**settings, **recipe}), seed=0))


@pytest.mark.parametrize(("count", "batch_size"), [(1, 8), (4, 1)])
def test_batch_normalisation_of_one_value_names_member_and_key(count: int, batch_size: int) -> None:
    pooled = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3, momentum=None), nn.Flatten(), nn.Linear(3, CLASSES)
    )
    with pytest.raises(InputError, match=rf"member a: .*finetune.batch_size={batch_size}, {count} training images"):
        trained(pooled, count, batch_size=batch_size)
    trained(pooled, count, batch_size=batch_size, frozen_statistics=True)
    trained(Plain(), count, batch_size=batch_size)  # many values a channel


def test_a_batch_size_of_one_shows_every_image() -> None:
    shown, model = [], Plain()
    model.register_forward_pre_hook(lambda _, inputs: shown.append(len(inputs[0])))
    trained(model, 3)
    assert shown == [1, 1, 1]


@pytest.mark.parametrize("form", [lambda y: {"logits": y}, lambda y: y[:, :, None, None]])
def test_other_forms_of_logits_are_trained(form: Callable[[Tensor], Any]) -> None:
    plain, other = Plain(), Plain(form)
    for model in (plain, other):
        trained(model, 4, batch_size=2)
    assert torch.equal(plain.head.weight, other.head.weight)
    assert not torch.equal(plain.head.weight, Plain().head.weight)


def test_weights_without_gradients_are_named() -> None:
    with pytest.raises(InputError, match="member a: no gradient reaches its weights"):
        trained(Plain(lambda y: y.detach()), 4, batch_size=2)


# --- stages ---


@pytest.mark.parametrize("stage", ["finetune", "explain"])
def test_a_dry_run_probes_and_writes_nothing(photographs: Project, stage: str) -> None:
    outcome = photographs.run(stage, "+committee.members.second.model=grids.py:NaN", "dry_run=true")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "member second returns NaN" in line
    assert not photographs.outputs.exists()


def test_a_probe_is_remembered_until_code_or_needs_change(
    photographs: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[tuple[str, bool]] = []

    def counting(network: Network, classes: int, gradients: bool = False, finite: bool = True) -> str | None:
        probed.append((network.member.name, gradients))
        return probe(network, classes, gradients, finite)

    monkeypatch.setattr("xconsensus.experiment.networks.probe", counting)
    one = ("committee.only=[first]",)
    photographs.done("finetune", *one)
    photographs.done("explain", *one)
    assert probed == [("first", False)]
    photographs.done("explain", *one, "explainer=smoothgrad", "explainer.samples=2")
    assert probed[1:] == [("first", True)]
    photographs.done("explain", *one, "overwrite=true")
    assert len(probed) == 2
    source = photographs.folder / "models/grids.py"
    source.write_text(source.read_text() + "\n# changed\n")
    photographs.done("finetune", *one, "overwrite=true")
    assert probed[2:] == [("first", False)]


def test_a_folder_that_cannot_be_written_does_not_stop_a_probe(photographs: Project) -> None:
    (photographs.outputs / "pets/status").mkdir(parents=True)
    (photographs.outputs / "pets/status/probe").write_text("in the way")
    photographs.done("finetune", "committee.only=[first]")
    assert (photographs.outputs / "pets/predictions/test/first.safetensors").exists()


@pytest.mark.parametrize(("library", "model"), [("timm", "test_vit"), ("torchvision", "alexnet")])
@pytest.mark.parametrize("more", [(), ("dry_run=true",)])
def test_pretrained_weights_of_other_classes_are_refused_without_training(
    photographs: Project, library: str, model: str, more: tuple[str, ...]
) -> None:
    (photographs.folder / "conf/committee/heads.yaml").write_text(
        "defaults: [override /dataset@_global_.dataset: imagefolder]\nname: heads\nfinetune: false\n"
        f"members: {{small: {{library: {library}, model: {model}, pretrained: true}}}}\n"
    )
    outcome = photographs.run("finetune", "committee=heads", *more)
    assert outcome.code == 2
    (line,) = outcome.errors
    for word in ("member small", "1000 classes", "has 2", "committee.finetune=true"):
        assert word in line


# --- own files that do more than they should ---


@pytest.mark.parametrize(
    "line",
    [
        "torch.set_default_dtype(torch.float64)",
        "torch.set_grad_enabled(False)",
        "torch.use_deterministic_algorithms(True)",
        "torch.set_default_device('meta')",
        "torch.set_default_device('cuda:7')",
        "torch.backends.cudnn.benchmark = True",
        "torch.set_float32_matmul_precision('medium')",
        "import os; os.chdir('/')",
        "import sys; sys.stdout = sys.stderr = None",
        "import sys; sys.argv.append('more')",
        "import logging; logging.disable(logging.CRITICAL)",
        "import random; random.seed(0)",
        "import random; random.random()",
        "import numpy; numpy.random.seed(0)",
        "import numpy; numpy.random.rand(3)",
        "torch.manual_seed(0)",
        "torch.rand(3)",
        "import signal; signal.signal(signal.SIGTERM, lambda *_: None)",
    ],
)
def test_what_a_file_switches_is_put_back(tmp_path: Path, line: str) -> None:
    def state() -> list[object]:
        import logging

        torch_state = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.empty(0).device)
        modes = (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision())
        streams = (sys.stdout, sys.stderr, [*sys.argv], logging.root.manager.disable)
        draws = (random.getstate(), *map(str, np.random.get_state()), torch.get_rng_state().tolist())  # noqa: NPY002
        handler = signal.getsignal(signal.SIGTERM)
        return [*torch_state, *modes, torch.backends.cudnn.benchmark, *streams, *draws, handler, Path.cwd()]

    (tmp_path / "script.py").write_text(f"import torch\n{line}\nNET = 1\n")
    before = state()
    assert own_code.load(f"{tmp_path}/script.py:NET", "member a") == 1
    assert state() == before


def test_a_file_that_reads_arguments_sees_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["xconsensus", "explain", "dataset=shapes"])
    (tmp_path / "script.py").write_text(
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr', default=0.1)\n"
        "LR = parser.parse_args().lr\n"
    )
    assert own_code.load(f"{tmp_path}/script.py:LR", "member a") == 0.1
    assert sys.argv == ["xconsensus", "explain", "dataset=shapes"]


@pytest.mark.parametrize("end", ["sys.exit()", "sys.exit(0)", "sys.exit('done')", "exit(3)", "raise SystemExit"])
def test_a_file_that_ends_the_program_is_named(tmp_path: Path, end: str) -> None:
    (tmp_path / "script.py").write_text(f"import sys\nclass Net: pass\n{end}\n")
    with pytest.raises(InputError, match=r"member a: cannot import .*script.py:Net \(it ends the program"):
        own_code.load(f"{tmp_path}/script.py:Net", "member a")


def test_a_network_that_ends_the_program_is_named(photographs: Project) -> None:
    source = photographs.folder / "models/grids.py"
    source.write_text(
        source.read_text()
        + "\n\nclass Ending(Grid):\n    def __init__(self, num_classes=2, seed=0):\n        raise SystemExit(0)\n"
        "\n\nclass Leaving(Late):\n    def forward(self, inputs):\n"
        "        return super().forward(inputs) if len(inputs) < 3 else exit(0)\n"
    )
    for name in ("Ending", "Leaving"):
        outcome = photographs.run("explain", f"+committee.members.second.model=grids.py:{name}")
        assert outcome.code == 2
        (line,) = outcome.errors
        assert "member second" in line
        assert "ends the program" in line


@pytest.mark.parametrize("code", [0, 3, -1])
def test_a_member_that_ends_the_program_late_leaves_the_others_their_work(photographs: Project, code: int) -> None:
    source = photographs.folder / "models/grids.py"
    source.write_text(
        source.read_text() + "\n\nclass Leaving(Late):\n    def forward(self, inputs):\n"
        f"        return super().forward(inputs) if len(inputs) < 3 else exit({code})\n"
    )
    outcome = photographs.run("explain", "+committee.members.second.model=grids.py:Leaving")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert f"member second: it ends the program, by sys.exit({code}) (" in line
    assert "grids.py, line" in line
    assert len(list(photographs.folder.rglob("explanations/*/fourth/*.safetensors"))) == 1


@pytest.mark.parametrize("stage", ["finetune", "status"])
@pytest.mark.parametrize("code", [0, 3])
def test_own_code_that_ends_the_program_elsewhere_is_an_error(photographs: Project, stage: str, code: int) -> None:
    path = photographs.folder / "ending.py"
    path.write_text(f"class Loader:\n    def __init__(self, **keys):\n        raise SystemExit({code})\n")
    outcome = photographs.run(stage, f"dataset.loader={path}:Loader")
    assert outcome.code == 2
    assert f"sys.exit({code}) ({path}, line 3)" in outcome.errors[-1]


class Requeue:
    """Ends a job as launchers do that queue it again."""

    def stop(self, _number: int, _frame: object) -> None:
        sys.exit(-1)

    __call__ = stop


@pytest.mark.parametrize("handler", [Requeue().stop, Requeue(), partial(Requeue.stop, Requeue())])
def test_a_launcher_may_end_a_job_amid_own_code(photographs: Project, handler: Any) -> None:
    source = photographs.folder / "models/grids.py"
    source.write_text(
        source.read_text() + "\n\nclass Signalled(Late):\n    def forward(self, inputs):\n"
        "        import os, signal\n        os.kill(os.getpid(), signal.SIGUSR2)\n        return super().forward(inputs)\n"
    )
    before = signal.signal(signal.SIGUSR2, handler)
    try:
        outcome = photographs.run("explain", "+committee.members.second.model=grids.py:Signalled")
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (outcome.code, outcome.errors) == (-1, [])
