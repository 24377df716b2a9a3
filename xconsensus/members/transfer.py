"""One file's way over HTTP: goes on where an earlier attempt broke off, and gives up with a line that says what to do.

Beside a file that is not whole yet lie FILE.part, and FILE.part.json: from where, and which version (RFC 9110's ETag).
"""

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from threading import Event, Lock
from typing import Any, BinaryIO
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from xconsensus import __version__
from xconsensus.errors import InputError
from xconsensus.progress import Counter

ATTEMPTS = 5  # in a row that bring less than GROWTH bytes
GROWTH = 2**20
PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
SILENCE = 30.0  # seconds without a byte
SLOW, OVER = 4096, 60.0  # bytes a second, and the seconds in which so many have to come
_CHUNK = 2**18
_PAGE = "a web page comes in its place"
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others a moment later
_counting = Lock()


@dataclass(frozen=True)
class Download:
    """A file and where it is from: ``what`` names it in messages ("member NAME"), ``path`` is where it belongs.

    It has at least ``least`` and at most ``most`` bytes.
    """

    what: str
    url: str
    path: Path
    most: int
    least: int = 1

    def by_hand(self) -> str:
        """What to do where it cannot be downloaded."""
        return f"fetch {self.url} elsewhere and put it at {self.path}"

    def refused(self, reason: str) -> InputError:
        """The error of a download that does not come."""
        return InputError(f"{self.what}: {self.path.name} cannot be downloaded: {reason}; {self.by_hand()}")


class _BrokenError(Exception):
    """An attempt ended early, for the reason it says; another may go on."""


