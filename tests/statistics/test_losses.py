"""What loss curves say: compute, speed-up over another arm, forgetting."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tiny

import hcviz
from hcviz.errors import HcvizError


def test_history_counts_flops_outside_the_tables_and_knows_its_seed(tmp_path):
    run = hcviz.train(
        tiny.model("llama"), out=tmp_path / "run", corpus=tiny.write_text(tmp_path), steps=2,
        snapshots=2, batch_size=2, context=16, eval_blocks=2, seed=3, progress=False,
    )  # fmt: skip
    attention, mlp, norms = 16 * (16 + 8 + 8 + 16), 3 * 16 * 32, 2 * 16
    inner = 2 * (attention + mlp + norms) + 16
    history = run.history
    assert history["flops"].tolist() == (6 * inner * history["tokens"]).tolist()
    assert set(history["seed"]) == {3}


def curves(*arms):
    """Return a history of straight pieces: (arm, seed, {tokens: loss}) each."""
    frames = [
        pd.DataFrame(
            {"run": arm, "seed": seed, "tokens": [*points], "step": [*points], "split": "heldout",
             "loss": [*points.values()]}
        )
        for arm, seed, points in arms
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def test_speedup_by_hand():
    history = curves(
        ("slow", 0, {0: 4.0, 40: 2.0}),
        ("fast", 0, {0: 4.0, 10: 3.0, 30: 1.0}),  # at 2.0 half way from 10 to 30
        ("never", 0, {0: 4.0, 40: 2.1}),
        ("ahead", 0, {0: 2.0, 40: 1.0}),
    )
    found = hcviz.speedup(history, against="slow").set_index("run")
    assert found["needed"].tolist() == [40, 20, np.inf, 0]
    assert found["ratio"].tolist() == pytest.approx([1, 2, 0, np.inf])
    assert found[["low", "high"]].isna().all(axis=None)  # one seed has no interval
    assert set(found["target"]) == {2.0}


def test_speedup_over_seeds_is_a_geometric_mean_with_students_interval():
    needed = {0: 10.0, 1: 20.0, 2: 16.0}
    history = curves(
        *(("slow", s, {0: 4.0, 40 + s: 2.0}) for s in needed),
        *(("fast", s, {0: 4.0, n: 2.0, 40: 1.0}) for s, n in needed.items()),
    )
    row = hcviz.speedup(history, against="slow", level=0.9).set_index("run").loc["fast"]
    logs = np.log([(40 + s) / n for s, n in needed.items()])  # each seed against its own
    expected = scipy.stats.ttest_1samp(logs, 0).confidence_interval(0.9)
    assert row["ratio"] == pytest.approx(scipy.stats.gmean(np.exp(logs)))
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.exp([*expected])))
    assert row["seeds"] == 3


def test_speedup_compares_with_the_mean_where_a_seed_has_no_partner():
    history = curves(
        ("slow", 0, {0: 4.0, 40: 2.0}), ("slow", 1, {0: 4.0, 40: 1.0}),
        ("fast", 7, {0: 4.0, 20: 1.5}),
    )  # fmt: skip
    row = hcviz.speedup(history, against="slow").set_index("run").loc["fast"]
    assert (row["target"], row["needed"], row["ratio"]) == (1.5, 20, 2)


def test_speedup_in_other_units_and_clear_errors():
    history = curves(("slow", 0, {0: 4.0, 40: 2.0}), ("fast", 0, {0: 4.0, 20: 2.0}))
    history["flops"] = history["tokens"] * np.where(history["run"] == "fast", 4.0, 1.0)
    found = hcviz.speedup(history, against="slow", x="flops").set_index("run")
    assert found.loc["fast", "ratio"] == pytest.approx(0.5)
    with pytest.raises(HcvizError, match=r"against='source'.*slow, fast"):
        hcviz.speedup(history, against="source")
    with pytest.raises(HcvizError, match="needs the columns seconds"):
        hcviz.speedup(history, against="slow", x="seconds")
    with pytest.raises(HcvizError, match="have no flops"):
        hcviz.forgetting(history.assign(flops=np.nan), x="flops")


def test_forgetting_by_hand():
    history = curves(
        ("up", 0, {0: 3.0, 1: 3.5, 2: 4.0, 4: 2.0, 5: 9.0}),  # back half way from 2 to 4
        ("down", 0, {0: 3.0, 1: 2.5}),
        ("lost", 0, {0: 3.0, 1: 3.1, 2: 3.2}),
        ("later", 0, {0: 3.0, 1: 2.9, 2: 3.3, 3: 2.9}),  # above from 1 on, back at 2.75
    )
    found = hcviz.forgetting(history).set_index("run")
    assert found["depth"].tolist() == pytest.approx([1.0, 0.0, 0.2, 0.3])
    assert found["at"].tolist() == [2, 0, 2, 2]
    assert found["length"].tolist() == pytest.approx([3.0, 0.0, np.inf, 1.75])


def test_forgetting_tells_seeds_apart():
    history = curves(("a", 0, {0: 3.0, 1: 3.5, 2: 3.0}), ("a", 1, {0: 3.0, 1: 3.1, 2: 3.0}))
    found = hcviz.forgetting(history)
    assert found["seed"].tolist() == [0, 1]
    assert found["depth"].tolist() == pytest.approx([0.5, 0.1])
    assert found["length"].tolist() == [2, 2]
