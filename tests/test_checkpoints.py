"""Weights as people save them: found, named as the model names them, or refused with the true reason."""

import argparse
import gzip
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from xconsensus.errors import InputError
from xconsensus.experiment.artefacts import with_trained_weights
from xconsensus.members import checkpoints
from xconsensus.members.checkpoints import as_named_by, read_weights
from xconsensus.members.member import Member, members_of
from xconsensus.members.network import network_of
from xconsensus.members.weights import build, fill

State = dict[str, Tensor]
SOURCE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, inner=""):
        super().__init__()
        parts = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.add_module(inner or "features", parts)
        self.add_module("head", nn.Linear(4, num_classes))

class Around(nn.Module):
    def __init__(self, num_classes, inner):
        super().__init__()
        self.inner = inner
        setattr(self, inner, Net(num_classes))

    def forward(self, images):
        return getattr(self, self.inner)(images)
"""


def member_of(folder: Path, **spec: Any) -> Member:
    (folder / "nets.py").write_text(SOURCE)
    given = {"library": "module", "model": "nets.py:Net", **spec}
    return members_of({"a": given}, defaults={}, size=32, resize=36, weights_dir=str(folder))[0]


def trained(folder: Path, seed: int = 7, **spec: Any) -> State:
    """A state dict with no two equal numbers."""
    state = build(member_of(folder, **spec), 3).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value + 5
        for key, value in state.items()
    }


def loaded(folder: Path, content: Any, **spec: Any) -> State:
    """What a member's network holds, whose weights file is ``content``."""
    torch.save(content, folder / "a.pth")
    state: State = network_of(member_of(folder, weights="a.pth", **spec), 3, torch.device("cpu")).model.state_dict()
    return state


def assert_equal(found: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(found[key], value), key


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


# --- names ---


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "model.",
        "net.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model._orig_mod.module.",
    ],
)
def test_the_prefix_of_a_wrapper_is_taken_away(tmp_path: Path, prefix: str) -> None:
    state = trained(tmp_path)
    assert_equal(loaded(tmp_path, under(prefix, state)), state)


