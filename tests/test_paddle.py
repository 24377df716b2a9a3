"""Paddle's files of weights are read as data, and PaddleClas's networks take them; both without Paddle.

`make test-authors` compares all 91 networks with PaddleClas itself (docs/authors.md).
"""

import copyreg
import io
import pickle
import re
import struct
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Project, done
from numpy.typing import NDArray
from test_paper_experiments import write_cub, write_imagenet
from torch import nn

from xconsensus.errors import InputError
from xconsensus.experiment import predicted
from xconsensus.members.catalogue import entries, names
from xconsensus.members.checkpoints import is_paddles, read_arrays
from xconsensus.members.member import Member, members_of
from xconsensus.members.network import network_of
from xconsensus.members.own_classes import own_classes
from xconsensus.members.paddle import files, table
from xconsensus.members.paddle.acnet import tensor_of
from xconsensus.members.paddle.networks import NETWORKS
from xconsensus.members.paddle.tensors import as_torch_has_them, in_paddles_order
from xconsensus.members.weights import build, content_of
from xconsensus.resampling import resized

Arrays = dict[str, NDArray[Any]]
CPU = torch.device("cpu")
PROTOCOLS = (2, 4)
# one network of each function, the smallest
ONE_OF_EACH = {
    entry.network: name for name, entry in sorted(table.entries().items(), key=lambda pair: -pair[1].numbers)
}


def written(path: Path, arrays: Arrays, protocol: int = 4) -> Path:
    """A file as paddle.save of a state dict writes it."""
    names = {"StructuredToParameterName@@": {name: f"param_{i}" for i, name in enumerate(arrays)}}
    path.write_bytes(pickle.dumps({**arrays, **names}, protocol=protocol))
    return path


def drawn(model: nn.Module, names: tuple[str, ...], network: str = "") -> Arrays:
    """Paddle's arrays of a network of random numbers: linear weights (in, out), all under Paddle's names."""
    rng = np.random.default_rng(0)
    state = model.state_dict()
    keys = [key for key in state if not key.endswith("num_batches_tracked")]
    found = {}
    for name, key in zip(names, in_paddles_order(network, keys), strict=True):
        values = rng.uniform(0.5, 1.5, tuple(state[key].shape)).astype(np.float32)
        found[name] = values.T if values.ndim == 2 else values
    return found


def member(model: str, file: Path | None = None, **keys: Any) -> Member:
    weights = {"weights": str(file)} if file else {}
    (found,) = members_of(
        {"net": {"library": "paddle", "model": model, **weights, **keys}}, defaults={}, size=224, resize=256
    )
    return found


# --- reading ---


def arrays_of_all_kinds() -> Arrays:
    rng = np.random.default_rng(1)
    return {
        "fc.weight": rng.normal(size=(3, 5)).astype(np.float32),
        "a.scalar": np.array(0.25, np.float32),
        "bn._mean": np.arange(256, dtype=np.uint8).astype(np.float64),
        "conv.weight": np.asfortranarray(rng.normal(size=(4, 3, 2, 2)).astype(np.float16)),
        "none.weight": np.zeros((0, 3), np.float32),
        "big_endian.weight": np.arange(7, dtype=">f4"),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_gives_its_arrays_in_its_order(protocol: int, tmp_path: Path) -> None:
    arrays = arrays_of_all_kinds()
    if protocol == 2:
        del arrays["none.weight"]  # its bytes need a fifth name under protocol 2
    found = read_arrays(written(tmp_path / "net.pdparams", arrays, protocol), "net")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_a_file_that_python_2_wrote_is_read(tmp_path: Path) -> None:
    values = np.array([1.5, -3e38], np.float32)
    stream = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
    )
    stream += b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
    (path := tmp_path / "old.pdparams").write_bytes(stream + values.tobytes() + b"tbs.")
    np.testing.assert_array_equal(read_arrays(path, "net")["w"], values)


def in_a_stream(module: str, name: str, way: str) -> bytes:
    """A stream that names something in one of pickle's ways, and calls it on a word where that way can."""
    as_text = f"c{module}\n{name}\n".encode()
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return {
        "global": b"\x80\x02" + as_text + b"U\x01x\x85R.",
        "stack": b"\x80\x04" + words + b"\x93\x8c\x01x\x85R.",
        "inst": b"\x80\x02(U\x01xi" + f"{module}\n{name}\n".encode() + b".",
        "obj": b"\x80\x02(" + as_text + b"U\x01xo.",
        "new": b"\x80\x02" + as_text + b")\x81.",
    }[way]


