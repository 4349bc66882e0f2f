"""What the commands share: kinds of arguments, dtypes by name, the command line as typed."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hcviz.errors import HcvizError

Model = Positional[Annotated[str, arg(metavar="MODEL")]]
Out = Positional[Annotated[Path, arg(metavar="OUT")]]
Runs = Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]]
Count = Annotated[int | None, arg(metavar="N")]
Name = Annotated[str | None, arg(metavar="NAME")]


def dtype_of(name: str | None):
    """Return a torch dtype by its name."""
    import torch

    dtype = getattr(torch, name, None) if name else None
    if name and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise HcvizError(
            f"--dtype {name!r} is no floating dtype. Use float32, float16, bfloat16 or float64."
        )
    return dtype


def typed_command() -> str:
    """Return the command line as it was typed."""
    return shlex.join(["hcviz", *sys.argv[1:]])
