"""The command line: picks the stage, hands the rest to Hydra, turns bad input into one line."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from itertools import pairwise

STAGES = {
    "finetune": "train the members of a committee and write their predictions",
    "explain": "explain every member on the same images",
    "vote": "let the explanations vote for a consensus",
    "score": "compare members with the consensus, masks and accuracy",
    "plot": "draw the figures and write the tables",
    "run": "all five in order",
    "locate": "after vote: write boxes and masks of what the consensus points at",
    "fetch": "download the weights that members start from, where they are not here, and run nothing",
    "status": "what is done, missing, running and failed; verify=true reads every file",
    "doctor": "what works on this machine, and whether data set and weights are there; --json for programs",
}
USAGE = f"""usage: xconsensus STAGE [key=value ...]     stages, in order:
{chr(10).join(f"  {stage:<9} {text}" for stage, text in STAGES.items())}
       xconsensus ls [committees|datasets|explainers|experiments|members]
       xconsensus STAGE --help                 every key, and what it stands at
       xconsensus --version

exit codes: 0 done, 1 a defect of the program, 2 bad input or a failure, 130 Ctrl-C, 143 SIGTERM;
            of status: 0 all is done, 2 something failed or is damaged, 3 something is missing; of doctor alike

examples:
  xconsensus run experiment=shapes
  xconsensus explain committee=tiny explainer=lime explainer.samples=500 dry_run=true
  eval "$(xconsensus -sc install=bash)"        completion in this shell
"""


def main() -> None:
    """Entry point of the ``xconsensus`` command; USAGE has the exit codes."""
    if sys.platform == "win32":
        _fail("xconsensus runs on Linux and macOS; on Windows run it in WSL 2 (its file locks are POSIX's)")
    from xconsensus.jobs.signals import stopping
    from xconsensus.jobs.streams import make_usable

    make_usable()
    with stopping():
        _exit_on(lambda: _main(sys.argv[1:]))


def _main(arguments: list[str]) -> None:
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        print(USAGE, end="")
    elif first == "--version":
        from xconsensus.jobs.surroundings import version_lines

        print("\n".join(version_lines()))
    elif first in ("-sc", "--shell-completion"):
        from xconsensus.cli.completion import complete

        complete(arguments[1:], list(STAGES))
    elif first == "ls":
        _list(arguments[1:])
    elif first in STAGES:
        del sys.argv[1]
        _run(first)
    else:
        from xconsensus.errors import nearest

        _fail(f"{first} is no stage{nearest(first, [*STAGES, 'ls'])}; see xconsensus --help")


def _list(arguments: list[str]) -> None:
    from xconsensus.cli.listing import listing

    print(listing(arguments), end="")


def _run(stage: str) -> None:
    """Compose the stage's config with Hydra and run it; bad input in any job of a sweep makes the exit code 2."""
    import hydra

    from xconsensus.cli.folder import config_dir
    from xconsensus.jobs import job as jobs
    from xconsensus.jobs.launchers import one_line
    from xconsensus.keys.words import faults_told, for_hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would print; _exit_on prints it as one line
    folder, _ = config_dir(sys.argv[1:])
    jobs.failed, jobs.sweep, jobs.as_json = [], None, stage == "doctor" and "--json" in sys.argv
    words = [word for word in sys.argv[1:] if not (jobs.as_json and word == "--json")]  # unknown to Hydra
    sys.argv[1:] = map(for_hydra, _options_last(words))
    try:
        with faults_told(folder), one_line(), _help_with_sentences():
            hydra.main(version_base="1.3", config_path="pkg://xconsensus.conf", config_name=stage)(jobs.Job(stage))()
    finally:
        lines = [] if jobs.failed else jobs.unfinished()  # those of this process have been said already
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
    if jobs.failed or lines:
        sys.exit(2)


def _options_last(words: Sequence[str]) -> list[str]:
    """Words of the command line with options, and what they take, behind all else, as Hydra's parser wants them."""

    def is_option(pair: tuple[str, str]) -> bool:
        before, word = pair
        return word.startswith("-") or (before.startswith("-") and not re.match(r"[+~]*\w[^=]*=|~", word))

    return [word for _, word in sorted(pairwise(["", *words]), key=is_option)]


@contextmanager
def _help_with_sentences() -> Iterator[None]:
    """Where --help is asked for, print with each key what it takes and is for."""
    if not {"--help", "-h"}.intersection(sys.argv):
        yield
        return
    from hydra.core.config_store import ConfigStore

    from xconsensus.keys.shown import with_sentences

    # for each group that it lists Hydra would copy the store of all configs, which takes three quarters of the time
    setattr(ConfigStore, "__deepcopy__", lambda store, _: store)  # noqa: B010
    text = StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        print(with_sentences(text.getvalue()), end="")


def _exit_on(action: Callable[[], None]) -> None:
    """Run; bad input ends with one line and code 2."""
    from xconsensus.errors import InputError

    try:
        try:
            action()
        finally:  # also when Hydra exits by itself; left to the interpreter, a failing flush ends in a traceback
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; 141 is what a shell shows for that signal
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # of `2>&1 | head` both
            os.dup2(nowhere, stream.fileno())
        sys.exit(141)
    except InputError as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
