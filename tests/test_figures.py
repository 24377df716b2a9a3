import io
import re
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox, BboxBase
from scipy import stats

from xconsensus import figures, published
from xconsensus.errors import InputError
from xconsensus.figures import style
from xconsensus.figures.gallery import Colours, heat, wrapped

Members = Mapping[str, pd.DataFrame]
EXPLAINERS = ("lime", "smoothgrad")


def committee(members: int = 12, families: int = 7) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(members)
    accuracy = rng.uniform(0.5, 0.9, members)
    tables = {}
    for explainer, scale in zip(EXPLAINERS, (1.0, 0.04), strict=True):
        score = scale * (accuracy + rng.normal(0, 0.05, members))
        table = pd.DataFrame(
            {
                "member": [f"member_{index}" for index in range(members)],
                "family": [f"family {index % families}" for index in range(members)],
                "accuracy": accuracy,
                "consensus_score": score,
                "consensus_score_low": 0.98 * score,
                "consensus_score_high": 1.03 * score,
                "mean_average_precision": accuracy - 0.2 + rng.normal(0, 0.05, members),
            }
        )
        ensemble = {"member": "consensus", "family": "consensus", "accuracy": 0.93, "mean_average_precision": 0.85}
        tables[explainer] = pd.concat([table, pd.DataFrame([ensemble])], ignore_index=True)
    return tables


def points(axes: Axes) -> list[Line2D]:
    """The artists that draw members: one a family."""
    return [line for line in axes.lines if line.get_linestyle() == "None" and line.get_marker() != "*"]


def coordinates(axes: Axes) -> set[tuple[float, float]]:
    return {(x, y) for line in points(axes) for x, y in np.asarray(line.get_xydata(), dtype=float).tolist()}


FIGURES = [
    (figures.fig04, "mean_average_precision", "accuracy"),
    (figures.fig05, "consensus_score", "accuracy"),
    (figures.fig10, "consensus_score", "mean_average_precision"),
]


@pytest.mark.parametrize(("figure", "x", "y"), FIGURES)
@pytest.mark.parametrize("size", [12, 85])
def test_every_member_is_a_point_and_titles_state_both_correlations(
    figure: Callable[[Members], Figure], x: str, y: str, size: int
) -> None:
    members = committee(size)
    drawn = figure(members)
    assert [axes.get_title().splitlines()[0] for axes in drawn.axes] == [f"LIME, n = {size}", f"SmoothGrad, n = {size}"]
    for axes, table in zip(drawn.axes, members.values(), strict=True):
        own = table[:-1]
        assert coordinates(axes) == set(zip(own[x], own[y], strict=True))
        pearson, spearman = stats.pearsonr(own[x], own[y]), stats.spearmanr(own[x], own[y])
        assert f"Pearson $r$ = {pearson.statistic:.3f}" in axes.get_title()
        assert f"p = {pearson.pvalue:.1g}" in axes.get_title()
        assert rf"Spearman $\rho$ = {spearman.statistic:.3f}" in axes.get_title()


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_brackets_bars_and_the_words_for_them_are_of_one_level(level: float) -> None:
    members = committee()
    for drawn, y in (
        (figures.fig05(members, "c", level), "accuracy"),
        (figures.fig10(members, "c", level), "mean_average_precision"),
    ):
        for axes, table in zip(drawn.axes, members.values(), strict=True):
            z = np.arctanh(stats.pearsonr(table["consensus_score"][:-1], table[y][:-1]).statistic)
            margin = stats.norm.ppf((1 + level) / 2) / np.sqrt(12 - 3)  # Fisher's, in closed form
            low, high = np.tanh([z - margin, z + margin])
            assert f" [{low:.2f}, {high:.2f}]" in axes.get_title()
        said = " ".join(drawn.texts[-1].get_text().split())
        assert f"bars: {100 * level:g} % intervals over images" in said
        assert f"brackets: {100 * level:g} % intervals over members" in said