WAYS = ("global", "stack", "inst", "obj", "new")
FOREIGN = [("os", "mkdir"), ("builtins", "eval"), ("__builtin__", "bytes"), ("numpy", "load"), ("_codecs", "decode")]
FOREIGN += [("numpy.core.multiarray", "scalar"), ("numpy", "ndarray.tofile"), ("torch._utils", "_rebuild_tensor_v2")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("module", "name"), FOREIGN)
def test_anything_else_that_a_stream_names_is_refused_and_named(
    way: str, module: str, name: str, tmp_path: Path
) -> None:
    (path := tmp_path / "net.pdparams").write_bytes(in_a_stream(module, name, way))
    with pytest.raises(InputError, match=rf"member net: {re.escape(str(path))} .*'{re.escape(f'{module}.{name}')}'"):
        read_arrays(path, "net")


def test_no_other_name_of_any_module_here_is_admitted() -> None:
    reader = files._Reader(io.BytesIO(b""), encoding="latin1")
    admitted = set()
    for module, content in list(sys.modules.items()):
        for name in dir(content):
            try:
                reader.find_class(module, name)
                admitted.add((module, name))
            except pickle.UnpicklingError:
                pass
    four = {("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
    assert admitted - {("numpy.core.multiarray", "_reconstruct")} == four


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.",  # numpy's class itself is called
        b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb.",  # what is admitted is changed
        b"\x80\x02c_codecs\nencode\n}(N}U\x08__call__Nstb.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x05utf-8\x86R.",  # another encoding
        b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.",  # objects
        b"\x80\x02cnumpy\ndtype\nU\x02u2K\x00K\x01\x87R.",  # bfloat16, as Paddle writes it
        b"\x80\x02Pelsewhere\n.",  # persistent ids, as words and as objects
        b"\x80\x02U\x01xQ.",
        b"\x80\x02\x82\x01.",  # a number of the registry of extensions
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x02Nr\xff\xff\xff\xff.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x05N.",
        b"\x80\x02}U\x01wK\x01s.",
        b"\x80\x02}U\x17UnpackBigParamInfor@@}s.",
        b"\x80\x02",
    ],
)
def test_a_stream_that_does_anything_else_is_one_line(stream: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "net.pdparams").write_bytes(stream)
    with pytest.raises(InputError, match=rf"^member net: {re.escape(str(path))} cannot be read as weights \(.+\)$"):
        read_arrays(path, "net")


def test_a_stream_whose_parts_are_named_again_and_again_takes_no_more_than_its_size(tmp_path: Path) -> None:
    """60 kB named a million times, as a text to encode and as an array's; and a key whose hash needs 2**60 steps."""
    text = b"\x80\x02X" + struct.pack("<I", 60_000) + b"x" * 60_000 + b"q\x00"
    encoded = (
        text + b"X\x06\x00\x00\x00latin1q\x01c_codecs\nencode\nq\x02](" + 1_000_000 * b"h\x02h\x00h\x01\x86R" + b"e."
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01)R(K\x01J\x98\x3a\x00\x00\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R\x89h\x00tb"
    nested = b"\x80\x02}K\x01" + 60 * b"2\x86" + b"K\x01s."
    for stream in (encoded, text + b"](" + 1000 * array + b"e.", nested, nested[:-2].replace(b"}", b"}(") + b"K\x01u."):
        (path := tmp_path / "net.pdparams").write_bytes(stream)
        tracemalloc.start()
        with pytest.raises(InputError, match="more numbers than bytes|something in it is no name"):
            read_arrays(path, "net")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(stream) + 2**20
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (pickle.dumps({"w": np.zeros(2, np.float32)}, 5), r"_frombuffer'.* paddle\.save\(.*protocol=4\)"),
        (pickle.dumps({"w": np.zeros(2, np.float32)}, 4) + b"x", "something follows the state dict"),
        (pickle.dumps({0: np.zeros(2, np.float32)}, 4), "0 in it is no name"),
        (bytes(16) + b"\x06\0\0\0\x08\x05\x10\x02\x10\x03" + bytes(24), r"\.pdiparams"),
    ],
)
def test_other_files_of_paddles_are_told(stream: bytes, said: str, tmp_path: Path) -> None:
    (path := tmp_path / "net.pdparams").write_bytes(stream)
    own: dict[str, Any] = {"library": "module", "model": "own.py:Own", "weights": str(path)}
    with pytest.raises(InputError, match=said):
        content_of(Member("net", "net", input_size=32, resize=32, **own))


