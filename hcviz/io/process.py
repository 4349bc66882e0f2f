"""The process around us: transformers' voice kept down, and the record of where a run was made."""

import contextlib
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hcviz.errors import HcvizError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and log lines inside the block; errors still raise."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def device_of(name: str) -> Any:
    """Return a device of torch, if one can compute on it here.

    Raises:
        HcvizError: If not.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    import torch

    try:
        return torch.device(name if torch.zeros(1, device=name).item() == 0 else "")
    except Exception as error:  # of whatever drives it
        raise HcvizError(
            f"The device {name!r} cannot be used here ({' '.join(str(error).split())[:200]}). "
            "Use cpu, or the device of a GPU that torch finds, such as cuda."
        ) from error


def surroundings() -> dict[str, Any]:
    """Return the versions, the command and the time, for the record."""
    versions = {"python": sys.version.split()[0]}
    for name in ("hcviz", "torch", "transformers", "accelerate", "tokenizers", "safetensors"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "versions": versions,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def machine() -> str:
    """Return what computes here: processor, its vector instructions, threads, and a GPU's name.

    They say how sums are rounded, and so whether equal copies are rounded alike.

    Example:
        >>> machine().endswith("threads") or "GPU" in machine()
        True
    """
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # other systems than Linux have no such file
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE):
            name = found[1]
    threads = f"{torch.get_num_threads()} threads"
    parts = [name, torch.backends.cpu.get_cpu_capability(), threads]
    if torch.cuda.is_available():
        parts.append(f"GPU {torch.cuda.get_device_name()}")
    return ", ".join(parts)
