"""Downloads from a server on this machine that breaks off, lies, redirects, stalls and changes its files."""

import fcntl
import hashlib
import json
import os
import pwd
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

import pytest
from conftest import Project, done, wait_until

from xconsensus.errors import InputError
from xconsensus.experiment.experiment import committee_of
from xconsensus.members import at_hand, fetching, transfer
from xconsensus.members.fetching import cache_dir, check, fetch, fetch_all
from xconsensus.members.member import Member, file_digest
from xconsensus.members.paddle import table
from xconsensus.members.transfer import Download

BODY = bytes(range(128, 256)) * 4096  # 512 KiB, of several chunks
MOST = 2**20
SHA256 = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers as the next of the server's ``answers`` says, well where there is none left."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.asked.append(dict(self.headers) | {"path": self.path})
        answers = self.server.answers
        with suppress(BrokenPipeError, ConnectionResetError):
            (answers.pop(0) if answers else well)(self)
        self.close_connection = True

    def begin(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


Answer = Callable[[Handler], object]


class Server(ThreadingHTTPServer):
    """``body`` at every path, whose ETag is ``version``; ``asked`` are the headers of all requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.version = BODY, '"1"'
        self.answers: list[Answer] = []
        self.asked: list[dict[str, str]] = []
        self.closing = Event()

    def url(self, name: str = "net.pdparams") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


def well(handler: Handler, upto: int | None = None) -> None:
    """As RFC 9110 has it; the body ends after its first ``upto`` bytes."""
    server, wanted = handler.server, re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    size, first = len(server.body), int(wanted[1]) if wanted else 0
    if not wanted or handler.headers.get("If-Range", server.version) != server.version:
        handler.begin(200, Content_Length=size, ETag=server.version)
        handler.wfile.write(server.body[:upto])
    elif first >= size:
        handler.begin(416, Content_Range=f"bytes */{size}")
    else:
        handler.begin(
            206, Content_Length=size - first, Content_Range=f"bytes {first}-{size - 1}/{size}", ETag=server.version
        )
        handler.wfile.write(server.body[first:upto])


def until(count: int) -> Answer:
    return lambda handler: well(handler, count)


def status(code: int, **headers: object) -> Answer:
    return lambda handler: handler.begin(code, Content_Length=0, **headers)


def whole(body: bytes | None = None, **headers: object) -> Answer:
    """The body with these headers alone, whatever is asked for."""

    def answer(handler: Handler) -> None:
        handler.begin(200, **headers)
        handler.wfile.write(handler.server.body if body is None else body)

    return answer


def chunks(handler: Handler) -> None:
    """1500 bytes in two chunks, of which the second breaks off."""
    handler.protocol_version = "HTTP/1.1"
    handler.begin(200, Transfer_Encoding="chunked", ETag='"1"')
    handler.wfile.write(b"3e8\r\n" + BODY[:1000] + b"\r\n3e8\r\n" + BODY[1000:1500])


def drop(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def stall(handler: Handler) -> None:
    """Half of the body, then nothing, until the test ends."""
    well(handler, len(BODY) // 2)
    handler.wfile.flush()
    handler.server.closing.wait(20)


def trickle(handler: Handler) -> None:
    handler.begin(200, Content_Length=len(BODY), ETag=handler.server.version)
    for _ in range(2000):
        handler.wfile.write(b"\x80")
        if handler.server.closing.wait(0.01):
            return


def endless(handler: Handler) -> None:
    handler.begin(200)
    while not handler.server.closing.is_set():
        handler.wfile.write(BODY)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in (*fetching.OFFLINE, "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    with Server() as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache/authors/net.pdparams"


def net(server: Server, path: Path, least: int = 1) -> Download:
    return Download("member net", server.url(), path, MOST, least)


def left(path: Path) -> set[str]:
    """What lies in the folder, by suffix."""
    return {each.name.removeprefix(path.name) for each in path.parent.iterdir()} if path.parent.exists() else set()


def refused(server: Server, path: Path, *culprits: str, least: int = 1, kept: bool = False) -> None:
    """One line with the member, the culprits, the address and where to put the file; nothing is there, or a part."""
    (line,) = fetch_all([net(server, path, least)], mode="off")
    for culprit in ("member net: net.pdparams", *culprits, f"fetch {server.url()} elsewhere and put it at {path}"):
        assert culprit in line
    assert "\n" not in line
    assert left(path) == ({".part", ".part.json"} if kept else set())
    assert ("the same command goes on" in line) == kept


def test_a_file_comes_whole_with_its_digest(server: Server, path: Path) -> None:
    fetch(net(server, path))
    assert path.read_bytes() == BODY
    assert left(path) == {"", ".sha256"}
    found = subprocess.run(["sha256sum", "-c", f"{path.name}.sha256"], cwd=path.parent, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "net.pdparams: OK\n", "")
    fetch(net(server, path))
    assert len(server.asked) == 1


@pytest.mark.parametrize("again", [1, 2, 3])
def test_what_breaks_off_goes_on_where_it_was(server: Server, path: Path, again: int) -> None:
    ends = [100_000 * number for number in range(1, again + 1)]
    server.answers = [until(end) for end in ends]
    fetch(net(server, path))
    assert path.read_bytes() == BODY
    assert [asked.get("Range") for asked in server.asked] == [None, *(f"bytes={end}-" for end in ends)]
    assert {asked["If-Range"] for asked in server.asked[1:]} == {'"1"'}


def test_a_part_is_kept_for_the_next_command(server: Server, path: Path) -> None:
    server.answers = [until(100_000), *[status(503)] * 4]
    refused(server, path, "HTTP 503", kept=True)
    fetch(net(server, path))
    assert server.asked[-1]["Range"] == "bytes=100000-"
    assert path.read_bytes() == BODY


def test_as_long_as_much_comes_it_is_tried_again(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "GROWTH", 40_000)
    server.answers = [until(end) for end in range(50_000, len(BODY), 50_000)]
    assert len(server.answers) > transfer.ATTEMPTS
    fetch(net(server, path))
    assert path.read_bytes() == BODY


def test_a_server_without_ranges_starts_anew(server: Server, path: Path) -> None:
    server.answers = [until(100_000), whole(ETag='"1"', Content_Length=len(BODY))]
    fetch(net(server, path))
    assert path.read_bytes() == BODY


def test_a_file_that_changed_meanwhile_starts_anew(server: Server, path: Path) -> None:
    def change(handler: Handler) -> None:
        until(100_000)(handler)
        handler.server.body, handler.server.version = BODY[::-1], '"2"'

    server.answers = [change]
    fetch(net(server, path))
    assert path.read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"2"'},
        {"Content_Range": "bytes 7-8/9"},
        {"Content_Range": "nonsense"},
        {"Content_Range": f"bytes 100000-{len(BODY)}/{len(BODY) + 1}", "ETag": ""},
    ],
)
def test_a_part_of_another_file_is_not_taken(server: Server, path: Path, headers: dict[str, str]) -> None:
    def other(handler: Handler) -> None:
        size = len(BODY)
        handler.begin(206, **{"Content_Range": f"bytes 100000-{size - 1}/{size}", "ETag": '"1"'} | headers)
        handler.wfile.write(BODY[100_000:])

    server.answers = [until(100_000), other]
    fetch(net(server, path))
    assert path.read_bytes() == BODY
    assert "Range" not in server.asked[2]


def test_without_a_version_a_part_is_not_gone_on_from(server: Server, path: Path) -> None:
    server.answers = [whole(BODY[:100_000], Content_Length=len(BODY)), whole(Content_Length=len(BODY))]
    fetch(net(server, path))
    assert path.read_bytes() == BODY
    assert "Range" not in server.asked[1]


def test_a_weak_etag_is_no_version_the_last_change_is(server: Server, path: Path) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.version = date
    server.answers = [whole(BODY[:9], Content_Length=len(BODY), ETag='W/"1"', Last_Modified=date)]
    fetch(net(server, path))
    assert path.read_bytes() == BODY
    assert (server.asked[1]["Range"], server.asked[1]["If-Range"]) == ("bytes=9-", date)


@pytest.mark.parametrize("note", ["", "[1]", "\xff", '{"url": "elsewhere", "version": "\\"1\\""}', '{"url": 3}'])
def test_a_part_of_unknown_origin_is_not_gone_on_from(server: Server, path: Path, note: str) -> None:
    path.parent.mkdir(parents=True)
    Path(f"{path}.part").write_bytes(b"other")
    Path(f"{path}.part.json").write_text(note, "latin1")
    fetch(net(server, path))
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("size", [len(BODY), len(BODY) + 7])
def test_a_part_longer_than_what_is_left_starts_anew(server: Server, path: Path, size: int) -> None:
    path.parent.mkdir(parents=True)
    Path(f"{path}.part").write_bytes(bytes(size))
    Path(f"{path}.part.json").write_text(json.dumps({"url": server.url(), "version": server.version, "size": None}))
    fetch(net(server, path))
    assert path.read_bytes() == BODY
    assert [asked.get("Range") for asked in server.asked] == [f"bytes={size}-", None]


# --- lengths ---


def test_a_length_that_is_too_large_is_a_break(server: Server, path: Path) -> None:
    server.answers = [whole(Content_Length=len(BODY) + 1, ETag='"1"')] * 9
    refused(server, path, f"it breaks off at {len(BODY)} of {len(BODY) + 1} bytes, 5 times", kept=True)


def test_a_length_that_is_too_small_is_refused_where_the_file_must_have_more(server: Server, path: Path) -> None:
    server.answers = [whole(Content_Length=1000)]
    refused(server, path, f"it has 1000 bytes, at least {len(BODY)} are expected", least=len(BODY))


@pytest.mark.parametrize("length", [MOST + 1, 10**30])
def test_more_than_the_most_is_refused_before_it_comes(server: Server, path: Path, length: int) -> None:
    server.answers = [whole(Content_Length=length)]
    refused(server, path, f"it has {length} bytes or more, at most {MOST} are expected")


def test_an_endless_body_is_refused_at_the_most(server: Server, path: Path) -> None:
    server.answers = [endless]
    refused(server, path, f"at most {MOST} are expected")


@pytest.mark.parametrize("headers", [{}, {"Content_Length": "many"}, {"Content_Length": "-5"}])
def test_without_a_length_the_end_is_the_end(server: Server, path: Path, headers: dict[str, str]) -> None:
    server.answers = [whole(None, **headers)]
    fetch(net(server, path))
    assert path.read_bytes() == BODY


def test_without_a_length_too_few_bytes_are_a_break(server: Server, path: Path) -> None:
    server.answers = [whole(BODY[:1000], ETag='"1"')]
    assert fetch_all([net(server, path, len(BODY))], mode="off") == []
    assert path.read_bytes() == BODY
    assert server.asked[1]["Range"] == "bytes=1000-"


def test_chunks_that_break_off_are_a_break(server: Server, path: Path) -> None:
    server.answers = [chunks]
    fetch(net(server, path))
    assert path.read_bytes() == BODY
    assert server.asked[1]["Range"] == "bytes=1500-"


@pytest.mark.parametrize("total", [5, 1500, 10**30])
def test_a_part_of_a_whole_that_cannot_be_is_not_taken(server: Server, path: Path, total: int) -> None:
    def lies(handler: Handler) -> None:
        handler.begin(206, Content_Range=f"bytes 1500-1600/{total}")
        handler.wfile.write(BODY[1500:])

    server.answers = [chunks, lies]
    fetch(net(server, path))
    assert path.read_bytes() == BODY
    assert len(server.asked) == 3


def test_an_empty_file_is_none(server: Server, path: Path) -> None:
    server.body = b""
    refused(server, path, "it has 0 bytes")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_server_does_the_file_is_right_or_there_is_a_line(server: Server, path: Path, seed: int) -> None:
    draw = random.Random(seed)
    size = len(BODY)
    odd: list[Answer] = [chunks, drop, endless, status(404), status(503), status(416), status(302, Location="/a")]
    odd += [whole(BODY[:900], ETag='"1"'), whole(Content_Length=900), whole(Content_Length=size + 9, ETag='"1"')]
    odd += [
        whole(BODY[::-1][:5000], ETag='"2"', Content_Length=size),
        whole(b"<html>"),
        *map(until, range(0, size, 99_999)),
    ]
    for _ in range(5):
        server.answers = draw.choices(odd, k=draw.randrange(8))
        lines = fetch_all([net(server, path, size)], mode="off")
        assert path.exists() == (not lines)
        if not lines:
            break
    server.answers = []
    assert fetch_all([net(server, path, size)], mode="off") == []
    assert path.read_bytes() == BODY


# --- redirects, answers, pages ---


def test_redirects_are_followed_with_what_is_asked_for(server: Server, path: Path) -> None:
    server.answers = [until(1000), status(302, Location="/a"), status(307, Location=server.url("b"))]
    fetch(net(server, path))
    assert path.read_bytes() == BODY
    assert [asked["path"] for asked in server.asked] == ["/net.pdparams", "/net.pdparams", "/a", "/b"]
    assert server.asked[-1]["Range"] == "bytes=1000-"


def test_a_loop_of_redirects_ends(server: Server, path: Path) -> None:
    server.answers = [status(302, Location=f"/{number % 2}") for number in range(99)]
    refused(server, path, "HTTP 302")
    assert len(server.asked) < 10
    server.answers = [status(302, Location=f"/{number}") for number in range(99)]
    refused(server, path, "HTTP 302")


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,a"])
def test_redirects_to_other_than_the_web_are_refused(server: Server, path: Path, place: str) -> None:
    server.answers = [status(302, Location=place)]
    refused(server, path, "HTTP 302", place[:8])


def test_from_https_a_redirect_goes_to_https_alone() -> None:
    asked = Request("https://a/b")
    redirects = transfer._Redirects()
    assert redirects.redirect_request(asked, None, 302, "", {}, "https://c/d").full_url == "https://c/d"
    with pytest.raises(HTTPError, match="http://c/d, which is not followed"):
        redirects.redirect_request(asked, None, 302, "", {}, "http://c/d")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "nonsense", "http://[", "http://a b/"])
def test_an_address_of_no_web_server_is_refused(path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"member net: net\.pdparams cannot be downloaded"):
        fetch(Download("member net", url, path, MOST))
    assert left(path) == set()


@pytest.mark.parametrize(("code", "tries"), [(404, 1), (403, 1), (410, 1), (500, 5), (503, 5), (429, 5)])
def test_answers_that_may_change_are_asked_for_again(server: Server, path: Path, code: int, tries: int) -> None:
    server.answers = [status(code)] * 9
    refused(server, path, f"HTTP {code}")
    assert len(server.asked) == tries


def test_a_server_that_recovers_gives_the_file(server: Server, path: Path) -> None:
    server.answers = [status(500), drop, status(503)]
    fetch(net(server, path))
    assert path.read_bytes() == BODY


def test_a_server_that_says_no_http_is_a_line(server: Server, path: Path) -> None:
    server.answers = [lambda handler: handler.wfile.write(b"\x1b[2Jnonsense\r\n\r\n")] * 9
    refused(server, path, "5 times")


def test_what_a_server_says_moves_no_cursor(server: Server, path: Path) -> None:
    server.answers = [lambda handler: handler.wfile.write(b"HTTP/1.0 404 \x1b[2Jgone\r\n\r\n")]
    refused(server, path, "HTTP 404 [2Jgone")


def test_a_refused_connection_is_a_line_at_once(path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{other.getsockname()[1]}/net.pdparams"
        (line,) = fetch_all([Download("member net", url, path, MOST)], mode="off")
    assert "the server is not reached" in line
    assert f"fetch {url} elsewhere and put it at {path}" in line
    assert left(path) == set()


@pytest.mark.parametrize(
    "answer",
    [
        whole(BODY, Content_Type="text/html; charset=utf-8"),
        whole(b"<!DOCTYPE html><title>Sign in</title>", Content_Type="application/octet-stream"),
        whole(b"\r\n <html>", Content_Length=9),
    ],
)
def test_a_web_page_is_no_file(server: Server, path: Path, answer: Answer) -> None:
    server.answers = [answer]
    refused(server, path, "a web page comes in its place")


def test_a_compressed_answer_is_refused(server: Server, path: Path) -> None:
    server.answers = [whole(Content_Encoding="gzip")]
    refused(server, path, "compressed")
    assert server.asked[0]["Accept-Encoding"] == "identity"


# --- time ---


def test_a_server_that_falls_silent_is_a_line(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SILENCE", 0.2)
    server.answers = [stall]
    refused(server, path, "nothing comes for 0.2 s", kept=True)
    server.answers = [lambda handler: handler.server.closing.wait(5)]
    refused(server, path, "nothing comes for 0.2 s", kept=True)
    fetch(net(server, path))
    assert server.asked[-1]["Range"] == f"bytes={len(BODY) // 2}-"
    assert path.read_bytes() == BODY


def test_a_server_that_trickles_is_a_line(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "OVER", 0.3)
    server.answers = [trickle]
    refused(server, path, "less than 4.1 kB a second come", kept=True)


# --- the file and its digest ---


def test_a_file_put_by_hand_is_known_from_its_first_use_on(server: Server, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"by hand")
    fetch(net(server, path))
    assert server.asked == []
    assert Path(f"{path}.sha256").read_text().split()[0] == hashlib.sha256(b"by hand").hexdigest()


def test_a_file_that_changes_is_refused_until_somebody_says_it_is_right(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    check(path, "member net")
    path.write_bytes(b"other")
    os.utime(path, (1, 1))
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"member net: .*net\.pdparams is not the file that it was .*net\.pdparams\.sha256"
        ):
            check(path, "member net")
    Path(f"{path}.sha256").unlink()
    check(path, "member net")
    check(path, "member net")


def test_a_file_is_hashed_again_only_where_size_or_time_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def digest(path: Path) -> str:
        hashed.append(path)
        return file_digest(path)

    monkeypatch.setattr(fetching, "file_digest", digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    for seconds in (1, 1, 2, 2):  # the same content throughout
        os.utime(path, (seconds, seconds))
        check(path, "member net")
    assert len(hashed) == 2


def test_an_empty_digest_file_is_written_anew_a_strange_one_is_named(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    note = Path(f"{path}.sha256")
    note.touch()
    check(path, "member net")
    assert note.read_text().startswith(SHA256)
    note.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"net\.pdparams\.sha256"):
        check(path, "member net")
    with pytest.raises(InputError, match=r"member net: .*gone"):
        check(path.parent / "gone", "member net")


@dataclass
class Disk:
    """A small file system in memory."""

    folder: Path
    mounted: list[str] = field(default_factory=list)

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@pytest.fixture
def disk(path: Path) -> Iterator[Disk]:
    path.parent.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path.parent)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root: {mounted.stderr.strip()}")
    yield Disk(path.parent)
    subprocess.run(["umount", str(path.parent)], check=True)


def test_a_full_disk_is_a_line_and_more_room_goes_on(server: Server, path: Path, disk: Disk) -> None:
    (line,) = fetch_all([net(server, path)], mode="off")
    assert re.search(rf"member net: {path} cannot be written \(No space left on device\): free some", line)
    disk.remount("size=4m")
    fetch(net(server, path))
    assert server.asked[-1]["Range"].startswith("bytes=")
    assert path.read_bytes() == BODY


def test_a_read_only_disk_is_a_line_and_what_is_there_works(server: Server, path: Path, disk: Disk) -> None:
    disk.remount("size=4m")
    there = path.with_name("there")
    there.write_bytes(b"by hand")
    disk.remount("ro")
    check(there, "member net")
    fetch(net(server, there))
    with pytest.raises(
        InputError, match=r"member net: .*cannot be written \(Read-only file system\).*XCONSENSUS_CACHE"
    ):
        fetch(net(server, path))
    disk.remount("rw")


def test_a_folder_that_is_a_file_is_a_line(server: Server, path: Path) -> None:
    path.parent.parent.mkdir()
    path.parent.touch()
    with pytest.raises(InputError, match=r"member net: .*net\.pdparams cannot be written"):
        fetch(net(server, path))


@pytest.mark.parametrize("flag", fetching.OFFLINE)
def test_offline_a_line_says_what_to_put_where(
    server: Server, path: Path, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(flag, "1")
    refused(server, path, f"{flag} forbids it")
    assert server.asked == []
    assert not path.parent.exists()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XCONSENSUS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_dir() == Path("/home/somebody/.cache/xconsensus")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG specification
    assert cache_dir() == Path("/home/somebody/.cache/xconsensus")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_dir() == Path("/var/cache/xconsensus")
    monkeypatch.chdir(tmp_path)
    for own, expected in (("~/here", Path("/home/somebody/here")), ("here", tmp_path / "here")):
        monkeypatch.setenv("XCONSENSUS_CACHE", own)
        assert cache_dir() == expected


def test_without_a_home_a_line_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XCONSENSUS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])  # of a container's user without a name
    with pytest.raises(InputError, match="no home folder is known: set XCONSENSUS_CACHE"):
        cache_dir()


# --- several at once ---


def test_several_come_at_once_and_one_that_fails_stops_no_other(server: Server, tmp_path: Path) -> None:
    together = Event()
    waiting: list[Handler] = []

    def wait(handler: Handler) -> None:
        waiting.append(handler)
        if len(waiting) == 4:
            together.set()
        assert together.wait(10), "fewer than four at a time"
        well(handler)

    server.answers = [wait] * 4
    files = [
        Download(f"member n{k}", server.url(str(k)), tmp_path / f"{k}.pdparams", MOST, len(BODY)) for k in range(8)
    ]
    bad = Download("member bad", "http://127.0.0.1:9/x", tmp_path / "x", MOST)
    lines = fetch_all([*files[:4], bad, *files[4:], files[0]], mode="off")
    assert [line.split(":")[0] for line in lines] == ["member bad"]
    assert {each.path.read_bytes() for each in files} == {BODY}
    assert len(server.asked) == 8  # one of a file of two members


def test_one_progress_counts_all_bytes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("xconsensus.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("xconsensus.progress.log.propagate", True)
    server.body = BODY * 4
    server.answers = [until(1_000_000)]
    files = [Download(f"member n{k}", server.url(str(k)), tmp_path / str(k), 2**22, len(BODY) * 2) for k in range(2)]
    with caplog.at_level("INFO", "xconsensus"):
        assert fetch_all(files, at_once=1, mode="log") == []
    assert caplog.messages[-1] == "download: 4 of 4 MB, about 0 s left"
    assert [m for m in caplog.messages if not re.fullmatch(r"download: [0-4] of [2-4] MB, about \d+ s left", m)] == []


FETCH = """
import sys
from pathlib import Path
from xconsensus.jobs.signals import stopping
from xconsensus.members.fetching import fetch_all
from xconsensus.members.transfer import Download
from xconsensus.progress import set_up_log
set_up_log()
url, path = sys.argv[1:]
with stopping():
    print(fetch_all([Download("member net", url, Path(path), 2**20)], mode="off"))
"""


def in_another_process(server: Server, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", FETCH, server.url(), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_share_one_download(server: Server, path: Path) -> None:
    go = Event()

    def slow(handler: Handler) -> None:
        well(handler, 1000)
        handler.wfile.flush()
        go.wait(20)

    server.answers = [slow]
    first, second = in_another_process(server, path), in_another_process(server, path)
    lines = []
    for stream in (first.stderr, second.stderr):
        assert stream
        Thread(target=lambda stream=stream: lines.extend(stream), daemon=True).start()
    wait_until(lambda: any("another run is fetching" in line for line in lines))
    go.set()
    assert [each.communicate()[0] if not each.stderr else each.wait() for each in (first, second)] == [0, 0]
    assert path.read_bytes() == BODY
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=1000-"]
    assert left(path) == {"", ".sha256"}


def test_two_threads_without_locks_do_not_mix_their_bytes(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)

    def write_in_between(handler: Handler) -> None:
        well(handler, 1000)
        handler.wfile.flush()
        wait_until(lambda: Path(f"{path}.part").stat().st_size == 1000)
        with Path(f"{path}.part").open("ab") as part:
            part.write(b"of another")
        handler.wfile.write(BODY[1000:])

    server.answers = [write_in_between]
    fetch(net(server, path))
    assert path.read_bytes() == BODY


def test_ctrl_c_stops_at_once_and_keeps_the_part(server: Server, path: Path) -> None:
    server.answers = [stall]
    part, half = Path(f"{path}.part"), len(BODY) // 2
    process = in_another_process(server, path)
    wait_until(lambda: part.exists() and part.stat().st_size == half)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - started < 3
    assert process.returncode == 130
    assert "Traceback" not in err
    assert part.read_bytes() == BODY[:half]
    fetch(net(server, path))
    assert server.asked[-1]["Range"] == f"bytes={half}-"
    assert path.read_bytes() == BODY


# --- xconsensus fetch ---


@pytest.fixture
def authors(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Members of the library paddle: networks known to a table of two, at the server; the folder of their files."""
    urls = {"One": server.url("One_pretrained.pdparams"), "Two": server.url("Two_pretrained.pdparams?v=1")}
    like = table.entries()["AlexNet"]
    two = {name: replace(like, name=name, url=url, numbers=len(BODY) // 4) for name, url in urls.items()}
    monkeypatch.setattr(table, "entries", lambda: two)
    monkeypatch.setenv("XCONSENSUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/authors"


def of_paddle(name: str, model: str) -> Member:
    return Member(name, "net", "paddle", model, 224, 256, pretrained=True)


def test_a_member_s_download_is_known_from_the_table(server: Server, authors: Path) -> None:
    member = of_paddle("one", "One")
    found = at_hand.download(member)
    assert found == Download(
        "member one",
        server.url("One_pretrained.pdparams"),
        authors / "One_pretrained.pdparams",
        found.most if found else 0,
        len(BODY),
    )
    assert found.most >= 1.5 * len(BODY)
    assert at_hand.lacking(member) == f"fetch {found.url} elsewhere and put it at {found.path}"
    authors.mkdir(parents=True)
    found.path.write_bytes(BODY)
    assert at_hand.lacking(member) == ""
    assert at_hand.file_of(member) == found.path
    assert at_hand.download(Member("b", "b", "timm", "resnet18", 224, 256, pretrained=True)) is None
    assert at_hand.download(Member("c", "c", "paddle", "One", 224, 256, weights="own.pdparams")) is None


@pytest.fixture
def committee(photographs: Project, authors: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The committee's own members (which need no weights), one of a file, and three of two files of the authors."""
    from xconsensus.stages import fetch as stage

    assert not authors.exists()
    (photographs.folder / "models/own.safetensors").write_bytes(b"123")

    def with_authors(*arguments: Any) -> list[Member]:
        return [
            *committee_of(*arguments),
            *[of_paddle(*pair) for pair in (("one", "One"), ("two", "Two"), ("same", "Two"))],
        ]

    monkeypatch.setattr(stage, "committee_of", with_authors)
    return photographs


def test_fetch_says_what_is_there_and_downloads_the_rest(server: Server, authors: Path, committee: Project) -> None:
    authors.mkdir(parents=True)
    (authors / "One_pretrained.pdparams").write_bytes(BODY)
    outcome = committee.done("fetch", "+committee.members.first.weights=own.safetensors")
    lines = dict(line.split(": ", 1) for line in outcome.out.splitlines())
    assert lines["first"].endswith("models/own.safetensors, 0.0 MB")
    assert lines["one"] == f"{authors}/One_pretrained.pdparams, 0.5 MB"
    assert lines["two"] == lines["same"] == "to be downloaded"
    assert [asked["path"] for asked in server.asked] == ["/Two_pretrained.pdparams?v=1"]
    assert (authors / "Two_pretrained.pdparams").read_bytes() == BODY
    assert {each.suffix for each in authors.iterdir()} == {".pdparams", ".sha256"}
    assert not committee.outputs.exists()
    assert "to be downloaded" not in committee.done("fetch").out


def test_fetch_has_a_line_and_code_2_for_each_member_that_lacks_its_file(server: Server, committee: Project) -> None:
    server.answers = [status(404), status(404)]
    outcome = committee.run("fetch", "+committee.members.first.weights=gone.safetensors")
    assert outcome.code == 2
    *lines, last = outcome.errors
    assert sorted(line.split(":")[1].strip() for line in lines) == [
        f"member {n}" for n in ("first", "one", "same", "two")
    ]
    assert "4 of" in last
    assert committee.done("fetch").code == 0


def test_fetch_refuses_a_downloaded_file_that_changed(authors: Path, committee: Project) -> None:
    committee.done("fetch")
    file = authors / "One_pretrained.pdparams"
    file.write_bytes(BODY[::-1])
    os.utime(file, (1, 1))
    outcome = committee.run("fetch")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert f"member one: {file} is not the file that it was" in line


def test_a_dry_run_of_fetch_counts_files_and_gigabytes(server: Server, committee: Project) -> None:
    outcome = committee.done("fetch", "dry_run=true")
    assert outcome.err.splitlines()[-1] == "fetch would download 2 files, about 0.00 GB"
    assert outcome.out == ""
    assert server.asked == []
    assert "would download 0 files" in committee.done("fetch", "dry_run=true", "committee.only=[first]").err


@pytest.mark.parametrize("words", [["committee=imagenet81"], ["committee=cub85"], ["experiment=imagenet"]])
def test_fetch_needs_no_data(words: list[str], tmp_path: Path) -> None:
    outcome = done("fetch", *words, f"output_dir={tmp_path}/outputs", "dry_run=true")
    assert re.match(r"fetch would download \d+ files, about \d+\.\d\d GB\n", outcome.err)
    assert not (tmp_path / "outputs").exists()


def test_the_libraries_weights_are_fetched_into_their_caches(
    server: Server, photographs: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xconsensus.members import upstream

    name = f"net-{SHA256[:8]}.pth"
    monkeypatch.setattr(upstream, "source_of", lambda *_: ("", server.url(name), ""))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    spec = "+committee.members.small={library: torchvision, model: resnet18, pretrained: IMAGENET1K_V1}"
    only = "committee.only=[small]"
    assert "about 0.05 GB" in photographs.done("fetch", spec, only, "dry_run=true").err  # 11.7 million numbers
    assert photographs.done("fetch", spec, only).out == "small: to be downloaded\n"
    assert (tmp_path / "torch/checkpoints" / name).read_bytes() == BODY
    assert name in photographs.done("fetch", spec, only).out
    (tmp_path / "torch/checkpoints" / name).unlink()
    server.body = BODY[::-1]
    outcome = photographs.run("fetch", spec, only)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "member small: " in line
    assert "invalid hash value" in line
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (line,) = photographs.run("fetch", spec, only).errors
    assert "HF_HUB_OFFLINE forbids downloads" in line


def test_a_file_of_the_hub_is_asked_for_by_its_names_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def download(repository: str, name: str, revision: str | None) -> None:
        asked.append((repository, name, revision))
        if name == "model.safetensors":
            raise EntryNotFoundError("none")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(at_hand, "look_for_hub", lambda: None)
    at_hand._from_hub("timm/net@v1", "")
    assert asked == [("timm/net", "model.safetensors", "v1"), ("timm/net", "pytorch_model.bin", "v1")]
