"""What a run keeps of its snapshots: of the newest all that a resume needs, of others a part."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ByteSize, TypeAdapter, ValidationError
from safetensors.torch import save_file

from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.io.checkpoint import KEPT, Stored, weight_files
from hcviz.io.files import finder, fresh_file, needing_room, open_to_readers, write_text
from hcviz.training.schedule import snapshot_steps

SEAL = "resume.json"
"""In a checkpoint: the SHA-256 of every file that a resume reads. It is written last."""
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*")
"""One process, FSDP whole, FSDP in shards, DeepSpeed."""
RESUME_FILES = (
    *(SEAL, *OPTIMIZER_FILES, "scheduler.pt", "scaler.pt", "rng_state*.pth"),
    "pytorch_model_fsdp*",  # the weights once more, as FSDP reads them
)


@dataclass(frozen=True)
class Keeping:
    """What becomes of a snapshot when training can no longer resume from it."""

    keep: str | None = None
    """A regular expression; the tensors that it finds stay. None keeps all."""
    dtype: str | None = None
    """What floating tensors are cast to; None leaves them."""

    def thin(self, folder: Path) -> None:
        """Rewrite a checkpoint with what is kept of it, by rename; one that is thin stays."""
        note = {KEPT: self.keep, "hcviz_dtype": self.dtype}
        note = {key: value for key, value in note.items() if value is not None}
        stored = Stored(folder)
        if not note or note.items() <= stored.metadata.items():
            return
        kept = stored.files_of(filter(finder(self.keep), stored.names()))
        kept = {key: tensor.to(self._cast(tensor)).contiguous() for key, tensor in kept.items()}
        old, whole = weight_files(folder), folder / "model.safetensors"
        with fresh_file(whole) as scratch:
            save_file(kept, scratch, metadata={"format": "pt", **note})
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
        for path in old:
            path.unlink() if path != whole else None
        open_to_readers(folder)

    def bytes(self, model: Any) -> int:
        """Return the size of a kept snapshot's tensors."""
        found = dict(model.named_parameters())
        kept = (found[name] for name in filter(finder(self.keep), found))
        return sum(p.numel() * self._cast(p).itemsize for p in kept)

    def _cast(self, tensor: torch.Tensor) -> torch.dtype:
        floating = self.dtype and tensor.dtype.is_floating_point
        return getattr(torch, self.dtype) if floating else tensor.dtype


@dataclass(frozen=True)
class Plan:
    """Which snapshots a run takes, and what they need."""

    steps: list[int]
    snapshot: int
    """Bytes of a kept snapshot."""
    peak: int
    """Most bytes that lie on the disk at once: while the newest checkpoint, with the optimizer's
    two moments, is written, the one before is still whole."""

    def __str__(self) -> str:
        return (
            f"{len(self.steps)} snapshots of {self.snapshot / 1e6:,.1f} MB; with the whole newest "
            f"checkpoint up to {self.peak / 1e9:,.3f} GB on the disk"
        )


def plan(
    model: Any,
    tokenizer: Any,
    keeping: Keeping,
    *,
    steps: int,
    snapshots: int | Sequence[int],
    budget: str | int | None = None,
    part: tuple[int, int] | None = None,
) -> Plan:
    """Plan the snapshots of a run; fewer of them than asked where the budget wants it.

    Of a run that is a ``part`` of the steps, those between, its first and its last.

    Raises:
        HcvizError: If nothing is kept, the dtype or budget is no such thing, or the budget is too
            small for the snapshots that were named, or for two.
    """
    if keeping.dtype and not getattr(getattr(torch, keeping.dtype, None), "is_floating_point", 0):
        raise HcvizError(f"snapshot_dtype {keeping.dtype!r}: use bfloat16, float16 or float32.")
    kept = keeping.bytes(model)
    if not kept:
        names = ", ".join(name for name, _ in list(model.named_parameters())[:4])
        raise HcvizError(f"keep={keeping.keep!r} finds no tensor of the model; it has {names}, ...")
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    with tempfile.TemporaryDirectory() as folder, needing_room(folder):
        tokenizer.save_pretrained(folder)
        files = sum(path.stat().st_size for path in Path(folder).rglob("*"))
    files += 50_000 + 600 * steps  # configuration, generators, the Trainer's log

    def planned(asked: int | Sequence[int]) -> Plan:
        at = snapshot_steps(steps, asked)
        first, last = part or (0, steps)
        at = sorted({first, last, *(step for step in at if first < step < last)})
        older = (len(at) - 2) * (kept + files)
        newest = 2 * (3 * whole + files) if len(at) > 2 else 4 * whole + 2 * files
        return Plan(at, kept + files, older + newest)

    try:
        limit = None if budget is None else TypeAdapter(ByteSize).validate_python(budget)
    except ValidationError as error:
        raise HcvizError(
            f"disk_budget={budget!r} is no size. Write it like 500MB or 2GB."
        ) from error
    found = planned(snapshots)
    if limit is None or found.peak <= limit:
        return found
    fewer = range(len(found.steps) - 1, 1, -1) if isinstance(snapshots, int) else ()
    for count in fewer:
        if planned(count).peak <= limit:
            return planned(count)
    raise HcvizError(
        f"disk_budget={budget!r} is too small: {planned(2) if fewer else found}. "
        "Name fewer snapshots, keep chosen tensors (keep=...), or a smaller snapshot_dtype."
    )


def seal(folder: Path) -> None:
    """List what a resume reads of a checkpoint; one without an optimizer cannot be resumed."""
    if any(next(folder.glob(pattern), None) for pattern in OPTIMIZER_FILES):
        write_text(folder / SEAL, json.dumps(_hashes(folder), indent=2) + "\n")


def newest_whole(out: Path) -> tuple[Path | None, str | None]:
    """Find the newest checkpoint from which training goes on as if it had never stopped.

    Returns:
        The checkpoint, or None; and what is wrong with a newer one, if there is one.
    """
    steps = (path.name.removeprefix("checkpoint-") for path in out.glob("checkpoint-*"))
    wrong = None
    for step in sorted({int(step) for step in steps if step.isdigit()} - {0}, reverse=True):
        folder = out / f"checkpoint-{step}"
        fault = _fault(folder)
        if fault is None:
            return folder, wrong
        wrong = wrong or f"{folder.name} {fault}"
    return None, wrong


def processes_of(folder: Path) -> int:
    """Return by how many processes a checkpoint was saved: each keeps its random generators."""
    return len(list(folder.glob("rng_state*.pth")))


def drop_resume_files(folder: Path) -> None:
    """Remove the optimizer's, scheduler's and generators' states from a checkpoint."""
    for pattern in RESUME_FILES:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fault(folder: Path) -> str | None:
    """Say why a checkpoint cannot be resumed exactly; None if it can."""
    try:
        listed = forms.read(folder / SEAL, dict[str, str], "")
    except HcvizError:
        return f"was not saved to the end (it has no {SEAL})"
    there = _hashes(folder)
    for name in sorted(listed.keys() | there.keys()):
        if listed.get(name) != there.get(name):
            changed = "has changed" if name in listed else "came in"
            return f"is not as it was saved: {name} {changed if name in there else 'is gone'}"
    return None


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of weights and states, by its path in the folder."""
    tops = {
        top for one in (*RESUME_FILES, "trainer_state.json", "*model*") for top in folder.glob(one)
    }
    paths = {path for top in tops for path in (top, *top.rglob("*")) if path.is_file()}
    found = {}
    for path in sorted(paths - {folder / SEAL}):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        found[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return found
