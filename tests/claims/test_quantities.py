"""What claims measure, on made-up frames whose numbers are known."""

import numpy as np
import pandas as pd
import pytest
import recordings

from hcviz.claims.frames import Frames, Who, open_frames
from hcviz.claims.quantities import QUANTITIES, whos_of
from hcviz.errors import HcvizError

NOISY, HALF = "noisy 10 dB", recordings.HALF
SOONER = 2400 / (1100 + 1300 * 0.161 / 0.221)
"""Seed 0 is down at 3.139 on the way from 3.3 at step 1100 to 3.079 at 2400."""


@pytest.fixture(scope="module")
def frames():
    return Frames(**recordings.tables())


@pytest.mark.parametrize(
    ("what", "asked", "value"),
    [
        ("loss", {"arm": NOISY, "against": "symmetric"}, -0.08),
        ("loss", {"arm": NOISY, "against": "random init", "at": 50}, 3.58 - (7.6 + 4.6) / 2),
        ("loss_margin", {"arms": [NOISY, "random init", "symmetric"]}, 0.02),
        ("loss_apart", {"arm": NOISY, "against": "symmetric"}, 0.08),
        ("loss_apart", {"arm": NOISY, "against": "symmetric", "until": 0}, 0.0),
        ("parts_later", {"arms": [NOISY, "symmetric", "random init", NOISY], "by": 0.05}, 2400.0),
        ("parts_later", {"arms": [NOISY, NOISY, "random init", NOISY], "by": 0.05}, np.inf),
        ("gain_apart", {"arms": [NOISY, "symmetric", "random init", "symmetric"]}, -0.06),
        ("loss_shrinks", {"arm": "random init", "against": NOISY, "early": 0}, 4.07 - 0.06),
        ("sooner", {"arm": NOISY, "against": "random init"}, SOONER),
        ("rise", {"arm": NOISY}, 0.1),
        ("accuracy", {"arm": NOISY, "against": "random init"}, 0.03),
        ("accuracy_sooner", {"arm": NOISY, "against": "random init"}, SOONER),
        ("tasks_won", {"arm": NOISY, "against": "random init"}, 1.0),
        ("tasks_won", {"arm": NOISY, "against": NOISY}, 0.5),
        ("value", {"arm": NOISY, "metric": "cosine", "at": 500}, 0.91),
        ("largest", {"arm": NOISY, "metric": "ledger", "axis": "H"}, 0.2),
        ("largest", {"arm": "symmetric", "metric": "ledger"}, 0.0),
        ("change", {"arm": NOISY, "metric": "cosine", "since": "start", "until": "highest"}, 0.1),
        ("change", {"arm": NOISY, "metric": "cosine", "since": "highest", "until": "end"}, -0.21),
        ("share_falling", {"arm": NOISY, "metric": "cosine", "by": 0.01}, 1.0),
        ("share_falling", {"arm": "symmetric", "metric": "cosine", "by": 0.01}, 0.0),
        ("ratio", {"arm": NOISY, "against": "symmetric", "metric": "effective_rank", "at": "end"},
         2.0),
        ("empty_share", {"arm": "symmetric", "at": "end"}, 0.5),
        ("empty_share", {"arm": NOISY, "at": "end"}, 0.0),
        # one and a half times the lowest: R and N never (0.05 of 0.045) and at 1100 (0.06 of 0.038)
        ("departs", {"arm": NOISY, "axis": "N", "than": "H", "by": 1.5}, 0.0),
        ("departs", {"arm": NOISY, "axis": "R", "than": "N", "by": 1.5}, np.inf),
        ("leaves", {"arm": NOISY, "axis": "H", "threshold": 0.5}, np.inf),
    ],
)  # fmt: skip
def test_a_quantity_of_seed_0(frames, what, asked, value):
    found = QUANTITIES[what](frames, [HALF], 2, **asked)
    assert list(found.index) == [(HALF, seed) for seed in range(3)]
    assert found[HALF, 0] == pytest.approx(value, abs=1e-9)


