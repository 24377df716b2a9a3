import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from xconsensus.compat import torchvision
from xconsensus.errors import InputError
from xconsensus.members.checkpoints import read_weights
from xconsensus.members.member import Member, members_of
from xconsensus.members.network import Network
from xconsensus.members.weights import build, fill, head_tensors

CLASSES = 3
SOURCE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs):
        return self.head(self.body(inputs))

class Fixed(Small):
    def __init__(self):
        super().__init__(7)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(SOURCE)
    return tmp_path


def one_member(folder: Path, **spec: Any) -> Member:
    return committee({"a": {"library": "module", "model": "nets.py:Small", **spec}}, folder)[0]


def committee(specifications: Mapping[str, Any], folder: Path, **defaults: Any) -> list[Member]:
    return members_of(specifications, defaults=defaults, size=32, resize=36, weights_dir=str(folder))


def member_of(library: str, model: str, **more: Any) -> Member:
    return Member("a", "A", library, model, input_size=32, resize=32, **more)


def saved(folder: Path, num_classes: int = CLASSES) -> dict[str, Tensor]:
    """Trained weights: neither initial values nor whole numbers."""
    torch.manual_seed(7)
    tensors = build(one_member(folder), num_classes).state_dict()
    return {
        key: value + torch.rand_like(value) if value.is_floating_point() else value for key, value in tensors.items()
    }


def loaded(member: Member, num_classes: int = CLASSES, new_head: bool = False) -> nn.Module:
    assert member.weights is not None
    model = build(member, num_classes)
    head = head_tensors(member, num_classes) if new_head else ()
    fill(model, member, read_weights(Path(member.weights), member.name), member.weights, head)
    return model