def test_bars_and_brackets_that_are_not_there_are_not_explained() -> None:
    few = figures.fig05({"own vote": in_line([0.5, 0.6, 0.7, 0.9])}, "c")
    assert few.texts[-1].get_text() == "c"
    assert "bars" not in figures.fig04(committee(), "c").texts[-1].get_text()


def in_line(accuracy: list[float]) -> pd.DataFrame:
    """Members with these accuracies whose consensus scores follow them exactly."""
    names = [f"member_{index}" for index in range(len(accuracy))]
    scores = np.arange(len(accuracy)) / 20
    return pd.DataFrame({"member": names, "family": "f", "accuracy": accuracy, "consensus_score": scores})


@pytest.mark.parametrize(
    ("accuracy", "lines"),
    [
        ([0.5, 0.6], ["Pearson $r$ undefined, n too small", r"Spearman $\rho$ undefined, n too small"]),
        ([0.5, 0.6, 0.7], ["Pearson $r$ = 1.000, n too small", r"Spearman $\rho$ = 1.000, n too small"]),
        ([0.5, 0.6, 0.7, 0.9], ["Pearson $r$ = 0.983, n too small", r"Spearman $\rho$ = 1.000, n too small"]),
        # of the 120 orders of five members two are as good
        ([0.5, 0.6, 0.7, 0.8, 0.9], ["Pearson $r$ = 1.000, p = 0.02", r"Spearman $\rho$ = 1.000, p = 0.02"]),
        ([0.5] * 6, ["Pearson $r$ undefined", r"Spearman $\rho$ undefined"]),
    ],
)
def test_titles_state_no_more_than_few_members_tell(accuracy: list[float], lines: list[str]) -> None:
    table, size = in_line(accuracy), len(accuracy)
    (axes,) = figures.fig05({"own vote": table}).axes
    assert axes.get_title().splitlines() == [f"own vote, n = {size}", *lines]
    three = figures.fig05({"a": table, "b": table, "c": table}).axes[2].get_title()
    assert three.splitlines() == [f"c, n = {size}", *(re.sub("Pearson |Spearman ", "", line) for line in lines)]


def test_titles_of_equal_scores_of_many_members_have_no_interval_and_no_p_of_0() -> None:
    lime = committee()["lime"]
    (axes,) = figures.fig06({"lime": lime, "again": lime}).axes
    assert axes.get_title().splitlines()[1:] == [
        "Pearson $r$ = 1.000, p < 1e-99",
        r"Spearman $\rho$ = 1.000, p = 4e-09",
    ]


def test_figure_6_sets_two_explainers_against_each_other() -> None:
    members = committee()
    lime, smoothgrad = (table["consensus_score"][:-1] for table in members.values())
    (axes,) = figures.fig06(members).axes
    assert coordinates(axes) == set(zip(lime, smoothgrad, strict=True))
    assert f"{stats.pearsonr(lime, smoothgrad).statistic:.3f}" in axes.get_title()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("LIME score", "SmoothGrad score")
    with pytest.raises(InputError, match="two explainers, not 1"):
        figures.fig06({"lime": members["lime"]})


@pytest.mark.parametrize("dataset", published.DATASETS)
def test_published_tables_draw_their_legible_rows(dataset: str) -> None:
    members = published.members(dataset)
    for axes, table in zip(figures.fig05(members).axes, members.values(), strict=True):
        legible = table.dropna(subset=["consensus_score", "accuracy"])
        assert sum(len(np.atleast_1d(line.get_xdata())) for line in points(axes)) == len(legible)
        assert f"n = {len(legible)}" in axes.get_title()


def test_the_consensus_is_one_star_above_its_name_in_figure_4_only() -> None:
    members = committee()
    for axes in figures.fig04(members).axes:
        (star,) = [line for line in axes.lines if line.get_marker() == "*"]
        assert np.asarray(star.get_xydata()).tolist() == [[0.85, 0.93]]
        assert "Consensus" in [text.get_text() for text in axes.texts]
    for figure in (figures.fig05(members), figures.fig06(members), figures.fig10(members)):
        assert not [line for axes in figure.axes for line in axes.lines if line.get_marker() == "*"]


