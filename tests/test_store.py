"""Atomic writes, provenance, and shards of tensors."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from xconsensus.errors import DamagedError, InputError, SettingsError, safe_name
from xconsensus.store import shards as shards_on_disk
from xconsensus.store.files import (
    atomic,
    read_csv,
    read_json,
    read_settings,
    remove,
    write_csv,
    write_json,
    write_text,
)
from xconsensus.store.folders import Store
from xconsensus.store.provenance import check_settings, difference
from xconsensus.store.shards import Shards
from xconsensus.store.tensors import read_header, read_tensors, read_whole, write_tensors

SETTINGS = {"explainer": {"samples": 20, "noise": 0.1}, "seed": 0, "layers": [1, 2], "none": None}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder/file.txt"
    write_text(path, "old")
    with suppress(KeyboardInterrupt), atomic(path) as file:
        file.write(b"new, but not")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [*path.parent.iterdir()] == [path]


def test_a_file_appears_only_once_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen, sync = tmp_path / "file.txt", [], os.fsync

    def watched(descriptor: int) -> None:
        seen.append((path.exists(), os.fstat(descriptor).st_size))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_text(path, "whole")
    assert seen == [(False, 5)]
    assert path.read_text() == "whole"


def test_tensors_and_their_header_come_back(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor([True, False]), "c": torch.zeros(0)}
    write_tensors(path, tensors, SETTINGS, ids=["x", "y/ü"], history=[{"loss": 0.5}])
    found, header = read_tensors(path), read_header(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in tensors)
    assert header["settings"] == SETTINGS
    assert (header["ids"], header["history"]) == (["x", "y/ü"], [{"loss": 0.5}])
    release = torch.__version__.partition("+")[0]  # a wheel's metadata may leave out the build: 2.13.0 for 2.13.0+cu130
    assert header["versions"]["torch"].partition("+")[0] == release


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name, settings in (("a", SETTINGS), ("b", dict(reversed(SETTINGS.items())))):
        write_tensors(tmp_path / name, {"x": torch.ones(3)}, settings)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_of_others_and_damaged_files_are_named(tmp_path: Path) -> None:
    foreign, damaged = tmp_path / "foreign.safetensors", tmp_path / "damaged.safetensors"
    save_file({"x": torch.ones(3)}, foreign)
    write_tensors(damaged, {"x": torch.ones(300)}, SETTINGS)
    damaged.write_bytes(damaged.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"foreign\.safetensors"):
        read_header(foreign)
    for read in (read_header, read_tensors):
        with pytest.raises(InputError, match=r"damaged\.safetensors"):
            read(damaged)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({**SETTINGS, "seed": 1}, ["seed is 0 there, 1 now"]),
        ({**SETTINGS, "explainer": {"samples": 21, "noise": 0.1}}, ["explainer.samples is 20 there, 21 now"]),
        ({**SETTINGS, "explainer": {"samples": 20}}, ["explainer.noise is 0.1 there, absent now"]),
        ({**SETTINGS, "new": "x"}, ["new is absent there, x now"]),
        ({**SETTINGS, "layers": [1, 3]}, ["layers is [1, 2] there, [1, 3] now"]),
    ],
)
def test_the_setting_that_differs_is_named(wanted: dict[str, object], words: list[str]) -> None:
    assert difference(SETTINGS, wanted) == words[0]
    with pytest.raises(InputError) as caught:
        check_settings(Path("artefact"), SETTINGS, wanted)
    assert all(word in str(caught.value) for word in ["artefact", "overwrite=true", *words])


def test_equal_settings_pass_also_as_json_would_have_them() -> None:
    assert difference(SETTINGS, dict(SETTINGS)) is None
    check_settings(Path("artefact"), {"mean": [0.5, 0.5]}, {"mean": (0.5, 0.5)})


def test_tables_keep_names_and_missing_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = pd.DataFrame(
        {"image_id": ["007", "nan", "a,b"], "member": ["None", "x", "1"], "value": [0.1, np.nan, 1e-9]}
    )
    write_csv(path, table, SETTINGS)
    pd.testing.assert_frame_equal(read_csv(path, ["value"]), table)
    assert read_settings(path) == SETTINGS
    with pytest.raises(InputError, match=r"table\.csv.*height"):
        read_csv(path, ["value", "height"])


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}"])
def test_a_table_without_its_settings_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(InputError, match=r"table\.json"):
        read_settings(tmp_path / "table.csv")


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_csv, read_json):
        with pytest.raises(InputError, match="nowhere"):
            read(tmp_path / "nowhere")


def test_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": [1, None, "ü"], "a": 0.1})
    assert [*read_json(tmp_path / "x.json").items()] == [("b", [1, None, "ü"]), ("a", 0.1)]


def test_remove_takes_files_folders_and_what_is_not_there(tmp_path: Path) -> None:
    write_text(tmp_path / "folder/inner/file", "x")
    write_text(tmp_path / "file", "x")
    for name in ("folder", "file", "nowhere"):
        remove(tmp_path / name)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a\\b", "a\0b", "x" * 201, "ü" * 101])
def test_names_that_would_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="a key"):
        safe_name(name, "a key")
    with pytest.raises(InputError, match=r"dataset\.name"):
        Store(tmp_path, name)
    store = Store(tmp_path, "data")
    for place in (store.weights, store.images, store.superpixels, store.figures, store.tables):
        with pytest.raises(InputError):
            place(name)
    for pair in (store.predictions, store.explanations, store.consensus, store.scores):
        for arguments in (("good", name), (name, "good")):
            with pytest.raises(InputError):
                pair(*arguments)


def test_artefacts_never_share_a_path(tmp_path: Path) -> None:
    store = Store(tmp_path, "data")
    one = [place("x") for place in (store.weights, store.checkpoint, store.images, store.superpixels)]
    one += [store.figures("x"), store.tables("x")]
    two = [p("x", "y") for p in (store.predictions, store.explanations, store.consensus, store.scores)]
    assert len({*one, *two}) == len(one) + len(two)
    assert all(path.is_relative_to(tmp_path / "data") for path in (*one, *two))


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e-3, 1.0, 1e9])
def test_packed_maps_keep_the_ratios_of_any_magnitude(tmp_path: Path, scale: float) -> None:
    rng = np.random.default_rng(0)
    maps = [torch.tensor(rng.uniform(0.1, 1, (8, 8)) * scale * sign, dtype=torch.float32) for sign in (1, -1)]
    Shards(tmp_path, SETTINGS, packed=True).write(["a", "b"], maps)
    shards = Shards(tmp_path, SETTINGS, packed=True)
    for name, given in zip("ab", maps, strict=True):
        torch.testing.assert_close(shards.values(name), given.flatten(), rtol=1e-3, atol=0.0)
    assert read_tensors(next(tmp_path.iterdir()))["values"].dtype == torch.float16


def test_a_packed_map_of_zeros_stays_zero(tmp_path: Path) -> None:
    shards = Shards(tmp_path, SETTINGS, packed=True)
    shards.write(["a"], [torch.zeros(4, 4)])
    assert torch.equal(shards.values("a"), torch.zeros(16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32])
def test_ragged_arrays_and_fields_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    arrays = {name: (torch.arange(length) * 3).to(dtype) for name, length in (("a", 5), ("b/c", 1), ("d", 9))}
    written = Shards(tmp_path, SETTINGS)
    written.write(["a", "b/c"], [arrays["a"], arrays["b/c"]], {"predicted": torch.tensor([3, 7])})
    written.write(["d"], [arrays["d"]], {"predicted": torch.tensor([9])})
    shards = Shards(tmp_path, SETTINGS)
    for name in ("d", "a", "b/c", "a"):
        assert torch.equal(shards.values(name), arrays[name])
    assert [shards.number(name, "predicted") for name in arrays] == [3, 7, 9]
    assert shards.missing(["z", "a", "d", "y"]) == ["z", "y"]
    with pytest.raises(InputError, match="image z"):
        shards.values("z")


def test_folders_with_the_same_images_share_one_index(tmp_path: Path) -> None:
    folders = [Shards(tmp_path / member, {**SETTINGS, "member": member}) for member in ("one", "two")]
    for shards in folders:
        shards.write(["a", "b"], [torch.ones(2), torch.zeros(2)])
    assert folders[0].index is folders[1].index
    folders[1].write(["c"], [torch.full((2,), 5.0)])
    assert [shards.missing("abcd") for shards in folders] == [["c", "d"], ["d"]]
    assert folders[1].values("c").tolist() == [5.0, 5.0]


def test_the_headers_of_shards_known_from_another_folder_are_read_with_their_values(tmp_path: Path) -> None:
    *own, foreign = sorted("abcd", key=lambda name: Shards(tmp_path, SETTINGS).path([name]))
    one, two = (Shards(tmp_path / member, {**SETTINGS, "member": member}) for member in ("one", "two"))
    for name in own:
        for shards in (one, two):
            shards.write([name], [torch.ones(2)])
    one.write([foreign], [torch.ones(2)])
    shutil.copy(one.path([foreign]), two.folder)
    assert one.missing("abcd") == []
    two = Shards(two.folder, two.settings)
    with patch.object(shards_on_disk, "read_header", wraps=read_header) as read:
        assert two.missing("abcd") == []
        assert read.call_count == 1
    assert [two.values(name).tolist() for name in own] == [[1.0, 1.0]] * 3
    with pytest.raises(SettingsError, match="member is one there, two now"):
        two.values(foreign)


def test_what_was_written_is_not_missing_any_more(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "not yet", SETTINGS)
    assert shards.missing(["a", "b"]) == ["a", "b"]
    shards.write(["a"], [torch.ones(2)])
    assert shards.missing(["a", "b"]) == ["b"]


def test_shards_of_other_settings_and_damaged_ones_are_named(tmp_path: Path) -> None:
    Shards(tmp_path, SETTINGS).write(["a"], [torch.ones(200)])
    (path,) = tmp_path.iterdir()
    with pytest.raises(InputError, match=f"{path.name}.*seed is 0 there, 5 now"):
        Shards(tmp_path, {**SETTINGS, "seed": 5}).missing(["a"])
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=path.name):
            Shards(tmp_path, SETTINGS).values("a")


def test_a_file_half_written_by_a_killed_run_is_not_read(tmp_path: Path) -> None:
    Shards(tmp_path, SETTINGS).write(["a"], [torch.ones(2)])
    (path,) = tmp_path.iterdir()
    (tmp_path / f".{path.name}.1.tmp").write_bytes(path.read_bytes()[:20])
    assert Shards(tmp_path, SETTINGS).missing(["a", "b"]) == ["b"]


@pytest.mark.parametrize("packed", [False, True])
def test_one_image_is_read_without_the_others_of_its_file(tmp_path: Path, packed: bool) -> None:
    maps = [torch.rand(300) * 10.0**-exponent for exponent in (0, 5, 9)]
    Shards(tmp_path, SETTINGS, packed=packed).write(["a", "b", "c"], maps)
    (path,) = tmp_path.iterdir()
    shards = Shards(tmp_path, SETTINGS, packed=packed)
    for image_id in "abc":
        assert torch.equal(shards.value(image_id), shards.values(image_id))
    whole = path.read_bytes()
    last = bytearray(whole)
    last[-1] ^= 1  # of the last image's values
    path.write_bytes(last)
    fresh = Shards(tmp_path, SETTINGS, packed=packed)
    assert torch.equal(fresh.value("a"), shards.values("a"))
    with pytest.raises(DamagedError, match=path.name):
        fresh.value("c")
    with pytest.raises(DamagedError, match=path.name):
        fresh.values("a")


def test_a_flip_of_any_byte_that_concerns_one_image_is_found_when_it_is_read_alone(tmp_path: Path) -> None:
    Shards(tmp_path, SETTINGS, packed=True).write(["a"], [torch.rand(5)])
    (path,) = tmp_path.iterdir()
    whole, right = path.read_bytes(), Shards(tmp_path, SETTINGS, packed=True).value("a")
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        try:
            found = Shards(tmp_path, SETTINGS, packed=True).value("a")
        except InputError:
            continue
        assert torch.equal(found, right)  # what changed was no part of the image


def test_a_file_of_before_without_checksums_of_images_is_read_whole(tmp_path: Path) -> None:
    shards = Shards(tmp_path, SETTINGS)
    shards.write(["a", "b"], [torch.arange(3.0), torch.ones(2)])
    (path,) = tmp_path.iterdir()
    tensors, header = read_whole(path)
    del tensors["checksums"]
    write_tensors(path, tensors, SETTINGS, ids=header["ids"], shape=header["shape"])
    assert torch.equal(Shards(tmp_path, SETTINGS).value("a"), torch.arange(3.0))
    flipped = bytearray(path.read_bytes())
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(DamagedError, match=path.name):
        Shards(tmp_path, SETTINGS).value("a")


def test_packed_maps_have_their_scale_for_readers_who_do_not_say_that_they_are(tmp_path: Path) -> None:
    maps = [torch.rand(300) * 10.0**-exponent for exponent in (0, 5)]
    Shards(tmp_path, SETTINGS, packed=True).write(["a", "b"], maps)
    plain = Shards(tmp_path, SETTINGS)
    for image_id, expected in zip("ab", maps, strict=True):
        for found in (plain.values(image_id), plain.value(image_id), next(plain.blocks([image_id], 1))[1][0]):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