def test_what_was_registered_by_number_is_refused_too(tmp_path: Path) -> None:
    copyreg.add_extension("os", "mkdir", 77)
    try:
        (path := tmp_path / "net.pdparams").write_bytes(
            b"\x80\x02\x82\x4d" + f"U\x04{tmp_path}/x"[:6].encode() + b"\x85R."
        )
        with pytest.raises(InputError, match="os.mkdir"):
            read_arrays(path, "net")
    finally:
        copyreg.remove_extension("os", "mkdir", 77)


def changed(state: tuple[Any, ...]) -> bytes:
    """A stream of one array with that state."""

    class Forged:
        def __reduce__(self) -> tuple[Any, ...]:
            plain = np.zeros(2, np.float32).__reduce__()
            return (plain[0], plain[1], (1, (2,), np.dtype("f4"), False, bytes(8))[: 5 - len(state)] + state)

    return pickle.dumps({"w": Forged()}, protocol=4)


@pytest.mark.parametrize("state", [(bytes(4),), ([],), (False, 7), ((2**40,), np.dtype("f4"), False, bytes(8))])
def test_an_array_that_lies_about_its_size_is_refused(state: tuple[Any, ...], tmp_path: Path) -> None:
    (path := tmp_path / "net.pdparams").write_bytes(changed(state))
    with pytest.raises(InputError, match="cannot be read as weights"):
        read_arrays(path, "net")


def test_torchs_files_are_not_taken_for_paddles(tmp_path: Path) -> None:
    tensors = {"w": torch.ones(2)}
    for name, as_zip in (("new.pt", True), ("old.pt", False)):
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=as_zip)
        assert not is_paddles(tmp_path / name)
    assert not is_paddles(tmp_path / "absent")


# --- from Paddle's layout to torch's ---


class Own(nn.Module):
    """A user's network, as he wrote it in torch after one of his in Paddle."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.square = nn.Linear(6, 6)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = self.bn(self.conv(inputs)).relu().mean((2, 3))
        return self.fc(self.square(found))  # type: ignore[no-any-return]


OWN_NAMES = ("c.weight", "n.weight", "n.bias", "n._mean", "n._variance", "q.weight", "q.bias", "f.weight", "f.bias")


def test_linear_weights_are_turned_also_where_square() -> None:
    model = Own()
    arrays = drawn(model, OWN_NAMES)
    found = as_torch_has_them(model, arrays, "file")
    np.testing.assert_array_equal(found["square.weight"].numpy(), arrays["q.weight"].T)
    np.testing.assert_array_equal(found["fc.weight"].numpy(), arrays["f.weight"].T)
    np.testing.assert_array_equal(found["bn.running_var"].numpy(), arrays["n._variance"])
    np.testing.assert_array_equal(found["conv.weight"].numpy(), arrays["c.weight"])


class Matrices(nn.Module):
    """Layers beside linear ones whose tensors have two axes, all of them square."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4, 4))
        self.long = nn.Parameter(torch.zeros(2, 4))
        self.wide = nn.Parameter(torch.zeros(2, 5))
        self.tokens = nn.Embedding(4, 4)
        self.recurrent = nn.LSTM(4, 1)
        self.narrow = nn.Conv1d(4, 4, 1)
        self.shape = nn.ConvTranspose2d(3, 3, 2)
        self.fc = nn.Linear(4, 4)
        self.slope = nn.PReLU(4)
        self.norm = nn.InstanceNorm2d(4, affine=True)


def test_of_square_matrices_only_linear_weights_are_turned(caplog: pytest.LogCaptureFixture) -> None:
    """Paddle's embeddings, recurrent layers and plain parameters lie as torch's; only `table` could be meant turned."""
    model, rng = Matrices(), np.random.default_rng(0)
    names = {"slope.weight": "slope._weight", "norm.weight": "norm.scale"}
    expected = {key: rng.normal(size=tensor.shape).astype(np.float32) for key, tensor in model.state_dict().items()}
    arrays = {names.get(key, key): array for key, array in expected.items()}
    arrays["fc.weight"], arrays["wide"] = arrays["fc.weight"].T, arrays["wide"].T
    arrays["narrow.weight"] = arrays["narrow.weight"][..., 0].T
    with caplog.at_level("INFO", "xconsensus"):
        found = as_torch_has_them(model, arrays, "member squares: file")
    for key, tensor in found.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[key], err_msg=key)
    (line,) = caplog.messages
    assert line.startswith("member squares: file: table taken as in the file")