def within(outer: BboxBase, inner: BboxBase) -> bool:
    """Within two pixels, the rounding of type."""
    room = outer.padded(2)
    return bool(room.x0 <= inner.x0 and room.y0 <= inner.y0 and inner.x1 <= room.x1 and inner.y1 <= room.y1)


def look(line: Line2D) -> tuple[object, ...]:
    return line.get_marker(), line.get_fillstyle(), line.get_markerfacecolor(), line.get_markeredgecolor()


def test_a_family_has_one_look_in_all_panels_and_the_legend() -> None:
    members = committee(30, families=15)
    drawn = figures.fig05(members)
    (legend,) = drawn.legends
    expected = {
        text.get_text(): look(handle)
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
        if isinstance(handle, Line2D)
    }
    assert set(expected) == set(members["lime"]["family"][:-1])
    assert len(set(expected.values())) == 15
    for axes, table in zip(drawn.axes, members.values(), strict=True):
        family_of = dict(zip(table["consensus_score"], table["family"], strict=True))
        for line in points(axes):
            families = {family_of[x] for x in np.asarray(line.get_xdata(), dtype=float)}
            assert len(families) == 1
            assert look(line) == expected[families.pop()]


def test_families_keep_apart_by_shape_alone_and_ignore_order() -> None:
    names = [f"family {index}" for index in range(36)]
    chosen = style.symbols(names)
    assert len({(symbol.marker, symbol.fill) for symbol in chosen.values()}) == 36
    assert chosen == style.symbols(names[::-1])
    many = style.symbols(map(str, range(200)))
    assert len({(symbol.marker, symbol.fill, symbol.colour) for symbol in many.values()}) == 200
    assert "*" not in {symbol.marker for symbol in many.values()}


def test_bars_span_the_intervals_of_scores() -> None:
    members = committee()
    for axes, table in zip(figures.fig05(members).axes, members.values(), strict=True):
        ends = {tuple(segment[:, 0]) for bars in axes.collections for segment in bars.get_segments()}  # type: ignore[attr-defined]
        own = table[:-1]
        assert ends == set(zip(own["consensus_score_low"], own["consensus_score_high"], strict=True))


def drawn_twice() -> dict[str, pd.DataFrame]:
    """25 members, of which five have the same scores and accuracy as another, and one of a name with signs."""
    tables = committee(25)
    for table in tables.values():
        table.loc[20:24, table.columns[2:]] = table.loc[0:4, table.columns[2:]].to_numpy()
        table.loc[7, "member"] = "$a_b$ {c}"
    return tables


NAMED: dict[str, Callable[[], Figure]] = {
    "12 members": lambda: figures.fig05(committee(12)),
    "25 members": lambda: figures.fig06(committee(25)),
    "85 members": lambda: figures.fig05(committee(85)),
    "85 members and the consensus": lambda: figures.fig04(committee(85)),
    "coincident points": lambda: figures.fig05(drawn_twice()),
    "the paper's 78": lambda: figures.fig05(published.members("imagenet")),
    "the paper's 61": lambda: figures.fig10(published.members("cub200")),
    "three panels": lambda: figures.fig05({name: committee(30)["lime"] for name in ("a", "b", "c")}),
}


