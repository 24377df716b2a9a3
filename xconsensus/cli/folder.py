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


def config_dir(words: Sequence[str]) -> Path | None:
    """The folder that the words of the command line name, from now on looked into first; None where they name none.

    Raises InputError for a file in it that cannot stand in place of the package's.
    """
    global _folder
    pairs = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    at = next((number for number, word in enumerate(pairs[:-1]) if word in ("--config-dir", "-cd")), None)
    _folder = None if at is None else Path(pairs[at + 1]).absolute()
    if _folder and _folder.is_dir():
        check_own_files(_folder)
        Plugins.instance().register(OwnFirst)
    return _folder
