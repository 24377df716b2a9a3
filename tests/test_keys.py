"""Every key of the config: kinds, defaults and sentences; what is said of keys and values that cannot be."""

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import xconsensus
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from xconsensus import datasets
from xconsensus.arithmetic.precision import PRECISIONS
from xconsensus.errors import InputError
from xconsensus.experiment.config import plain
from xconsensus.explainers import METHODS
from xconsensus.keys import schema
from xconsensus.keys.checks import taken
from xconsensus.keys.schema import KINDS, Config, keys_of, sections
from xconsensus.keys.shown import with_sentences
from xconsensus.keys.words import for_hydra
from xconsensus.progress import MODES
from xconsensus.scores.accuracy import ENSEMBLES
from xconsensus.scores.metrics import AP_WEIGHTS

CONF = Path(__file__).parents[1] / "conf"


def composed(*words: str) -> dict[str, Any]:
    """The config as a stage takes it, of words as they are typed."""
    GlobalHydra.instance().clear()
    with initialize_config_module("xconsensus.conf", version_base="1.3"):
        return plain(compose("run", overrides=list(map(for_hydra, words))))


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


# --- the schema ---


def test_every_key_has_a_kind_a_default_and_a_sentence() -> None:
    kinds = {*sections({}).values(), *(kind for group in KINDS.values() for kind in group.values())}
    for kind in kinds:
        for name, (_, field) in keys_of(kind).items():
            if f"{name}." not in sections({}) or kind is not Config:
                assert {"default", "sentence"} <= {*field.metadata}, name
                assert len(field.metadata["sentence"]) > 5, name


def test_every_default_is_of_its_kind() -> None:
    values = schema.defaults()
    values["plot"]["family"] = None
    assert taken(values) == values


