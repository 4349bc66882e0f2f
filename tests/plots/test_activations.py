"""Figures of activations and of speed-up: the artists that are drawn, never their pixels."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.text import Annotation

from hcviz import plots
from hcviz.errors import HcvizError
from hcviz.plots import theme

STEPS, LAYERS = (0, 10, 40), (0, 1)


def frame(metric, cells, arms=("symmetric", "noisy 10 dB")):
    """Make rows of a metric: ``cells`` are (axis, part, row) and value(arm, step, layer)."""
    return pd.DataFrame(
        [
            {"run": arm, "step": step, "tensor": f"h.{layer}", "layer": layer, "axis": axis,
             "part": part, "row": row, "metric": metric, "value": value(arm, step, layer)}
            for arm in arms for step in STEPS for layer in LAYERS
            for (axis, part, row), value in cells.items()
        ]
    )  # fmt: skip


def parted(arm, step, layer):
    return 1.0 if arm == "symmetric" else 1 - 1e-4 * step * (1 + layer)


TWINS = {("R", "", None): parted, ("H", "", None): parted, ("N", "", None): lambda *_: 1.0}
HEADS = {
    **{("H", "copies", head): parted for head in (0, 1)},
    **{("H", "others", head): (lambda *_: 0.5) for head in (0, 1)},
}


def line(ax, label):
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return found


def test_activations_have_a_panel_per_axis_with_means_and_layers():
    axes = plots.activations(frame("twins", TWINS))
    assert [ax.get_title(loc="left")[0] for ax in axes] == ["R", "H", "N"]
    np.testing.assert_allclose(line(axes[0], "noisy 10 dB").get_ydata(), [1, 0.9985, 0.994])
    assert same_color(line(axes[0], "symmetric").get_color(), theme.ARMS["symmetric"].color)
    assert sum(one.get_label() == "_thin" for one in axes[0].lines) == 4  # layers x arms


def test_activations_on_a_log_axis_rest_equal_twins_in_a_strip():
    axes = plots.activations(frame("twins", TWINS), log=True)
    assert axes[0].get_yscale() == "log"
    np.testing.assert_allclose(line(axes[0], "noisy 10 dB").get_ydata()[1:], [1.5e-3, 6e-3])
    (edge,) = {one.get_ydata()[0] for one in axes[0].lines if one.get_label() == "_edge"}
    assert (line(axes[2], "noisy 10 dB").get_ydata() < edge).all()
    assert any(text.get_text() == "equal" for text in axes[0].texts)


def test_activations_layer_by_layer_show_the_last_step():
    ax = plots.activations(frame("twins", TWINS), x="layer")[0]
    drawn = line(ax, "noisy 10 dB")
    np.testing.assert_array_equal(drawn.get_xdata(), LAYERS)
    np.testing.assert_allclose(drawn.get_ydata(), [1 - 4e-3, 1 - 8e-3])
    with pytest.raises(HcvizError, match=r"x='tokens'.*'step' or 'layer'"):
        plots.activations(frame("twins", TWINS), x="tokens")


@pytest.mark.parametrize("log", [False, True])
def test_heads_have_a_panel_per_layer_and_the_level_of_different_heads(log):
    axes = plots.heads(frame("heads", HEADS), log=log)
    assert [ax.get_title(loc="left") for ax in axes] == ["layer 0", "layer 1"]
    last = line(axes[1], "noisy 10 dB").get_ydata()[-1]
    assert last == pytest.approx(8e-3 if log else 1 - 8e-3)
    assert line(axes[1], "_others").get_ydata()[0] == 0.5
    assert "different heads" in [t.get_text() for t in axes[0].figure.legends[0].get_texts()]


def test_neurons_have_their_own_scale_for_each_number():
    cells = {
        ("N", "dead", None): lambda *_: 0.0,
        ("N", "duplicate", None): parted,
        ("N", "distinct", None): lambda arm, step, layer: 30.0 + layer,
    }
    dead, duplicate, distinct = plots.neurons(frame("neurons", cells))
    assert dead.get_ylim() == duplicate.get_ylim()
    assert distinct.get_ylim()[1] > 30
    assert line(distinct, "symmetric").get_ydata().tolist() == [30.5] * 3


def test_cka_is_one_panel_and_may_be_the_callers():
    _, mine = plt.subplots()
    assert plots.cka(frame("cka", {("R", "", None): parted}), ax=mine) is mine
    assert line(mine, "noisy 10 dB").get_ydata()[-1] == pytest.approx(0.994)
    assert mine.figure.get_suptitle() == ""


def test_the_lens_draws_every_arm_at_its_last_step_and_the_source_once():
    cells = {
        ("R", f"{of}{part}", None): lambda arm, step, layer, base=base: base - layer - step / 100
        for of, base in (("", 5.0), ("source ", 4.0))
        for part in ("loss", "kl")
    }
    loss, kl = plots.lens(frame("lens", cells))
    assert line(loss, "noisy 10 dB").get_ydata().tolist() == pytest.approx([4.6, 3.6])
    assert len(loss.lines) == len(kl.lines) == 3
    untrained = line(loss, "source, untrained")
    assert untrained.get_linestyle() != "-"
    early = plots.lens(frame("lens", cells), step=10)[0]
    assert line(early, "symmetric").get_ydata().tolist() == pytest.approx([4.9, 3.9])
    with pytest.raises(HcvizError, match="No step 7"):
        plots.lens(frame("lens", cells), step=7)


def test_a_frame_without_the_metric_says_how_to_get_it():
    with pytest.raises(HcvizError, match=r"measure\(run, metrics=\['cka'\]\)"):
        plots.cka(frame("twins", TWINS))


def test_speedup_draws_ratio_and_interval_and_says_them():
    rows = {
        "run": ["random init", "symmetric", "noisy 10 dB", "source"], "seeds": [3, 3, 1, 3],
        "ratio": [1.0, 2.0, np.inf, 0.0], "low": [1.0, 1.5, np.nan, np.nan],
        "high": [1.0, 2.7, np.nan, np.nan],
    }  # fmt: skip
    ax = plots.speedup(pd.DataFrame(rows))
    order = [text.get_text() for text in ax.get_yticklabels()]
    assert order[0] == "symmetric"
    place = order.index("symmetric")
    ranges = [
        one for one in ax.lines if one.get_label() == "_range" and one.get_ydata()[0] == place
    ]
    assert [one.get_xdata().tolist() for one in ranges] == [[1.5, 2.7]]
    assert line(ax, "symmetric").get_xdata()[0] == 2.0
    words = [text.get_text() for text in ax.texts if isinstance(text, Annotation)]
    assert "2x (1.5 to 2.7)" in words
    assert {"starts below it", "never reaches it"} < set(words)
    assert line(ax, "noisy 10 dB").get_xdata()[0] == ax.get_xlim()[1]


def test_cloning_r2_has_a_row_of_panels_forwards_and_one_backwards():
    cells = {(axis, part, None): parted for axis in "RN" for part in ("backward", "forward")}
    axes = plots.cloning_r2(frame("cloning_r2", cells))
    titles = [ax.get_title(loc="left") for ax in axes]
    assert [title.split(":")[0] for title in titles] == [
        "forward, R", "forward, N", "backward, R", "backward, N"
    ]  # fmt: skip
    np.testing.assert_allclose(line(axes[3], "noisy 10 dB").get_ydata(), [1, 0.9985, 0.994])


def test_matched_draws_what_random_weights_give_as_a_level():
    parts = [
        frame(name, {("N", "", None): lambda *_, value=value: value})
        for name, value in (("cosine.units", 0.2), ("matched", 1.0), ("matched.baseline", 0.4))
    ]
    plain, matched = plots.matched(pd.concat(parts))
    assert plain.get_title(loc="left") == "N, as they are"
    assert line(matched, "noisy 10 dB").get_ydata()[0] == 1.0
    assert line(matched, "_unrelated").get_ydata()[0] == pytest.approx(0.4)
    assert all(one.get_label() != "_unrelated" for one in plain.lines)


def test_induction_joins_the_copies_of_a_head():
    cells = {("H", "heads", head): (lambda *_, h=head: 0.1 + h) for head in (0, 1)}
    copies = [
        frame("induction", cells),
        frame("induction", cells).assign(value=lambda f: f.value / 2),
    ]
    level = frame("induction", {("H", "uniform", None): lambda *_: 0.05})
    axes = plots.induction(pd.concat([*copies, level]))
    assert len(axes) == len(LAYERS)
    drawn = [one for one in axes[0].lines if one.get_label() == "symmetric"]
    assert [sorted(one.get_ydata()) for one in drawn] == [[0.05, 0.1], [0.55, 1.1]]
    assert len(set(drawn[0].get_xdata())) == 1  # one above the other
    assert line(axes[0], "_uniform").get_ydata()[0] == 0.05


def test_in_context_draws_the_loss_in_bins_and_the_score_over_steps():
    losses = pd.concat(
        frame("in_context", {(None, "loss", row): lambda *a, row=row: 5 - a[1] / 40 - row / 100})
        for row in range(1, 65)
    )
    loss = losses[losses["layer"] == 0].assign(layer=None)
    scores = frame("in_context", {(None, "score", None): lambda *a: -a[1] / 100})
    left, right = plots.in_context(pd.concat([loss, scores[scores["layer"] == 0]]))
    drawn = line(left, "symmetric")
    assert drawn.get_xdata()[0] == 1
    np.testing.assert_allclose(drawn.get_ydata(), 4 - drawn.get_xdata() / 100)
    np.testing.assert_allclose(line(right, "symmetric").get_ydata(), [0, -0.1, -0.4])
    (alone,) = plots.in_context(loss, step=10)
    np.testing.assert_allclose(line(alone, "symmetric").get_ydata()[0], 4.74)


def moved(run, width, power, **more):
    """A run whose change grows with a power of its width; of layer 1 it is three times as far."""
    cells = {
        (axis, part, width): lambda _, step, layer: (1 + 2 * layer) * step * width**power
        for axis in ("R", "H", "N", None)
        for part in ("change", "size")
    }
    return frame("coordinates", cells, arms=[run]).assign(**more)


def test_coordinates_are_lines_over_the_width_with_their_slopes():
    runs = [moved(f"{width} wide", width, 0.75) for width in (32, 64, 128)]
    axes = plots.coordinates(pd.concat(runs))
    names = ["residual stream", "attention", "MLP", "logits"]
    assert [ax.get_title(loc="left") for ax in axes] == names
    for ax in axes:
        assert [one.get_label() for one in ax.lines] == [
            "step 10",
            "step 40",
        ]  # of 0 none has moved
        assert line(ax, "step 10").get_xdata().tolist() == [32, 64, 128]
        np.testing.assert_allclose(line(ax, "step 10").get_ydata(), 20 * ax.get_xticks() ** 0.75)
        assert ax.texts[0].get_text() == "slope 0.75"
    early, late = axes[0].lines
    assert early.get_marker() != late.get_marker()
    assert theme.lightness(early.get_color()) > theme.lightness(late.get_color()) + 20
    assert [ax.lines[0].get_label() for ax in plots.coordinates(pd.concat(runs), steps=[40])] == (
        ["step 40"] * 4
    )


def test_coordinates_have_a_row_for_each_family():
    runs = [
        moved(f"{name} {width}", width, power + (width == 8) / 100, family=name)
        for name, power in (("wild", 1.0), ("calm", 0.0))
        for width in (4, 8)
    ]
    runs[-1] = runs[-1][(runs[-1]["step"] != 40) | (runs[-1]["axis"] != "R")]
    axes = plots.coordinates(pd.concat(runs), hue="family")
    assert [ax.get_ylabel() for ax in axes[::4]] == ["wild\nRMS change", "calm\nRMS change"]
    assert [ax.get_xlabel() for ax in axes] == [""] * 4 + ["width"] * 4
    assert axes[0].texts[0].get_text() == "slope 1.03"
    assert len(line(axes[4], "step 40").get_xdata()) == 1  # the run ended before
    with pytest.raises(HcvizError, match=r"wild 4 and calm 4 are both 4 wide.*hue="):
        plots.coordinates(pd.concat(runs))
    with pytest.raises(HcvizError, match="None of these activations has moved"):
        plots.coordinates(runs[0].query("step == 0"))


def test_coordinates_of_one_width_have_no_slope():
    for ax in plots.coordinates(moved("a", 32, 1.0)):
        assert [text.get_text() for text in ax.texts] == [""]


def seen(apart):
    """Two copies of two heads on three words; head 1 of the copy looks elsewhere by ``apart``."""
    values = np.tile(np.tril(np.ones((3, 3))) / [[1], [2], [3]], (2, 2, 1, 1))
    values[1, 1, 1] += [-apart, apart, 0]
    copies, heads, queries, keys = (one.ravel() for one in np.indices(values.shape))
    columns = {"copy": copies, "head": heads, "query": queries, "key": keys}
    words = np.array(["in", "the", "beginning"])
    where = {"run": "a", "step": 9, "layer": 2, "query_token": words[queries]}
    return pd.DataFrame(columns | where | {"value": values.ravel()})


def test_patterns_begin_with_the_head_whose_copy_differs_most():
    axes = plots.patterns(seen(0.25))
    assert [ax.get_title(loc="left") for ax in axes] == [
        "head 1", "its copy", "copy \N{MINUS SIGN} head, up to 0.25",
        "head 0", "its copy", "copy \N{MINUS SIGN} head, equal",
    ]  # fmt: skip
    head, copy, apart = (np.asarray(ax.images[0].get_array()) for ax in axes[:3])
    assert np.allclose(copy - head, apart)
    assert np.allclose(apart, [[0, 0, 0], [-0.25, 0.25, 0], [0, 0, 0]])
    assert {ax.images[0].get_clim() for ax in axes} == {(-1, 1)}  # one scale
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["in", "the", "beginning"]


def test_patterns_of_a_chosen_head_and_of_none():
    assert len(plots.patterns(seen(0.25), heads=[0])) == 3
    with pytest.raises(HcvizError, match="No head 7"):
        plots.patterns(seen(0.25), heads=[7])
    with pytest.raises(HcvizError, match="no copies"):
        plots.patterns(seen(0.25).query("copy == 0"))
    with pytest.raises(HcvizError, match=r"of 'a' are there twice.*assign\(run=\.\.\.\)"):
        plots.patterns(pd.concat([seen(0.25), seen(0.5)]))