@pytest.mark.parametrize("figure", NAMED.values(), ids=NAMED)
def test_a_name_is_nearest_to_its_own_point_or_tied_to_it_and_covers_nothing(figure: Callable[[], Figure]) -> None:
    drawn = figure()
    drawn.draw_without_rendering()
    for axes in drawn.axes:
        all_points = np.concatenate([np.asarray(line.get_xydata()) for line in axes.lines])
        centres = axes.transData.transform(all_points)
        names = [text for text in axes.texts if isinstance(text, Annotation)]
        # Annotation's own extent includes its leader line, which may pass a name.
        boxes = [Text.get_window_extent(name) for name in names]
        for index, (name, box) in enumerate(zip(names, boxes, strict=True)):
            assert within(axes.bbox, box)
            assert not box.count_overlaps(boxes[:index])
            gaps = np.linalg.norm(centres - np.clip(centres, box.min, box.max), axis=1)
            assert gaps.min() > 2.5 * drawn.dpi / 72  # the smallest marker's half
            own = np.linalg.norm(all_points - name.xy, axis=1) == 0
            assert own.any()
            if name.arrow_patch is None:
                assert gaps[own].max() < gaps[~own].min()
                assert own.sum() == 1
            else:
                tie = name.arrow_patch.get_transform().transform_path(name.arrow_patch.get_path())
                start, end = np.asarray(tie.vertices)[[0, -1]]
                assert box.padded(2).contains(*start)
                distances = np.linalg.norm(centres - end, axis=1)
                assert distances[own][0] < distances.min() + 0.5
                assert distances.min() < 5 * drawn.dpi / 72
        if len(drawn.axes) < 3:  # smaller panels have no room for long names of extremes in their middle
            shown = {tuple(name.xy) for name in names}
            for end in (*all_points.argmin(axis=0), *all_points.argmax(axis=0)):
                assert tuple(all_points[end]) in shown


def test_all_of_12_members_are_named_and_the_caption_says_how_many_of_85() -> None:
    few = figures.fig05(committee(12), "few")
    assert [len(axes.texts) for axes in few.axes] == [12, 12]
    intervals = "95 % intervals over"
    assert few.texts[-1].get_text() == f"few; bars: {intervals} images; brackets: {intervals} members"
    many = figures.fig04(committee(85), "many")
    named = [len(axes.texts) - 1 for axes in many.axes]  # the consensus is no member
    assert all(10 < count < 85 for count in named)
    said = (
        f"many; brackets: {intervals} members; named: {named[0]} of 85 and {named[1]} of 85 members, the extremes first"
    )
    assert " ".join(many.texts[-1].get_text().split()) == said


def test_names_stay_clear_of_intervals_where_there_is_room() -> None:
    table = committee(4)["lime"].assign(
        accuracy=[0.5, 0.6, 0.7, 0.8, 0.9], consensus_score=[0.4, 0.5, 0.6, 0.5, np.nan]
    )
    table["consensus_score_low"], table["consensus_score_high"] = (
        table["consensus_score"] - 0.2,
        table["consensus_score"] + 0.2,
    )
    (axes,) = figures.fig05({"lime": table}).axes
    segments = np.concatenate([bars.get_segments() for bars in axes.collections])  # type: ignore[attr-defined]
    heights = axes.transData.transform(segments[:, 0])[:, 1]
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) == 4
    assert not any(box.y0 < height < box.y1 for box in boxes for height in heights)


