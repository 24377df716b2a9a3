"""What members see of whole images against timm's and torchvision's own transforms; artefacts of the rule of before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import Project, paint
from numpy.typing import NDArray
from PIL import Image
from test_bad_input import refused
from test_overwrite import stamps
from torch import nn

from xconsensus.compat import torchvision
from xconsensus.datasets.images import center_crop, read_rgb, resize_and_crop, short_edge, upright_size
from xconsensus.errors import InputError
from xconsensus.members.catalogue import entries
from xconsensus.members.member import Member, members_of
from xconsensus.members.network import Network
from xconsensus.members.preprocessing import described, geometry, geometry_of_rule_1, pixels_by, view
from xconsensus.store.tensors import read_whole, write_tensors

# portrait, panorama, odd and even margins, smaller than the crop, larger than any resize
SHAPES = [(333, 500), (500, 375), (101, 100), (103, 100), (60, 250), (251, 60), (31, 37), (256, 256), (641, 480)]

import timm  # noqa: E402  (imports torchvision, so after compat)
from timm.data import create_transform, resolve_data_config  # noqa: E402

# Tags that see images in ways that no member of the catalogue does.
OTHERS = {
    "squash": {"library": "timm", "model": "convnextv2_nano", "pretrained": "fcmae_ft_in22k_in1k_384"},
    "squash_small": {"library": "timm", "model": "dm_nfnet_f0", "pretrained": "dm_in1k"},
    "padded": {"library": "timm", "model": "volo_d4_448", "pretrained": "sail_in1k"},
    "vit": {"library": "timm", "model": "vit_small_patch16_224", "pretrained": "augreg_in1k"},
    "torchvision_bicubic": {"library": "torchvision", "model": "swin_t", "pretrained": "IMAGENET1K_V1"},
}


def members(specifications: dict[str, Any], **more: Any) -> list[Member]:
    return members_of(specifications, defaults=more.pop("defaults", {}), size=64, resize=73, **more)


def of_the_committees() -> list[Member]:
    """One member of each preprocessing in the catalogue, from which all committees' tags come, and of `OTHERS`."""
    every = members({name: entry.specification("libraries") for name, entry in entries().items()} | OTHERS)
    return list({(*pixels_by(member), member.mean, member.std): member for member in every}.values())


def transform_of(member: Member) -> Any:
    if member.library == "torchvision":
        return torchvision.models.get_model_weights(member.model)[str(member.pretrained)].transforms()
    cfg = timm.get_pretrained_cfg(f"{member.model}.{member.pretrained}")
    return create_transform(**resolve_data_config(pretrained_cfg=cfg.to_dict()), is_training=False)