def swapped(one: str, other: str) -> Callable[[Arrays], Arrays]:
    """The same arrays, two of them each in the other's place."""
    places = {one: other, other: one}
    return lambda arrays: {places.get(name, name): arrays[places.get(name, name)] for name in arrays}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swapped("n.weight", "n._mean"), r"tensor n\._mean of shape \[6\] comes where the network has bn\.weight"),
        (lambda a: {**a, "c.weight": a["c.weight"][:5]}, r"tensor c\.weight of shape \[5, 3, 3, 3\] does not fit conv"),
        (
            lambda a: {**a, "c.weight": a["c.weight"].astype("i4")},
            r"tensor c\.weight .* holds int32, conv\.weight needs",
        ),
        (lambda a: {**a, "x.bias": a["f.bias"]}, r"holds 10 tensors, the network has 9: x\.bias is too many"),
        (lambda a: {n: a[n] for n in a if n != "n.bias"}, r"holds 8 tensors, .* has 9: n\._mean meets bn\.bias"),
    ],
)
def test_what_does_not_fit_names_tensor_shapes_and_both_names(change: Callable[[Arrays], Arrays], said: str) -> None:
    model = Own()
    with pytest.raises(InputError, match=f"^file.*{said}"):
        as_torch_has_them(model, change(drawn(model, OWN_NAMES)), "file")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_users_own_network_takes_his_file(protocol: int, photographs: Project) -> None:
    """As a member: by order, and with a head of its own classes."""
    models = photographs.folder / "models"
    (models / "own.py").write_text(f"import torch\nfrom torch import nn\n\n\n{source_of(Own)}")
    written(models / "own.pdparams", drawn(Own(2), OWN_NAMES), protocol)
    own = "{library: module, model: own.py:Own, weights: own.pdparams}"
    photographs.done("finetune", f"+committee.members.mine={own}")
    written(models / "own.pdparams", drawn(Own(5), OWN_NAMES), protocol)
    outcome = photographs.run("finetune", f"+committee.members.mine={own}", "overwrite=true")
    assert outcome.code == 2
    assert "mine" in outcome.errors[0]
    assert "knows 5 classes" in outcome.errors[0]


def test_a_file_tells_its_classes_where_the_data_set_does_not(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"import torch\nfrom torch import nn\n\n\n{source_of(Own)}")
    written(tmp_path / "own.pdparams", drawn(Own(9), OWN_NAMES))
    own = {"library": "module", "model": f"{tmp_path}/own.py:Own", "weights": "own.pdparams"}
    (mine,) = members_of({"mine": own}, defaults={}, size=32, resize=32, weights_dir=str(tmp_path))
    assert own_classes(mine) == 9


def source_of(kind: type) -> str:
    import inspect

    return inspect.getsource(kind)


# --- PaddleClas's networks ---


@pytest.mark.parametrize("network", sorted(ONE_OF_EACH))
def test_a_network_has_the_tensors_of_its_file(network: str) -> None:
    """Of each kind one: as many numbers as PaddleClas's, and weights, biases and statistics in its order."""
    entry = table.entries()[ONE_OF_EACH[network]]
    with torch.device("meta"):
        state = NETWORKS[network](num_classes=1000, **entry.arguments_of("2.x")).state_dict()
    keys = in_paddles_order(network, [key for key in state if not key.endswith("num_batches_tracked")])
    names = table.tensor_names(entry.name)
    assert len(names) == entry.tensors
    if network == "googlenet":  # the file holds two auxiliary heads besides
        names = tuple(name for name in names if not re.match(r"_(conv|fc)_o\d|_out\d", name))
    else:
        assert sum(state[key].numel() for key in keys) == entry.numbers
    roles = [
        name.rpartition(".")[2].replace("_mean", "running_mean").replace("_variance", "running_var") for name in names
    ]
    assert [key.rpartition(".")[2] for key in keys] == roles


