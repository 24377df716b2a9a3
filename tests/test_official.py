"""Lists of lines, and the images they name."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest

from xconsensus.datasets.official import folder_of_masks, need, part_of, present, table
from xconsensus.datasets.records import Record
from xconsensus.errors import InputError


def named(folder: Path, *names: str) -> list[Record]:
    return [Record(name, 0, str(folder / name)) for name in names]


def test_a_table_holds_the_lines_that_are_neither_blank_nor_comments(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("#head 1\n1 a\n\n 2\tb  \n")
    assert table(path, int, str) == [(1, "a"), (2, "b")]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("1 a\n2 b\n", encoding="utf-8-sig")
    assert table(path, int, str) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("line", ["x a", "1", "1 a b", "1.5 a"])
def test_a_line_of_another_form_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# head\n1 a\n{line}\n")
    with pytest.raises(InputError, match=r"list\.txt:3: .*NUMBER NAME") as error:
        table(path, int, str)
    assert repr(line) in str(error.value)


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        table(tmp_path / "nowhere.txt", int)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary"):
        table(tmp_path / "binary.txt", int)


def test_records_come_sorted_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    names = [f"{folder}/{number}.jpg" for folder in "ba" for number in range(5)]
    for folder in "ab":
        (tmp_path / folder).mkdir()
    for name in names:
        (tmp_path / name).touch()
    with patch("os.listdir", wraps=os.listdir) as listdir:
        found = present(named(tmp_path, *names), tmp_path)
    assert [record.image_id for record in found] == sorted(names)
    assert listdir.call_count == 2


def test_images_that_are_absent_or_named_twice_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    for names in (("a.jpg", "b.jpg"), ("gone/c.jpg",)):
        with pytest.raises(InputError, match=rf"{names[-1]}.*source"):
            present(named(tmp_path, *names), Path("source"))
    with pytest.raises(InputError, match=r"source.*a\.jpg twice"):
        present(named(tmp_path, "a.jpg", "a.jpg"), Path("source"))
    with pytest.raises(InputError, match="source"):
        present([], Path("source"))


def test_masks_lie_inside_or_beside_or_anywhere(tmp_path: Path) -> None:
    root, beside, inside = tmp_path / "data", tmp_path / "masks", tmp_path / "data/masks"
    root.mkdir()
    with pytest.raises(InputError, match=r"data/masks.*fetch it.*dataset\.masks=null"):
        folder_of_masks(root, "masks", "fetch it")
    beside.mkdir()
    assert folder_of_masks(root, "masks", "") == beside
    inside.mkdir()
    assert folder_of_masks(root, "masks", "") == inside
    assert folder_of_masks(root, str(beside), "") == beside


def test_what_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    need([tmp_path], "fetch it")
    with pytest.raises(InputError, match=r"nowhere.*fetch it"):
        need([tmp_path, tmp_path / "nowhere"], "fetch it")
    assert part_of({"test": 1}, "test") == 1
    with pytest.raises(InputError, match=r"'val'.*train, test"):
        part_of({"train": 0, "test": 1}, "val")