class Transfer:
    """One download on its way into ``file``, of which ``size`` bytes are there."""

    def __init__(self, download: Download, file: BinaryIO, counts: Counter, stop: Event) -> None:
        self.download, self.file, self.counts, self.stop = download, file, counts, stop
        self.note = beside(download.path, ".part.json")
        self.size, self.expected = file.seek(0, os.SEEK_END), download.least
        with _counting:
            counts.skip(self.size)

    def run(self) -> None:
        """Try until the file is whole; InputError once that is no use."""
        failures, reached = 0, self.size
        while True:
            try:
                return self._attempt()
            except _BrokenError as error:
                failures = 1 if self.size >= reached + GROWTH else failures + 1
                reached = max(reached, self.size)
                if failures == ATTEMPTS:
                    raise self._ended(f"{error}, {ATTEMPTS} times") from error
            self.stop.wait(PAUSE * 2 ** (failures - 1))

    def _ended(self, reason: str) -> InputError:
        kept = f"; the {self.size / 1e6:.1f} MB that came are kept: the same command goes on from there, or"
        return self.download.refused(reason + kept * bool(self.size))

    def _attempt(self) -> None:
        version, length = self._noted()
        if not version:
            self._start_anew()
        with self._open({"Range": f"bytes={self.size}-", "If-Range": version} if self.size else {}) as response:
            total = self._begin(response, version, length)
            if total is not None:
                self._refuse_size(total)
                with _counting:
                    self.counts.more(total - self.expected)
                self.expected = total
            self._take(response, total)
        self._refuse_page()
        if os.fstat(self.file.fileno()).st_size != self.size:  # where there are no locks
            self._start_anew()
            raise _BrokenError("another process writes the same file")
        if self.size < (total or self.download.least):
            raise _BrokenError(f"it breaks off at {self.size} of {total or f'at least {self.download.least}'} bytes")

    def _open(self, headers: dict[str, str]) -> HTTPResponse:
        try:
            asked = request.Request(self.download.url, headers={"User-Agent": f"xconsensus/{__version__}", **headers})
            return _opener().open(asked, timeout=SILENCE)  # type: ignore[no-any-return]
        except HTTPError as error:
            error.close()
            if error.code == 416 and self.size:  # the part is no part of what is there now
                self._start_anew()
            elif error.code not in _AGAIN:
                raise self.download.refused(_plain(error)) from error
            raise _BrokenError(_plain(error)) from error
        except URLError as error:
            raise self._ended(f"the server is not reached ({_plain(error.reason)})") from error
        except TimeoutError as error:
            raise self._ended(f"nothing comes for {SILENCE:g} s") from error
        except (InvalidURL, ValueError) as error:
            raise self.download.refused(_plain(error)) from error
        except (HTTPException, OSError) as error:
            raise _BrokenError(_plain(error)) from error

    def _begin(self, response: HTTPResponse, version: str, before: int | None) -> int | None:
        """Make the file ready for what comes; the size of the whole, None where the server does not say it."""
        length, found = response.length, _version_of(response)
        if response.headers.get_content_type() == "text/html":
            raise self.download.refused(_PAGE)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self.download.refused("it comes compressed")
        if response.status == 206:
            part = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18})", response.headers.get("Content-Range", ""))
            first, length = (int(part[1]), int(part[2])) if part else (-1, 0)
            other = self.size and (found not in ("", version) or before not in (None, length))
            if first != self.size or length <= first or other:
                self._start_anew()
                raise _BrokenError("another part comes than was asked for")
        else:
            self._start_anew()
        if not self.size:
            write(self.note, json.dumps({"url": self.download.url, "version": found, "size": length}))
        return length

    def _take(self, response: HTTPResponse, total: int | None) -> None:
        """Write what comes, up to ``total`` bytes in all, as long as it comes fast enough and is not too much."""
        since, before = time.monotonic(), self.size
        while chunk := self._read(response, _CHUNK if total is None else min(_CHUNK, total - self.size)):
            self._refuse_size(max(self.size + len(chunk), self.download.least))
            self.file.write(chunk)
            self.file.flush()
            self.size += len(chunk)
            with _counting:
                self.counts.add(len(chunk))
            if self.stop.is_set():
                raise self._ended("interrupted")
            if (seconds := time.monotonic() - since) >= OVER:
                if self.size - before < SLOW * seconds:
                    raise self._ended(f"less than {SLOW / 1000:.3g} kB a second come")
                since, before = time.monotonic(), self.size

    def _read(self, response: HTTPResponse, count: int) -> bytes:
        try:
            return response.read1(count) if count else b""
        except TimeoutError as error:
            raise self._ended(f"nothing comes for {SILENCE:g} s") from error
        except (HTTPException, OSError) as error:
            raise _BrokenError(f"it breaks off at {self.size} bytes ({_plain(error)})") from error

    def _refuse_size(self, size: int) -> None:
        if not self.download.least <= size <= self.download.most:
            self._start_anew()
            few = size < self.download.least
            bound = f"at least {self.download.least}" if few else f"at most {self.download.most}"
            raise self.download.refused(f"it has {size} bytes{' or more' * (not few)}, {bound} are expected")

    def _refuse_page(self) -> None:
        self.file.seek(0)
        if (head := self.file.read(64)).lstrip().startswith(b"<") and b"\0" not in head:
            self._start_anew()
            raise self.download.refused(_PAGE)

    def _start_anew(self) -> None:
        with _counting:
            self.counts.skip(-self.size)
        self.file.truncate(0)
        self.size = 0

    def _noted(self) -> tuple[str, int | None]:
        """What the server called the version that the part is of, and its size; empty for one of another address."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self.note.read_text())
            if note["url"] == self.download.url:
                return str(note["version"]), note["size"]
        return "", None


def _version_of(response: HTTPResponse) -> str:
    """What If-Range takes: a strong ETag, else the time of the last change; empty without either."""
    etag = str(response.headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(response.headers.get("Last-Modified", ""))


class _Redirects(request.HTTPRedirectHandler):
    """At most five, to http and https alone, and from https to https."""

    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("https", urlsplit(req.full_url).scheme):
            raise HTTPError(newurl, code, f"redirected to {newurl}, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """Of http and https, through the environment's proxies; urllib's own opens files, too."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _plain(error: object) -> str:
    """What went wrong on one line, without what a server may put there to move a terminal's cursor."""
    text = f"HTTP {error.code} {error.msg}" if isinstance(error, HTTPError) else str(error) or type(error).__name__
    return "".join(letter for letter in " ".join(text.split())[:200] if letter.isprintable())


def beside(path: Path, suffix: str) -> Path:
    """The file of that name with a further suffix."""
    return path.with_name(path.name + suffix)


def write(path: Path, text: str) -> None:
    """A small file, whole or not at all."""
    temporary = beside(path, f".{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
