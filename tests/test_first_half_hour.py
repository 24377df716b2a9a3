"""What a new user meets first: messages, progress, prices and the page that explains them."""

import logging
import queue
import re
import socket
import time
from logging.handlers import QueueHandler
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Project
from huggingface_hub import constants
from safetensors.torch import save_file

from xconsensus import progress
from xconsensus.errors import InputError
from xconsensus.figures.comparison import Claim, conclusion
from xconsensus.members.at_hand import look_for_hub
from xconsensus.members.member import members_of
from xconsensus.members.weights import build
from xconsensus.progress import Whole, counter, duration
from xconsensus.scores.tables_of_members import noise

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


# --- README ---


def test_the_readme_is_short_and_starts_with_picture_install_and_own_models() -> None:
    assert len(README.splitlines()) <= 180
    places = [
        README.index(part)
        for part in ("docs/picture.png", "make install", "## Your own images", "fig05.png", "make published")
    ]
    assert places == sorted(places)
    assert places[2] < README.index("\n" * 1 + "## The paper")


def test_the_readme_links_every_page_and_no_page_that_is_not_there() -> None:
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]*)\)", README) if "://" not in link}
    assert all((ROOT / link).exists() for link in links)
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= links


# --- heads of other classes ---


def test_imagenet_s_head_names_the_key_that_takes_it(photographs: Project) -> None:
    save_file({"weight": torch.randn(1000, 3 * 8**2)}, photographs.folder / "models/first.safetensors")
    failed = photographs.run("finetune", "committee.members.first.weights=first.safetensors", "committee.only=[first]")
    assert failed.code == 2
    assert "knows 1000 classes, the data set has 2; dataset.classes=imagenet" in failed.errors[0]
    save_file({"weight": torch.randn(7, 3 * 8**2)}, photographs.folder / "models/first.safetensors")
    failed = photographs.run("finetune", "committee.members.first.weights=first.safetensors", "committee.only=[first]")
    assert "knows 7 classes, the data set has 2; dataset.classes=[...] names all 7" in failed.errors[0]


def test_few_images_name_the_key_that_left_them_few(predicted: Project) -> None:
    said = predicted.done("explain", "explain.only_correct=any", "dry_run=true").err
    count = re.search(r"(\d) images of \d classes to explain, of \d that remain of 6, right by some member(.*)", said)
    assert count
    assert (int(count[1]) < 6) == ("explain.only_correct=none asks less" in count[2])


# --- prices and progress ---


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "about 0 s"), (89, "about 89 s"), (90, "about 2 min"), (480, "about 8 min"), (9000, "about 2.5 h")],
)
def test_durations_are_in_s_min_and_h(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_progress_is_of_the_whole_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lines = queue.SimpleQueue[logging.LogRecord]()
    monkeypatch.setattr(progress.log, "handlers", [QueueHandler(lines)])
    monkeypatch.setattr(progress.log, "level", logging.INFO)
    whole = Whole(9 * 12, 12)
    with counter("finetune one", 9, "epochs", "log", whole.next()) as count:
        count.skip(3)  # of an interrupted run
        now[0] += 10
        count.add()
    with counter("finetune two", 9, "epochs", "log", whole.next()) as count:
        now[0] += 40
        count.add()
    line = "finetune two: epoch 1 of 9, member 2 of 12, about 43 min left"  # 103 more at 25 s each
    assert lines.get_nowait().getMessage() == line
    assert lines.empty()


def test_of_an_empty_folder_not_everything_is_done(photographs: Project) -> None:
    out = photographs.run("status").out
    rows = [line for line in out.splitlines() if line.startswith(("lime ", "smoothgrad "))]
    assert len(rows) == 2
    assert all(line.endswith("unknown") for line in rows)


# --- words about results ---


def test_noise_is_spoken_of_where_there_is_some() -> None:
    table = pd.DataFrame({"member": ["a", "b", "consensus"], "consensus_score": [0.1, 0.2, np.nan]})
    table["consensus_score_reliable"] = table["reliability"] = table["consensus_score"]
    assert noise(table, np.array([[0.9, 0.8]])) == ""
    assert noise(table, np.array([[0.9, 0.4]])).startswith("1 of 2 explanations are mostly noise")


def test_a_conclusion_is_three_lines_with_strength_and_n() -> None:
    claims = [
        Claim("r of x and y", "imagenet", 0.8, 0.7, 0.5, 0.9, 12, "yes"),
        Claim("r of x and z", "imagenet", 0.8, 0.1, -0.5, 0.6, 12, "sign only"),
        *(Claim(f"r {k}", "imagenet", 0.8, -0.1 * k, n=4, agrees="no") for k in range(1, 6)),
        Claim("r of none", "imagenet", 0.8, np.nan, agrees="-"),
    ]
    lines = conclusion(pd.DataFrame(claims, columns=Claim._fields))
    assert lines[0] == "Holds here: r of x and y 0.7 (n=12, 0.50 to 0.90; paper 0.8)."
    assert lines[1].startswith("Has the paper's sign alone: r of x and z 0.1 (n=12, -0.50 to 0.60")
    assert lines[2].startswith("Differs from the paper: r 5 -0.5 (n=4; paper 0.8); r 4")
    assert lines[2].endswith("; and 2 more.")
    assert conclusion(pd.DataFrame([], columns=Claim._fields))[0] == "Holds here: nothing."


def test_a_run_ends_with_its_conclusion(quartet: Project) -> None:
    out = quartet.done("plot").out
    lines = [line for line in out.splitlines() if line.startswith(("Holds here", "Has the paper", "Differs"))]
    assert len(lines) == 3
    comparison = pd.read_csv(quartet.outputs / "shapes/tables/quartet/comparison.csv")
    for words, agrees in zip(lines, ("yes", "sign only", "no"), strict=True):
        assert words.endswith(": nothing.") == (comparison["agrees"] != agrees).all()


# --- offline ---


def test_a_hub_out_of_reach_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def refuse(address: tuple[str, int], _: float) -> NoReturn:
        asked.append(address)
        raise OSError("unreachable")

    def no_waiting(_: float) -> NoReturn:
        raise AssertionError("waits to try again")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(time, "sleep", no_waiting)
    look_for_hub.cache_clear()
    specs = {name: {"library": "timm", "model": "resnet10t", "pretrained": True} for name in ("one", "two")}
    for member in members_of(specs, defaults={}, size=64, resize=64):
        with pytest.raises(InputError, match=rf"member {member.name}: timm cannot provide .* fetch model\.safetensors"):
            build(member, 1000)
    assert asked == [("huggingface.co", 443)]
    look_for_hub.cache_clear()