def test_the_table_has_91_files_and_a_tar_of_the_papers_94() -> None:
    urls = [entry.url for entry in table.entries().values()]
    assert sum(url.endswith(".pdparams") for url in urls) == 91
    assert sum(url.endswith(".tar") for url in urls) == 1
    assert len(set(urls)) == 92
    assert all(url.startswith("https://paddle-imagenet-models-name.bj.bcebos.com/") for url in urls)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_file_is_taken_in_any_order_with_dropouts_factor(protocol: int, shuffled: bool, tmp_path: Path) -> None:
    """SqueezeNet's last convolution gets half of what comes in: Paddle's dropout scales at inference."""
    bare = build(member("SqueezeNet1_1"), 1000)
    arrays = drawn(bare, table.tensor_names("SqueezeNet1_1"))
    names = sorted(arrays) if shuffled else list(arrays)
    file = written(tmp_path / "net.pdparams", {name: arrays[name] for name in names}, protocol)
    found = network_of(member("SqueezeNet1_1", file), 1000, CPU).model.state_dict()
    for name, key in zip(arrays, bare.state_dict(), strict=True):
        factor = 0.5 if key == "classifier.1.weight" else 1.0
        np.testing.assert_array_equal(found[key].numpy(), arrays[name] * np.float32(factor), err_msg=key)


def test_a_file_of_another_network_names_the_first_tensor_it_lacks(tmp_path: Path) -> None:
    bare = build(member("SqueezeNet1_1"), 1000)
    arrays = drawn(bare, table.tensor_names("SqueezeNet1_1"))
    arrays["other.bias"] = arrays.pop("_conv1.bias") if "_conv1.bias" in arrays else arrays.pop(list(arrays)[1])
    missing = next(name for name in table.tensor_names("SqueezeNet1_1") if name not in arrays)
    with pytest.raises(InputError, match=f"lacks tensor {re.escape(missing)} of PaddleClas's SqueezeNet1_1"):
        network_of(member("SqueezeNet1_1", written(tmp_path / "n.pdparams", arrays)), 1000, CPU)


def in_a_folder(folder: Path, **keys: Any) -> Member:
    (found,) = members_of({"net": keys}, defaults={}, size=224, resize=256, weights_dir=str(folder))
    return found


def test_a_file_of_the_other_kind_is_not_taken_for_published_weights(tmp_path: Path) -> None:
    """Torchvision's SqueezeNet has the shapes of PaddleClas's, and pools otherwise; of two files each has its own."""
    torch.manual_seed(0)
    libraries: dict[str, Any] = {"library": "torchvision", "model": "squeezenet1_1"}
    authors: dict[str, Any] = {"library": "paddle", "model": "SqueezeNet1_1"}
    tensors = build(in_a_folder(tmp_path, **libraries), 1000).state_dict()
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"net\.pth holds no weights of PaddleClas's: committee\.weights=libraries"):
        build(in_a_folder(tmp_path, **authors, pretrained=True), 1000)
    build(in_a_folder(tmp_path, **authors, weights="net.pth"), 1000)
    names = table.tensor_names("SqueezeNet1_1")
    file = written(tmp_path / "net.pdparams", drawn(build(member("SqueezeNet1_1"), 1000), names))
    found = build(in_a_folder(tmp_path, **authors, pretrained=True), 1000).get_parameter("features.0.bias")
    np.testing.assert_array_equal(found.detach().numpy(), read_arrays(file, "net")["_conv.bias"])
    found = build(in_a_folder(tmp_path, **libraries, pretrained=True), 1000).get_parameter("features.0.bias")
    torch.testing.assert_close(found.detach(), tensors["features.0.bias"])
    (tmp_path / "net.pth").unlink()
    for other in (libraries, {"library": "timm", "model": "resnet18"}):
        with pytest.raises(InputError, match=r"net\.pdparams is Paddle's and holds no weights of t.*s pretrained=True"):
            build(in_a_folder(tmp_path, **other, pretrained=True), 1000)


def test_a_file_of_paddleclass_does_not_go_into_a_network_of_a_library(tmp_path: Path) -> None:
    """Torchvision's SqueezeNet takes all of its tensors, and does not scale what it dropped out."""
    bare = build(member("SqueezeNet1_1"), 3)
    file = written(tmp_path / "net.pdparams", drawn(bare, table.tensor_names("SqueezeNet1_1")))
    as_library = in_a_folder(tmp_path, library="torchvision", model="squeezenet1_1", weights=file.name)
    with pytest.raises(
        InputError, match=r"is of PaddleClas's SqueezeNet1_1, .* write library: paddle, model: SqueezeNet1_1"
    ):
        network_of(as_library, 3, CPU)


