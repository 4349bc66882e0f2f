"""What the commands share: kinds of arguments, dtypes by name, the command line as typed."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from hcviz.errors import HcvizError
from hcviz.io.files import printable
from hcviz.io.parameters import explained, parse_pairs

Model = Positional[Annotated[str, arg(metavar="MODEL")]]
Out = Positional[Annotated[Path, arg(metavar="OUT")]]
Runs = Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]]
Factor = Annotated[int | str | None, arg(metavar="FACTOR")]
Name = Annotated[str | None, arg(metavar="NAME")]


def options_of(request: type, names: str, **kinds: Any) -> Any:
    """Return fields of a request as options of a command: a dataclass that tyro reads.

    Args:
        request: A dataclass whose fields explain themselves.
        names: Which of them, in order.
        kinds: What is typed, where it is not what Python takes.
    """
    texts, known = explained(request), {one.name: one for one in dataclasses.fields(request)}
    fields = []
    for name in names.split():
        help = " ".join(texts[name].split())
        kind = Annotated[kinds.get(name, known[name].type), arg(help=help)]
        fields.append((name, kind, dataclasses.field(default=known[name].default)))
    return Annotated[dataclasses.make_dataclass(request.__name__, fields), arg(name="")]


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
    return printable(shlex.join(["hcviz", *sys.argv[1:]]))


def setting(text: str | None, value=str):
    """Return an option that is one value, or several by name: ``20``, or ``mlp=20,attn=10``.

    Args:
        text: As typed.
        value: What turns a word into a value.

    Raises:
        HcvizError: If a word is none.
    """
    try:
        if text is None or "=" not in text:
            return None if text is None else value(text)
        return {key: value(word) for key, word in parse_pairs(text).items()}
    except ValueError as error:
        raise HcvizError(f"{text!r} does not say {value.__name__} values: {error}.") from error


def expansion_of(text: str):
    """Return an expansion: a form, forms by part or name, or what a JSON file says.

    Raises:
        HcvizError: If the file cannot be read.
    """
    if not text.endswith(".json"):
        return setting(text)
    from hcviz.io import forms

    shares = list[list[float]]
    return forms.read(Path(text), str | shares | dict[str, str | shares], (
        "For --expansion the file holds a form, a table of shares such as [[0.7, 0.3], [0.4, 0.6]],"
        ' or {"ffn": ...} with either.'
    ))  # fmt: skip
