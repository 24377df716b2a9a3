"""Pretrained classifiers on real photographs; skipped where shared/real does not lie beside the repository."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import done
from safetensors import safe_open

REAL = Path(__file__).parents[2] / "shared/real"
FAST = ("mobilenet_v1_025_128", "mobilenet_v1_050_160", "squeezenet1_1")
PAIR = FAST[:2]

pytestmark = pytest.mark.skipif(not (REAL / "models").is_dir(), reason="no real photographs in ../shared/real")


def published(member: str) -> float:
    """Top-1 in percent, from the table of the folder's README."""
    row = re.search(rf"^\| {member} \|.*\| ([0-9.]+) \| [0-9.]+ \|$", (REAL / "README.md").read_text(), re.M)
    assert row is not None
    return float(row[1])


def accuracies(path: Path) -> dict[str, float]:
    with path.open() as file:
        return {row["member"]: 100 * float(row["accuracy"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    done("finetune", *arguments(folder), f"committee.only=[{','.join(FAST)}]")
    return folder / "imagenet_sample"


def arguments(outputs: Path) -> tuple[str, ...]:
    return ("experiment=imagenet_sample", f"root={REAL}", f"output_dir={outputs}", "threads=2")


@pytest.mark.parametrize("member", FAST)
def test_a_member_is_as_accurate_as_its_readme_says(outputs: Path, member: str) -> None:
    with safe_open(outputs / f"predictions/test/{member}.safetensors", framework="np") as file:
        probabilities, labels = file.get_tensor("probabilities"), file.get_tensor("labels")
    assert probabilities.shape == (500, 1000)
    assert 100 * (probabilities.argmax(1) == labels).mean() == pytest.approx(published(member), abs=1.0)


def test_labels_are_those_of_the_classes_table(outputs: Path) -> None:
    with (REAL / "imagenet-sample/classes.csv").open() as file:
        index = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file)}
    with safe_open(outputs / f"predictions/test/{FAST[0]}.safetensors", framework="np") as file:
        ids, labels = re.findall(r"n\d{8}(?=/)", file.metadata()["xconsensus"]), file.get_tensor("labels")
    assert labels.tolist() == [index[wnid] for wnid in ids]


def test_the_whole_chain_on_photographs(outputs: Path, tmp_path: Path) -> None:
    """A user's committee of two of the members, few samples."""
    (tmp_path / "conf/committee").mkdir(parents=True)
    config = (Path(__file__).parents[1] / "conf/committee/imagenet7.yaml").read_text()
    head, _, members = config.partition("members:\n")
    kept = [part for part in re.split(r"(?m)^(?=  \w+:$)", members) if part.startswith(tuple(f"  {n}:" for n in PAIR))]
    text = f"{head.replace('name: imagenet7', 'name: pair')}members:\n{''.join(kept)}"
    (tmp_path / "conf/committee/pair.yaml").write_text(text)
    folders = ("dataset.name=imagenet_sample", f"dataset.root={REAL}/imagenet-sample")
    settings = ("threads=2", "explain.images=3", "explainer.samples=4", "plot.gallery=1", "score.bootstrap=20")
    done(
        "run",
        f"--config-dir={tmp_path}/conf",
        "committee=pair",
        f"committee.weights_dir={REAL}/models",
        f"output_dir={outputs.parent}",
        *folders,
        *settings,
    )
    chosen = pd.read_csv(outputs / "images/pair.csv")
    assert len(chosen) == 3
    for explainer in ("lime", "smoothgrad"):
        table = pd.read_csv(outputs / f"scores/pair/{explainer}/members.csv").set_index("member")
        assert set(table.index) == {*PAIR, "consensus"}
        assert table.loc[[*PAIR], "consensus_score"].between(-1, 1).all()
        found = accuracies(outputs / f"scores/pair/{explainer}/members.csv")
        assert {name: found[name] for name in PAIR} == pytest.approx({n: published(n) for n in PAIR}, abs=1.0)
    drawn = {path.stem for path in (outputs / "figures/pair").glob("*.png")}
    assert drawn == {"fig01", "fig02_1", "fig05", "fig06", "fig12", "fig13", "pairs"}
    assert np.isfinite(chosen["label"]).all()
