"""Made-up frames of a recorded comparison, whose verdicts are known."""

import hashlib
import json

import numpy as np
import pandas as pd

HALF = "nano:gpt-neox-half"
ENDS = {
    "noisy 10 dB": 3.08, "symmetric": 3.16, "random init": 3.14, "source": 3.20,
    "dropout 0.1": 3.18, "matched source": 3.16, "noisy 40 dB": 3.165, "diagonal": 3.16,
    "noisy diagonal": 3.12, "random shares": 3.11,
}  # fmt: skip
STEPS = [0, 100, 500, 1100, 2400]
SHARES = {"R": [0.09, 0.08, 0.06, 0.045, 0.05], "H": [0.09, 0.08, 0.085, 0.14, 0.2],
          "N": [0.045, 0.042, 0.038, 0.06, 0.1]}  # fmt: skip
COSINES = {"noisy 10 dB": [0.81, 0.84, 0.91, 0.9, 0.7], "dropout 0.1": [1, 0.99, 0.97, 0.95, 0.9]}
TENSORS = ["gpt_neox.layers.0.mlp.dense_h_to_4h.weight", "gpt_neox.layers.3.mlp.fc1.weight"]


def tables(arms=None, sources=(HALF,), seeds=3, factor=2):
    """Return runs, losses and metrics; each seed is a thousandth off."""
    runs, losses, metrics, accuracy = [], [], [], []
    for source in sources:
        for arm in arms or ENDS:
            for seed in range(seeds):
                keys = {"source": source, "arm": arm, "lr": 2e-3, "seed": seed, "factor": factor}
                keys["steps"] = 2400
                end = ENDS[arm] + (seed - 1) / 1000
                story = {"parameters": 1317632, "tokens": 4915200, "cpu_minutes": 10.0}
                runs.append(keys | {"loss": end} | story)
                start = 7.6 if arm == "random init" else 3.53
                curve = [start, start + (0.1 if start < 4 else -3), 3.5, 3.3, end]
                losses += [
                    keys | {"run": arm, "step": s, "tokens": 2048 * s, "split": "heldout",
                            "loss": loss}
                    for s, loss in zip(STEPS, curve, strict=True)
                ]  # fmt: skip
                metrics += [keys | row for row in _measured(arm)]
                accuracy += [
                    keys | {"run": arm, "step": s, "task": task, "metric": "acc", "stderr": 0.01,
                            "value": (4 - loss) / 2 + 0.1 * n, "chance": 0.25, "items": 100}
                    for s, loss in zip(STEPS, curve, strict=True) for n, task in enumerate("ab")
                ]  # fmt: skip
    found = {"runs": runs, "losses": losses, "metrics": metrics, "accuracy": accuracy}
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


def _measured(arm):
    whole = np.linspace(4, 1, 64).tolist()
    for layer, tensor in enumerate(TENSORS):
        for i, step in enumerate(STEPS):
            base = {"run": arm, "step": step, "tensor": tensor, "layer": layer, "part": None}
            base |= {"axis": None, "row": None, "col": None}
            empty = arm == "symmetric" or (
                step == 0 and "noisy" not in arm and arm != "random init"
            )
            values = whole[:32] + [1e-9] * 32 if empty else whole
            yield from (base | {"metric": "spectrum", "row": r, "value": v}
                        for r, v in enumerate(values))  # fmt: skip
            yield base | {"metric": "effective_rank", "value": 30.0 if empty else 60.0}
            if arm in ("random init", "source", "matched source"):
                continue
            yield base | {"metric": "cosine", "value": COSINES.get(arm, [1.0] * 5)[i]}
            for axis, shares in SHARES.items():
                locked = (
                    arm == "symmetric"
                    or (arm == "dropout 0.1" and axis == "N")
                    or ("noisy" not in arm and step == 0)
                )
                yield base | {
                    "metric": "ledger",
                    "axis": axis,
                    "value": 0.0 if locked else shares[i],
                }


def write(folder, **asked):
    """Write such frames with their hashes, as gather() does."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for name, frame in tables(**asked).items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)
        hashes[name] = hashlib.sha256((folder / f"{name}.parquet").read_bytes()).hexdigest()
    told = {"command": "made up", "sha256": hashes}
    (folder / "recorded.json").write_text(json.dumps(told), encoding="utf-8")
    return folder