@pytest.mark.parametrize("group", KINDS)
def test_the_package_s_own_files_have_no_other_keys(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        found: Any = OmegaConf.load(path)
        kind = KINDS[group][found[schema.OWN[group]]]
        assert {*found} <= {*keys_of(kind)}, path


def test_words_that_a_key_takes_are_those_of_the_code() -> None:
    def words(kind: type, name: str) -> tuple[str, ...]:
        return get_args(keys_of(kind)[name][0])

    assert words(Config, "progress") == MODES
    assert words(schema.Explain, "precision") == ("auto", *("float32", "bfloat16", "float16", "int8"))
    assert {*words(schema.Explain, "precision")} == {"auto", *PRECISIONS}
    assert {*words(schema.Score, "ap_weights")} == {*AP_WEIGHTS}
    assert {*words(schema.Plot, "ensemble")} == {*ENSEMBLES}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_s_keys_are_its_settings(method: str) -> None:
    settings = {*inspect.signature(METHODS[method]).parameters}
    own = {*keys_of(KINDS["explainer"][method])} - {*keys_of(schema.Explainer)}
    assert settings == own - {"segmenter", "sigma"}


def test_help_prints_kind_and_sentence_of_each_key() -> None:
    text = with_sentences("explain:\n  images: 50\nexplainer:\n  method: lime\n  samples: 7\n- a\n")
    assert re.search(
        r"^  images: 50 +# whole number \| null, at least 1: how many images at most; null: all", text, re.M
    )
    assert re.search(r"^  samples: 7 +# whole number: perturbed images", text, re.M)
    assert OmegaConf.create("\n".join(text.splitlines()[:-1])) == {
        "explain": {"images": 50},
        "explainer": {"method": "lime", "samples": 7},
    }


# --- values ---


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("dataset.name=2024", "dataset.name", "2024"),
        ("dataset.name=1e3", "dataset.name", "1e3"),
        ("dataset.name=true", "dataset.name", "true"),
        ("output_dir=~/x", "output_dir", str(Path("~/x").expanduser())),
        ("output_dir=x=y", "output_dir", "x=y"),
        ("output_dir=it's", "output_dir", "it's"),
        ("device=0", "device", "0"),
        ("figure=5", "figure", "5"),
        ("committee.only=[50,yes]", "committee.only", ["50", "yes"]),
        ("explain.images=null", "explain.images", None),
        ("dataset=imagefolder dataset.root=5 dataset.classes=[1,2,10]", "dataset.classes", ["1", "2", "10"]),
        ("dataset=imagefolder dataset.root=p dataset.splits.train=q", "dataset.splits", {"test": ".", "train": "q"}),
        (
            "dataset=imagenet dataset.root=p dataset.splits={train:a,test:b}",
            "dataset.splits",
            {"train": "a", "test": "b"},
        ),
        ("committee.members.resnet10_w8.mean=[0,0,0]", "committee.members.resnet10_w8.mean", [0, 0, 0]),
        ("finetune.learning_rate=1", "finetune.learning_rate", 1),
    ],
)
def test_a_value_is_taken_as_its_key_takes_it(words: str, key: str, value: object) -> None:
    assert OmegaConf.select(OmegaConf.create(composed(*words.split())), key) == value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("dry_run=5", r"^dry_run=5 is not true or false$"),
        ("seed=-1", r"^seed=-1 is less than 0$"),
        ("finetune.momentum=1", r"^finetune\.momentum=1 is not below 1$"),
        ("seed=a", r"^seed=a is not a whole number$"),
        ("explain.images=0", r"^explain\.images=0 is less than 1$"),
        ("explain.shard_images=null", r"^explain\.shard_images=null is not a whole number$"),
        ("score.level=1", r"^score\.level=1 is not above 0 and below 1$"),
        ("finetune.learning_rate=nan", r"is not a number"),
        ("explainer.sampling=paired", r"paired was taken out: hadamard"),
        ("explain.precision=flot32", r"flot32 is none of auto, .*; nearest: .*float32"),
        ("locate.threshold=otso", r"is not otsu or a number"),
        ("committee.only=one", r"write committee\.only=\[one\]$"),
        ("committee.members.one=5", r"^committee\.members\.one=5 is not keys with values"),
        ("explain.image=2", r"^explain\.image: no such key; nearest: explain\.images"),
        ("images=2", r"^images: no such key; nearest: explain\.images"),
        ("committee=tiny.yaml", r"^committee=tiny\.yaml: leave out the suffix: committee=tiny$"),
        ("experiment=[shapes.yml]", r"leave out the suffix: experiment=\[shapes\]$"),
        ("explainer=[lime]", r"^explainer=\[lime\]: it takes one name, .* explainers=\[lime\]$"),
        ("experiment=cub", r"^root is not set: give it on the command line$"),
        ("dataset.name=${oc.env:NO_SUCH}", r"^dataset\.name: the environment has no NO_SUCH: export NO_SUCH="),
        ("dataset.name=${nowhere}", r"^dataset\.name: \$\{nowhere\} is no key"),
        ("dataset.name=${nowhere:1}", r"^dataset\.name: \$\{nowhere:\.\.\.\}: of these only oc\.env and now are known"),
        ("committee.scoerd=[a]", r"^committee\.scoerd: no such key; nearest: committee\.scored"),
        ("dataset.devkit=x", r"^dataset\.devkit: no such key"),
        ("dataset=imagefolder dataset.root=null", r"^dataset\.root=null is not a folder"),
        ("dataset=imagefolder dataset.root=[a]", r"is not a folder; .*quotes twice"),
        (
            "dataset=imagefolder dataset.root=p dataset.mask_void=white",
            r"^dataset\.mask_void=white is not a whole number",
        ),
        ("dataset=imagefolder dataset.root=p dataset.mask_invert=perhaps", r"mask_invert=perhaps is not true or false"),
        ("dataset=imagefolder dataset.root=p dataset.classes=5", r"^dataset\.classes=5 is not .*\[5\]$"),
    ],
)
def test_a_key_or_value_that_cannot_be_is_said_in_one_line(words: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        composed(*words.split())
    assert "\n" not in str(refused.value)


def test_names_that_yaml_reads_as_numbers_and_truths_are_names() -> None:
    group = {"name": "mine", "members": {50: {}, 1.5: None, True: {}, "two": {}}}
    found = taken({"committee": group})["committee"]["members"]
    assert list(found) == ["50", "1.5", "true", "two"]


def test_nothing_is_added_to_what_artefacts_are_compared_by() -> None:
    found = composed("explainer=smoothgrad")
    assert {*found["explainer"]} == {*OmegaConf.load(CONF / "explainer/smoothgrad.yaml")}
    assert {*found["dataset"]} == {*OmegaConf.load(CONF / "dataset/shapes.yaml"), "white", "first_classes"}


def test_a_key_that_others_refer_to_is_read() -> None:
    assert composed("lab=here", "output_dir=${lab}/x")["output_dir"] == "here/x"


def test_a_loader_s_keys_are_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the schema lets through, the loader takes."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(datasets, "_arguments", lambda made, group: seen.setdefault(group["loader"], made) and {})
    for name in KINDS["dataset"]:
        with pytest.raises((TypeError, InputError)):
            datasets.load({"loader": name})
    for name, made in seen.items():
        known = {*inspect.signature(made).parameters}
        assert {*keys_of(KINDS["dataset"][name])} - {*keys_of(schema.Dataset)} == known - {"resize"}, name


# --- own files, and what Hydra says ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: t\n\tfinetune: true\n", "t.yaml, line 2, column 1: a tab"),
        ("name: t\nname: u\n", "t.yaml, line 2, column 1: found duplicate key name"),
        ("name: t\nmembers: {a: [1\n", "t.yaml, line 3"),
        ("name: t\nmembers: {null: {}}\n", "members: YAML reads a name there as null"),
        ("members: {}\n", "committee.name is not set: add `name:` to /"),
        ("members: {}\n", "/committee/t.yaml, or give committee.name=..."),
        ("defaults: [{override /explainer: 5}]\nname: t\n", "a YAML's list of defaults: "),
        ("defaults: [5]\nname: t\n", "a YAML's list of defaults: "),
        ("name: t\nscoerd: [a]\n", "committee.scoerd: no such key; nearest: committee.scored"),
    ],
)
def test_an_own_file_that_cannot_be_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path / "committee/t.yaml", text)
    outcome = xconsensus("explain", "--config-dir", str(tmp_path), "committee=t")
    assert outcome.code == 2
    assert said in outcome.errors[0]
    assert "Error executing job" not in outcome.err