def test_the_step_of_departure_by_decibels():
    rows = recordings.tables(arms=["noisy 10 dB", "noisy 40 dB"], seeds=1)
    metrics = rows["metrics"]
    late = (metrics["arm"] == "noisy 40 dB") & (metrics["metric"] == "ledger")
    rows["metrics"] = metrics.assign(value=metrics["value"].where(~late, metrics["value"] / 10))
    asked = {"arms": ["noisy 10 dB", "noisy 40 dB"], "axis": "H", "threshold": 0.0145}
    found = QUANTITIES["escape_per_decibel"](Frames(**rows), [HALF], 2, **asked)
    first, second = 0.0, np.interp(np.log(0.0145), np.log([0.014, 0.02]), [1100, 2400])
    assert found.item() == pytest.approx((second - first) / 30)


def curved(ends):
    """Frames in which the locked clone was found to curve so at step 500, by axis."""
    rows = recordings.tables(arms=[NOISY, "symmetric"], seeds=1)
    keys = {"source": HALF, "arm": "symmetric", "lr": 2e-3, "seed": 0, "factor": 2}
    told = {"step": 500, "tensor": "model", "metric": "curvature", "part": "smallest"}
    found = [keys | told | {"axis": axis, "value": value} for axis, value in ends.items()]
    return Frames(**rows, curvature=pd.DataFrame(found))


@pytest.mark.parametrize(("ends", "order"), [((-1, -2, -3), 1.0), ((-3, -2, -1), -1.0)])
def test_the_order_that_the_curvature_foretells(ends, order):
    """From step 500 on N grows most, then H; R shrinks."""
    asked = {"arm": NOISY, "against": "symmetric", "metric": "curvature", "at": 400}
    ends = dict(zip("RHN", ends, strict=True))
    found = QUANTITIES["order_foretold"](curved(ends), [HALF], 2, **asked, between=[500, 2400])
    assert found.item() == order


def test_the_rate_that_the_curvature_foretells():
    asked = {"arm": NOISY, "against": "symmetric", "metric": "curvature", "at": 400}
    asked |= {"between": [500, 2400], "axis": "N"}
    found = QUANTITIES["rate_foretold"](curved({"N": -3.0}), [HALF], 2, **asked)
    lr = 2e-3 * (0.1 + 0.9 * (1 + np.cos(np.pi * (500 - 240) / (2400 - 240))) / 2)
    rate = np.polyfit([500, 1100, 2400], np.log([0.038, 0.06, 0.1]) / 2, 1)[0]
    assert found.item() == pytest.approx(
        np.log((3 * lr - 0.05 * lr) / rate), abs=0.06
    )  # 5 % by the momentum


def test_a_comparison_without_curvature_says_how_to_measure_it(frames):
    asked = {"arm": NOISY, "against": "symmetric", "metric": "curvature", "at": 0}
    with pytest.raises(HcvizError, match=r"without curvature; .*breakers.py OUT --frames"):
        QUANTITIES["order_foretold"](frames, [HALF], 2, **asked, between=[0, 500])


def test_what_foretells(frames):
    found = QUANTITIES["foretells"](
        frames, [HALF], 2, metric="effective_rank", at=0, arms=["symmetric", "source", NOISY]
    )
    assert found[HALF, 0] == pytest.approx(-np.sqrt(0.75))  # ranks 30, 30, 60: a tie of two


def test_an_arm_of_another_pair(frames):
    other = {"arm": "symmetric", "source": "nano:gpt-neox", "factor": 4}
    assert whos_of({"arm": NOISY, "against": other}, HALF, 2) == [
        Who(NOISY, HALF), Who("symmetric", "nano:gpt-neox", 4)
    ]  # fmt: skip
    assert QUANTITIES["loss"](frames, [HALF], 2, arm=NOISY, against=other).empty


