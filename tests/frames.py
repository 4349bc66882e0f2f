"""Made-up frames shaped like Run.history and measure(run), with numbers like a small run's."""

import numpy as np
import pandas as pd

ARMS = ("symmetric", "noisy 10 dB", "dropout 0.1", "source", "random init")
STEPS = (0, 1, 2, 4, 7, 12, 20, 34, 58, 100, 120)
UP = "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight"
QKV = "gpt_neox.layers.{}.attention.query_key_value.weight"
DOWN = "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight"
HEAD = "embed_out.weight"


def history() -> pd.DataFrame:
    start = {"random init": 7.62, "noisy 10 dB": 3.46}
    end = {
        "symmetric": 3.251,
        "noisy 10 dB": 3.233,
        "dropout 0.1": 3.262,
        "source": 3.259,
        "random init": 5.43,
    }
    speed = {"random init": 40, "noisy 10 dB": 14}
    rows = []
    for arm in ARMS:
        a, b = start.get(arm, 3.412), end[arm]
        for step in STEPS:
            fall = (1 - np.exp(-step / speed.get(arm, 30))) / (
                1 - np.exp(-120 / speed.get(arm, 30))
            )
            bump = 0.05 * np.exp(-(((step - 4) / 4) ** 2)) if arm != "random init" and step else 0
            rows += [
                {"run": arm, "step": step, "tokens": step * 1024, "split": split, "lr": 1e-3,
                 "seconds": step * 0.3,
                 "loss": a + (b - a) * fall + bump - 0.1 * (split == "train")}
                for split in ("heldout", "train")
            ]  # fmt: skip
    return pd.DataFrame(rows)


def _row(run, step, tensor, metric, value, *, axis=None, row=None, col=None):
    layer = next((int(word) for word in tensor.split(".") if word.isdigit()), None)
    return {"run": run, "step": step, "tensor": tensor, "layer": layer, "part": None, "axis": axis,
            "metric": metric, "row": row, "col": col, "value": value}  # fmt: skip


def cosine() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for pattern in (UP, QKV, HEAD):
        for layer in range(4) if "{}" in pattern else (0,):
            tensor, own = pattern.format(layer), rng.uniform(0.6, 1.4)
            for step in STEPS:
                t = step / 120
                value = {
                    "symmetric": 1.0,
                    "noisy 10 dB": (1.0 if pattern == HEAD else 0.8 + 0.01 * own)
                    + (0.03 if pattern == QKV else -0.08) * own * t**0.7,
                    "dropout 0.1": 1 - 0.12 * own * t**0.8 * (0.3 if pattern == HEAD else 1),
                    "random init": 0.004 * rng.normal() + 0.02 * own * t,
                }
                rows += [_row(run, step, tensor, "cosine", v) for run, v in value.items()]
    return pd.DataFrame(rows)