@pytest.mark.parametrize("inner", ["module", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_a_submodule_called_like_a_wrapper_is_none(tmp_path: Path, inner: str, prefix: str) -> None:
    spec: dict[str, Any] = {"model": "nets.py:Around", "kwargs": {"inner": inner}}
    state = trained(tmp_path, **spec)
    assert all(key.startswith(f"{inner}.") for key in state)
    assert_equal(loaded(tmp_path, under(prefix, state), **spec), state)


def test_one_of_several_submodules_called_like_a_wrapper_is_none(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"kwargs": {"inner": "module"}}
    state = trained(tmp_path, **spec)
    assert {key.partition(".")[0] for key in state} == {"module", "head"}
    assert_equal(loaded(tmp_path, under("module.", state), **spec), state)
    assert_equal(loaded(tmp_path, state, **spec), state)


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_part_that_was_wrapped_is_found(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state = trained(tmp_path)
    saved = {prefix + key.replace("features.", f"features.{wrapper}."): value for key, value in state.items()}
    assert_equal(loaded(tmp_path, saved), state)


def test_wrappers_write_these_names(tmp_path: Path) -> None:
    """The forms above are those of torch itself."""
    model = build(member_of(tmp_path), 3)
    state = model.state_dict()
    wrapped = [nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model), torch.compile(model)]
    wrapped.append(nn.DataParallel(torch.optim.swa_utils.AveragedModel(model)))
    for module in wrapped:
        assert isinstance(module, nn.Module)
        assert module.state_dict().keys() != state.keys()
        assert_equal(as_named_by(state, module.state_dict()), state)


def test_names_are_kept_where_taking_the_prefix_away_does_not_help(tmp_path: Path) -> None:
    state = trained(tmp_path)
    with pytest.raises(InputError, match=r"a\.pth lacks tensor features\.0\.weight"):
        loaded(tmp_path, under("backbone.", state))
    with pytest.raises(InputError, match=r"a\.pth has tensor extra, "):
        loaded(tmp_path, {**under("module.", state), "module.extra": torch.zeros(1)})
    with pytest.raises(InputError, match=r"a\.pth lacks tensor head\.bias"):
        loaded(tmp_path, {key: value for key, value in under("model.", state).items() if key != "model.head.bias"})


def test_a_thousand_prefixes_are_no_trouble() -> None:
    expected = {"x.weight": torch.zeros(1)}
    assert as_named_by(expected, under("module." * 5000, expected)).keys() == expected.keys()


def test_counters_that_the_model_lacks_are_left_out(tmp_path: Path) -> None:
    state = trained(tmp_path)
    counters = {"n_averaged": torch.tensor(5), "features.0.num_batches_tracked": torch.tensor(7)}
    assert_equal(loaded(tmp_path, {**counters, **state}), state)
    assert_equal(loaded(tmp_path, {"n_averaged": torch.tensor(5), **under("module.", state)}), state)


def test_a_head_of_other_classes_is_told_apart_behind_a_prefix(tmp_path: Path) -> None:
    state = trained(tmp_path) | {"head.weight": torch.rand(9, 4), "head.bias": torch.rand(9)}
    torch.save(under("module.", state), tmp_path / "a.pth")
    member = member_of(tmp_path, weights="a.pth")
    with pytest.raises(InputError, match=r"head\.weight of shape \[9, 4\]"):
        network_of(member, 3, torch.device("cpu"))
    adapted = network_of(member, 3, torch.device("cpu"), new_head=True).model.state_dict()
    assert torch.equal(adapted["features.0.weight"], state["features.0.weight"])
    assert adapted["head.weight"].shape == (3, 4)


@pytest.mark.parametrize(("library", "model"), [("timm", "test_resnet"), ("torchvision", "squeezenet1_1")])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.model."])
def test_a_local_file_of_pretrained_weights_may_have_a_prefix(
    tmp_path: Path, library: str, model: str, prefix: str
) -> None:
    state = build(member_of(tmp_path, library=library, model=model), 1000).state_dict()
    torch.save({"net": under(prefix, state), "epoch": 3}, tmp_path / "a.pth")
    assert_equal(build(member_of(tmp_path, library=library, model=model, pretrained=True), 1000).state_dict(), state)


# --- checkpoints ---

OPTIMISER = {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "state_dict.model"])
def test_the_usual_keys_are_looked_into(tmp_path: Path, key: str) -> None:
    state = trained(tmp_path)
    outer, _, inner = key.partition(".")
    content = {"epoch": 9, outer: {inner: state} if inner else state, "optimizer": OPTIMISER, "arch": "net", 3: 4}
    assert_equal(loaded(tmp_path, content), state)


def test_an_average_is_taken_where_its_key_is_given_and_named_where_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("xconsensus"), "propagate", True)
    caplog.set_level(logging.INFO)
    state, average = trained(tmp_path), trained(tmp_path, seed=8)
    content = {"state_dict": state, "state_dict_ema": {"n_averaged": torch.tensor(5), **under("module.", average)}}
    for _ in range(2):
        assert_equal(loaded(tmp_path, content), state)
    (line,) = caplog.messages
    assert f"member a takes state_dict of {tmp_path}/a.pth, not state_dict_ema" in line
    assert "weights_key" in line
    assert_equal(loaded(tmp_path, content, weights_key="state_dict_ema"), average)
    assert_equal(loaded(tmp_path, content, weights_key="state_dict"), state)
    assert len(caplog.messages) == 1


def test_what_is_not_plain_asks_for_the_key(tmp_path: Path) -> None:
    state = trained(tmp_path)
    for content, spec, culprit in (
        ({"model": state, "net": state}, {}, "several state dicts: set weights_key to one of model, net"),
        ({"state_dict_ema": state}, {}, "no state dict where one is looked for: .*weights_key.* state_dict_ema"),
        ({"run": {"teacher": state}}, {}, r"weights_key to one of run\.teacher"),
        ({"model": state}, {"weights_key": "ema"}, "under weights_key=ema: set weights_key to one of model"),
        (state, {"weights_key": "model"}, "under weights_key=model: leave weights_key out"),
        ({"lr": 0.1}, {"weights_key": "model"}, r"no state dict \(name"),
    ):
        with pytest.raises(InputError, match=f"^member a: .*a.pth holds .*{culprit}"):
            loaded(tmp_path, content, **spec)
    assert_equal(loaded(tmp_path, {"run": {"teacher": state}}, weights_key="run.teacher"), state)


def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content["net"] = content
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        read_weights(tmp_path / "a.pth", "a")


