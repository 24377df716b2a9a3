from pathlib import Path

import pytest

from xconsensus.jobs import memory


def test_memory_goes_back_when_it_has_grown_by_half_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    sizes = tmp_path / "statm"
    monkeypatch.setattr(memory, "_STATM", sizes)
    monkeypatch.setattr(memory, "_libc", object())
    batches = memory.Batches(1, "key")
    for resident in (100, 120, 150, 151, 90, 130, 136, 300):
        sizes.write_text(f"1000 {resident} 10")
        monkeypatch.setattr(memory, "release_freed_memory", lambda resident=resident: released.append(resident))
        batches.compute(lambda size: size, "member")
    assert released == [151, 136]  # after the first, 90 is the usual; after the second, 300


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_libc", None)
    monkeypatch.setattr(memory, "_STATM", Path("absent"))
    memory.keep_freed_memory()
    memory.Batches(1, "key").compute(lambda size: size, "member")
    memory.release_freed_memory()
