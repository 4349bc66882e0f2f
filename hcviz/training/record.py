"""A run's folder and its ``run.json``: what was asked, and whether the folder may be used."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from hcviz.errors import HcvizError
from hcviz.io import files
from hcviz.training.snapshots import Plan


def prepare_folder(
    out: Path,
    request: dict[str, Any],
    *,
    plan: Plan,
    resume: bool,
    overwrite: bool,
) -> None:
    """Make the run's folder, or see that it holds this very request; refuse to lose anything.

    Raises:
        HcvizError: If the folder holds something else, or the place cannot be written, or the disk
            is too small.
    """
    files.check_space(out, plan.peak, f"A run of {len(plan.steps)} snapshots")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        known = read_info(out)
        if overwrite:
            if not known and not any(out.glob("checkpoint-*")):
                raise HcvizError(
                    f"{out} is not a run, so --overwrite does not delete it. Choose another --out."
                )
            shutil.rmtree(out)
        elif not resume or known.get("request") != request:
            raise HcvizError(
                f"{out} already holds {_difference(known.get('request'), request)}. "
                "Use --overwrite to replace it, or another --out."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".tmp-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HcvizError(f"Cannot write to {out}: {error}. Choose another --out.") from error


def _difference(before: dict[str, Any] | None, request: dict[str, Any]) -> str:
    if before is None:
        return "something that is not a run of hcviz"
    changed = sorted(key for key in request if before.get(key) != request[key])
    return f"a run that differs in {', '.join(changed)}" if changed else "this run"


def weights_hash(model: Any) -> str:
    """Hash the shapes and up to some 4,096 evenly spaced values of every weight."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().flatten()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(flat[:: max(1, flat.numel() // 4096)].double().cpu().numpy().tobytes())
    return digest.hexdigest()


def read_info(out: Path) -> dict[str, Any]:
    """Read ``run.json``; empty if there is none."""
    try:
        return json.loads((out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_info(out: Path, record: dict[str, Any]) -> None:
    """Write ``run.json`` by rename."""
    files.write_text(out / "run.json", json.dumps(record, indent=2, default=str) + "\n")
