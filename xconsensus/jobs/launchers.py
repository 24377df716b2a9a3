"""What can go wrong with Hydra's launchers, as one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from xconsensus.errors import InputError

EXTRAS = {"joblib": "joblib", "submitit": "slurm", "ray": "ray"}  # Hydra's plugin -> the extra that installs it


@contextmanager
def one_line() -> Iterator[None]:
    """Run a sweep; InputError for a launcher that is not installed, or a job that its launcher has lost."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if match := re.search(r"Unknown plugin class.*hydra_plugins\.hydra_(\w+)_launcher", str(error)):
            raise InputError(
                f"the {match[1]} launcher is not installed: pip install 'xconsensus[{EXTRAS[match[1]]}]'"
            ) from error
        source = type(error).__module__.partition(".")[0]
        if source not in EXTRAS:
            raise
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{source} lost a job ({type(error).__name__}: {reason}); what is done is kept, the same command goes on"
        ) from error
