"""One failing member does not stop the others; all failures stand at the end."""

from collections.abc import Iterator
from contextlib import contextmanager

from xconsensus.errors import CommonError, InputError, MissingStageError
from xconsensus.progress import log


class Failures:
    """Collects the members that fail in a stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.messages: list[str] = []
        self.unmade: list[MissingStageError] = []
        self.tried = 0

    @contextmanager
    def of(self, member: str) -> Iterator[None]:
        """Run one member's work; its InputError is noted and the next member goes on, one common to all is raised."""
        self.tried += 1
        try:
            yield
        except CommonError:
            raise
        except InputError as error:
            if isinstance(error, MissingStageError):
                self.unmade.append(error)
            message = str(error)
            self.messages.append(message if member in message else f"member {member}: {message}")

    def report(self) -> None:
        """InputError when any member failed: its line if it is one, else a count after a line each.

        MissingStageError when every member lacks the stage before: then it has not been run at all.
        """
        if self.unmade and len(self.unmade) == self.tried:
            raise self.unmade[0]
        if len(self.messages) == 1:
            raise InputError(self.messages[0])
        if self.messages:
            for message in self.messages:
                log.error(f"error: {message}")
            raise InputError(f"{self.stage}: {len(self.messages)} of {self.tried} members failed, as listed above")