def image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("member", of_the_committees(), ids=lambda member: member.name)
def test_a_tag_sees_what_its_library_s_own_transform_gives(member: Member) -> None:
    network, transform = Network(member, nn.Identity()), transform_of(member)
    for shape in SHAPES if member.input_size < 300 else SHAPES[1:6:2]:
        pixels = image(*shape)
        seen = network.normalise(torch.from_numpy(view(member, pixels).copy()).permute(2, 0, 1))
        torch.testing.assert_close(seen, transform(Image.fromarray(pixels)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("share", [0.875, 1.0, 1.15])
def test_every_crop_mode_is_timm_s(interpolation: str, mode: str, share: float) -> None:
    mean = (0.5, 0.25, 0.75)
    config = {"interpolation": interpolation, "crop_mode": mode, "mean": mean, "normalize": False}
    transform = create_transform(input_size=(3, 97, 97), crop_pct=share, **config)
    member = Member("a", "A", "x", "x", 97, int(97 / share), mean=mean, interpolation=interpolation)
    member = replace(member, crop_mode=mode, as_library=True)
    for shape in SHAPES:
        expected = transform(Image.fromarray(image(*shape))).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(view(member, image(*shape)), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_that_are_told_are_those_of_torchvision_s_transforms(interpolation: str, shape: tuple[int, int]) -> None:
    member = Member("a", "A", "torchvision", "x", 47, 56, interpolation=interpolation, as_library=True)
    mode = torchvision.transforms.InterpolationMode(interpolation)
    library = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(56, mode), torchvision.transforms.CenterCrop(47)]
    )
    expected = np.asarray(library(Image.fromarray(image(*shape))))
    np.testing.assert_array_equal(view(member, image(*shape)), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_member_of_no_library_sees_images_cut_as_they_are_explained(
    interpolation: str, shape: tuple[int, int]
) -> None:
    member = Member("a", "A", "module", "net.py:Net", 47, 56, interpolation=interpolation)
    np.testing.assert_array_equal(view(member, image(*shape)), resize_and_crop(image(*shape), 56, 47, interpolation))


OWN = """\
name: own
finetune: false
weights_dir: {folder}
members:
  own: {{library: timm, model: test_vit, weights: own.safetensors}}
"""


# --- what a member says, and what the library has ---


def test_a_resize_of_one_s_own_is_the_short_edge_s() -> None:
    told = members({"own": {**OTHERS["squash"], "resize": 400}, "sized": {**OTHERS["squash"], "input_size": 192},
                    "both": {**OTHERS["squash"], "resize": 400, "crop_mode": "squash"}})  # fmt: skip
    assert [(m.input_size, m.resize, m.crop_mode) for m in told] == [
        (384, 400, "center"), (192, 192, "squash"), (384, 400, "squash"),
    ]  # fmt: skip


def test_weights_of_one_s_own_are_seen_with_as_their_architecture_is() -> None:
    models = {
        "timm": ("timm", "mobilenetv1_100"),
        "tagged": ("timm", "convnextv2_nano.fcmae_ft_in22k_in1k_384"),
        "torchvision": ("torchvision", "resnet50"),
    }
    spec = {name: {"library": lib, "model": model, "weights": "a.pth"} for name, (lib, model) in models.items()}
    plain, tagged, torchvisions = members(spec)
    cfg = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("mobilenetv1_100").to_dict())
    assert (plain.mean, plain.std, plain.interpolation) == (cfg["mean"], cfg["std"], cfg["interpolation"])
    assert (plain.input_size, plain.resize) == (224, 256)
    assert (tagged.input_size, tagged.crop_mode) == (384, "squash")
    default = torchvision.models.ResNet50_Weights.DEFAULT.transforms()
    assert ([torchvisions.input_size], [torchvisions.resize]) == (default.crop_size, default.resize_size)
    assert torchvisions.interpolation == "bilinear"


def test_weights_of_one_s_own_take_key_by_key_what_is_not_said() -> None:
    spec = {"library": "timm", "model": "mobilenetv1_100", "weights": "a.pth"}
    (own,) = members({"a": {**spec, "mean": [0.1, 0.2, 0.3], "input_size": 112}})
    assert (own.mean, own.std, own.input_size, own.resize) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5), 112, 128)