def test_an_own_file_comes_before_the_package_s(tmp_path: Path) -> None:
    write(
        tmp_path / "explainer/lime.yaml", "name: lime\nmethod: lime\nsamples: 24\nvote: squares\nsimilarity: cosine\n"
    )
    outcome = xconsensus("explain", "--config-dir", str(tmp_path), "--cfg", "job", "-p", "explainer")
    assert "samples: 24" in outcome.out


def test_a_member_is_taken_out_behind_an_option(tmp_path: Path) -> None:
    write(tmp_path / "committee/t.yaml", "name: t\nmembers: {one: {}, two: {}}\n")
    words = ("--config-dir", str(tmp_path), "committee=t", "--cfg", "job", "-p", "committee.members")
    assert xconsensus("explain", *words, "~committee.members.two").out.strip().endswith("one: {}")


def test_an_experiment_without_its_package_line_is_told_so(tmp_path: Path) -> None:
    write(tmp_path / "experiment/mine.yaml", "explain: {images: 2}\n")
    outcome = xconsensus("explain", "--config-dir", str(tmp_path), "experiment=mine")
    assert (outcome.code, "# @package _global_" in outcome.errors[0]) == (2, True)


def test_a_file_that_would_stand_for_a_stage_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "run.yaml", "explain: {images: 2}\n")
    outcome = xconsensus("run", "--config-dir", str(tmp_path))
    assert (outcome.code, "experiment=run" in outcome.errors[0]) == (2, True)


@pytest.mark.parametrize("value", ["photos(1)", "a,b", "{a}", "[new", "'photos", 'a"b'])
def test_how_to_quote_is_said_as_it_can_be_typed(value: str) -> None:
    outcome = xconsensus("explain", "dataset=imagefolder", f"dataset.root={value}")
    assert outcome.code == 2
    (advice,) = re.findall(r"quote it twice, as in (.*?)(?:; to go|$)", outcome.errors[0])
    (word,) = shlex.split(advice)
    assert composed("dataset=imagefolder", word)["dataset"]["root"] == value


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_path_where_a_name_belongs_is_told_what_to_write(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"committee/bars.{suffix}", "name: bars\n")
    outcome = xconsensus("explain", f"committee={path}")
    assert outcome.code == 2
    assert f"{tmp_path} committee=bars" in outcome.errors[0] or f"committee/bars.{'yaml'}" in outcome.errors[0]


def test_files_of_another_suffix_are_named(tmp_path: Path) -> None:
    write(tmp_path / "committee/bars.yml", "name: bars\n")
    outcome = xconsensus("explain", "--config-dir", str(tmp_path), "committee=bars")
    assert "rename it to bars.yaml" in outcome.errors[0]


# --- keys of one explainer among several ---


@pytest.mark.parametrize(
    ("stage", "word", "said"),
    [
        ("run", "explainer.sampelling=hadamard", "no such key of lime or smoothgrad; nearest: explainer.sampling"),
        ("status", "explainer.sampelling=hadamard", "no such key of lime or smoothgrad"),
        ("run", "explainers=[5]", "explainer=5: no such explainer; known: lime, smoothgrad"),
        ("status", "explainers=[lime.yaml]", "explainer=lime.yaml: leave out the suffix: explainer=lime"),
        ("plot", "explainers.lime.noise=2", "explainers.lime.noise: no such key of lime; it is a key of smoothgrad"),
        ("score", "explainer.noise=2", "explainer.noise: no such key of lime; it is a key of smoothgrad"),
    ],
)
def test_a_key_of_no_explainer_is_refused(stage: str, word: str, said: str) -> None:
    outcome = xconsensus(stage, word)
    assert (outcome.code, len(outcome.errors)) == (2, 1)
    assert said in outcome.errors[0]


