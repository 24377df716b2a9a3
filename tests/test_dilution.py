"""Members of random weights: who votes, what their votes do, and what is asked of them."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
from conftest import Project
from scipy import stats
from sklearn.metrics import average_precision_score

from xconsensus.errors import InputError
from xconsensus.figures import diluted
from xconsensus.members.catalogue import specifications
from xconsensus.members.member import members_of
from xconsensus.scores.committees import diluted_committees, dilution, entropy, spread
from xconsensus.store.files import read_csv
from xconsensus.store.tensors import read_header, read_whole

SHARES = [0, 0.25, 0.5, 0.75, 0.9]


@pytest.mark.parametrize(("trained", "random", "voters"), [(12, 27, 3), (12, 54, 6), (12, 108, 12), (12, 500, 12)])
def test_every_share_is_exact_and_of_the_same_trained_voters(trained: int, random: int, voters: int) -> None:
    own, others = list(range(trained)), list(range(trained, trained + random))
    drawn = diluted_committees(own, others, SHARES, trials=6)
    assert len(drawn) == 6 * len(SHARES)
    for trial in range(6):
        found = [set(committee) for number, committee in drawn if number == trial]
        assert [len(each - {*own}) / len(each) for each in found] == SHARES
        assert all(len(each & {*own}) == voters and each & {*own} == found[0] for each in found)
        assert all(smaller < larger for smaller, larger in pairwise(found))
    assert len({frozenset(committee) for _, committee in drawn}) > len(SHARES)


def test_shares_that_random_members_do_not_suffice_for_are_refused() -> None:
    with pytest.raises(InputError, match="0.9 needs 9 random members beside one trained, there are 8 beside 12"):
        diluted_committees(range(12), range(12, 20), SHARES)
    for shares in ([], [1.0], [-0.1]):
        with pytest.raises(InputError, match="at least 0 and below 1"):
            diluted_committees([0], [1], shares)


def test_entropy_and_spread_are_scipy_s_and_tell_constant_maps() -> None:
    maps = np.random.default_rng(0).random((5, 30)) ** 4
    np.testing.assert_allclose(entropy(maps), stats.entropy(maps.T, base=30))
    np.testing.assert_allclose(spread(maps), stats.variation(maps, axis=1))
    constant = np.stack([np.zeros(30), np.full(30, 0.3)])
    np.testing.assert_allclose(entropy(constant), 1)
    np.testing.assert_allclose(spread(constant), 0, atol=1e-12)
    single = np.eye(30)[:1]
    assert [entropy(single).item(), spread(single).item()] == pytest.approx([0, np.sqrt(29)])
    assert np.isnan(entropy(maps - 0.1)).all()
    assert np.isnan(entropy(maps[:, :1])).all()


def test_the_consensus_of_each_committee_is_measured_as_its_voters_mean() -> None:
    rng = np.random.default_rng(1)
    images = [(rng.random((6, 40)), rng.random(40) < 0.3, None) for _ in range(3)]
    committees = [np.array([0, 1]), np.array([0, 1, 4, 5]), np.array([2, 3, 4])]
    table = dilution([*images, (rng.random((6, 40)), np.zeros(40, bool), None)], [3, 4, 5], committees)
    for row, chosen in zip(table.itertuples(), committees, strict=True):
        means = [ballots[chosen].mean(0) for ballots, _, _ in images]
        expected = [average_precision_score(inside, mean) for mean, (_, inside, _) in zip(means, images, strict=True)]
        assert row.mean_average_precision == pytest.approx(np.mean(expected), abs=1e-12)
    assert table["random_part"][0] == 0
    parts = [ballots[[4, 5]].sum() / ballots[[0, 1, 4, 5]].sum() for ballots, _, _ in images]
    alone = dilution(images, [3, 4, 5], committees)
    assert alone["random_part"][1] == pytest.approx(np.mean(parts))
    without = dilution([(ballots, None, None) for ballots, _, _ in images], [3, 4, 5], committees)
    assert without["mean_average_precision"].isna().all()
    np.testing.assert_allclose(without["entropy"], alone["entropy"])


def test_votes_of_independent_noise_become_a_constant_matrix() -> None:
    """What 5.1 says of random guesses: their mean over more and more voters spreads less and less."""
    rng = np.random.default_rng(2)
    table = dilution([(rng.random((400, 50)), None, None)], range(400), [np.arange(n) for n in (4, 40, 400)])
    assert table["entropy"].is_monotonic_increasing
    assert table["entropy"].iloc[-1] > 0.999
    np.testing.assert_allclose(table["spread"], np.sqrt(1 / 12) / 0.5 / np.sqrt([4, 40, 400]), rtol=0.25)


# --- in a committee ---


def test_random_members_have_the_architectures_in_turn_and_no_weights() -> None:
    own = {
        "a": {"library": "timm", "model": "resnet18", "pretrained": True},
        "b": {"library": "module", "model": "x.Y"},
    }
    found = specifications({"members": own, "random_members": 2})
    assert list(found) == ["a", "b", "random001_a", "random002_a"]
    assert found["random001_a"]["model"] == "resnet18"
    assert not found["random001_a"]["pretrained"]
    with pytest.raises(InputError, match="no member of timm or torchvision"):
        specifications({"members": {"b": own["b"]}, "random_members": 1})
    with pytest.raises(InputError, match="less than 0"):
        specifications({"members": own, "random_members": -1})


@pytest.mark.parametrize("other", [{"weights": "file.pth"}, {"pretrained": True}, {"random": "yes"}])
def test_a_random_member_with_weights_is_refused_in_a_line_that_names_it(other: dict[str, object]) -> None:
    member = {"library": "timm", "model": "resnet18", "random": True, **other}
    with pytest.raises(InputError, match=r"(member m: random=true and .*: drop one)|(members\.m\.random=yes is not)"):
        members_of({"m": member}, defaults={}, size=32, resize=36)


DILUTED = ("committee.name=diluted", "committee.random_members=4", "score.shares=[0,0.5,0.75]", "plot.trials=5")


@pytest.fixture(scope="module")
def with_random(quartet: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The outputs of the small committee, and then of the same with four random members."""
    folder = tmp_path_factory.mktemp("diluted")
    for name in ("conf", "outputs"):
        shutil.copytree(quartet.folder / name, folder / name)
    arguments = ("--config-dir", f"{folder}/conf", f"output_dir={folder}/outputs", *quartet.arguments[3:], *DILUTED)
    project = Project(folder, arguments)
    project.done("run", "explain.only_correct=any", "plot.figures=[diluted,fig04]", "plot.tables=[]")
    return project