@pytest.mark.parametrize(
    ("more", "trained"),
    [({"weights": "a.pth"}, True), ({}, True), ({"weights": "a.pth", "library": "module", "model": "n.py:N"}, False)],
)
def test_what_is_trained_on_the_data_set_or_of_no_library_has_the_data_set_s_sizes(
    more: dict[str, Any], trained: bool, tmp_path: Path
) -> None:
    (tmp_path / "n.py").write_text("N = None")
    spec = {"library": "timm", "model": "mobilenetv1_100", **more}
    (member,) = members({"a": spec}, trained=trained, weights_dir=str(tmp_path))
    assert (member.input_size, member.resize, member.mean) == (64, 73, (0.485, 0.456, 0.406))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
         r"mean and std are of RGB in 0\.\.255; .* mean: \[0.485, 0.456, 0.406\], std: \[0.229, 0.224, 0.225\]"),
        ({"mean": [103.939, 116.779, 123.68], "std": [1, 1, 1]}, r"mean and std .* std: \[0.003922, 0.003922, 0.0"),
        ({"mean": [0.0, 0.0, 0.0], "std": [255, 255, 255]}, r"std are of RGB in 0\.\.255; .* write std: \[1.0, 1.0"),
        ({"mean": [127.5, 127.5, 127.5]}, r"mean are of RGB in 0\.\.255; of RGB in 0\.\.1 write mean: \[0.5, 0.5, 0.5\]$"),
        ({"mean": 0.5}, "mean needs three numbers"),
        ({"mean": "ImageNet"}, "mean=ImageNet are not three numbers"),
        ({"std": [0.5, float("nan"), 0.5]}, "std=.* are not three numbers"),
        ({"crop_mode": "squashed"}, "crop_mode=squashed is none of center, squash, border"),
    ],
)  # fmt: skip
def test_colours_that_cannot_be_meant_are_refused_with_the_right_ones(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=f"^member a: {line}"):
        members({"a": {"library": "timm", "model": "test_resnet", **keys}})


def test_zero_and_one_are_colours_in_0_to_1() -> None:
    spec = {"library": "timm", "model": "test_resnet", "mean": [0, 0, 0], "std": [1, 1, 1]}
    assert members({"a": spec})[0].std == (1.0, 1.0, 1.0)


def test_each_preprocessing_is_printed_once_with_its_members(photographs: Project) -> None:
    out = photographs.done("finetune", "+committee.members.third.interpolation=bilinear", "dry_run=true").err
    colours = "mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    lines = [line for line in out.splitlines() if "short edge" in line]
    assert lines == [
        f"predicted from 32x32 of short edge 40 (bicubic), {colours}: first, second, fourth",
        f"predicted from 32x32 of short edge 40 (bilinear), {colours}: third",
        "explained is 32x32 of short edge 40 (bicubic), for all members alike",
    ]


def test_the_words_tell_the_crop_modes_apart() -> None:
    center = Member("a", "A", "timm", "x", 224, 256)
    words = {described(replace(center, crop_mode=mode)) for mode in ("center", "squash", "border")}
    assert len(words) == 3