def assert_holds(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() >= tensors.keys()
    for key, tensor in tensors.items():
        torch.testing.assert_close(found[key], tensor.to(found[key].dtype), rtol=0, atol=0)


# --- building ---


@pytest.mark.parametrize(
    ("library", "model", "kwargs"),
    [
        ("timm", "test_resnet", {}),
        ("timm", "resnet10t", {"channels": [8, 8, 8, 8], "stem_width": 4}),
        ("torchvision", "squeezenet1_1", {"dropout": 0.1}),
        ("module", "nets.py:Small", {"width": 5}),
        ("module", "torchvision.models.squeezenet.SqueezeNet", {"version": "1_1"}),
    ],
)
def test_every_library_builds_a_network_of_the_asked_classes(
    folder: Path, library: str, model: str, kwargs: dict[str, Any]
) -> None:
    member = one_member(folder, library=library, model=model, kwargs=kwargs)
    network = build(member, 5)
    assert not network.training
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_kwargs_reach_the_architecture(folder: Path) -> None:
    widths = [
        build(one_member(folder, kwargs={"width": width}), 2).state_dict()["head.weight"].shape[1] for width in (4, 9)
    ]
    assert widths == [4, 9]


def test_a_class_with_its_own_number_of_classes_keeps_it(folder: Path) -> None:
    model = build(one_member(folder, model="nets.py:Fixed"), CLASSES)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_kwargs_that_an_architecture_refuses_name_the_member(folder: Path) -> None:
    for library, model in (("module", "nets.py:Small"), ("timm", "test_resnet"), ("torchvision", "squeezenet1_1")):
        member = one_member(folder, library=library, model=model, kwargs={"colour": "red"})
        with pytest.raises(InputError, match=r"member a: .* cannot be built with .*red"):
            build(member, CLASSES)


def test_lazy_layers_without_a_size_name_the_member(folder: Path) -> None:
    (folder / "lazy.py").write_text(
        "from torch import nn\n\ndef lazy(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n"
    )
    with pytest.raises(InputError, match=r"member a: .*lazy.py:lazy cannot be built .*lazy layers.* call it once"):
        build(one_member(folder, model="lazy.py:lazy"), CLASSES)


@pytest.mark.parametrize(
    ("library", "model", "head"),
    [
        ("timm", "test_resnet", ["fc"]),
        ("timm", "test_vit", ["head"]),
        ("timm", "test_efficientnet", ["classifier"]),
        ("torchvision", "squeezenet1_1", ["classifier.1"]),
        ("torchvision", "vgg11", ["classifier.6"]),
        ("torchvision", "googlenet", ["aux1.fc2", "aux2.fc2", "fc"]),
        ("module", "nets.py:Small", ["head"]),
        ("module", "nets.py:Fixed", []),
    ],
)
@pytest.mark.parametrize("num_classes", [2, 1000])
def test_the_head_is_exactly_the_classifier(
    folder: Path, library: str, model: str, head: list[str], num_classes: int
) -> None:
    member = one_member(folder, library=library, model=model)
    expected = [f"{layer}.{kind}" for layer in head for kind in ("weight", "bias")]
    assert sorted(head_tensors(member, num_classes)) == sorted(expected)


# --- weights ---


@pytest.mark.parametrize(
    "made", ["len(torch.unique(torch.arange(8) // 2))", "int(torch.linspace(2, 4, 3).max())"], ids=["unique", "item"]
)
def test_the_head_of_a_constructor_that_computes_with_its_tensors_is_found(folder: Path, made: str) -> None:
    code = f"""import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()
        self.body, self.head = torch.nn.Linear(3, {made}), torch.nn.Linear(4, num_classes)
"""
    (folder / "computing.py").write_text(code)
    state = torch.get_rng_state()
    member = member_of("module", f"{folder}/computing.py:Net")
    assert head_tensors(member, 5) == ["head.weight", "head.bias"]
    assert torch.equal(torch.get_rng_state(), state)  # or the draws of who asks would be others


def write(folder: Path, name: str, tensors: Any) -> str:
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    return name


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt"])
def test_weights_come_from_safetensors_and_torch_files(folder: Path, name: str) -> None:
    tensors = saved(folder)
    assert_holds(loaded(one_member(folder, weights=write(folder, name, tensors))), tensors)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model": tensors, "arch": "small"},
        lambda tensors: {"state_dict": {f"module.{key}": value for key, value in tensors.items()}},
    ],
    ids=["state_dict", "model", "data parallel"],
)
def test_a_wrapped_state_dict_is_found(folder: Path, wrap: Any) -> None:
    tensors = saved(folder)
    assert_holds(loaded(one_member(folder, weights=write(folder, "a.pth", wrap(tensors)))), tensors)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_of_the_same_values(folder: Path, name: str, dtype: torch.dtype) -> None:
    tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in saved(folder).items()}
    model = loaded(one_member(folder, weights=write(folder, name, tensors)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_holds(model, tensors)


def test_weights_without_batch_counters_fit(folder: Path) -> None:
    tensors = {key: value for key, value in saved(folder).items() if not key.endswith("num_batches_tracked")}
    assert len(tensors) < len(saved(folder))
    assert_holds(loaded(one_member(folder, weights=write(folder, "a.pth", tensors))), tensors)


def test_a_pickle_of_other_objects_is_refused_and_not_run(folder: Path) -> None:
    member = one_member(
        folder, weights=write(folder, "a.pth", {"state_dict": saved(folder), "o": argparse.Namespace()})
    )
    with pytest.raises(InputError, match=r"member a: .*a\.pth cannot be read as weights"):
        loaded(member)
    ran = folder / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    write(folder, "b.pth", {"state_dict": Payload()})
    with pytest.raises(InputError, match=r"b\.pth"):
        read_weights(folder / "b.pth", "a")
    assert not ran.exists()


@pytest.mark.parametrize("content", [[1, 2], {"weights": {"a": 1}}, {"lr": 0.1}, torch.zeros(3)])
def test_a_checkpoint_without_a_state_dict_is_refused(folder: Path, content: Any) -> None:
    write(folder, "a.pth", content)
    with pytest.raises(InputError, match=r"member a: .*a\.pth holds no state dict"):
        read_weights(folder / "a.pth", "a")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_named(folder: Path, name: str, keep: int) -> None:
    member = one_member(folder, weights=write(folder, name, saved(folder)))
    path = folder / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"member a: .*{name} cannot be read as weights"):
        loaded(member)


def test_a_missing_weights_file_is_named_where_the_member_is_used(folder: Path) -> None:
    member = one_member(folder, weights="absent.pth")
    for use in (member.settings, lambda: loaded(member)):
        with pytest.raises(InputError, match=r"member a: no weights file .*absent\.pth"):
            use()


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (lambda tensors: tensors.pop("body.0.weight"), "a.pth lacks tensor body.0.weight of"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "a.pth has tensor extra, "),
        (
            lambda tensors: tensors.update({"body.0.bias": torch.zeros(9)}),
            r"a.pth has tensor body.0.bias of shape \[9\], .* needs \[4\]",
        ),
        (
            lambda tensors: tensors.update({"head.weight": torch.zeros(10, 4)}),
            r"tensor head.weight of shape \[10, 4\], .* needs \[3, 4\]",
        ),
    ],
    ids=["missing", "extra", "shape", "classes"],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, change: Any, culprit: str) -> None:
    tensors = saved(folder)
    change(tensors)
    with pytest.raises(InputError, match=f"^member a: .*{culprit}"):
        loaded(one_member(folder, weights=write(folder, "a.pth", tensors)))