def test_trained_members_are_shared_and_random_ones_drawn_once(with_random: Project, quartet: Project) -> None:
    before, after = quartet.files(), with_random.files()
    shared = [name for name in before if "/weights/" in name or "/predictions/" in name]
    assert shared
    assert all(after[name] == before[name] for name in shared)
    path = with_random.outputs / "shapes/weights/random001_resnet.safetensors"
    tensors, header = read_whole(path)
    assert (header["settings"]["member"]["random"], header["history"]) == (True, [])
    trained, _ = read_whole(path.with_name("resnet.safetensors"))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in trained.items()}
    with_random.done("finetune")
    with_random.done("score", "explain.only_correct=any")
    assert with_random.files() == after
    assert with_random.run("status", "explain.only_correct=any", "verify=true").code == 0


def test_images_are_chosen_by_the_trained_members(with_random: Project) -> None:
    right = set()
    for path in (with_random.outputs / "shapes/predictions/explain").glob("*.safetensors"):
        tensors, header = read_whole(path)
        hits = tensors["probabilities"].argmax(1) == tensors["labels"]
        if "random" not in path.name:
            right |= {image_id for image_id, hit in zip(header["ids"], hits.tolist(), strict=True) if hit}
    chosen = read_csv(with_random.outputs / "shapes/images/diluted.csv")
    assert {*chosen["image_id"]} <= right
    settings = read_header(with_random.outputs / "shapes/weights/resnet.safetensors")["settings"]
    assert "random" not in settings["member"]


@pytest.mark.parametrize("explainer", ["lime", "smoothgrad"])
def test_without_random_voters_all_is_as_if_they_were_not_there(with_random: Project, explainer: str) -> None:
    folder = with_random.outputs / f"shapes/scores/diluted/{explainer}"
    table = read_csv(folder / "diluted.csv")
    assert sorted(table["share"].unique()) == [0, 0.5, 0.75]
    assert {*table["trained"]} == {1}  # four random ones are three times one
    assert (table["random_part"][table["share"] == 0] == 0).all()
    assert table["entropy"].between(0, 1).all()
    estimated = read_csv(folder / "estimation.csv")
    assert estimated["n"].max() == 4  # of the trained ones


def test_a_member_that_was_trained_is_not_random_unasked(with_random: Project) -> None:
    refused = with_random.run("finetune", "+committee.members.resnet.random=true")
    assert refused.code == 2
    assert "random is absent there, True now" in refused.errors[0]
    assert "overwrite=true" in refused.errors[0]


def test_weights_of_no_training_are_refused_as_before(untrained: Project) -> None:
    refused = untrained.run("finetune", "committee.finetune=false")
    assert "member resnet has random weights" in refused.errors[0]
    assert "random=true" in refused.errors[0]
    every = [f"+committee.members.{name}.random=true" for name in ("resnet", "efficient", "byob", "shuffle")]
    untrained.done("finetune", "committee.finetune=false", *every)
    refused = untrained.run("explain", "committee.finetune=false", "explain.only_correct=all", *every)
    assert "all members have random weights" in refused.errors[0]


def test_the_figure_shows_the_mean_and_both_ends_of_the_trials(with_random: Project) -> None:
    tables = {
        name: read_csv(with_random.outputs / f"shapes/scores/diluted/{name}/diluted.csv")
        for name in ("lime", "smoothgrad")
    }
    drawn = diluted(tables, "caption")
    assert len(drawn.axes) == 2 * 4
    (line,) = drawn.axes[0].lines
    means = tables["lime"].groupby("share")["mean_average_precision"].mean()
    np.testing.assert_allclose(np.asarray(line.get_xydata()), np.column_stack([100 * means.index, means]))
    without = {name: table.assign(mean_average_precision=np.nan) for name, table in tables.items()}
    assert len(diluted(without).axes) == 2 * 3
    with pytest.raises(InputError, match="no explainer"):
        diluted({})
    assert (with_random.outputs / "shapes/figures/diluted/diluted.png").is_file()
    assert len(read_csv(with_random.outputs / "shapes/tables/diluted/diluted.csv")) == 2 * 5 * 3


def test_a_committee_without_random_members_has_no_such_figure(quartet: Project) -> None:
    refused = quartet.run("plot", "figure=diluted", "dry_run=false")
    assert refused.code == 2
    assert "no member has random weights" in refused.errors[0]
