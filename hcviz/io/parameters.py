"""Parameters said once by a dataclass: keywords, their docs, a record; and those typed as pairs."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
from collections.abc import Callable
from typing import Any


@functools.cache
def explained(request: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, by the field's name.

    Args:
        request: The dataclass.

    Example:
        >>> from hcviz.widening.request import CloneRequest
        >>> explained(CloneRequest)["head_dim"].split(",")[0]
        'Factor of the head size'
    """
    [made] = ast.parse(textwrap.dedent(inspect.getsource(request))).body
    return {
        field.target.id: inspect.cleandoc(ast.literal_eval(text.value))
        for field, text in itertools.pairwise(made.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def parse_pairs(text: str) -> dict[str, str]:
    """Read what is typed as ``key=value,key=value``; a key may hold ``=`` itself, a value not.

    Example:
        >>> parse_pairs("scale=0.01, axis=N")
        {'scale': '0.01', 'axis': 'N'}
    """
    parts = (part.rpartition("=") for part in text.split(",") if part)
    pairs = ((key, word) if sign else (word, "") for key, sign, word in parts)
    return {key.strip(): word.strip() for key, word in pairs}


def takes(request: type) -> Callable[[Callable], Callable]:
    """Give a function the fields of a dataclass as keywords.

    The function itself gets one ``request``. Its signature shows the keywords, and in its docstring
    their texts stand in the place of ``request: {options}``. A field that has the name of one of
    the function's own parameters is left to the function.

    Args:
        request: The dataclass; it checks what it is given.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Greeting:
        ...     name: str = "you"
        >>> @takes(Greeting)
        ... def greet(word, *, request):
        ...     return f"{word} {request.name}"
        >>> greet("hello"), greet("hello", name="Ada")
        ('hello you', 'hello Ada')
    """

    def give(function: Callable) -> Callable:
        shown = inspect.signature(function)
        own = {name: one for name, one in shown.parameters.items() if name != "request"}
        fields = {one.name: one for one in dataclasses.fields(request) if one.name not in own}

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            odd = sorted(options.keys() - fields.keys() - own.keys())
            if odd:
                raise TypeError(
                    f"{function.__name__}() has no option {odd[0]!r}; it has "
                    f"{', '.join([*fields, *list(own)[1:]])}."
                )
            asked = {name: options.pop(name) for name in fields if name in options}
            return function(*args, request=request(**asked), **options)

        given = inspect.signature(request).parameters
        keywords = [given[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in fields]
        call.__signature__ = shown.replace(parameters=[*own.values(), *keywords])
        call.__doc__ = _filled(function.__doc__, fields, request)
        return call

    return give


def _filled(doc: str | None, fields: dict[str, Any], request: type) -> str | None:
    """Return a docstring with the texts of the fields in their place."""
    if not doc or "{options}" not in doc:
        return doc
    texts = explained(request)
    lines = (f"{name}: {' '.join(texts[name].split())}" for name in fields if name in texts)
    wrapped = [
        textwrap.fill(line, 100, initial_indent=" " * 8, subsequent_indent=" " * 12)
        for line in lines
    ]
    return doc.replace("        request: {options}", "\n".join(wrapped))