def test_seeds_that_one_arm_lacks_are_left_out():
    rows = recordings.tables()
    runs = rows["runs"]
    rows["runs"] = runs[(runs["arm"] != NOISY) | (runs["seed"] > 0)]
    keep = Frames(**rows)
    assert keep.rate(Who(NOISY, HALF)) is None  # the grid is of seed 0
    rows["runs"] = runs[(runs["arm"] != NOISY) | (runs["seed"] != 1)]
    found = QUANTITIES["loss"](Frames(**rows), [HALF], 2, arm=NOISY, against="symmetric")
    assert [seed for _, seed in found.index] == [0, 2]


def test_the_best_rate_is_taken_unless_one_is_meant(frames):
    slow = {name: table.assign(lr=1e-3) for name, table in recordings.tables(seeds=1).items()}
    slow["runs"]["loss"] += 0.5
    both = {name: pd.concat([getattr(frames, name), table]) for name, table in slow.items()}
    assert Frames(**both).rate(Who(NOISY, HALF)) == 2e-3
    meant = {"against": "symmetric", "arm": {"arm": "symmetric", "lr": 1e-3}}
    found = QUANTITIES["loss"](Frames(**both), [HALF], 2, **meant)
    assert found.to_dict() == {(HALF, 0): pytest.approx(0.5)}
    diverged = both["runs"]["loss"].where(both["runs"]["lr"] == 1e-3)
    both["runs"] = both["runs"].assign(loss=diverged)
    assert Frames(**both).rate(Who(NOISY, HALF)) == 1e-3


@pytest.mark.parametrize(
    ("asked", "said"), [({"arm": NOISY, "by": 1}, "by is none"), ({"arm": NOISY}, "against")]
)
def test_keywords_are_checked(frames, asked, said):
    with pytest.raises(HcvizError, match=said):
        QUANTITIES["loss"](frames, [HALF], 2, **asked)


def test_a_table_that_was_changed_is_refused(tmp_path):
    folder = recordings.write(tmp_path / "mine", seeds=1)
    assert len(open_frames(folder).runs) == len(recordings.ENDS)
    table = pd.read_parquet(folder / "runs.parquet")
    table.assign(loss=1.0).to_parquet(folder / "runs.parquet", index=False)
    (folder / "recorded.json").touch()
    with pytest.raises(HcvizError, match="hash differs"):
        open_frames(folder)
    with pytest.raises(HcvizError, match="No frames are recorded as"):
        open_frames(tmp_path)


def test_the_rule_of_slopes_names_the_first_growth_after_which_the_loss_falls_faster():
    """Narrow steps cost 1, wide ones 4; the loss falls by 1 per FLOP, or as told after growth."""
    parts = {"runs": [], "losses": []}
    for arm, grown, after, end in [
        ("early", 10, 0.5, 3.0),
        ("later", 20, 1.5, 2.9),
        ("late", 30, 2, 2.8),
    ]:
        step = np.arange(0, 41, 2)
        flops = np.minimum(step, grown) + 4.0 * np.maximum(step - grown, 0)
        loss = 200 - np.minimum(flops, grown) - after * np.maximum(flops - grown, 0)
        keys = {"source": HALF, "factor": 2, "arm": arm, "lr": 1e-3, "seed": 0}
        parts["losses"].append(
            pd.DataFrame({"step": step, "flops": flops, "loss": loss, "split": "heldout", **keys})
        )
        parts["runs"].append(pd.DataFrame([{**keys, "loss": end}]))
    tables = {name: pd.concat(some, ignore_index=True) for name, some in parts.items()}
    made = Frames(**tables, metrics=pd.DataFrame(), accuracy=pd.DataFrame())
    asked = {"arms": ["early", "later", "late"]}
    assert QUANTITIES["rule_of_slopes"](made, [HALF], 2, **asked).tolist() == pytest.approx([0.1])
    asked["arms"] = ["early", "later"]
    assert QUANTITIES["rule_of_slopes"](made, [HALF], 2, **asked).tolist() == [0.0]
    asked["arms"] = ["late", "early"]
    assert QUANTITIES["rule_of_slopes"](made, [HALF], 2, **asked).tolist() == [0.0]
    asked["arms"] = ["early"]
    assert QUANTITIES["rule_of_slopes"](made, [HALF], 2, **asked).tolist() == [0.0]