@pytest.mark.parametrize("size", [12, 85])
def test_type_is_7_points_at_least_and_all_of_it_is_on_the_page(size: int) -> None:
    caption = "A data set, 50 images, " + "members of several families, " * 12
    members = committee(size, families=size // 4)
    drawings = [figures.fig04(members, caption), figures.fig06(members, caption), gallery_of(9, caption)]
    for drawn in [*drawings, figures.fig08(growth(), 30, caption)]:
        drawn.draw_without_rendering()
        shown = [text for text in drawn.findobj(Text) if isinstance(text, Text) and text.get_text()]
        assert min(float(text.get_fontsize()) for text in shown) >= 7
        texts = [text for axes in drawn.axes for text in (axes.title, axes.xaxis.label, *axes.texts)]
        for text in [*drawn.texts, *texts]:
            assert not text.get_text() or within(drawn.bbox, text.get_window_extent())
        legends = [legend.get_window_extent() for legend in drawn.legends]
        captions = [t.get_window_extent() for t in drawn.texts if t.get_text().startswith("A data set")]
        assert len(captions) == 1
        for legend in legends:
            assert legend.x0 >= 0
            assert legend.x1 <= drawn.bbox.x1
            assert legend.y0 >= captions[0].y1 - 1
            assert all(axes.get_tightbbox().y0 >= legend.y1 - 1 for axes in drawn.axes)  # type: ignore[union-attr]


def test_the_steps_are_the_paper_s_and_show_each_member_with_its_similarity() -> None:
    tiles = [figures.Tile(f"member_of_long_name_{i}", np.ones((30, 40))) for i in range(3)]
    drawn = figures.fig01(IMAGE, tiles, np.ones((30, 40)), [0.25, 1.0, -0.5], "caption")
    titles = [axes.get_title() for axes in drawn.axes]
    assert sorted(titles) == sorted(["Image", "Consensus", *[""] * 7, *(tile.name for tile in tiles)])
    boxes_of_models = [axes.texts[0] for axes in drawn.axes if axes.texts and not axes.patches and not axes.images]
    assert [text.get_text().replace("\n", "") for text in boxes_of_models] == [tile.name for tile in tiles]
    steps = ["1. Committee", "2. Explanations and vote", "3. Similarity"]  # the paper's Figure 1
    assert [text.get_text() for text in drawn.texts] == [*steps, "caption"]
    drawn.draw_without_rendering()
    extents = [text.get_window_extent() for text in drawn.texts]
    assert not any(box.count_overlaps(extents[:index]) for index, box in enumerate(extents))
    assert all(within(drawn.bbox, box) for box in extents)
    for text in boxes_of_models:
        assert text.axes is not None
        assert within(text.axes.bbox, text.get_window_extent())
    bars = [axes.patches[0].get_width() for axes in drawn.axes if axes.patches]  # type: ignore[attr-defined]
    assert bars == [0.25, 1.0, -0.5]
    scales = [axes for axes in drawn.axes if axes.patches]
    assert len({axes.get_xlim() for axes in scales}) == 1
    ticks = {text.get_text(): text.get_position()[0] for text in scales[-1].get_xticklabels()}
    assert len(ticks) >= 3
    assert all(float(text) == pytest.approx(at) for text, at in ticks.items())
    assert min(ticks.values()) <= -0.5
    assert max(ticks.values()) >= 1
    boxes = [axes.get_position() for axes in drawn.axes]
    assert not any(box.count_overlaps(boxes[:index]) for index, box in enumerate(boxes))


def test_section_452_shows_the_paper_s_mean_where_it_states_one_and_names_its_lines() -> None:
    table = pd.DataFrame({"trial": range(4), "size": [5, 6, 6, 8], "pearson_r": [0.9, 0.95, 1.0, 0.75]})
    drawn = figures.sec452({"LIME": table, "SmoothGrad": table}, "c", {"LIME": published.FAMILY_R})
    assert [len(axes.lines) for axes in drawn.axes] == [3, 2]
    assert list(drawn.axes[0].lines[2].get_ydata()) == [0.96] * 2  # type: ignore[arg-type]
    names = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert names == ["One random committee", "Their mean", "The paper's mean, 0.96, by LIME"]


def test_panels_of_a_row_of_figure_7_share_their_range_and_families_look_as_among_all() -> None:
    tables = [committee(4, families=1)[name] for name in (*EXPLAINERS, *EXPLAINERS)]
    scores = ["consensus_score", "consensus_score_low", "consensus_score_high"]
    tables[1], tables[2] = tables[1].assign(**2 * tables[1][scores]), tables[2].assign(**9 * tables[2][scores])
    panels = {f"{name} {vote}": table for name, vote, table in zip("aabb", "1212", tables, strict=True)}
    everyone = [f"family {index}" for index in range(-3, 3)]
    drawn = figures.fig07(panels, families=everyone)
    limits = [axes.get_xlim() for axes in drawn.axes]
    assert limits[0] == limits[1]
    assert limits[2] == limits[3]
    assert limits[0] != limits[2]
    (line,) = points(drawn.axes[0])
    assert look(line) == look(style.symbols(everyone)["family 0"].line())


def test_section_452_has_a_point_a_committee_and_the_mean() -> None:
    table = pd.DataFrame({"trial": range(4), "size": [5, 6, 6, 8], "pearson_r": [0.9, 0.95, 1.0, 0.75]})
    drawn = figures.sec452({"lime": table, "smoothgrad": table})
    points, mean = drawn.axes[1].lines
    np.testing.assert_array_equal(points.get_xydata(), table[["size", "pearson_r"]])
    assert list(mean.get_ydata()) == [pytest.approx(0.9)] * 2  # type: ignore[arg-type]


def test_figures_save_as_vector_and_bitmap() -> None:
    for form, start in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        buffer = io.BytesIO()
        figures.fig05(committee(), "caption").savefig(buffer, format=form)
        assert buffer.getvalue().startswith(start)


def test_tables_that_lack_what_a_figure_shows_are_refused() -> None:
    members = {name: table.drop(columns="mean_average_precision") for name, table in committee().items()}
    for figure in (figures.fig04, figures.fig10):
        with pytest.raises(InputError, match="lime has no mean_average_precision"):
            figure(members)
    with pytest.raises(InputError, match="no explainer"):
        figures.fig05({})


@pytest.mark.parametrize("panels", [1, 2, 3, 4, 5])
def test_a_panel_a_table_whatever_their_number(panels: int) -> None:
    members = {f"committee {index}": committee()["lime"] for index in range(panels)}
    drawn = figures.fig05(members)
    assert [axes.get_title().split(",")[0] for axes in drawn.axes] == list(members)


def growth() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [(size, trial, 1 - 1 / size + rng.random() / 9) for size in (2, 5, 15) for trial in range(6)]
    return pd.DataFrame([*rows, (30, 0, 0.97)], columns=["size", "trial", "mean_average_precision"])


def test_figure_8_shows_trials_means_medians_and_the_complete_committee() -> None:
    trials = growth()
    drawn = figures.fig08(trials, members=30)
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()][-1] == "Complete committee (30 members)"
    dots, mean, median, complete = drawn.axes[0].lines
    assert len(np.atleast_1d(dots.get_xdata())) == len(trials)
    for size in (2, 5, 15, 30):
        values = trials.loc[trials["size"] == size, "mean_average_precision"]
        index = np.flatnonzero(np.asarray(mean.get_xdata()) == size)[0]
        assert np.asarray(mean.get_ydata())[index] == pytest.approx(np.mean(values))
        assert np.asarray(median.get_ydata())[index] == pytest.approx(np.median(values))
    assert set(np.asarray(complete.get_ydata())) == {0.97}
    assert complete.get_linestyle() == "--"
    assert len(figures.fig08(trials, members=85).axes[0].lines) == 3
    with pytest.raises(InputError, match="no committees"):
        figures.fig08(trials[:0], members=30)


IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def gallery_of(members: int, caption: str = "") -> Figure:
    rng = np.random.default_rng(members)
    tiles = [figures.Tile(f"a_member_of_long_name_{i}", rng.normal(size=(30, 40)), i / 99) for i in range(members)]
    last = figures.Tile("consensus", rng.random((30, 40)), float("nan"))
    return figures.gallery([figures.Row(label, IMAGE, [*tiles, last]) for label in ("LIME", "SmoothGrad")], caption)


def pictures(drawn: Figure) -> list[tuple[Bbox, list[str]]]:
    """Where each picture of a gallery lies, in inches from the top left, and the texts nearest to its middle column."""
    axes = drawn.axes[0]
    boxes = [Bbox.from_extents(left, top, right, bottom) for left, right, bottom, top in map(extent, axes.images)]
    named = [text for text in axes.texts if text.get_rotation() == 0]
    return [(box, [t.get_text() for t in named if nearest(t, boxes) == index]) for index, box in enumerate(boxes)]


def extent(picture: AxesImage) -> tuple[float, float, float, float]:
    return picture.get_extent()


def nearest(text: Text, boxes: list[Bbox]) -> int:
    """The picture that a text stands above or below."""
    x, y = text.get_position()
    gaps = [abs(x - (b.x0 + b.x1) / 2) + min(abs(y - b.y0), abs(y - b.y1)) for b in boxes]
    assert min(gaps) == pytest.approx(2 / 72)
    return int(np.argmin(gaps))