def test_a_member_to_be_trained_gets_a_new_head_where_the_classes_differ(folder: Path) -> None:
    tensors = saved(folder, num_classes=10)
    member = one_member(folder, weights=write(folder, "a.pth", tensors))
    model = loaded(member, CLASSES, new_head=True)
    body = {key: value for key, value in tensors.items() if key.startswith("body")}
    assert_holds(model, body)
    assert model.state_dict()["head.weight"].shape == (CLASSES, 4)


def test_a_head_of_the_same_classes_is_kept_for_training(folder: Path) -> None:
    tensors = saved(folder)
    assert_holds(loaded(one_member(folder, weights=write(folder, "a.pth", tensors)), new_head=True), tensors)


def test_a_new_head_does_not_excuse_another_body(folder: Path) -> None:
    tensors = saved(folder, num_classes=10)
    tensors["body.0.bias"] = torch.zeros(9)
    member = one_member(folder, weights=write(folder, "a.pth", tensors))
    with pytest.raises(InputError, match=r"body\.0\.bias"):
        loaded(member, new_head=True)


# --- pretrained ---


def no_network(*_: object, **__: object) -> NoReturn:
    raise OSError("the network is unreachable")


def test_pretrained_weights_without_a_network_say_which_file_goes_where(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.models._builder

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", no_network)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", no_network)
    for library, model, tag, weights, file, suffix in (
        ("timm", "test_resnet", True, "test_resnet", "model.safetensors", ".safetensors"),
        ("timm", "test_resnet", "r160_in1k", "test_resnet.r160_in1k", "timm/test_resnet.r160_in1k", ".safetensors"),
        ("torchvision", "squeezenet1_1", True, "SqueezeNet1_1_Weights", "squeezenet1_1-b8a52dc0.pth", ".pth"),
        ("torchvision", "googlenet", "IMAGENET1K_V1", "GoogLeNet_Weights", "googlenet-1378be20.pth", ".pth"),
    ):
        member = member_of(library, model, pretrained=tag)
        with pytest.raises(InputError) as raised:
            build(member, CLASSES)
        message = str(raised.value)
        assert message.startswith(f"member a: {library} cannot provide the weights {weights}")
        assert all(word in message for word in (file, f"<committee.weights_dir>/a{suffix}", "unreachable"))
        assert "\n" not in message


def test_kwargs_at_fault_are_not_blamed_on_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.models._builder

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", no_network)
    for library, model in (("timm", "test_resnet"), ("torchvision", "squeezenet1_1")):
        with pytest.raises(InputError, match="member a: .* cannot be built with .*red"):
            build(member_of(library, model, pretrained=True, kwargs={"colour": "red"}), CLASSES)


def hub_cache(folder: Path, repository: str, tensors: Mapping[str, Tensor]) -> None:
    """A Hugging Face cache as a download leaves it."""
    entry = folder / f"models--{repository.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs/main").write_text("0" * 40)
    (entry / "snapshots" / ("0" * 40)).mkdir(parents=True)
    safetensors.torch.save_file(dict(tensors), entry / "snapshots" / ("0" * 40) / "model.safetensors")


def test_the_hub_s_cache_and_offline_flag_are_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    member = member_of("timm", "test_resnet", pretrained="r160_in1k")
    with pytest.raises(InputError, match=r"member a: .*/a\.safetensors"):
        build(member, 1000)
    tensors = build(member_of("timm", "test_resnet"), 1000).state_dict()
    hub_cache(tmp_path, "timm/test_resnet.r160_in1k", tensors)
    assert_holds(build(member, 1000), tensors)


def test_torch_home_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    tensors = torchvision.models.squeezenet1_1().state_dict()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(tensors, tmp_path / "hub/checkpoints/squeezenet1_1-b8a52dc0.pth")
    assert_holds(build(member_of("torchvision", "squeezenet1_1", pretrained="IMAGENET1K_V1"), 1000), tensors)


