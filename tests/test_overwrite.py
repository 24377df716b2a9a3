"""Changed settings and changed code are named; overwrite=true makes again what differs, and that alone."""

from pathlib import Path

import pytest
from conftest import Project
from test_bad_input import refused

SHARDS = ("explain.shard_images=2", "explain.images=null")


@pytest.fixture
def mixed(photographs: Project) -> tuple[Project, Path]:
    """The photographs explained in three shards a member, one shard of one member from another seed."""
    photographs.done("finetune")
    photographs.done("explain", "seed=1", *SHARDS)
    folder = photographs.outputs / "pets/explanations/lime/second"
    path = sorted(folder.iterdir())[1]
    other = path.read_bytes()
    photographs.done("explain", "overwrite=true", *SHARDS)
    assert path.read_bytes() != other
    path.write_bytes(other)
    return photographs, path


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file each artefact is, and since when; the records of what ran and of photographs' times are none."""
    files = [path for path in folder.rglob("*") if path.is_file() and not {"status", "contents"} & {*path.parts}]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_one_shard_of_other_settings_is_named_and_alone_made_again(mixed: tuple[Project, Path]) -> None:
    project, path = mixed
    before = stamps(project.outputs)
    refused(project.run("explain", *SHARDS), path.name, "seed is 1 there, 0 now", "overwrite=true")
    named = "xconsensus run (or explain) overwrite=true"  # vote makes only its own again
    refused(project.run("vote", "overwrite=true", *SHARDS), path.name, "seed is 1 there, 0 now", named)
    assert stamps(project.outputs) == before
    foreign = path.read_bytes()
    project.done("explain", "overwrite=true", "dry_run=true", *SHARDS)
    assert stamps(project.outputs) == before
    project.done("explain", "overwrite=true", *SHARDS)
    after = stamps(project.outputs)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [str(path)]
    assert path.read_bytes() != foreign
    project.done("explain", *SHARDS)
    assert stamps(project.outputs) == after


@pytest.mark.parametrize(
    ("stage", "setting", "folders"),
    [
        ("finetune", "committee.members.second.kwargs.seed=9", {"predictions"}),
        ("explain", "committee.members.second.kwargs.seed=9", {"explanations"}),
        ("explain", "explainer.samples=21", {"explanations"}),
        ("explain", "explain.sample=random", {"images"}),
        ("explain", "explainer.segmenter.sigma=2.0", {"superpixels", "explanations"}),
        ("vote", "explainer.vote=squares", {"consensus"}),
        ("score", "score.level=0.9", {"scores"}),
    ],
)
def test_only_what_a_setting_shapes_is_made_again(scored: Project, stage: str, setting: str, folders: set[str]) -> None:
    before = stamps(scored.outputs / "pets")
    scored.done(stage, setting, "overwrite=true")
    changed = {
        Path(name).relative_to(scored.outputs / "pets")
        for name, stamp in stamps(scored.outputs / "pets").items()
        if before.get(name) != stamp
    }
    assert {path.parts[0] for path in changed if not path.name.startswith(".")} == folders
    if "members.second" in setting:
        assert {path.stem if stage == "finetune" else path.parts[2] for path in changed} == {"second"}


def test_what_is_not_ours_is_never_overwritten(voted: Project) -> None:
    for place in ("explanations/lime/first", "superpixels/quickshift", "consensus/grids/lime"):
        stage = "vote" if "consensus" in place else "explain"
        foreign = voted.outputs / "pets" / place / "notes.safetensors"
        foreign.write_bytes(b"somebody else's notes, which are longer than a header" * 9)
        refused(voted.run(stage, "overwrite=true", "explainer.samples=20"), foreign.name, "move it elsewhere")
        assert foreign.read_bytes().startswith(b"somebody")
        foreign.unlink()


def test_changed_code_of_a_member_is_named(scored: Project) -> None:
    code = scored.folder / "models/grids.py"
    code.write_text(code.read_text().replace("@ self.weight.T", "@ self.weight.T * 2"))
    before = scored.files()
    for stage in ("finetune", "explain", "vote", "score"):
        outcome = scored.run(stage)
        assert outcome.code == 2
        assert "member.model is grids.py@" in outcome.errors[0]
        assert "overwrite=true" in outcome.errors[0]
    assert scored.files() == before
    for stage in ("finetune", "explain", "vote", "score"):
        scored.done(stage, "overwrite=true")
    scored.done("score")
