"""The process around us: transformers' voice kept down, and versions and command for the record."""

import contextlib
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
