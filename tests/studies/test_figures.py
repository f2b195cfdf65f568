"""The primitives of drawings on small tables; longer drawings, and notebooks', on made-up ones."""

import io
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import support
from PIL import Image
from scipy import stats

from studies import figures, ledger
from studies.early import drawings as early
from studies.flow import drawings as flow


def of_notebook(name, function, **known):
    return support.of_notebook(name, function, figures=figures, **known)


def titles(figure):
    return [ax.get_title(loc="left") for ax in figure.axes if ax.axison]


def rows(**by_epoch):
    """A table of three seeds; each name gives epoch -> values of the seeds."""
    return pd.DataFrame(
        {"epoch": epoch, "seed": seed, "value": value}
        for epoch, values in by_epoch["values"].items()
        for seed, value in enumerate(values)
    )


TABLE = rows(values={0: [1.0, 2.0, 3.0], 10: [4.0, 4.0, 4.0]})


# -- panels ----------------------------------------------------------------------------------------


def test_panels():
    """A row holds so many panels; the last places stay empty; labels stand at the edges, once."""
    names = {"title": "all", "xlabel": "epoch", "ylabel": ["ours", "paper"], "legend": 2}
    with figures.panels("a", "b", "c", columns=2, **names) as axes:
        for ax in axes:
            ax.plot([0, 1], [0, 1], label="same")
        axes[1].twinx().plot([0, 1], [0, 1], label="twin")
        assert mpl.rcParams["axes.grid"]
    figure = axes[0].figure
    assert titles(figure) == ["a", "b", "c", ""]  # the twin has no title
    assert sum(not ax.axison for ax in figure.axes) == 1
    assert [ax.get_ylabel() for ax in axes] == ["ours", "", "paper"]
    assert [ax.get_xlabel() for ax in axes] == ["", "epoch", "epoch"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["same", "twin"]


def test_a_long_title_is_broken_to_the_width():
    with figures.panels("", title="one setting more, " * 12) as (ax,):
        pass
    lines = ax.figure.get_suptitle().splitlines()
    assert len(lines) > 3
    ax.figure.draw_without_rendering()
    width = ax.figure._suptitle.get_window_extent().width
    assert width < ax.figure.bbox.width


def test_panels_leave_nothing_behind():
    """Neither an open figure nor a changed style, also where a drawing fails."""
    before, style = plt.get_fignums(), dict(mpl.rcParams)
    with pytest.raises(KeyError), figures.panels("a", legend=1):
        raise KeyError
    assert plt.get_fignums() == before
    assert dict(mpl.rcParams) == style


# -- over seeds ------------------------------------------------------------------------------------


def test_an_interval_is_students():
    found = figures.summary(TABLE, "epoch", "value")
    low, high = stats.t.interval(0.95, 2, loc=2, scale=1 / np.sqrt(3))
    assert found.loc[0].tolist() == pytest.approx([2, low, high])
    assert found.loc[10].tolist() == [4, 4, 4]
    assert figures.summary(TABLE[TABLE["seed"] == 0], "epoch", "value").loc[0].tolist() == [1, 1, 1]


def test_other_summaries():
    of_logs = figures.summary(
        TABLE.assign(value=10.0 ** TABLE["value"]), "epoch", "value", log=True
    )
    plain = figures.summary(TABLE, "epoch", "value")
    assert np.log10(of_logs).to_numpy() == pytest.approx(plain.to_numpy())
    extremes = figures.summary(TABLE, "epoch", "value", figures.extremes)
    assert extremes.loc[0].tolist() == [2, 1, 3]
    quartiles = figures.summary(TABLE, "epoch", "value", figures.quartiles)
    assert quartiles.loc[0].tolist() == [2, 1.5, 2.5]


def test_bands_lines_dots_and_bars():
    """What is drawn is what the table says; of no rows nothing, and no entry of the legend."""
    with figures.panels("", legend=1) as (ax,):
        figures.band(ax, TABLE, "epoch", "value", "red", "mean")
        figures.band(ax, TABLE[:0], "epoch", "value", "red", "nobody")
        figures.seeds(ax, TABLE, "epoch", "value", "blue", "seeds")
        figures.paper(ax, [0, 10], [1, 2], label="paper")
    mean, first, second, third, *_ = ax.lines
    assert mean.get_ydata().tolist() == [2, 4]
    assert [line.get_ydata()[0] for line in (first, second, third)] == [1, 2, 3]
    labels = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert labels == ["mean", "seeds", "paper"]
    with figures.panels("") as (ax,):
        figures.dots(ax, [1, 2, 6], 5, "red")
        figures.bars(ax, [[1, 10], [3, 10]], "red", "name", width=0.5, shift=0.25)
    dots, bar, *_ = ax.lines
    assert dots.get_xydata().tolist() == [[1, 5], [2, 5], [6, 5]]
    assert set(bar.get_xdata()) == {3}
    assert [patch.get_height() for patch in ax.patches] == [2, 10]
    assert [patch.get_x() for patch in ax.patches] == [0, 1]


def test_densities_end_five_decades_below():
    table = pd.DataFrame(
        {"eigenvalue": [0.0, 0, 1, 1], "seed": [0, 1] * 2, "density": [9, 11, 0, 0.0]}
    )
    with figures.panels("") as (ax,):
        figures.density(ax, table, "red", highest=10.0)
    assert ax.get_yscale() == "log"
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([10, 1e-5])
    assert ax.get_ylim() == pytest.approx((1.5e-5, 20))


# -- axes ------------------------------------------------------------------------------------------


def test_axes():
    """Each halving of the live weights is one step; the start of training has the most room."""
    with figures.panels("", "", "") as (sparse, root, plain):
        sparse.plot([0.5, 0.9], [1, 2])
        sparse.set_yscale("log")
        figures.sparsity_axis(sparse, [0.5, 0.75, 0.875])
        figures.root_axis(root, 960)
        plain.set(yscale="log", ylim=(0.4, 60))
        figures.plain(plain.yaxis)
    places = sparse.transData.transform([(s, 1) for s in (0.5, 0.75, 0.875)])[:, 0]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    assert [text.get_text() for text in sparse.get_xticklabels()] == ["0.5", "0.75", "0.875"]
    assert figures.place(sparse.get_xlim()) == pytest.approx((0.884, 3.438), abs=1e-3)
    assert root.get_xticks().tolist() == [0, 40, 120, 240, 480, 720, 960]
    near, middle, far = root.transData.transform([(t, 1) for t in (0, 240, 960)])[:, 0]
    assert middle - near == pytest.approx(far - middle)
    plain.figure.draw_without_rendering()
    assert {"0.5", "1", "20"} <= {text.get_text() for text in plain.get_yticklabels()}


def test_shown_and_saved_with_a_palette(monkeypatch):
    """What a notebook keeps of a figure is what is saved of it, and a few faint marks keep their
    colour among many shades of others."""
    with figures.panels("a") as (ax,):
        ax.imshow(np.linspace(0, 1, 400).reshape(20, 20), aspect="auto")
        ax.plot([1], [1], "v", color="#cc79a7", alpha=0.5)
    content, drawn = figures.png(ax.figure), io.BytesIO()
    ax.figure.savefig(drawn, bbox_inches="tight")
    with Image.open(io.BytesIO(content)) as image, Image.open(drawn) as whole:
        assert image.mode == "P"
        assert image.size[0] > 400
        apart = [np.asarray(each.convert("RGB"), dtype=int) for each in (image, whole)]
        assert np.abs(apart[0] - apart[1]).max() < 16
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    ax.figure._ipython_display_()
    assert [picture.data for picture in shown] == [content]


# -- the price study -------------------------------------------------------------------------------


def test_regimes_are_shaded_on_both_sides():
    """The border lies half-way, in halvings, before each seed's first of the second regime."""
    shade_regimes = of_notebook("fig1_regimes", "shade_regimes")
    grid = [0.5, 0.75, 0.875]
    with figures.panels("", "") as (ax, none):
        figures.sparsity_axis(ax, grid)
        shade_regimes(ax, grid, pd.Series([0.75, 0.875, np.nan]))
        shade_regimes(none, grid, pd.Series([np.nan]))
    assert figures.place(ax.lines[0].get_xdata()[0]) == pytest.approx(2.0)
    assert len(ax.patches) == 2
    assert not none.patches
    assert not none.lines


def test_the_procedure_has_six_boxes():
    assert len(of_notebook("fig1_regimes", "procedure")().axes[0].patches) == 6


@pytest.mark.parametrize("classes", [10, 100])
def test_disagreement(classes):
    """Classes in the order of the training part, the shares of the three kinds on each other."""
    counts = np.arange(classes) % 7
    pairs = pd.DataFrame(
        {
            "part": part,
            "seed": seed,
            "count": counts,
            "examples": np.full(classes, 20),
            "rate": 0.2,
            "only_sol_f": 0.10,
            "only_sol_s": 0.06,
            "neither": 0.04,
            "dense_sol_f": 0.1,
            "dense_sol_s": 0.3,
            "class_fisher_sol_d": 1.0 + counts,
            "class_fisher_sol_f": 2.0 + counts,
            "class_rho_sol_d": 0.5,
            "class_rho_sol_f": 0.25,
            "by_fisher_sol_d": np.linspace(0, 0.9, 10),
            "by_difficulty_sol_s": np.linspace(0, 0.5, 10),
        }
        for part in ("train", "test")
        for seed in range(2)
    )
    printed = [{"otter": 200, "seal": 250}, {"otter": 10}]
    figure = of_notebook("fig5_disagreement", "disagreement")(pairs, printed, title="made up")
    assert [name[:3] for name in titles(figure)] == [f"({letter})" for letter in "abcdefgh"]
    by_class, right, dense, fisher, tenths, _, train, test, _ = figure.axes
    of_train = (
        by_class.lines[0].get_ydata()
        if classes > 20
        else [p.get_height() for p in by_class.patches[:10]]
    )
    assert list(of_train) == sorted(5.0 * counts, reverse=True)
    assert [p.get_y() + p.get_height() for p in right.patches] == pytest.approx(
        [10, 10, 16, 16, 20, 20]
    )
    assert [p.get_height() for p in dense.patches] == pytest.approx([10, 10, 30, 30, 20, 20])
    assert fisher.get_legend().get_texts()[1].get_text() == "Sol-F (rho 0.25)"
    assert tenths.lines[0].get_ydata() == pytest.approx(np.linspace(0, 90, 10))
    assert [p.get_height() for p in train.patches] == [50, 40]
    assert [text.get_text() for text in train.get_xticklabels()] == ["seal", "otter"]
    assert [p.get_height() for p in test.patches] == [10]


def test_cosines():
    """The mean of the seeds' quantiles; class shares over the uniform one, the largest first."""
    quantiles = np.linspace(-0.1, 0.3, 101)
    table = pd.DataFrame(
        {"alpha": alpha, "quantiles": quantiles + shift, "top": np.array([1, 3] + [0] * 28)}
        for alpha in (0.3, 0.9)
        for shift in (-0.1, 0.1)
    )
    printed = ledger.of_figure("fig8_cosine")
    figure = of_notebook("fig8_cosine", "cosine")(table, printed, title="made up")
    density, below, theirs, classes, leading = figure.axes
    heights = density.lines[2].get_ydata()  # an even spread: flat in the middle, and smooth
    assert heights[100] == pytest.approx(1 / 0.4, rel=0.05)
    assert np.abs(np.diff(heights)).max() < 0.05 * heights.max()
    narrow, wide = (line.get_ydata().max() for line in theirs.lines[1:3])
    assert narrow == pytest.approx(4160, rel=0.01)  # the paper's own peaks
    assert wide == pytest.approx(1315, rel=0.02)
    assert leading.patches[0].get_height() == 4.4
    assert below.lines[2].get_xdata() == pytest.approx(quantiles)
    assert [p.get_height() for p in classes.patches[:3]] == pytest.approx([22.5, 7.5, 0])
    assert len(classes.get_xticks()) == 20


def test_eigenvalues_above():
    """Counts of a known spectrum, and of two probes that see halves of it."""
    above = of_notebook("fig4_hessian_spectrum", "above")
    whole = SimpleNamespace(ritz=(np.array([1.0, 2, 3, 4]),), weights=(np.full(4, 0.25),), live=4)
    assert above(whole, np.array([0, 1.5, 3.5, 9])).tolist() == [4, 3, 1, 0]
    halves = SimpleNamespace(
        ritz=(np.array([1.0, 4]), np.array([2.0, 3])), weights=(np.full(2, 0.5),) * 2, live=4
    )
    assert above(halves, np.array([0, 1.5, 3.5])).tolist() == [4, 3, 1]


def test_pairs():
    table = pd.DataFrame(
        {
            "solution": ["sol_f", "sol_s"] * 2,
            "seed": [0, 0, 1, 1],
            "sparsity": 0.9,
            "largest": [1, 3, 2, 6.0],
        }
    )
    with figures.panels("") as (ax,):
        of_notebook("fig4_hessian_spectrum", "draw_pairs")(ax, table, "largest")
    assert [line.get_ydata().tolist() for line in ax.lines[:2]] == [[1, 3], [2, 6]]


# -- the early study -------------------------------------------------------------------------------


def periods(best, end):
    """The accuracies of one variant as its rules give them, by the best epoch and the last's."""
    epochs = [0, 10, 20, 30, 40]
    accuracy = pd.DataFrame(
        [[90.0 - abs(e - best) / 10 for e in epochs[:-1]] + [end]] * 3, columns=epochs
    )
    course = pd.DataFrame([[1.0, 5, 3, 2, 2]] * 3, columns=epochs)
    return SimpleNamespace(
        accuracy=accuracy,
        competing=accuracy[epochs[:-1]],
        dense=pd.Series([96.0] * 3),
        best=pd.Series([100 * best / 40] * 3),
        epochs=40,
        signal=lambda name: course,
    )


def test_periods_show_what_they_are_given():
    """A panel each, the monitor's axis, the dense level, and the words for what lies below."""
    panels = {"global": periods(10, 60.0), "late": periods(30, 95.0)}
    figure = early.periods(panels, title="made up", band=(30, 35))
    shown = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in shown] == ["global", "late"]
    level = [line.get_ydata()[0] for line in shown[0].lines if line.get_linestyle() == "--"]
    assert level == [pytest.approx(96.0)]
    assert any("at the end: 60" in text.get_text() for text in shown[0].texts)
    assert not shown[1].texts
    triangles = [line for line in shown[1].lines if line.get_marker() == "^"]
    assert triangles[0].get_xdata().tolist() == [75] * 3, "% of 40 epochs"
    assert len(set(triangles[0].get_ydata())) == 3, "equal ones are piled up"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "paper's best period"
    assert labels[-1] == "Tr(F) of the dense network (right axis)"
    twins = [ax for ax in figure.axes if ax.axison and not ax.get_title(loc="left")]
    assert [ax.get_ylabel() for ax in twins] == ["", "Tr(F)"]
    assert twins[0].lines[0].get_ydata().tolist() == [1, 5, 3, 2, 2]