def test_a_key_applies_to_the_explainers_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from xconsensus.stages import run

    found: list[Any] = []
    monkeypatch.setattr(run, "run", lambda configs: found.extend(map(plain, configs)))
    monkeypatch.setenv("DATA", "photos (2), 1e3")
    words = ["explainer.sampling=hadamard", "explainer.noise=0.2", "explainers.lime.samples=16"]
    outcome = xconsensus("run", *words, "output_dir=${oc.env:DATA}/${now:%f}", "dry_run=true")
    assert outcome.code == 0, outcome.err
    lime, smoothgrad = (each["explainer"] for each in found)
    assert (lime["sampling"], lime["samples"], "noise" in lime) == ("hadamard", 16, False)
    assert (smoothgrad["noise"], smoothgrad["samples"], "sampling" in smoothgrad) == (0.2, 50, False)
    assert found[0]["output_dir"] == found[1]["output_dir"]
    assert found[0]["output_dir"].startswith("photos (2), 1e3/")


# --- advice ---

STANDS_FOR = {"FOLDER": "photos", "NAME": "mine", "FILE": "net.pth", "N": "3", "...": "mine"}  # in advice


def advised(text: str) -> Iterator[str]:
    """The words KEY=VALUE of a text, as one would type them."""
    for key, value in re.findall(r"(?<![\w.{}/$-])([a-z_]+(?:\.[\w{}]+)*)=(\{\w[^}]+\}|\.\.\.|[^\s,;:)`'\"]*)", text):
        yield f"{key.replace('{}', 'test')}={STANDS_FOR.get(value.rstrip('.') or value, value.rstrip('.'))}"


def in_comments() -> list[tuple[str, str]]:
    """Option of a group, and what a comment of its file gives to type."""
    files = sorted(CONF.glob("*/*.yaml"))
    comments = {f"{path.parent.name}={path.stem}": " ".join(re.findall(r"#(.*)", path.read_text())) for path in files}
    return sorted({(option, word) for option, text in comments.items() for word in advised(text)})


def in_messages() -> list[str]:
    """What texts of the package give to type; a value that is put in there is {}."""
    found = set()
    for path in Path(schema.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
            found |= {*advised("".join(text for text in texts if isinstance(text, str)))}
    return sorted(word for word in found if "." in word.partition("=")[0])


def typed(*words: str) -> None:
    """Take words of the command line, with the folders that their data set, committee and experiment ask for."""
    given = dict(word.split("=", 1) for word in words)
    for group, key in (("dataset", "dataset.root"), ("committee", "committee.weights_dir"), ("experiment", "root")):
        file = CONF / group / f"{given.get(group)}.yaml"
        if file.is_file() and re.search(rf"^{key.rpartition('.')[2]}: *\?\?\?", file.read_text(), re.MULTILINE):
            given.setdefault(key, "here")
    if given.get("committee") in ("imagenet7", "imagenet15", "sizes30", "pets10", "vit8"):
        given.setdefault("dataset.root", "here")
    composed(*(f"{key}={value}" for key, value in given.items()))


@pytest.mark.parametrize(("option", "word"), in_comments())
def test_what_a_comment_gives_to_type_is_taken(option: str, word: str) -> None:
    typed(option, word)


def test_keys_that_messages_name_exist() -> None:
    known = {f"{prefix}{name}" for prefix, kind in sections({}).items() for name in keys_of(kind)}
    known |= {f"{group}.{name}" for group in KINDS for kind in KINDS[group].values() for name in keys_of(kind)}
    named = {".".join(word.partition("=")[0].split(".")[:2]) for word in in_messages()}
    assert len(named) > 50
    assert named - known <= {"hydra.searchpath", "explainers.lime"}


@pytest.mark.parametrize("word", [word for word in in_messages() if not re.search(r"=$|\{\}|\[$|=paired", word)])
def test_what_a_message_gives_to_type_is_taken(word: str) -> None:
    group, _, name = word.partition("=")[0].partition(".")
    kinds = [option for option, kind in KINDS.get(group, {}).items() if name.split(".")[0] in keys_of(kind)]
    typed(*(f"{group}={option}" for option in kinds[:1]), word)
