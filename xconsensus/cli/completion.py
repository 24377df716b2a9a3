"""Shell completion: the stage by us, the rest of the line by Hydra's own completion of that stage's config."""

import os
import sys
from collections.abc import Sequence


def complete(arguments: Sequence[str], stages: Sequence[str]) -> None:
    """Serve ``xconsensus -sc install=bash`` (prints the shell's hook) and the ``query=bash`` that the hook calls.

    The hook puts the typed line into COMP_LINE. Until the stage is whole, stages are offered; then it is cut out of
    the line and Hydra completes keys, groups and options.
    """
    import hydra

    words = os.environ.get("COMP_LINE", "").split(" ")
    if any(argument.startswith("query") for argument in arguments):
        if len(words) < 3 or words[1] not in stages:
            typed = words[1] if len(words) == 2 else ""
            print("\n".join(stage for stage in [*stages, "ls"] if stage.startswith(typed)))
            return
        stage = words.pop(1)
        os.environ["COMP_LINE"] = " ".join(words)
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    else:
        stage = stages[0]
    sys.argv[1:] = ["-sc", *arguments]
    hydra.main(version_base="1.3", config_path="pkg://xconsensus.conf", config_name=stage)(lambda _: None)()