# --- artefacts of the rule of before ---


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("as_library", [True, False])
@pytest.mark.parametrize("size", [224, 225, 48])
def test_rules_of_equal_geometry_give_equal_pixels_and_others_differ(
    interpolation: str, crop_mode: str, as_library: bool, size: int
) -> None:
    member = Member("a", "A", "x", "x", size, 256, interpolation=interpolation)
    member = replace(member, crop_mode=crop_mode, as_library=as_library)
    for shape in [*SHAPES, (256, 390), (300, 300)]:
        pixels = image(*shape)
        before = center_crop(short_edge(pixels, 256), size)
        same = geometry_of_rule_1(member, shape[1], shape[0]) == geometry(member, shape[1], shape[0])
        assert same == np.array_equal(before, view(member, pixels))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_in_a_header_is_that_of_the_image_turned_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image(20, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert upright_size(tmp_path / "a.jpg") == read_rgb(tmp_path / "a.jpg").shape[1::-1]
    assert upright_size(paint(tmp_path / "a.png", image(20, 30))) is None


def of_rule_1(folder: Path) -> None:
    """Make artefacts look as they were written by the rule of before."""
    for path in folder.rglob("*.safetensors"):
        tensors, header = read_whole(path)
        settings = {key: value for key, value in header["settings"].items() if key not in ("rule", "crop_mode")}
        notes = {key: note for key, note in header.items() if key not in ("checksum", "settings", "versions")}
        write_tensors(path, tensors, settings, **notes)


def own_weights(project: Project) -> nn.Module:
    """A committee of timm's test_vit with a file of weights and without a word of preprocessing; the network."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_vit", num_classes=2).eval()
    safetensors.torch.save_file(model.state_dict(), project.folder / "models/own.safetensors")
    (project.folder / "conf/committee/own.yaml").write_text(OWN.format(folder=project.folder / "models"))
    return model


BILINEAR = "+committee.members.second.interpolation=bilinear"


def test_predictions_of_before_stay_where_both_rules_see_the_same(predicted: Project) -> None:
    predictions = predicted.outputs / "pets/predictions"
    of_rule_1(predictions)
    before = stamps(predictions)
    for stage in ("finetune", "explain", "vote", "score"):
        predicted.done(stage)
    assert stamps(predictions) == before


def test_predictions_of_before_by_another_filter_are_named_and_alone_made_again(photographs: Project) -> None:
    photographs.done("finetune", BILINEAR)
    photographs.done("explain", BILINEAR)
    explained, predictions = (photographs.outputs / "pets" / name for name in ("explanations", "predictions"))
    of_rule_1(predictions)
    before, maps = stamps(predictions), stamps(explained)
    was = "rule is 1 there, 2 now: cat/0.png was resized to 53x40 (bicubic) and cut from 10, 4, is now resized to 53x40 (bili"
    refused(photographs.run("finetune", BILINEAR), "second.safetensors", was, "overwrite=true")
    photographs.done("vote", BILINEAR)
    refused(photographs.run("score", BILINEAR), "second.safetensors", was, "finetune overwrite=true")
    photographs.done("finetune", BILINEAR, "overwrite=true")
    assert {Path(name).name for name, stamp in stamps(predictions).items() if stamp != before[name]} == {
        "second.safetensors"
    }
    for stage in ("finetune", "explain", "score"):
        photographs.done(stage, BILINEAR)
    assert stamps(explained) == maps


def test_a_crop_that_lies_elsewhere_names_the_first_image(photographs: Project) -> None:
    own_weights(photographs)
    photographs.done("finetune", "committee=own", "dataset=imagefolder")
    of_rule_1(photographs.outputs / "pets/predictions")
    photographs.done("finetune", "committee=own", "dataset=imagefolder")
    paint(photographs.folder / "images/dog/2.png", image(48, 65))
    photographs.done("finetune", "committee=own", "dataset=imagefolder", "overwrite=true")
    of_rule_1(photographs.outputs / "pets/predictions")
    outcome = photographs.run("finetune", "committee=own", "dataset=imagefolder")
    refused(
        outcome, "own.safetensors", "rule is 1 there, 2 now: dog/2.png was resized to 228x168", "now resized to 227x168"
    )


def test_trained_weights_are_of_a_new_rule_only_where_training_reads_other_pixels(untrained: Project) -> None:
    key = "+committee.members.byob.interpolation=bilinear"
    only = ("committee.only=[resnet,byob]", "finetune.epochs=1", "dataset.splits.train=12")
    untrained.done("finetune", key, *only)
    weights = untrained.outputs / "shapes/weights"
    rules = {path.stem: read_whole(path)[1]["settings"].get("rule") for path in weights.glob("*.safetensors")}
    assert rules == {"resnet": None, "byob": 2}
    of_rule_1(weights)
    untrained.done("finetune", *only[1:], "committee.only=[resnet]")
    refused(untrained.run("finetune", key, *only), "weights/byob", "rule is 1 there, 2 now", "(bicubic)", "(bilinear)")


def test_a_file_of_weights_predicts_as_its_architecture_is_evaluated(photographs: Project) -> None:
    """As the issue has it: weights of timm's test_vit, whose mean is not ImageNet's, without a word of preprocessing."""
    model = own_weights(photographs)
    photographs.done("finetune", "committee=own", "dataset=imagefolder")
    transform = create_transform(**resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("test_vit").to_dict()))
    tensors, header = read_whole(photographs.outputs / "pets/predictions/test/own.safetensors")
    images = [transform(Image.open(photographs.folder / "images" / name)) for name in header["ids"]]
    with torch.inference_mode():
        expected = model(torch.stack(images)).softmax(1)
    torch.testing.assert_close(tensors["probabilities"], expected, rtol=0, atol=1e-5)