# -- the flow study --------------------------------------------------------------------------------


def test_a_setting_and_what_lies_far_below():
    """A line and a name for each method; a run far below the others is told in numbers."""
    made_up = [
        {
            "value": value,
            "own": value > 0,
            "row": row,
            "form": form,
            "seed": seed,
            "accuracy": 97.0 + value + seed / 10,
        }
        for value in (0.0, 0.5)
        for row, form in (("scratch", "masked"), ("scratch", "neuron"), ("rigl", "neuron"))
        for seed in range(6)
    ]
    table = pd.DataFrame(made_up).assign(drop_fraction=np.nan)
    table.loc[0, "accuracy"] = 50.0
    with figures.panels("") as (ax,):
        of_notebook("flow_appendix_settings", "draw_setting", drawings=flow)(
            ax, table, "weight decay"
        )
    words = [text.get_text() for text in ax.texts]
    assert "50.0\n▾" in words
    assert {"scratch, original", "scratch, ours", "RigL, ours"} <= set(words)
    assert ax.get_ylim()[0] > 90
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "0.5\n(preset)"]


def test_mask_updates_have_a_line_for_each_share_dropped():
    table = pd.DataFrame(
        {"value": [16, 80, 16, 80], "own": False, "row": "rigl", "form": "neuron", "seed": 0}
    )
    table = table.assign(drop_fraction=[0.1, 0.1, 0.3, 0.3], accuracy=[94.0, 95, 96, 97])
    with figures.panels("") as (ax,):
        of_notebook("flow_appendix_settings", "draw_setting", drawings=flow)(
            ax, table, "mask updates"
        )
    assert {text.get_text() for text in ax.texts} == {"drop 0.1", "drop 0.3"}