def test_an_unknown_tag_of_pretrained_weights_is_named() -> None:
    for library, model in (("timm", "test_resnet"), ("torchvision", "squeezenet1_1")):
        with pytest.raises(InputError, match=r"member a: .*imagenet_v9"):
            build(member_of(library, model, pretrained="imagenet_v9"), CLASSES)


def test_pretrained_torchvision_weights_get_a_new_head_for_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = torchvision.models.squeezenet1_1(num_classes=1000).state_dict()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: tensors)
    member = member_of("torchvision", "squeezenet1_1", pretrained=True)
    assert_holds(build(member, 1000), tensors)
    adapted = build(member, CLASSES)
    assert_holds(adapted, {key: value for key, value in tensors.items() if not key.startswith("classifier")})
    assert adapted.state_dict()["classifier.1.weight"].shape[0] == CLASSES


@pytest.mark.parametrize(
    ("library", "model", "head"),
    [
        ("timm", "test_resnet", "fc"),
        ("timm", "test_vit", "head"),
        ("timm", "test_efficientnet", "classifier"),
        ("torchvision", "squeezenet1_1", "classifier.1"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_file_named_like_the_member_is_read_in_place_of_the_download(
    tmp_path: Path, library: str, model: str, head: str, suffix: str
) -> None:
    tensors = build(member_of(library, model), 1000).state_dict()
    write(tmp_path, f"a b+c{suffix}", tensors)
    spec = {"library": library, "model": model, "pretrained": True}
    (member,) = committee({"a b+c": spec}, tmp_path)
    assert_holds(build(member, 1000), tensors)
    adapted = build(member, CLASSES)
    assert_holds(adapted, {key: value for key, value in tensors.items() if not key.startswith(f"{head}.")})
    assert adapted.state_dict()[f"{head}.weight"].shape[0] == CLASSES


def test_a_file_named_like_a_member_is_of_no_concern_to_members_without_pretrained_weights(folder: Path) -> None:
    write(folder, "a.pth", saved(folder))
    assert one_member(folder).settings()["weights"] is False


def test_no_file_is_looked_for_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("b.pth", "inner/a.pth"):
        write(tmp_path, name, {"x": torch.zeros(1)})
    spec = {"library": "timm", "model": "test_resnet", "pretrained": True}
    for name in ("../b", "/a", "..", ""):
        with pytest.raises(InputError, match="cannot be a file name"):
            committee({name: spec}, tmp_path / "inner")
    monkeypatch.chdir(tmp_path / "inner")
    (member,) = members_of({"a": spec}, defaults={}, size=32, resize=32)
    assert member.pretrained_file is None


@pytest.mark.parametrize("num_classes", [1000, CLASSES])
@pytest.mark.parametrize(("library", "model"), [("timm", "test_resnet"), ("torchvision", "squeezenet1_1")])
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, library: str, model: str, num_classes: int) -> None:
    tensors = build(member_of(library, model), 1000).state_dict()
    del tensors[next(key for key in tensors if key.endswith("weight"))]
    write(tmp_path, "a.safetensors", tensors)
    (member,) = committee({"a": {"library": library, "model": model, "pretrained": True}}, tmp_path)
    with pytest.raises(InputError, match=r"^member a: .*a\.safetensors") as raised:
        build(member, num_classes)
    assert "\n" not in str(raised.value)
    (tmp_path / "a.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match=r"member a: .*a\.safetensors cannot be read as weights"):
        build(member, num_classes)


def test_settings_are_the_digest_of_a_local_file_and_the_tag_of_a_download(tmp_path: Path) -> None:
    spec = {"library": "timm", "model": "test_resnet", "pretrained": "r160_in1k"}
    (downloaded,) = committee({"a": spec}, tmp_path)
    assert downloaded.settings()["weights"] == "r160_in1k"
    tensors = build(member_of("timm", "test_resnet"), 1000).state_dict()
    write(tmp_path, "a.pth", tensors)
    (local,) = committee({"a": spec}, tmp_path)
    first = local.settings()["weights"]
    write(tmp_path, "a.pth", {key: value + 1 for key, value in tensors.items()})
    assert len({"r160_in1k", first, local.settings()["weights"]}) == 3


@pytest.mark.parametrize("num_classes", [1000, CLASSES])
def test_googlenet_gives_logits_alone_and_takes_weights_with_auxiliary_heads(tmp_path: Path, num_classes: int) -> None:
    whole = torchvision.models.googlenet(aux_logits=True, init_weights=False)
    write(tmp_path, "a.pth", whole.state_dict())
    (member,) = committee({"a": {"library": "torchvision", "model": "googlenet", "pretrained": True}}, tmp_path)
    model = build(member, num_classes)
    body = {key: value for key, value in whole.state_dict().items() if not key.startswith(("aux", "fc."))}
    assert_holds(model, body)
    images = torch.rand(2, 3, 64, 64)
    if num_classes == 1000:
        whole.transform_input = True
        torch.testing.assert_close(model(images), whole.eval()(images))
    trained = build(replace(member, pretrained=False), num_classes)  # as it is explained after fine-tuning
    trained.load_state_dict(model.state_dict())
    assert torch.equal(trained(images), model(images))
    assert model.train()(images).shape == (2, num_classes)


# --- preprocessing of pretrained weights ---


def test_a_pretrained_member_takes_what_it_does_not_say_from_the_library(folder: Path) -> None:
    spec = {"library": "timm", "model": "vit_small_patch16_224", "pretrained": "augreg_in1k"}
    specifications = {
        "plain": spec,
        "sized": {**spec, "input_size": 128},
        "own": {**spec, "mean": [0.1, 0.2, 0.3], "interpolation": "bilinear", "resize": 300},
        "default": {"library": "timm", "model": "vit_small_patch16_224", "pretrained": True},
        "fresh": {"library": "timm", "model": "vit_small_patch16_224"},
    }
    plain, sized, own, default, fresh = committee(specifications, folder)
    assert (plain.input_size, plain.resize, plain.mean) == (224, 248, (0.5, 0.5, 0.5))
    assert (sized.input_size, sized.resize) == (128, round(248 / 224 * 128))
    assert (own.mean, own.std, own.interpolation, own.resize) == ((0.1, 0.2, 0.3), plain.std, "bilinear", 300)
    assert default.input_size == 224
    assert (fresh.input_size, fresh.resize) == (32, 36)


def test_defaults_of_the_committee_stand_over_the_library_s(folder: Path) -> None:
    spec = {"library": "timm", "model": "xception41", "pretrained": "tf_in1k"}
    (member,) = committee({"a": spec}, folder, input_size=224, resize=256)
    assert (member.input_size, member.resize, member.mean) == (224, 256, (0.5, 0.5, 0.5))


def test_a_named_file_replaces_the_pretrained_weights_and_keeps_their_preprocessing(folder: Path) -> None:
    tensors = build(member_of("timm", "test_resnet"), 1000).state_dict()
    spec = {"library": "timm", "model": "test_resnet", "pretrained": True, "weights": write(folder, "w.pth", tensors)}
    (member,) = committee({"a": spec}, folder)
    assert (member.pretrained, member.input_size, member.mean) == (False, 160, (0.5, 0.5, 0.5))
    assert_holds(loaded(member, 1000), tensors)


@pytest.mark.parametrize(
    ("spec", "culprit"),
    [
        (
            {"library": "timm", "model": "resnet50", "pretrained": "tv_in2k"},
            "timm has no weights pretrained=tv_in2k of resnet50; nearest: .*tv_in1k",
        ),
        ({"library": "timm", "model": "resnet50.tv_in1k", "pretrained": "a1_in1k"}, "timm has no weights"),
        ({"library": "timm", "model": "dpn48b", "pretrained": True}, "timm has no weights pretrained=True of dpn48b"),
        (
            {"library": "torchvision", "model": "alexnet", "pretrained": "V1"},
            "torchvision has no weights pretrained=V1 of alexnet; known: .*IMAGENET1K_V1",
        ),
        ({"pretrained": "tag"}, "library=module has no pretrained weights"),
    ],
)
def test_weights_that_do_not_exist_are_named_at_once(folder: Path, spec: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InputError, match=f"member a: {culprit}"):
        one_member(folder, **spec)


# --- specifications ---


def test_members_come_in_order_with_defaults_under_their_own_keys(folder: Path) -> None:
    specifications = {
        "z": {"model": "test_resnet", "family": "ResNet"},
        "b": {"library": "module", "model": "nets.py:Small", "mean": [0.5, 0.5, 0.5]},
    }
    z, b = committee(specifications, folder, library="timm", std=[0.1, 0.2, 0.3], mean=[0, 0, 0])
    assert [z.name, z.family, z.library, b.name, b.family, b.library] == ["z", "ResNet", "timm", "b", "b", "module"]
    assert (z.mean, b.mean, b.std) == ((0, 0, 0), (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))


def test_sizes_are_the_data_sets_in_proportion_unless_given(folder: Path) -> None:
    sizes = [{}, {"input_size": 64}, {"input_size": 64, "resize": 64}]
    members = [one_member(folder, **size) for size in sizes]
    assert [(m.input_size, m.resize) for m in members] == [(32, 36), (64, 72), (64, 64)]


@pytest.mark.parametrize(
    ("spec", "culprit"),
    [
        ({"library": "timm", "model": "test_resnett"}, "timm has no model 'test_resnett'; nearest: test_resnet"),
        ({"library": "torchvision", "model": "resnet_18"}, "torchvision has no model 'resnet_18'; nearest: .*resnet18"),
        ({"library": "tim"}, "library=tim is unknown; nearest: timm"),
        ({"modle": "x"}, "unknown key 'modle'; nearest: model"),
        ({"library": None}, r"committee\.members\.a\.library is missing"),
        ({"model": None}, r"committee\.members\.a\.model is missing"),
        ({"mean": [0.5]}, "mean needs three numbers"),
        ({"std": [0.5] * 4}, "std needs three numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "std needs positive numbers"),
        ({"interpolation": "nearest"}, "interpolation=nearest is none of bilinear, bicubic"),
        ({"model": "raising.py:Small"}, "cannot import .*raising.py:Small .*no such luck"),
        ({"input_size": 64, "resize": 48}, "resize=48 is less than input_size=64"),
        ({"model": "nets.py:Big"}, "cannot import .*nets.py:Big"),
        ({"model": "absent.py:Small"}, "cannot import .*absent.py:Small"),
        ({"model": "broken.py:Small"}, "cannot import .*broken.py:Small"),
        ({"model": "no_such_package.Small"}, "cannot import no_such_package.Small"),
        ({"model": "torch.nn.NoSuchLayer"}, "cannot import torch.nn.NoSuchLayer"),
        ({"model": "Small"}, "cannot import Small"),
    ],
)
def test_wrong_specifications_name_the_member_and_the_nearest_word(
    folder: Path, spec: dict[str, Any], culprit: str
) -> None:
    (folder / "raising.py").write_text("raise RuntimeError('no such luck')")
    (folder / "broken.py").write_text("class Small(:\n")
    with pytest.raises(InputError, match=f"^member a: {culprit}") as error:
        one_member(folder, **spec)
    assert "\n" not in str(error.value)


def test_a_committee_has_members(folder: Path) -> None:
    with pytest.raises(InputError, match="empty"):
        committee({}, folder)


def test_settings_change_with_the_weights_and_not_with_the_folder(folder: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "nets.py").write_text(SOURCE)
    tensors = saved(folder)
    here = one_member(folder, weights=write(folder, "a.safetensors", tensors)).settings()
    there = one_member(other, weights=write(other, "renamed.safetensors", tensors)).settings()
    assert here == there
    tensors["head.bias"] += 1
    assert one_member(other, weights=write(other, "c.safetensors", tensors)).settings() != here
    assert one_member(folder).settings() != here


# --- network ---


def photo(size: int) -> Tensor:
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network_of(model: nn.Module, **more: Any) -> Network:
    return Network(member_of("module", "here.Model", mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), **more), model)


def test_normalise_is_torchvisions_on_0_to_1() -> None:
    transforms = torchvision.transforms
    network, images = network_of(nn.Identity()), photo(16)
    expected = transforms.Normalize(network.member.mean, network.member.std)(images / 255)
    for given in (images, images.float()):
        found = network.normalise(given)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [24, 50])
def test_forward_resizes_to_the_members_input_and_as_before_normalising(interpolation: str, size: int) -> None:
    model = nn.Flatten()
    network, images = network_of(model, interpolation=interpolation), photo(size)
    resized = nn.functional.interpolate(images.float(), (32, 32), mode=interpolation, antialias=True)
    expected = model(network.normalise(resized))
    torch.testing.assert_close(network(network.normalise(images)), expected, rtol=1e-4, atol=1e-4)


def test_forward_leaves_images_of_the_members_size_alone() -> None:
    network = network_of(nn.Flatten())
    inputs = network.normalise(photo(32))
    assert torch.equal(network(inputs), inputs.flatten(1))


def test_a_network_is_frozen_and_gives_float32() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2), nn.Dropout(0.9)).train()
    network = network_of(model)
    inputs = network.normalise(photo(32))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(network(inputs), network(inputs))
    assert network_of(model.to(torch.bfloat16))(inputs.bfloat16()).dtype == torch.float32
