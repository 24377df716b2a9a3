"""One failing member does not stop the others; all failures stand at the end, and in each member's log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xconsensus.errors import CommonError, InputError, MembersError, MissingStageError
from xconsensus.jobs.worklog import Worklog
from xconsensus.own_code import ended
from xconsensus.progress import log


class Failures:
    """Collects the members that fail in a stage; ``worklog`` gives a member's log, where there are any."""

    def __init__(self, stage: str, worklog: Callable[[str], Worklog] = lambda _: Worklog()) -> None:
        self.stage = stage
        self.worklog = worklog
        self.messages: list[str] = []
        self.unmade: list[MissingStageError] = []
        self.defects: list[Exception] = []
        self.tried = 0

    def deaths(self, member: str) -> int:
        """How often a process died at a member's work: those that may crash this one, too, are tried last."""
        return self.worklog(member).deaths

    @contextmanager
    def of(self, member: str) -> Iterator[Worklog]:
        """Run one member's work; its error is noted and the next member goes on, one common to all is raised."""
        self.tried += 1
        worklog = self.worklog(member)
        try:
            yield worklog
        except CommonError as error:
            worklog.end("failed", str(error))
            raise
        except InputError as error:
            if isinstance(error, MissingStageError):
                self.unmade.append(error)
            message = str(error)
            self.messages.append(message if member in message else f"member {member}: {message}")
            worklog.end("failed", message)
        except Exception as error:  # of the member's own code, or a defect: raised once the others are done
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            log.error(f"error: member {member}: {message}")
            self.defects.append(error)
            worklog.end("failed", message)
        except BaseException as stop:
            worklog.end("stopped")
            if not isinstance(stop, SystemExit):
                raise
            message = f"member {member}: {ended(stop)}"  # or raises it again, where a launcher ends the job
            self.messages.append(message)
            worklog.end("failed", message)
        else:
            worklog.end("done")

    def report(self) -> None:
        """MembersError when any member failed: its line if it is one, else a count after a line each.

        MissingStageError when every member lacks the stage before: then it has not been run at all. What is no
        InputError is raised as it was, with its traceback.
        """
        if self.defects:
            raise self.defects[0]
        if self.unmade and len(self.unmade) == self.tried:
            raise self.unmade[0]
        if len(self.messages) == 1:
            raise MembersError(self.messages[0])
        if self.messages:
            for message in self.messages:
                log.error(f"error: {message}")
            raise MembersError(f"{self.stage}: {len(self.messages)} of {self.tried} members failed, as listed above")