def test_names_stay_apart_and_inside():
    """At least the gap between neighbours, in the order of their heights, and inside the panel."""
    apart = of_notebook("flow_appendix_settings", "apart")
    found = apart([9.9, 10.0, 9.95, 2.0], gap=0.5, bottom=0.0, top=10.0)
    assert found.tolist() == [9.0, 10.0, 9.5, 2.0]
    assert apart([0.0, 0.1], gap=0.5, bottom=0.0, top=10.0).tolist() == [0.25, 0.75]


def test_lottery():
    """Rows that are there, in the study's order; its own paths in (c), the others in (d)."""
    table = pd.DataFrame(
        {
            "row": row,
            "seed": seed,
            "start_distance": 4.0,
            "end_distance": 2.0 + seed,
            "alphas": [0.0, 1.0],
            "start_losses": [2.0, 0.0],
            "end_losses": [1.0 + seed, 0.0],
        }
        for row in ("scratch", "signs", "lottery")
        for seed in range(2)
    )
    places = pd.DataFrame(
        {
            "seed": 0,
            "row": ["lottery", "lottery", "solution"],
            "moment": ["start", "end", ""],
            "x": [0, 1, 2],
            "y": 0,
        }
    )
    figure = of_notebook("flow_fig5_lottery", "draw", drawings=flow)(
        table, places, title="made up", printed={"lottery": 3.0}
    )
    _, distances, own, others = figure.axes[:4]
    names = [text.get_text() for text in distances.get_yticklabels()]
    assert names == ["lottery ticket", "ticket, signs alone", "scratch"]
    assert sum(len(line.get_xdata()) == 2 for line in own.lines) == 4
    assert [line.get_ydata().tolist() for line in others.lines] == [[1.5, 0]]
    assert own.get_ylim() == others.get_ylim()
    assert "printed" in distances.get_xlabel()