@pytest.mark.parametrize("members", [1, 5, 12, 20])
def test_the_gallery_has_a_tile_a_member_and_the_consensus_right_of_all(members: int) -> None:
    drawn = gallery_of(members)
    found = pictures(drawn)
    assert len(found) == 2 * (members + 2)
    boxes = [box for box, _ in found]
    last = [box for box, texts in found[members + 1 :: members + 2]]
    # in one line, what a column shows stands above its first row alone
    assert [texts for _, texts in found[members + 1 :: members + 2]] == [["Consensus"], ["Consensus"] * (members > 6)]
    once = [len([text for text in texts if "long" in text]) for _, texts in found]
    assert sum(once) == members * (1 if members < 7 else 2)
    assert min(box.x0 for box in last) >= max(box.x1 for box in boxes if box not in last)
    frames = [patch.get_bbox() for patch in drawn.axes[0].patches if isinstance(patch, Rectangle)]
    np.testing.assert_allclose([frame.extents for frame in frames], [box.extents for box in last])
    width, height = drawn.get_size_inches()
    for index, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:index])
        assert box.width / box.height == pytest.approx(40 / 30)
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > 0
    assert (drawn.axes[0].get_xlim(), drawn.axes[0].get_ylim()) == ((0, width), (height, 0))


def test_the_gallery_writes_average_precision_and_note_where_known() -> None:
    explanation = np.ones((30, 40))
    tiles = [
        figures.Tile("a", explanation, 0.71234, "cat 0.93"),
        figures.Tile("b", explanation),
        figures.Tile("c", explanation),
    ]
    drawn = figures.gallery([figures.Row("LIME", IMAGE, tiles, [explanation > 0])])
    found = [sorted(texts) for _, texts in pictures(drawn)]
    assert found == [["Image"], ["AP 0.712\ncat 0.93", "a"], ["b"], ["Consensus"]]


def test_the_gallery_outlines_masks_where_they_lie_on_the_image() -> None:
    tiles = [figures.Tile(name, np.ones((30, 40))) for name in ("a", "consensus")]
    mask = np.zeros((30, 40), bool)
    mask[6:12, 10:20] = True
    drawn = figures.gallery([figures.Row("LIME", IMAGE, tiles, [mask])])
    box = pictures(drawn)[0][0]
    (outline,) = drawn.axes[0].collections
    (path,) = outline.get_paths()
    x, y = np.asarray(path.vertices, dtype=float).T
    pixel = box.width / 40
    np.testing.assert_allclose([x.min(), x.max()], box.x0 + pixel * np.array([10, 20]), atol=pixel / 2)
    np.testing.assert_allclose([y.min(), y.max()], box.y0 + pixel * np.array([6, 12]), atol=pixel / 2)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_the_colour_bar_has_the_colours_of_maps_and_the_blue_ones_only_where_they_occur(
    negative: bool, clip: float
) -> None:
    grey = np.full((30, 40, 3), 128, np.uint8)
    for lowest in (-2.0, 0.0):
        explanation = np.zeros((30, 40))
        explanation[:5], explanation[20:] = 2.0, lowest
        tiles = [figures.Tile(name, explanation) for name in ("a", "consensus")]
        colours = Colours(clip, negative)
        bar = figures.gallery([figures.Row("LIME", grey, tiles)], "c", colours).axes[1]
        ends = np.asarray(bar.images[0].get_array())[0, [0, -1]] / 255
        shown = heat(grey, explanation, colours)
        np.testing.assert_allclose(ends, [shown[-1, 0], shown[0, 0]], atol=0.02)
        assert bar.get_xlim() == (-1 if negative and lowest else 0, 1)
        said = [text.get_text() for text in bar.texts]
        assert said == [
            "against the class" if negative and lowest else "",
            f"for the class; 1: {'99th percentile of each map' if clip else 'largest of each map'}",
        ]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("resnet10_w8_32", ["resnet10_", "w8_32"]),
        ("shufflenet_v2_x0_5", ["shufflenet_", "v2_x0_5"]),
        ("vgg16", ["vgg16"]),
        ("efficientnet b0", ["efficientnet", "b0"]),
        ("averyveryverylongname", ["averyveryve\N{HORIZONTAL ELLIPSIS}"]),
    ],
)
def test_names_break_after_punctuation_in_two_short_lines(name: str, lines: list[str]) -> None:
    assert wrapped(name, 12.5 * 7 * 0.56 / 72) == lines