def test_a_new_head_is_drawn_for_other_classes(tmp_path: Path) -> None:
    bare = build(member("SqueezeNet1_1"), 1000)
    file = written(tmp_path / "net.pdparams", drawn(bare, table.tensor_names("SqueezeNet1_1")))
    found = network_of(member("SqueezeNet1_1", file), 7, CPU, new_head=True)
    assert found(torch.zeros(2, 3, 224, 224)).shape == (2, 7)
    with pytest.raises(InputError, match="knows 1000 classes, the data set has 7"):
        network_of(member("SqueezeNet1_1", file), 7, CPU)


def test_release_1_8_scales_pooled_features(tmp_path: Path) -> None:
    """1.8's SE_ResNeXt50_32x4d multiplies by 0.5 before its last layer: logits less the bias are half of 2.x's."""
    name = "SE_ResNeXt50_32x4d"
    file = written(tmp_path / "net.pdparams", drawn(build(member(name), 1000), table.tensor_names(name)))
    states = [
        network_of(member(name, file, kwargs={"release": release}), 1000, CPU).model.state_dict()
        for release in table.RELEASES
    ]
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor * (0.5 if key == "fc.weight" else 1), rtol=0, atol=0)
    with pytest.raises(InputError, match="release=3 of"):
        build(member(name, kwargs={"release": "3"}), 1000)


def test_release_1_8_pads_the_small_efficientnet_on_one_side() -> None:
    torch.manual_seed(0)
    now = build(member("EfficientNetB0_Small"), 10)
    then = build(member("EfficientNetB0_Small", kwargs={"release": "1.8"}), 10)
    then.load_state_dict(now.state_dict())
    inputs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        first = [model.get_submodule("conv_stem")(inputs) for model in (now, then)]
    weight = now.get_submodule("conv_stem").weight
    assert isinstance(weight, torch.Tensor)
    one_sided = nn.functional.conv2d(nn.functional.pad(inputs, (0, 1, 0, 1)), weight, stride=2)
    torch.testing.assert_close(first[1], one_sided)
    assert not torch.allclose(first[0], first[1])


# --- ResNet50_ACNet ---


def lod_tensor(array: NDArray[Any]) -> bytes:
    """A tensor's file of release 1.8, by the layout that `paddle.save(..., use_binary_format=True)` writes."""

    def varint(value: int) -> bytes:
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])

    description = b"\x08\x05" + b"".join(b"\x10" + varint(size) for size in array.shape)
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description + array.astype("<f4").tobytes()


class ThreeBranches(nn.Module):
    """A convolution of ACNet: k x k, k x 1 and 1 x k, each normalised, summed."""

    def __init__(self, old: nn.Conv2d) -> None:
        super().__init__()
        k, stride = old.kernel_size[0], old.stride[0]
        forms = ((k, k), (k, 1), (1, k))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(old.in_channels, old.out_channels, (a, b), stride, (a // 2, b // 2), bias=False) for a, b in forms
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(old.out_channels) for _ in forms)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.convolutions, self.norms, strict=True)
        return torch.stack([norm(convolution(inputs)) for convolution, norm in pairs]).sum(0)


def named_as_release_1_8(model: nn.Module) -> Arrays:
    """The arrays of a ResNet-50 of three branches by their names there."""
    found: Arrays = {}

    def add(convolution: nn.Module, norm: nn.Module, name: str, suffix: str = "") -> None:
        word = "bn_conv1" if name == "conv1" else f"bn{name[3:]}"
        found[f"{name}{suffix}_weights"] = convolution.state_dict()["weight"].numpy()
        parts = {"scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"}
        for part, key in parts.items():
            found[f"{word}{suffix}_{part}"] = norm.state_dict()[key].numpy()

    def add_three(layer: nn.Module, name: str) -> None:
        assert isinstance(layer, ThreeBranches)
        for suffix, convolution, norm in zip(("square", "ver", "hor"), layer.convolutions, layer.norms, strict=True):
            add(convolution, norm, name, f"_ac{suffix}")

    add_three(model.get_submodule("conv1"), "conv1")
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for place in range(blocks):
            block, name = model.get_submodule(f"layer{stage}.{place}"), f"res{stage + 1}{'abcdef'[place]}"
            add(block.get_submodule("conv1"), block.get_submodule("bn1"), f"{name}_branch2a")
            add_three(block.get_submodule("conv2"), f"{name}_branch2b")
            add(block.get_submodule("conv3"), block.get_submodule("bn3"), f"{name}_branch2c")
            if place == 0:
                add(block.get_submodule("downsample.0"), block.get_submodule("downsample.1"), f"{name}_branch1")
    fc = model.get_submodule("fc").state_dict()
    return found | {"fc_0.w_0": fc["weight"].numpy().T, "fc_0.b_0": fc["bias"].numpy()}