def pairs() -> pd.DataFrame:
    rows = []
    for tensor in (UP.format(0), UP.format(1)):
        for step in STEPS:
            t = step / 120
            for run in ("symmetric", "noisy 10 dB", "random init"):
                for row in range(4):
                    for col in range(4):
                        apart = (row // 2 != col // 2) + (row % 2 != col % 2)
                        value = {
                            "symmetric": 1.0,
                            "noisy 10 dB": 0.83 - 0.05 * apart - 0.2 * t * apart,
                            "random init": 0.01 * (apart - 1) + 0.03 * t,
                        }[run]
                        rows.append(
                            _row(
                                run,
                                step,
                                tensor,
                                "pairs",
                                1.0 if row == col else value,
                                row=row,
                                col=col,
                            )
                        )
    return pd.DataFrame(rows)


def ledger() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    axes = {UP: "RN", DOWN: "RN", QKV: "RH"}
    rows = []
    for pattern, letters in axes.items():
        for layer in range(4):
            tensor, own = pattern.format(layer), rng.uniform(0.5, 2.0)
            for axis in letters:
                for step in STEPS:
                    t = step / 120
                    value = {
                        "symmetric": 0.0,
                        "noisy 10 dB": 0.09 * (1 + 0.1 * own * t),
                        "dropout 0.1": 2e-6 * own * step**2.1 if axis != "H" or layer else 0.0,
                        "random init": 0.5 + 0.004 * own,
                    }
                    rows += [
                        _row(run, step, tensor, "ledger", v, axis=axis) for run, v in value.items()
                    ]
    return pd.DataFrame(rows)


def spectrum(size=256) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = []
    for tensor in (UP.format(0), QKV.format(2), DOWN.format(3)):
        half = np.linalg.svd(
            rng.normal(size=(size // 2, size)) * np.geomspace(3, 0.6, size), compute_uv=False
        )
        dead = 1e-7 * rng.random(size // 2)
        init = np.linalg.svd(rng.normal(size=(size, 2 * size)), compute_uv=False)
        curves = {
            ("symmetric", 0): np.r_[half, dead],
            ("symmetric", 120): np.r_[half * 1.1, dead],
            ("dropout 0.1", 0): np.r_[half, dead],
            ("dropout 0.1", 120): np.r_[half, np.geomspace(0.3, 4e-3, size // 2)],
            ("noisy 10 dB", 0): np.r_[half, np.linspace(7, 2, size // 2)],
            ("noisy 10 dB", 120): np.r_[half, np.linspace(8, 1.5, size // 2)],
            ("random init", 0): init,
            ("random init", 120): init + np.geomspace(12, 0.1, size),
        }
        rows += [
            _row(run, step, tensor, "spectrum", v, row=i)
            for (run, step), values in curves.items()
            for i, v in enumerate(np.sort(values)[::-1])
        ]
    return pd.DataFrame(rows)


def weights(rows=64, columns=32) -> dict[int, np.ndarray]:
    """A noisy clone whose copies part over three steps: step -> [2 * rows, 2 * columns]."""
    rng = np.random.default_rng(3)
    base, apart = (
        rng.normal(size=(rows, columns)) / 10,
        rng.normal(size=(2 * rows, 2 * columns)) / 10,
    )
    wide = np.tile(base, (2, 2)) / 2
    return {0: wide, 12: wide + 0.05 * apart, 120: wide + 0.3 * apart}


def evolution() -> pd.DataFrame:
    """Ranks and movements of the up-projections of four layers, and a bias that moves far."""
    rows = []
    for layer in range(4):
        tensor = UP.format(layer)
        for step in STEPS:
            t = step / 120
            for run, speed in (("symmetric", 1), ("noisy 10 dB", 2)):
                far = speed * t * (1 + layer / 10)
                rows += [
                    _row(run, step, tensor, "distance", far),
                    _row(run, step, tensor.replace("weight", "bias"), "distance", 90.0),
                    _row(run, step, tensor, "turn", 40 * far, axis="start"),
                    _row(run, step, tensor, "effective_rank", 100 + 50 * far),
                    _row(run, step, tensor, "rank", 128),
                ]
                if step:
                    rows.append(_row(run, step, tensor, "turn", far, axis="previous"))
                    rows.append(_row(run, step, tensor, "update", 1e-3 * speed * (1.01 - t)))
    return pd.DataFrame(rows)


def histogram() -> pd.DataFrame:
    """Weights of two arms that spread out, in eight bins from -4 to 4."""
    rows = []
    for run, speed in (("symmetric", 0.2), ("random init", 1.0)):
        for step in STEPS:
            wide = 1 + speed * step / 120
            shares = np.exp(-(((np.arange(8) - 3.5) / wide) ** 2) / 2)
            shares *= 0.99 / shares.sum()
            ends = {"low": -4.0, "high": 4.0, "under": 0.004, "over": 0.006}
            rows += [_row(run, step, UP.format(0), "histogram", v, axis=a) for a, v in ends.items()]
            rows += [
                _row(run, step, UP.format(0), "histogram", v, row=i) for i, v in enumerate(shares)
            ]
    return pd.DataFrame(rows)
