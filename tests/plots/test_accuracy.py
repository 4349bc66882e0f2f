"""Figures of accuracy: the artists that are drawn."""

import numpy as np
import pandas as pd
import pytest

from hcviz import plots
from hcviz.errors import HcvizError

TASKS = {"name": 0.25, "order": 0.5}


def frame(arms=("symmetric", "random init"), seeds=(0, 1), steps=(0, 10, 100)):
    rows = [
        {"run": arm, "seed": seed, "step": step, "tokens": 512 * step, "task": task,
         "metric": "acc", "value": chance + 0.1 * place + 0.001 * step + 0.02 * seed,
         "stderr": 0.03, "chance": chance, "items": 150}
        for place, arm in enumerate(arms) for seed in seeds for step in steps
        for task, chance in TASKS.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"step": "Int64"})


def line(ax, label):
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return found


@pytest.mark.parametrize("x", ["step", "tokens"])
def test_accuracy_draws_means_over_tasks_and_a_band_over_seeds(x):
    ax = plots.accuracy(frame(), x=x)
    for place, arm in enumerate(("symmetric", "random init")):
        drawn = line(ax, arm)
        np.testing.assert_allclose(
            drawn.get_ydata(), 0.385 + 0.1 * place + np.array([0, 0.01, 0.1])
        )
        np.testing.assert_allclose(
            drawn.get_xdata(), np.array([0, 10, 100]) * (512 if x == "tokens" else 1)
        )
    assert len(ax.collections) == 2
    low, high = ax.collections[0].get_datalim(ax.transData).intervaly
    assert (low, high) == pytest.approx((0.375, 0.495))
    assert line(ax, "_chance").get_ydata()[0] == 0.375
    assert not plots.accuracy(frame(seeds=(0,))).collections


def test_accuracy_is_over_the_same_tasks_everywhere():
    with pytest.raises(HcvizError, match=r"100.*1 of the tasks name, order"):
        plots.accuracy(frame().query("step < 100 or task == 'name'"))
    with pytest.raises(HcvizError, match="no row has a step"):
        plots.accuracy(frame().assign(step=pd.NA))


def test_tasks_draws_the_end_of_every_arm_in_each_task_beside_chance():
    ax = plots.tasks(frame())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["name", "order", "mean"]
    drawn = line(ax, "random init")
    np.testing.assert_allclose(drawn.get_xdata(), [0.25 + 0.21, 0.5 + 0.21, 0.375 + 0.21])
    first, second = (line(ax, arm).get_ydata() for arm in ("symmetric", "random init"))
    assert (np.abs(np.subtract(first, second)) > 0.2).all()
    chance = [one.get_xdata()[0] for one in ax.lines if one.get_label() == "_chance"]
    assert chance == [0.25, 0.5, 0.375]
    spans = [segment[:, 0] for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(np.ptp(spans, axis=1), 0.02)  # of the seeds


def test_tasks_of_one_seed_and_of_models_draws_standard_errors():
    models = frame(seeds=(0,), steps=(10,)).drop(columns="seed").assign(step=pd.NA)
    ax = plots.tasks(models)
    spans = [segment[:, 0] for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(np.ptp(spans, axis=1), [0.06, 0.06, 0.06 / np.sqrt(2)])


def test_other_metrics_are_refused():
    for draw in (plots.accuracy, plots.tasks):
        with pytest.raises(HcvizError, match="there is acc_norm"):
            draw(frame().assign(metric="acc_norm"))
