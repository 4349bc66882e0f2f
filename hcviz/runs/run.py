"""Read a training run from disk, lazily: steps, history, single tensors, blocks, whole models."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hcviz.errors import HcvizError
from hcviz.io.checkpoint import Stored, damaged, file_stamp
from hcviz.io.forms import naming
from hcviz.io.models import model_of
from hcviz.io.sources import config_of, local_folder, read_model
from hcviz.runs.places import Place, Where, find_places
from hcviz.runs.rows import WHOLE, read_frame, read_live, table
from hcviz.runs.snapshots import Snapshots
from hcviz.runs.state import read_info

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

    def __init__(
        self,
        path: str | Path | None,
        *,
        places: Mapping[int, Place] | None = None,
        info: Mapping[str, Any] | None = None,
    ):
        """Open the folder; ``places`` and ``info`` are what `Run.of` found.

        Without a folder the run is made of checkpoints that lie anywhere: ``path`` is None.
        """
        self.path = None if path is None else Path(path)
        self._info = info
        self._known: dict[str, Any] = {}
        self._marks: dict[Path, Any] = {}
        if places is None:
            self.path = local_folder(path, "Give the folder that hcviz train wrote (its --out).")
        self._at = Snapshots(self.path, places)
        if not self.steps:
            raise HcvizError(
                f"{self.path} holds no whole checkpoint (checkpoint-N/model.safetensors). "
                "Give the folder that hcviz train wrote, or train again. For checkpoints of "
                "another trainer: Run.of(...)."
            )

    @classmethod
    def of(
        cls,
        where: Where,
        *,
        revisions: Sequence[str] | None = None,
        factors: Mapping[str, Any] | None = None,
        source: Any = None,
        label: str | None = None,
    ) -> "Run":
        """Open checkpoints that any other program wrote.

        Args:
            where: A folder of checkpoint folders, one checkpoint, a list of them,
                ``{step: folder}``, or the id of a repository of the hub with ``revisions``.
            revisions: Revisions of the repository, each fetched when it is first read.
            factors: How the model was cloned, as in `hcviz.clone`: ``{"hidden": 2}``.
            source: Instead of ``factors``: the source's configuration, model or folder, whose
                widths are compared with the run's. With neither, what the configuration's
                ``hcviz`` entry says; without one the run counts as no clone.
            label: The run's name; by default that of the folder or the repository.

        Raises:
            HcvizError: If nothing is found, or the factors do not fit the model.

        Example:
            >>> Run.of("org/model", revisions=["step0", "step512"], factors={"hidden": 2}).steps
            [0, 512]
        """
        places = find_places(where, revisions)
        several = not isinstance(where, str | Path)
        name = "checkpoints" if several else Path(str(where).removeprefix("hf:")).name
        info = {"label": label or name, "asked": factors, "source": source}
        here = None if several or revisions is not None else Path(where).expanduser()
        return cls(here, places=places, info=info)

    def __repr__(self) -> str:
        where = "checkpoints" if self.path is None else repr(str(self.path))
        return f"Run({where}: {self.name}, steps {self.steps[0]} to {self.steps[-1]})"

    @property
    def steps(self) -> list[int]:
        """The steps with a snapshot, in order; it may hold chosen tensors only."""
        return self._at.steps()

    @property
    def info(self) -> dict[str, Any]:
        """``run.json``: source, clone recipe, seed, corpus, versions, machine; {} without one."""
        if self._info is not None:
            return {"label": self._info["label"], "clone": self._recipe}
        return read_info(self.path)

    @property
    def name(self) -> str:
        """The run's label, or its folder's name."""
        return (self._info or self.info).get("label") or self.path.name

    @property
    def history(self) -> pd.DataFrame:
        """Losses, tidy: run, step, tokens, split (train or heldout), loss, lr, seconds, ...

        And flops, 6 N per token, N being the parameters outside the tables of vocabulary and
        positions (empty in a run that does not log them); and the run's seed.
        """
        rows, seed = [], self.info.get("seed")
        for row in self._at.log():
            for key, split in (("loss", "train"), ("eval_loss", "heldout")):
                if key in row:
                    values = row["step"], row.get("tokens"), split, row[key]
                    others = map(row.get, ("learning_rate", "seconds", "flops"))
                    rows.append((self.name, *values, *others, seed))
        return pd.DataFrame(rows, columns=HISTORY)

    @property
    def metrics(self) -> pd.DataFrame:
        """What was measured while the run was trained, or before it was recorded, as a table."""
        if self._recording is not None:
            recorded = read_frame(self._recording, "Fetch the recording anew.")
            measured = table(recorded[recorded["run"] == self.name])
        else:
            measured = table([]) if self.path is None else read_live(self.path)
        return measured.assign(run=self.name)

    @property
    def cache_folder(self) -> Path | None:
        """Where measurements are kept; None without a folder, or in a recording."""
        return None if self._recording is not None else self.path

    @property
    def _recording(self) -> Path | None:
        """The measurements of the recording that the run lies in."""
        folder = self.path and self.path.parent
        return folder / WHOLE if folder and (folder / "recorded.json").is_file() else None

    def names(self, step: int | None = None) -> list[str]:
        """Return the names of the stored tensors, as the model has them (tied weights once)."""
        return self.stored(step).names()

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
        stored = self.stored(step)
        try:
            return stored.tensor(name)
        except KeyError:
            names = stored.names()
        similar = [other for other in names if name.split(".")[-2:] == other.split(".")[-2:]]
        kept = f" (kept were those that {stored.kept!r} finds)" if stored.kept else ""
        raise HcvizError(
            f"{self._said} has no tensor {name!r} at step {self._step(step)}. It has {len(names)}"
            f"{kept}, for example {', '.join((similar or names)[:4])}."
        )

    def stored(self, step: int | None = None) -> Stored:
        """Return one snapshot's files, which know what they hold; the last by default."""
        return self._at.stored(self._step(step))

    def blocks(self, name: str, step: int | None = None) -> Any:
        """Read one weight as a grid of source-shaped blocks: [n_written, n_read, rows, cols].

        Raises:
            HcvizError: If the run does not say how its model was cloned.
        """
        from hcviz.architecture.blocks import grid

        return grid(self.tensor(name, step), self.layout[name], self.factors)

    @property
    def is_clone(self) -> bool:
        """Whether the run started from a clone, so that its weights have blocks."""
        return bool((self._recipe or {}).get("factors"))

    @property
    def factors(self) -> dict[str, Any]:
        """How many times each axis was repeated by the clone this run started from."""
        from hcviz.architecture.factors import parse_factors

        factors = (self._recipe or {}).get("factors")
        if not factors:
            raise HcvizError(
                f"{self._said} did not start from a clone (no clone recipe in its run.json), so "
                "its weights have no blocks. Train a model that hcviz clone made, or pass the "
                "recipe of the clone it is compared with: info={'clone': ...}, or "
                "Run.of(..., factors=)."
            )
        return parse_factors(factors)

    @property
    def _said(self) -> str:
        """The run's name, for an error, and where it lies."""
        return f"{self.name} ({self.path})" if self.path else self.name

    @property
    def _recipe(self) -> dict[str, Any] | None:
        """How the model was cloned: as asked, as recorded, or as its configuration says."""
        return self._asked if self._info is not None else self.info.get("clone", self._asked)

    @property
    def _asked(self) -> dict[str, Any] | None:
        from hcviz.architecture.factors import factors_between, read_factors

        def ask() -> dict[str, Any] | None:
            asked = self._info or {}
            if asked.get("asked"):
                return {"factors": read_factors(self.config, asked["asked"])}
            if asked.get("source") is not None:
                return {"factors": factors_between(config_of(asked["source"]), self.config)}
            return getattr(self.config, "hcviz", None)

        return self._once("asked", ask)

    @property
    def config(self) -> Any:
        """The configuration of the model."""

        def read() -> Any:
            step = next(filter(self._at.is_here, self.steps), self.steps[0])
            path = None if self._at.is_here(step) else self._at.file(step, "config.json")
            return copy.deepcopy(model_of(path.parent if path else self._at.folder(step)).config)

        return self._once("config", read)

    @property
    def layout(self) -> Any:
        """Which axes every tensor has, in units of the source, from the configuration."""
        from hcviz.widening.layout import layout

        def read() -> Any:
            with naming(self.path or self.name):
                return layout(self.config, factors=self.factors if self.is_clone else None)

        return self._once("layout", read)

    def _once(self, what: str, make: Callable[[], Any]) -> Any:
        """Return what was made before, as long as the files that describe the model are the same.

        A folder may be trained anew, with another model, while a notebook holds its run.
        """
        if any(file_stamp(path) != mark for path, mark in self._marks.items()):
            self._known.clear()
        if not self._known:
            first = self.steps[0]  # what a revision of the hub holds never changes
            paths = [] if self._at.is_revision(first) else [self._at.file(first, "config.json")]
            paths += [self.path / "run.json"] if self.path else []
            self._marks = {path: file_stamp(path) for path in paths}
        if what not in self._known:
            self._known[what] = make()
        return self._known[what]

    def model(self, step: int | None = None) -> Any:
        """Load one snapshot as a model in eval mode.

        Raises:
            HcvizError: If chosen tensors only were kept of it, or a file is damaged.
        """
        from safetensors import SafetensorError

        stored = self.stored(step)
        if stored.kept is not None:
            here = filter(self._at.is_here, self.steps)
            whole = [step for step in here if self.stored(step).kept is None]
            raise HcvizError(
                f"Of step {self._step(step)} {self._said} keeps {len(stored.names())} tensors only "
                f"(keep={stored.kept!r}), not a whole model. Whole are the steps "
                f"{', '.join(map(str, whole)) or 'none'}; single tensors: run.tensor(name, step)."
            )
        try:
            return read_model(stored.folder)
        except HcvizError:
            raise
        except (SafetensorError, OSError, ValueError) as error:
            raise damaged(stored.folder, error) from error

    def _step(self, step: int | None) -> int:
        if step is None:
            return self.steps[-1]
        if step not in self._at:
            there = ", ".join(map(str, self.steps))
            raise HcvizError(f"{self._said} has no snapshot at step {step}; it has {there}.")
        return step