def test_settings_name_the_key_where_it_is_used_alone(tmp_path: Path) -> None:
    state = trained(tmp_path)
    torch.save({"model": state, "ema": state}, tmp_path / "a.pth")
    plain, keyed = (member_of(tmp_path, weights="a.pth", **more).settings() for more in ({}, {"weights_key": "ema"}))
    assert set(plain) == {
        "library", "model", "kwargs", "weights", "input_size", "resize", "mean", "std", "interpolation",
    }  # fmt: skip
    assert keyed == plain | {"weights_key": "ema"}


def test_the_weights_that_a_member_is_trained_to_have_no_key(tmp_path: Path) -> None:
    member = member_of(tmp_path, weights="a.pth", weights_key="ema")
    torch.save({}, tmp_path / "trained.safetensors")
    store = SimpleNamespace(weights=lambda _: tmp_path / "trained.safetensors")
    experiment: Any = SimpleNamespace(config={"committee": {"finetune": True}}, store=store)
    found = with_trained_weights(experiment, member, read=False)
    assert (found.weights, found.weights_key) == (str(tmp_path / "trained.safetensors"), None)


def test_a_key_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="member a: weights_key=ema is of no use without weights: FILE"):
        member_of(tmp_path, weights_key="ema")


# --- files that are something else ---


@pytest.mark.parametrize("name", ["a.bin", "a.pth", "a.ckpt", "a"])
def test_safetensors_are_told_by_their_content(tmp_path: Path, name: str) -> None:
    state = trained(tmp_path)
    safetensors.torch.save_file(state, tmp_path / name)
    assert_equal(read_weights(tmp_path / name, "a"), state)


