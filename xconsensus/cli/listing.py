"""What exists: the config groups' options, and the nearest names to a misspelt one."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from xconsensus.errors import InputError, nearest

PAPERS_SIZE = 224  # pixels: only members that see others say so

GROUPS = {"committees": "committee", "datasets": "dataset", "explainers": "explainer", "experiments": "experiment"}


def listing(arguments: Sequence[str]) -> str:
    """The text of ``xconsensus ls [KIND] [--config-dir FOLDER]``: options with their first comment line.

    Raises InputError for an unknown kind or folder.
    """
    conf = find_spec("xconsensus.conf")  # importing it would import all of Hydra
    assert conf is not None
    folders = [Path(each) for each in conf.submodule_search_locations or ()]
    kinds = [*arguments]
    if any(word.startswith("-") for word in arguments):
        from xconsensus.cli.folder import config_dir  # imports all of Hydra, which no other listing needs

        folder, kinds = config_dir(arguments)
        folders += [folder] if folder else []
    if not folders[-1].is_dir():
        raise InputError(f"--config-dir {folders[-1]}: no such folder")
    kinds = kinds or [*GROUPS]
    for kind in kinds:
        if kind not in (*GROUPS, "members"):
            raise InputError(f"ls {kind}: unknown{nearest(kind, [*GROUPS, 'members'])}")
    parts = [_members(folders) if kind == "members" else _options(folders, kind) for kind in kinds]
    return "\n".join(parts)


def _files(folders: Sequence[Path], group: str) -> dict[str, Path]:
    return {path.stem: path for folder in folders for path in sorted((folder / group).glob("*.yaml"))}


def _options(folders: Sequence[Path], kind: str) -> str:
    rows = "".join(f"  {name:<20} {_first_comment(path)}\n" for name, path in _files(folders, GROUPS[kind]).items())
    return f"{kind} ({GROUPS[kind]}=NAME)\n{rows}"


def _first_comment(path: Path) -> str:
    comments = (line[1:].strip() for line in path.read_text(errors="replace").splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith("@package")), "")


def _members(folders: Sequence[Path]) -> str:
    from xconsensus.keys.checks import taken
    from xconsensus.keys.words import faults_told
    from xconsensus.members import catalogue  # takes seconds to import torch, which no other listing needs

    lines = []
    for committee, path in _files(folders, "committee").items():
        config: Any = {}
        try:
            with faults_told():
                config |= OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            own = taken({"committee": {"members": config.get("members") or {}}})["committee"]
            found = catalogue.specifications({**config, **own})
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"{path}: {error}") from error
        lines.append(f"members of {committee} ({len(found)})\n")
        if any(own.get("library") == "paddle" for own in found.values()):
            lines.append("  what the members are | what they are by committee.weights=libraries\n")
        for name, own in found.items():
            spec = {"family": name, "library": "", "model": "", **(config.get("member_defaults") or {}), **own}
            size = spec.get("input_size") or config.get("input_size")
            entry = catalogue.entries().get(name)
            weights = config.get("weights", catalogue.WEIGHTS[0])
            if not entry or not entry.specification(weights).items() <= own.items():  # another model under its name
                what = _what(spec, "", size or PAPERS_SIZE)
            else:
                kinds = dict.fromkeys([weights, "libraries"] if entry.has_authors(weights) else [weights])
                what = " | ".join(
                    _what(
                        entry.specification(kind),
                        entry.closeness(kind),
                        size or (PAPERS_SIZE if entry.has_authors(kind) else entry.input_size),
                    )
                    for kind in kinds
                )
            lines.append(f"  {name:<24} {spec['family']:<14} {what}\n")
    return "".join(lines)


def _what(spec: Mapping[str, Any], closeness: str, size: int) -> str:
    """A member's model in words."""
    tag = f" {spec['pretrained']}" if isinstance(spec.get("pretrained"), str) else ""
    notes = [closeness] * bool(closeness) + [f"sees {size}x{size}"] * (size != PAPERS_SIZE)
    return f"{spec['library']} {spec['model']}{tag}" + (f" ({', '.join(notes)})" if notes else "")