def test_heat_colours_positive_evidence_only() -> None:
    explanation = np.zeros((30, 40))
    explanation[5:15], explanation[20:] = 2.0, -3.0
    shown = heat(IMAGE, explanation)
    plain = heat(IMAGE, np.zeros((30, 40)))
    assert shown.shape == (30, 40, 3)
    assert shown.min() >= 0
    assert shown.max() <= 1
    np.testing.assert_array_equal(shown[:5], plain[:5])
    np.testing.assert_array_equal(shown[15:], plain[15:])
    assert np.ptp(shown[5:15], axis=-1).min() > 0.3
    assert np.ptp(plain, axis=-1).max() < 1e-12


def test_heat_colours_negative_evidence_blue_when_asked_and_the_top_percent_alike() -> None:
    explanation = np.zeros((30, 40))
    explanation[5:15], explanation[20:] = 2.0, -2.0
    both = heat(IMAGE, explanation, Colours(negative=True))
    plain = heat(IMAGE, explanation)
    np.testing.assert_array_equal(both[:20], plain[:20])
    assert (both[20:, :, 2] > both[20:, :, 0]).all()
    assert (both[5:15, :, 2] < both[5:15, :, 0]).all()
    ramp = np.arange(1200.0).reshape(30, 40)
    grey = np.full((30, 40, 3), 128, np.uint8)
    for clip in (0.0, 1.0, 10.0):
        shown = heat(grey, ramp, Colours(clip))
        alike = int((shown.reshape(-1, 3) == shown[-1, -1]).all(axis=1).sum())
        assert alike == pytest.approx(max(1, 12 * clip), abs=1)
    assert Colours(0.0, True).words == "red: positive values; negative ones blue"
    said = "red: positive values, the largest 1 % of pixels alike; negative ones are not shown"
    assert Colours().words == said


def test_heat_ignores_scale_and_single_extreme_pixels() -> None:
    explanation = np.random.default_rng(0).random((30, 40))
    np.testing.assert_allclose(heat(IMAGE, explanation), heat(IMAGE, 1e-7 * explanation), atol=1e-9)
    outlier = explanation.copy()
    outlier[0, 0] = 1e6
    assert np.abs(heat(IMAGE, explanation) - heat(IMAGE, outlier))[1:].max() < 0.05
    np.testing.assert_array_equal(heat(IMAGE, np.full((30, 40), 3.0)), heat(IMAGE, np.zeros((30, 40))))
    sparse = np.zeros((30, 40))
    sparse[0, 0] = 5.0
    assert not np.array_equal(heat(IMAGE, sparse), heat(IMAGE, np.zeros((30, 40))))


def test_the_gallery_refuses_nothing_and_maps_of_another_size() -> None:
    tile = figures.Tile("small", np.ones((10, 10)))
    with pytest.raises(InputError, match="at least one row"):
        figures.gallery([figures.Row("LIME", IMAGE, [tile])])
    with pytest.raises(InputError, match=re.escape("map of small is (10, 10), the image (30, 40)")):
        figures.gallery([figures.Row("LIME", IMAGE, [tile, tile])])
