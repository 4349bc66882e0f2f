"""Make the tasks for accuracy: python data/tasks/make.py; with --scores also what sources reach.

Every item is made of a verse that was held out, in both translations, from the sources and from the
recorded runs. Where a task asks for a word of a small set, each word is the answer equally often,
so that knowing which is frequent does not help; elsewhere the wrong options are of the kind of the
right one. Options of an item have equally many tokens, and stand in random order.
"""

import collections
import dataclasses
import functools
import itertools
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tyro
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from hcviz.errors import HcvizError
from hcviz.io.files import data_folder, write_text
from hcviz.io.process import quiet
from hcviz.io.sources import source_path
from hcviz.metrics._tasks import read_items, task_file
from hcviz.metrics.accuracy import evaluate
from hcviz.text.corpus import split_documents
from hcviz.text.documents import read_documents

RANDOM = "random start"
SOURCES = ["gpt-neox-half@188", "gpt-neox-half@375", "gpt-neox-half@750", "gpt-neox-half"]
SOURCES += ["opt-half", "olmo-half", "gpt-neox"]
GOOD = "nano:gpt-neox"
"""The source that must be above chance in every task."""


@dataclasses.dataclass(frozen=True)
class Verse:
    """A held-out verse and the one before it."""

    version: str
    chapter: str
    number: int
    before: str
    text: str


@dataclasses.dataclass(frozen=True)
class Draft:
    """What an item is made of."""

    context: str
    right: str
    others: Sequence[str]
    """Of which the wrong options are drawn."""
    kind: str = ""
    """Every kind is the answer equally often."""


@dataclasses.dataclass(frozen=True)
class Task:
    """How a task finds its items."""

    asks: str
    find: Callable[[Verse], Iterator[Draft]]
    wrong: int = 3
    """Wrong options of an item."""
    longest: int = 105
    """Most characters of a context."""
    items: int = 150


@functools.cache
def split() -> tuple[str, tuple[Verse, ...]]:
    """Return the training text of both translations, and the held-out verses."""
    text, verses = [], []
    for version in ("asv", "kjv"):
        train, heldout = split_documents(read_documents(version)[0])
        text += [document.text for document in train]
        for document in heldout:
            lines = document.text.split("\n")
            for number, (before, line) in enumerate(itertools.pairwise(lines), start=2):
                verses.append(Verse(version, document.group, number, before, line))
    return "\n".join(text), tuple(verses)


@functools.cache
def tokenizer() -> Any:
    """Return the tokenizer that the sources share."""
    return AutoTokenizer.from_pretrained(data_folder() / "sources" / "tokenizer")


def ids(text: str) -> list[int]:
    """Return the tokens of a text."""
    return tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"]


@functools.cache
def tokens(text: str) -> int:
    """Count the tokens of a text."""
    return len(ids(text))


@functools.cache
def counts() -> collections.Counter:
    """Count the words of the training text."""
    return collections.Counter(re.findall(r"[A-Za-z]+", split()[0]))


def words(verse: Verse) -> Iterator[tuple[str, str]]:
    """Yield what stands before each word of a verse but the first few, and the word."""
    for found in re.finditer(r"(?<= )[A-Za-z]+(?=[ ,.;:?!]|$)", verse.text):
        if found.start() > 25:
            yield verse.text[: found.start() - 1], found[0]


def one_of(*sets: str) -> Callable[[Verse], Iterator[Draft]]:
    """Ask which word of a small set stands here."""

    def find(verse: Verse) -> Iterator[Draft]:
        for context, word in words(verse):
            for some in map(str.split, sets):
                if word in some:
                    yield Draft(context, f" {word}", [f" {one}" for one in some], word)

    return find


@functools.cache
def endings(length: int) -> dict[int, list[tuple[str, str]]]:
    """Return the last words of the held-out verses, by their tokens, with their chapters."""
    found: dict[int, list[tuple[str, str]]] = {}
    for verse in split()[1]:
        end = _ending(verse.text, length)
        if end:
            found.setdefault(tokens(end[1]), []).append((end[1], verse.chapter))
    return found


def _ending(text: str, length: int) -> tuple[str, str] | None:
    """Split the last words off a verse, without its last mark."""
    found = re.fullmatch(rf"(.{{25,}}?)((?: [^ ]+){{{length - 1}}} [A-Za-z]+)[.;:,?!]?", text)
    return (found[1], found[2]) if found else None


def ending(length: int) -> Callable[[Verse], Iterator[Draft]]:
    """Ask for the last words of a verse, among those of verses of other chapters."""

    def find(verse: Verse) -> Iterator[Draft]:
        if end := _ending(verse.text, length):
            context, right = end
            alike = endings(length)[tokens(right)]
            yield Draft(context, right, [one for one, place in alike if place != verse.chapter])

    return find