@pytest.fixture(scope="module")
def acnet() -> nn.Module:
    """A ResNet-50 whose stem and 3x3 convolutions have three branches, with statistics that matter."""
    torch.manual_seed(0)
    model = build(member("ResNet50"), 1000)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, ThreeBranches(module))
            setattr(model.get_submodule(parent), name.replace("conv", "bn"), nn.Identity())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                assert tensor is not None
                nn.init.normal_(tensor, std=0.1)
            assert module.running_var is not None
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.requires_grad_(False).eval()


def tar_of(path: Path, arrays: Arrays) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, array in arrays.items():
            info = tarfile.TarInfo(f"ResNet50_ACNet_pretrained/{name}")
            content = lod_tensor(array)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_three_branches_are_folded_into_one(acnet: nn.Module, tmp_path: Path) -> None:
    file = tar_of(tmp_path / "net.tar", named_as_release_1_8(acnet))
    network = network_of(member("ResNet50_ACNet", file), 1000, CPU)
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = acnet.double()(inputs.double()), network.model.double()(inputs.double())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    entry = table.entries()["ResNet50_ACNet"]
    given = named_as_release_1_8(acnet)
    assert (len(given), sum(array.size for array in given.values())) == (entry.tensors, entry.numbers)


def test_a_tar_of_something_else_is_one_line(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "net.tar", {"conv1_weights": np.ones((2, 3), np.float32)})
    with pytest.raises(InputError, match="has no tensor conv1_acsquare_weights of release 1.8's ResNet50_ACNet"):
        read_arrays(file, "net")
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("readme"))
    with pytest.raises(InputError, match="is no tensor of Paddle's"):
        read_arrays(file, "net")
    with tarfile.open(file, "w") as archive:
        for folder in "ab":
            archive.addfile(tarfile.TarInfo(f"{folder}/conv1_weights"))
    with pytest.raises(InputError, match="the tar has two files of one name"):
        read_arrays(file, "net")