def test_a_checkpoint_called_safetensors_is_read_as_the_checkpoint_it_is(tmp_path: Path) -> None:
    state = trained(tmp_path)
    torch.save(state, tmp_path / "a.safetensors")
    assert_equal(read_weights(tmp_path / "a.safetensors", "a"), state)


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (POINTER.encode(), "a git-lfs pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>\n", "a web page"),
        (b"\xef\xbb\xbf\r\n<html>\n", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (gzip.compress(b"weights"), "compressed by gzip; unpack it first"),
        (b"Entry not found", "text, not weights; it begins 'Entry not found'"),
        (b'{"error":"Repository not found"}', 'text, not weights; it begins \'{"error":"Repository'),
        (b"\x3c" + bytes(7) + b"{" + bytes(30), "truncated, or not such a file"),
        (b"PK\x03\x04" + bytes(60), "truncated, or not such a file"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_a_file_that_is_something_else_is_called_what_it_is(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^member a: .*{name} cannot be read as weights \({reason}") as raised:
        read_weights(tmp_path / name, "a")
    assert "\n" not in str(raised.value)


def archived(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.pth", b"weights")


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, weight=np.ones(3))


def script(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


@pytest.mark.parametrize(
    ("write", "reason"), [(archived, "an archive"), (arrays, "an archive"), (script, "TorchScript")]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:'torch.load' received a zip file")
def test_archives_of_other_kinds_are_told_apart(tmp_path: Path, write: Callable[[Path], None], reason: str) -> None:
    write(tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"a\.pth cannot be read as weights \({reason}|a {reason}"):
        read_weights(tmp_path / "a.pth", "a")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"state_dict": {}, "args": argparse.Namespace(lr=0.1)}, "an object, 'argparse.Namespace'"),
        ({"state_dict": {}, "folder": Path("x")}, "an object, 'pathlib"),
        ({"state_dict": {}, "accuracy": np.float64(0.9)}, "an object, 'numpy"),
        (
            nn.Sequential(nn.Linear(2, 2)),
            "(a whole network or layer|an object), 'torch.nn.modules.container.Sequential'",
        ),
        ({"state_dict": {}, "loss": nn.CrossEntropyLoss()}, "(a whole network or layer|an object), 'torch.nn.modules"),
    ],
    ids=["Namespace", "Path", "NumPy", "network", "loss"],
)
def test_an_object_that_is_not_unpickled_is_named_with_what_to_do(
    tmp_path: Path, content: Any, kind: str, zipped: bool
) -> None:
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    pattern = rf"a\.pth cannot be read as weights \(it holds {kind}.*torch\.save\(model\.state_dict\(\), path\)"
    with pytest.raises(InputError, match=pattern) as raised:
        read_weights(tmp_path / "a.pth", "a")
    assert "\n" not in str(raised.value)
    assert ("whole network" in str(raised.value)) == (zipped and "torch.nn" in kind)


def test_the_reason_is_looked_for_once_the_file_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_why_unreadable", None)
    torch.save(trained(tmp_path), tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth", "a")


# --- names of weights ---


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ({"library": "torchvision", "model": "resnet18", "weights": "DEFAULT"}, "pretrained: DEFAULT"),
        ({"library": "torchvision", "model": "resnet18", "weights": "IMAGENET1K_V1"}, "pretrained: IMAGENET1K_V1"),
        (
            {"library": "torchvision", "model": "resnet18", "weights": "ResNet18_Weights.IMAGENET1K_V1"},
            "pretrained: IMAGENET1K_V1",
        ),
        ({"library": "timm", "model": "resnet50", "weights": "a1_in1k"}, "pretrained: a1_in1k"),
        ({"library": "timm", "model": "resnet50", "weights": "resnet50.a1_in1k"}, "pretrained: a1_in1k"),
    ],
)
def test_a_tag_in_place_of_a_file_names_the_key_to_use(tmp_path: Path, spec: dict[str, Any], hint: str) -> None:
    with pytest.raises(InputError, match=rf"^member a: no weights file .*{spec['weights']}; .* {hint}$"):
        member_of(tmp_path, **spec).settings()
    with pytest.raises(InputError, match=f"{hint}$"):
        network_of(member_of(tmp_path, **spec), 3, torch.device("cpu"))
    torch.save({}, tmp_path / spec["weights"])
    assert len(member_of(tmp_path, **spec).settings()["weights"]) == 64


def test_a_word_that_is_no_tag_gets_no_hint(tmp_path: Path) -> None:
    for library, model in (("torchvision", "resnet18"), ("timm", "resnet50"), ("module", "nets.py:Net")):
        with pytest.raises(InputError, match=r"no weights file .*/absent\.pth$"):
            member_of(tmp_path, library=library, model=model, weights="absent.pth").settings()


@pytest.mark.parametrize(
    ("spec", "culprit"),
    [
        ({"weights": True}, "weights=True is not a word; .*pretrained: true"),
        ({"weights_key": 3}, "weights_key=3 is not a word"),
        ({"model": 50}, "model=50 is not a word"),
    ],
)
def test_values_that_are_no_words_are_named(tmp_path: Path, spec: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InputError, match=f"^member a: {culprit}"):
        member_of(tmp_path, **spec)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("hf_hub:somebody/somenet", "not read from the hub; .*config.json.*weights: FILE"),
        ("hf-hub:somebody/somenet", "not read from the hub; .*config.json.*weights: FILE"),
        ("somebody/somenet", "not read from the hub"),
        ("hf_hub:timm/resnet50.a1_in1k", "model: resnet50, pretrained: a1_in1k$"),
        ("timm/test_vit", "model: test_vit, pretrained: true$"),
    ],
)
def test_a_name_of_the_hub_is_answered_with_the_keys_to_use(
    tmp_path: Path, model: str, hint: str, pretrained: bool
) -> None:
    with pytest.raises(InputError, match=f"^member a: .*model={model}.*{hint}"):
        member_of(tmp_path, library="timm", model=model, pretrained=pretrained)


@pytest.mark.parametrize("size", [[160], [160, 160], [3, 160, 160], (3, 160, 160)])
@pytest.mark.parametrize("key", ["input_size", "resize"])
def test_a_size_as_the_libraries_print_it_is_answered_with_the_number_to_write(
    tmp_path: Path, key: str, size: Any
) -> None:
    for spec in ({}, {"library": "timm", "model": "test_vit", "pretrained": True}):
        with pytest.raises(InputError, match=rf"^member a: {key}=.* is not the side of a square.*write {key}: 160$"):
            member_of(tmp_path, **spec, **{key: size})


@pytest.mark.parametrize(
    "size", [[3, 160, 200], [160, 200], [], [[160]], "160", True, 0, -3, 1.5, float("inf"), float("nan"), {}]
)
@pytest.mark.parametrize("key", ["input_size", "resize"])
def test_a_size_that_is_none_of_a_square_is_named(tmp_path: Path, key: str, size: Any) -> None:
    with pytest.raises(InputError, match=rf"^member a: {key}=.* is not the side of a square in pixels"):
        member_of(tmp_path, **{key: size})


def test_fill_leaves_the_given_tensors_alone(tmp_path: Path) -> None:
    member, state = member_of(tmp_path), under("module.", trained(tmp_path))
    names = list(state)
    fill(build(member, 3), member, state, "x")
    assert list(state) == names
