"""A run's folder and its ``run.json``: what was asked, if the folder may be used, how it ended."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed import DistError

from hcviz.errors import HcvizError
from hcviz.io import files
from hcviz.io.files import full_disk
from hcviz.runs.state import INFO, LOG, read_info
from hcviz.training.snapshots import Plan


def prepare_folder(
    out: Path, request: dict[str, Any], *, plan: Plan, resume: bool, overwrite: bool
) -> None:
    """Make the run's folder, or see that it holds this very request; refuse to lose anything.

    Raises:
        HcvizError: If the folder holds something else, or the place cannot be written, or the disk
            is too small.
    """
    files.check_space(out, plan.peak, f"A run of {len(plan.steps)} snapshots")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        known = {}
        with contextlib.suppress(HcvizError if overwrite else ()):
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


def write_info(out: Path, record: dict[str, Any]) -> None:
    """Write ``run.json`` by rename."""
    files.write_text(out / INFO, json.dumps(record, indent=2, default=str) + "\n")


@contextlib.contextmanager
def status_kept(trainer: Any, record: dict[str, Any]) -> Iterator[None]:
    """Keep the status in ``run.json`` true while a run goes on, whatever ends it.

    Raises:
        HcvizError: If what ended it was the disk, or another process of the run.
    """
    out, first = Path(trainer.args.output_dir), trainer.is_world_process_zero()
    if first:
        write_info(out, record)
    with _terminable(launched=trainer.args.world_size > 1) as deaf:
        try:
            try:
                yield
            finally:
                deaf.set()
            record["status"] = "done"
            if first:
                _write_log(trainer)
                write_info(out, record)
        except BaseException as error:
            full = full_disk(error)
            stuck = full or isinstance(error.__cause__ or error, OSError | SafetensorError)
            record["status"] = f"stopped: {'cannot write' if stuck else type(error).__name__}"
            if out.is_dir():
                _leave_record(trainer, record, first)
            begin = f"Training stopped at step {trainer.state.global_step} because"
            end = "The snapshots before it are kept; {}run the same command again to go on."
            if stuck:
                raise HcvizError(
                    f"{begin} {out} cannot be written{': the disk is full' if full else ''} "
                    f"({full or error}). {end.format('make room and ')}"
                ) from error
            count = trainer.args.world_size
            if count > 1 and _ended_elsewhere(error):
                why = str(error).partition(". ")[0]
                raise HcvizError(
                    f"{begin} another of the {count} processes ended and says why, or was killed, "
                    f"or all were told to end ({why}). {end.format('')}"
                ) from error
            raise


class Terminated(SystemExit):
    """The process was told to end, as a launcher does when another one has ended."""

    def __str__(self) -> str:
        return "SIGTERM"


def _ended_elsewhere(error: BaseException) -> bool:
    """Tell whether an error is the echo of another process's end; which echo is first is chance."""
    return isinstance(error, DistError | Terminated) or "gloo" in str(error)


@contextlib.contextmanager
def _terminable(*, launched: bool) -> Iterator[threading.Event]:
    """Raise `Terminated` at SIGTERM inside the block, until the event that it yields is set.

    When a process of a launched run fails, its launcher is about to end it by SIGTERM, and one that
    comes before the error is told would take the error with it: one more is let pass.
    """
    deaf, heard = threading.Event(), threading.Event()

    def stop(number: int, frame: Any) -> None:
        heard.set()
        if not deaf.is_set():
            deaf.set()
            raise Terminated(128 + number)

    def spare(number: int, frame: Any) -> None:
        signal.signal(number, before or signal.SIG_DFL)

    hears = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if hears else None
    failed = True
    try:
        yield deaf
        failed = False
    finally:
        if hears:
            expected = launched and failed and not heard.is_set()
            signal.signal(signal.SIGTERM, spare if expected else before or signal.SIG_DFL)


def _leave_record(trainer: Any, record: dict[str, Any], first: bool) -> None:
    """Write ``run.json`` and the history of a run that was stopped, as far as there is room.

    The first process writes, unless it is the one that was killed. Half a snapshot is worth less
    than the room for the record. Nothing here may hide what stopped the run.
    """
    out = Path(trainer.args.output_dir)
    if first and trainer.saving:
        shutil.rmtree(trainer.saving, ignore_errors=True)
    with contextlib.suppress(OSError, HcvizError):
        if first or read_info(out).get("status") == "running":
            write_info(out, record)
    with contextlib.suppress(OSError, HcvizError):
        if first:
            _write_log(trainer)


def _write_log(trainer: Any) -> None:
    """Write the history where `transformers` does, by rename."""
    if trainer.state.log_history:
        with files.fresh_file(Path(trainer.args.output_dir, LOG)) as scratch:
            trainer.state.save_to_json(str(scratch))
