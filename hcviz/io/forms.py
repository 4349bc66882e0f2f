"""The forms that JSON and TOML files must have, checked where they come in: the rest is refused."""

import contextlib
import functools
import json
import re
import reprlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from hcviz.errors import HcvizError

OPEN = ConfigDict(extra="allow", strict=True)
"""Of a form: keys that it does not name may hold anything; a number is no text, 1.0 no integer."""
CLOSED = ConfigDict(extra="forbid", strict=True)
"""Of a form that names all its keys."""

LARGEST = 2**10
"""Layers, or experts of one: modules are made one by one, and a million take hours."""
COUNTS = re.compile(r"(layers?|blocks|experts)$")
Axis = Literal["hidden", "ffn", "expert_ffn", "kv_heads", "group", "head_dim"]


class Fusing(TypedDict, total=False):
    """The form of what a recipe says of fused matrices: a `hcviz.architecture.segments.Fusing`."""

    __pydantic_config__ = CLOSED
    attention: Literal["stacked", "interleaved"]
    ffn: Literal["stacked", "interleaved"]
    embed_power: float | None
    head: Literal["", "half", "interleaved", "plain"]
    head_power: float
    pad: Literal["zero", "mean"]
    carry: Literal["norm", "stream", "readers"]


class Recipe(TypedDict, total=False):
    """The form of what a clone's configuration says of its making."""

    __pydantic_config__ = OPEN
    factors: dict[Axis, int | str]
    fusing: Fusing
    source: str | None
    changed: dict[str, Any]


def _countable(value: Any) -> Any:
    """Refuse numbers of layers that nobody can build, wherever they stand."""
    for key, one in value.items() if isinstance(value, dict) else ():
        if isinstance(one, int) and one > LARGEST and COUNTS.search(key):
            raise ValueError(f"{key} is {one}, and hcviz builds {LARGEST} at most")
        _countable(one)
    return value


class Configuration(TypedDict, total=False):
    """The form of ``config.json``, as far as its family does not say it."""

    __pydantic_config__ = OPEN
    architectures: list[str] | None
    hcviz: Recipe | None


CONFIGURATION = Annotated[Configuration, AfterValidator(_countable)]


def parse(data: bytes | str, form: Any, where: str | Path, remedy: str) -> Any:
    """Return what JSON says, if it has the form.

    Args:
        data: The JSON.
        form: A type, such as a ``TypedDict`` with :data:`OPEN` as its ``__pydantic_config__``, or a
            dataclass with :data:`CLOSED`.
        where: The file, for the message.
        remedy: What to do about one that will not do.

    Raises:
        HcvizError: Naming the file, and the first field that is wrong.

    Example:
        >>> parse("[1, 2]", list[int], "numbers.json", "Write whole numbers.")
        [1, 2]
    """
    try:
        return _checker(form).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field, said = ".".join(map(str, first["loc"])), reprlib.repr(first["input"])
        given = f"{field}: {first['msg']}, not {said}" if field else first["msg"]
        raise HcvizError(f"{where} cannot be read: {given}. {remedy}") from error


def read(path: Path, form: Any, remedy: str) -> Any:
    """Return what a JSON or TOML file says, if it has the form; see :func:`parse`.

    Raises:
        HcvizError: Also if the file cannot be opened.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".toml":
            data = json.dumps(tomllib.loads(data.decode()), default=str)
    except (OSError, ValueError) as error:
        raise HcvizError(f"{path} cannot be read: {error}. {remedy}") from error
    return parse(data, form, path, remedy)


@contextlib.contextmanager
def naming(place: Any) -> Iterator[None]:
    """Let an error of ours in the block say which place it is about, if it does not yet."""
    try:
        yield
    except HcvizError as error:
        if str(place) in str(error):
            raise
        raise type(error)(f"{place}: {error}") from error


@functools.cache
def _checker(form: Any) -> TypeAdapter:
    """Build the checker of a form once."""
    return TypeAdapter(form)
