"""Read a training run from disk, lazily: steps, history, single tensors, blocks, whole models."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from hcviz.errors import HcvizError

HISTORY = ["run", "step", "tokens", "split", "loss", "lr", "seconds", "flops", "seed"]


class Run:
    """A training run: a `transformers.Trainer` folder of checkpoints and a ``run.json``.

    Nothing is read before it is asked for, and a tensor is read without the rest of its
    checkpoint. A run that is still being trained, or was killed, can be read as far as it got.

    Args:
        path: The run's folder.

    Raises:
        HcvizError: If the folder does not exist or holds no checkpoint.

    Example:
        >>> run = Run("runs/clone")  # doctest: +SKIP
        >>> run.steps  # doctest: +SKIP
        [0, 1, 10, 120]
        >>> run.tensor("lm_head.weight", step=120).shape  # doctest: +SKIP
        torch.Size([2048, 256])
    """

    def __init__(self, path: str | Path):
        """Open the folder."""
        self.path = Path(path)
        if not self.path.is_dir():
            raise HcvizError(
                f"{self.path} is not a folder. Give the folder that hcviz train wrote (its --out)."
            )
        if not self.steps:
            raise HcvizError(
                f"{self.path} holds no whole checkpoint (checkpoint-N/model.safetensors). "
                "Give the folder that hcviz train wrote, or train again."
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.name}, steps {self.steps[0]} to {self.steps[-1]})"

    @property
    def steps(self) -> list[int]:
        """The steps with a whole snapshot, in order."""
        names = (
            folder.name.removeprefix("checkpoint-") for folder in self.path.glob("checkpoint-*")
        )
        return sorted(int(name) for name in names if name.isdigit() and self._files(int(name)))

    @property
    def info(self) -> dict[str, Any]:
        """``run.json``: source, clone recipe, seed, corpus, versions; {} without one."""
        path = self.path / "run.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def name(self) -> str:
        """The run's label, or its folder's name."""
        return self.info.get("label") or self.path.name

    @property
    def history(self) -> pd.DataFrame:
        """Losses, tidy: run, step, tokens, split (train or heldout), loss, lr, seconds, ...

        And flops, 6 N per token, N being the parameters outside the tables of vocabulary and
        positions (empty in a run that does not log them); and the run's seed.
        """
        rows, seed = [], self.info.get("seed")
        for row in self._log():
            for key, split in (("loss", "train"), ("eval_loss", "heldout")):
                if key in row:
                    values = (
                        row["step"],
                        row.get("tokens"),
                        split,
                        row[key],
                        row.get("learning_rate"),
                    )
                    rows.append((self.name, *values, row.get("seconds"), row.get("flops"), seed))
        return pd.DataFrame(rows, columns=HISTORY)

    def names(self, step: int | None = None) -> list[str]:
        """Return the names of the stored tensors, as the model has them (tied weights once)."""
        return sorted(self._index(self._step(step)))

    def tensor(self, name: str, step: int | None = None) -> Any:
        """Read one tensor of one snapshot, without the rest of the file.

        Args:
            name: As in `names`.
            step: As in `steps`; the last by default.

        Returns:
            A torch tensor in its stored shape and dtype.

        Raises:
            HcvizError: If there is no such step or tensor, or the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        step = self._step(step)
        index = self._index(step)
        if name not in index:
            similar = [
                other for other in sorted(index) if name.split(".")[-2:] == other.split(".")[-2:]
            ]
            raise HcvizError(
                f"{self.name} has no tensor {name!r} at step {step}. It has {len(index)}, for "
                "example "
                f"{', '.join((similar or sorted(index))[:4])}."
            )
        try:
            path, key = index[name]
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise self._damaged(path, error) from error

    def blocks(self, name: str, step: int | None = None) -> Any:
        """Read one weight as a grid of source-shaped blocks: [n_written, n_read, rows, cols].

        Raises:
            HcvizError: If the run does not say how its model was cloned.
        """
        from hcviz.blocks import grid

        return grid(self.tensor(name, step), self.layout[name], self.factors)

    @property
    def is_clone(self) -> bool:
        """Whether the run started from a clone, so that its weights have blocks."""
        return bool((self.info.get("clone") or {}).get("factors"))

    @property
    def factors(self) -> dict[str, Any]:
        """How many times each axis was repeated by the clone this run started from."""
        clone = self.info.get("clone") or {}
        if not clone.get("factors"):
            raise HcvizError(
                f"{self.name} did not start from a clone (no clone recipe in its run.json), so its "
                "weights have no blocks. Train a model that hcviz clone made, or pass the recipe "
                "of the clone it is compared with: info={'clone': ...}."
            )
        return clone["factors"]

    @cached_property
    def layout(self) -> Any:
        """Which axes every tensor has, in units of the source, from the configuration."""
        from transformers import AutoConfig

        from hcviz.layouts import layout

        config = AutoConfig.from_pretrained(self._folder(self.steps[0]))
        return layout(config, factors=self.factors if self.is_clone else None)

    def model(self, step: int | None = None) -> Any:
        """Load one snapshot as a model in eval mode."""
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        from hcviz.quiet import quiet

        folder = self._folder(self._step(step))
        try:
            with quiet():
                return AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).eval()
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damaged(folder, error) from error

    def _folder(self, step: int) -> Path:
        return self.path / f"checkpoint-{step}"

    def _files(self, step: int) -> list[Path]:
        """Return a snapshot's weight files; none if it is not whole."""
        folder = self._folder(step)
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text())["weight_map"].values())
            files = [folder / shard for shard in sorted(shards)]
        else:
            files = [folder / "model.safetensors"]
        return files if all(file.is_file() for file in files) else []

    def _index(self, step: int) -> dict[str, tuple[Path, str]]:
        """Map the tensors of a snapshot to their file and the name they have in it."""
        from safetensors import SafetensorError, safe_open

        index = {}
        for path in self._files(step):
            try:
                with safe_open(path, framework="pt") as file:
                    index.update((self._in_model(key), (path, key)) for key in file.keys())
            except (SafetensorError, OSError) as error:
                raise self._damaged(path, error) from error
        return index

    def _in_model(self, key: str) -> str:
        """Return a stored tensor's name in the model: GPT-NeoX's embed_out is its lm_head."""
        for renaming in self._renamings:
            key, _ = renaming.rename_source_key(key)
        return key

    @cached_property
    def _renamings(self) -> list[Any]:
        """The renamings that transformers does between a checkpoint's file and the model."""
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        config = json.loads((self._folder(self.steps[0]) / "config.json").read_text())
        for kind in (*(config.get("architectures") or ()), config.get("model_type")):
            found = get_checkpoint_conversion_mapping(kind)
            if found is not None:
                return [one for one in found if type(one) is WeightRenaming]
        return []

    def _step(self, step: int | None) -> int:
        steps = self.steps
        if step is None:
            return steps[-1]
        if step not in steps:
            raise HcvizError(
                f"{self.name} has no snapshot at step {step}; it has {', '.join(map(str, steps))}."
            )
        return step

    def _log(self) -> list[dict[str, Any]]:
        """Return the Trainer's log, from the run's own state or the newest checkpoint's."""
        places = [self.path, *(self._folder(step) for step in reversed(self.steps))]
        logs = []
        for place in places:
            try:
                logs.append(json.loads((place / "trainer_state.json").read_text())["log_history"])
            except (OSError, ValueError, KeyError):
                continue
        return max(logs, key=lambda log: log[-1]["step"] if log else -1, default=[])

    def _damaged(self, path: Path, error: Exception) -> HcvizError:
        return HcvizError(
            f"{path} cannot be read: {error}. The file is damaged or cut short; delete its "
            "checkpoint folder "
            "and train again with the same --out to continue from the one before."
        )