def question(verse: Verse) -> Iterator[Draft]:
    """Ask with which mark a sentence ends."""
    for found in re.finditer(r"[^.?!;:]{25}[.?]", verse.text):
        yield Draft(verse.text[: found.end() - 1], found[0][-1], [".", "?"], found[0][-1])


@functools.cache
def names() -> dict[str, int]:
    """Return the words that are always capital, by their counts, without the very frequent."""
    usual = {word for word in counts() if word.islower()}
    found = {
        word: n for word, n in counts().items() if word[0].isupper() and n >= 5 and len(word) > 1
    }
    return {word: n for word, n in found.items() if word.lower() not in usual}


@functools.cache
def similar(name: str) -> list[str]:
    """Return the names of as many tokens that are about as frequent."""
    alike = (one for one, n in names().items() if 1 / 2 <= n / names()[name] <= 2)
    return [f" {one}" for one in alike if tokens(f" {one}") == tokens(f" {name}")]


def name(verse: Verse) -> Iterator[Draft]:
    """Ask for a name that was named before, among those that were not."""
    for start, word in words(verse):
        context = f"{verse.before}\n{start}"
        if word in names() and re.search(rf"\b{word}\b", context):
            unsaid = [one for one in similar(word) if one.strip() not in context]
            yield Draft(context, f" {word}", unsaid, word)


@functools.cache
def rare_words() -> dict[tuple[int, int], list[str]]:
    """Return rare words of the training text by their tokens and how rare they are."""
    found: dict[tuple[int, int], list[str]] = {}
    for word, n in counts().items():
        if word.islower() and 4 <= n < 64:
            found.setdefault((tokens(f" {word}"), int(math.log2(n))), []).append(f" {word}")
    return found


def rare(verse: Verse) -> Iterator[Draft]:
    """Ask for a rare word among others that are as rare."""
    for context, word in words(verse):
        alike = rare_words().get((tokens(f" {word}"), int(math.log2(counts()[word] or 1))), [])
        if f" {word}" in alike:
            yield Draft(context, f" {word}", alike)


def order(verse: Verse) -> Iterator[Draft]:
    """Ask which of two clauses comes first."""
    clauses = re.split(r"(?<=[,;:.?!]) ", verse.text)
    for i in range(1, len(clauses) - 1):
        one, two = (clause[:-1] for clause in clauses[i : i + 2])
        if all(15 < len(clause) < 45 for clause in (one, two)):
            yield Draft(" ".join(clauses[:i]), f" {one}, {two}", [f" {two}, {one}"])


ABOUT = """\
Ten multiple-choice tasks from the held-out chapters of the American Standard and the King
James Version, by `python data/tasks/make.py --scores`, which says how. A model chooses the
option that it finds likeliest after the context: `hcviz evaluate nano:gpt-neox`.
`--harness` has lm-evaluation-harness score the same items, which gives the same numbers.
No verse here has quotation marks, and sentences with words in disorder are told apart too
easily, so neither is among the tasks."""
CHECK = """\
Accuracy. *frequency alone* takes the option whose tokens are most frequent in the training
text, a check of the options."""
TASKS = {
    "last-word": Task("the last word of a verse", ending(1)),
    "ending": Task("the last five words of a verse, among endings of others", ending(5)),
    "agreement": Task(
        "the verb's form: *thou hast*, *he hath*, *they have*",
        one_of("have hath hast", "are is art", "do doth dost"),
        wrong=2,
    ),
    "pronoun": Task("who: *he*, *she*, *they*, ...", one_of("he she it they I thou we ye")),
    "possessive": Task(
        "whose: *his*, *her*, *my*, ...", one_of("his her their my thy our your")
    ),
    "preposition": Task(
        "the preposition",
        one_of("unto in of from upon with by for to into before after against among"),
    ),
    "question": Task("whether a sentence ends as a question", question, wrong=1, longest=150),
    "name": Task(
        "a name that was named before, among others as frequent", name, longest=330, items=110
    ),
    "rare": Task("a rare word, among others as rare", rare),
    "order": Task("which of two clauses comes first", order, wrong=1),
}  # fmt: skip