def test_variances_of_a_start():
    """A line for each form; a second scheme dashed; the closed form; what the rules allow."""
    signals = pd.DataFrame(
        {"scheme": scheme, "form": "neuron", "sparsity": s, "seed": seed, "value": 1 - s}
        for scheme in ("he", "glorot-uniform")
        for s in (0.5, 0.9)
        for seed in range(3)
    )
    layers = pd.DataFrame(
        {
            "kind": "uneven",
            "form": form,
            "layer": layer,
            "seed": seed,
            "value": 2.0,
            "expected": 1.0,
        }
        for form in ("layer", "neuron")
        for layer in (1, 2, 3)
        for seed in range(3)
    )
    with figures.panels("", "") as (left, right):
        of_notebook("flow_fig1_init", "draw_signals", drawings=flow)(left, signals, kept=(0.5, 2.0))
        of_notebook("flow_fig1_init", "draw_layers", drawings=flow)(
            right, layers, "backward", steady=2.0
        )
    drawn = [line for line in left.lines if len(line.get_xdata())]
    assert [line.get_linestyle() for line in drawn] == ["-", "--"]
    assert drawn[0].get_ydata() == pytest.approx([0.5, 0.1])
    assert right.lines[0].get_ydata() == pytest.approx([2, 2, 2])
    assert right.lines[1].get_ydata() == pytest.approx([1, 1, 1])
    allowed = right.collections[-1].get_paths()[0].get_extents()
    assert (allowed.y0, allowed.y1) == pytest.approx((0.25, 4.0)), (
        "a factor of 2 a layer, from the last"
    )
