"""The folder of --config-dir: its files come before the package's of the same name."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from xconsensus.keys.words import check_own_files

_folder: Path | None = None


class OwnFirst(SearchPathPlugin):
    """Hydra itself looks into that folder last."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if _folder:
            search_path.prepend("own", f"file://{_folder}", SearchPathQuery(provider="main"))


def config_dir(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder that the words of the command line name, from now on looked into first, or None; and the other words.

    Raises InputError for a file in it that cannot be read, or cannot stand in place of the package's.
    """
    global _folder
    others = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    at = next((number for number, word in enumerate(others[:-1]) if word in ("--config-dir", "-cd")), None)
    _folder = None if at is None else Path(others[at + 1]).absolute()
    if at is not None:
        del others[at : at + 2]
    if _folder and _folder.is_dir():
        check_own_files(_folder)
        Plugins.instance().register(OwnFirst)
    return _folder, others