def items(task: str) -> list[dict]:
    """Return the items of a task, the same every time.

    Raises:
        HcvizError: If the held-out text has too few.
    """
    count, rng = TASKS[task].items, np.random.default_rng(zlib.crc32(task.encode()))
    train, verses = split()
    waiting: dict[str, list[tuple[Verse, Draft]]] = {}
    for place in rng.permutation(len(verses)):
        drafts = list(TASKS[task].find(verses[place]))
        for which in rng.permutation(len(drafts)):
            waiting.setdefault(drafts[which].kind, []).append((verses[place], drafts[which]))
    made, used = [], set()
    while len(made) < count:
        if not any(waiting.values()):
            raise HcvizError(f"{task} has {len(made)} items, and {count} are asked for.")
        for kind in sorted(waiting):
            while waiting[kind] and len(made) < count:
                verse, draft = waiting[kind].pop()
                where = verse.chapter, verse.number, kind  # one, of the two translations
                wrong = _wrong(draft, TASKS[task], rng)
                same = draft.context, draft.right
                if used & {where, same} or wrong is None or draft.context in train:
                    continue
                used |= {where, same}
                options = [draft.right, *wrong]
                turned = rng.permutation(len(options))
                made.append(
                    {
                        "context": draft.context,
                        "options": [options[old] for old in turned],
                        "answer": int(turned.argmin()),
                        "place": f"{verse.version} {verse.chapter}",
                    }
                )
                break
    return made


def _wrong(draft: Draft, task: Task, rng: np.random.Generator) -> list[str] | None:
    """Draw wrong options that do not stand in the context; None if it is long, or they are few."""
    if len(draft.context) > task.longest:
        return None
    size = tokens(draft.right)
    said, drawn = set(re.findall(r" ?[A-Za-z]+", draft.context)) if not draft.kind else (), []
    for place in rng.permutation(len(draft.others)):
        other = draft.others[place]
        if other not in (draft.right, *drawn, *said) and tokens(other) == size:
            drawn.append(other)
        if len(drawn) == task.wrong:
            return drawn
    return None


def scored() -> pd.DataFrame:
    """Return what sources reach, and a model of the largest one's shape with random weights."""
    frames = [evaluate(f"nano:{name}") for name in SOURCES]
    set_seed(0)
    with quiet():
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(source_path("gpt-neox"))
        )
    frames.insert(0, evaluate(model.eval(), tokenizer=tokenizer()).assign(run=RANDOM))
    together = pd.concat([_frequency(), *frames], ignore_index=True)
    return together.drop(columns=["step", "metric"]).round(6)


def _frequency() -> pd.DataFrame:
    """Score a reader who only knows how frequent each token is."""
    often = np.log(np.bincount(ids(split()[0]), minlength=len(tokenizer())) + 1)
    rows = []
    for task in TASKS:
        told = read_items(task)
        best = [max(item.options, key=lambda one: often[ids(one)].sum()) for item in told]
        right = [one == item.options[item.answer] for one, item in zip(best, told, strict=True)]
        rows.append({"run": "frequency alone", "task": task, "value": np.mean(right)})
    return pd.DataFrame(rows)


def readme(frame: pd.DataFrame) -> str:
    """Return a README with the tasks and what each source reaches."""
    runs = list(dict.fromkeys(frame["run"]))
    table = frame.pivot_table(index="task", columns="run", values="value", sort=False)
    facts = frame.dropna(subset="chance").drop_duplicates("task").set_index("task")
    means = table.mean()
    deviation = math.sqrt((frame["stderr"] ** 2).groupby(frame["run"]).sum().max()) / len(TASKS)
    lines = [
        "# Tasks for accuracy",
        "",
        *ABOUT.splitlines(),
        "",
        "| task | asks for | items | chance |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {task.asks} | {facts.loc[name, 'items']:.0f} "
            f"| {facts.loc[name, 'chance']:.3f} |"
            for name, task in TASKS.items()
        ),
        "",
        *CHECK.splitlines(),
        "",
        f"| task | chance | {' | '.join(runs)} |",
        "|---|---|" + "---|" * len(runs),
        *(
            f"| `{name}` | {facts.loc[name, 'chance']:.2f} | "
            + " | ".join(f"{table.loc[name, run]:.2f}" for run in runs)
            + " |"
            for name in TASKS
        ),
        f"| **mean** | {facts['chance'].mean():.3f} | "
        + " | ".join(f"**{means[run]:.3f}**" for run in runs)
        + " |",
        "",
        f"Standard errors: at most {facts['stderr'].max():.3f} for a task, "
        f"{deviation:.3f} for the mean. [scores.csv](scores.csv) has all numbers.",
        "",
    ]
    return "\n".join(lines)


def make(scores: bool = False) -> None:
    """Write the items of all tasks.

    Args:
        scores: Also score the sources, and write scores.csv and the README.
    """
    for task in TASKS:
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items(task))
        write_text(task_file(task), "".join(lines))
    if scores:
        frame, folder = scored(), data_folder() / "tasks"
        write_text(folder / "scores.csv", frame.to_csv(index=False))
        write_text(folder / "README.md", readme(frame))


if __name__ == "__main__":
    tyro.cli(make, config=(tyro.conf.FlagCreatePairsOff,))