@pytest.mark.parametrize("shape", [(), (3,), (300, 2), (1, 2, 3, 4)])
def test_a_tensors_file_gives_its_numbers(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(tensor_of(lod_tensor(array)), array)
    for damaged in (
        lod_tensor(array)[:16] + b"\xff" * 400_000,
        lod_tensor(array)[:-1],
        lod_tensor(array) + b"\0",
        b"\1" + lod_tensor(array)[1:],
        b"",
    ):
        with pytest.raises(ValueError, match="tensor"):
            tensor_of(damaged)


# --- preprocessing ---


@pytest.mark.parametrize(("height", "width"), [(61, 37), (20, 90), (300, 301)])
def test_opencvs_bilinear_reads_the_four_pixels_around_a_point(height: int, width: int) -> None:
    """By its formula: nothing is smoothed where the image shrinks, half pixels are centres, edges are repeated."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = ((np.arange(48) + 0.5) * size / 48 - 0.5 for size in (height, width))
    expected = np.zeros((48, 48, 3))
    for down in (0, 1):
        for across in (0, 1):
            r, c = np.floor(rows) + down, np.floor(columns) + across
            weight = (1 - np.abs(rows - r))[:, None] * (1 - np.abs(columns - c))
            taken = pixels[r.clip(0, height - 1).astype(int)][:, c.clip(0, width - 1).astype(int)]
            expected += weight[..., None] * taken
    found = resized(pixels, 48, 48, "opencv_bilinear")
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_the_authors_networks_see_224_pixels_of_256_as_paddleclas_does() -> None:
    found = member("InceptionV4", Path("file.pdparams"))
    assert (found.input_size, found.resize, found.interpolation) == (224, 256, "opencv_bilinear")


# --- in a committee ---


def test_results_of_the_libraries_weights_name_the_key_that_takes_them(photographs: Project) -> None:
    """At every stage; with that key nothing is made again."""
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("resnet18").state_dict(), photographs.folder / "models/ResNet18.pth")
    one = ["committee.catalogue=[ResNet18]", "committee.only=[ResNet18]", "committee.allow_missing=true"]
    one += ["committee.finetune=true", "+dataset.splits.train=.", "finetune.epochs=1", "explainer=lime"]
    with_libraries = [*one, "committee.weights=libraries"]
    stages = ("finetune", "explain", "vote", "score", "plot")
    for stage in stages:
        photographs.done(stage, *with_libraries)
    made = photographs.files()
    for stage in (*stages, "run", "status"):
        outcome = photographs.run(stage, *one)
        assert outcome.code == 2, stage
        said = outcome.out if stage == "status" else outcome.err
        assert "is timm there, paddle now: committee.weights=libraries takes what it was made with" in said, stage
    for stage in (*stages, "run"):
        photographs.done(stage, *with_libraries)
    assert photographs.files() == made


@pytest.mark.parametrize(
    ("model", "share", "images", "said"),
    [
        ("ResNet50", 0.7, 49_999, " (published 0.765, Table 2 0.763)"),
        ("ResNet50", 0.7649, 50_000, " (published 0.765, Table 2 0.763)"),
        ("ResNet50", 0.7615, 50_000, " (published 0.765, Table 2 0.763: NOT as published)"),
        ("InceptionV4", 0.7, 50_000, " (published 0.808 at 299 pixels)"),
    ],
)
def test_accuracies_stand_beside_the_published_ones(model: str, share: float, images: int, said: str) -> None:
    """Those of PaddleClas's documents and of the paper's Table 2."""
    network = replace(member(model, Path("file")), weights=None, pretrained=True)
    assert predicted._published(network, share, images) == said
    assert predicted._published(replace(network, pretrained=False), share, images) == ""


def test_a_dry_run_counts_what_is_to_be_downloaded(
    photographs: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the authors' files, one of which is here; nothing is asked for."""
    monkeypatch.setenv("XCONSENSUS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    two = "committee.catalogue=[ShuffleNetV2_x0_25,SqueezeNet1_1]"
    only = "committee.only=[ShuffleNetV2_x0_25,SqueezeNet1_1]"
    plain = [two, only, "committee.finetune=true", "+dataset.splits.train=.", "finetune.epochs=1", "dry_run=true"]
    entries = [table.entries()[name] for name in ("ShuffleNetV2_x0_25", "SqueezeNet1_1")]
    bytes_of = [4 * entry.numbers for entry in entries]
    said = photographs.done("finetune", *plain).err
    assert f"finetune would download 2 files, about {sum(bytes_of) / 1e9:.2f} GB" in said
    (tmp_path / "authors").mkdir()
    names = table.tensor_names("SqueezeNet1_1")
    written(tmp_path / "authors/SqueezeNet1_1_pretrained.pdparams", drawn(build(member("SqueezeNet1_1"), 1000), names))
    said = photographs.done("finetune", *plain).err
    assert f"finetune would download 1 files, about {bytes_of[0] / 1e9:.2f} GB" in said
    refused = photographs.run("finetune", *plain[:-1])
    assert refused.code == 2
    assert entries[0].url in refused.errors[0]
    assert "HF_HUB_OFFLINE" in refused.errors[0]


@pytest.mark.parametrize(
    ("experiment", "write", "committee", "members"),
    [("imagenet", write_imagenet, "imagenet81", 81), ("cub", write_cub, "cub85", 85)],
)
def test_a_dry_run_of_the_papers_experiments_counts_downloads(
    experiment: str,
    write: Callable[[Path], None],
    committee: str,
    members: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each file once, in float32; less one that is here. The networks themselves are not built here, for their time."""
    monkeypatch.setenv("XCONSENSUS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(
        "xconsensus.stages.finetune.network_for", lambda *_, **__: SimpleNamespace(model=nn.Linear(1, 1))
    )
    monkeypatch.setattr("xconsensus.stages.finetune.seconds_a_pass", lambda *_: 0.0)
    write(tmp_path / "data")
    words = (f"experiment={experiment}", f"root={tmp_path}/data", f"output_dir={tmp_path}/outputs", "dry_run=true")

    def counted() -> tuple[int, float]:
        found = re.search(r"finetune would download (\d+) files, about (\d+\.\d\d) GB", done("finetune", *words).err)
        assert found
        return int(found[1]), float(found[2])

    parameters = {
        name: table.entries()[name].numbers if name in table.entries() else entries()[name].parameters
        for name in names(committee)
    }
    files, gigabytes = counted()
    assert (files, len(parameters)) == (members, members)
    assert gigabytes == pytest.approx(4 * sum(parameters.values()) / 1e9, abs=0.006)
    (tmp_path / "authors").mkdir()
    name = "ShuffleNetV2_x0_25"
    path = tmp_path / f"authors/{name}_pretrained.pdparams"
    written(path, drawn(build(member(name), 1000), table.tensor_names(name)))
    assert counted()[0] == members - 1
