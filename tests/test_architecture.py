"""docs/architecture.md: its rooms are the rooms, its picture is of today, its walks are taken."""

import json
import re
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import pytest
import scripts
import tiny
from PIL import Image
from test_house import ROOMS, graph

import hcviz

PAGE = (scripts.ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = Path(hcviz.__file__).parent
WRAPPERS = {("io/parameters.py", "call"), ("plots/theme.py", "wrapper")}
"""They hand over keywords and a style, and are no step of a walk."""
script = scripts.load("docs/architecture.py")


class Call(NamedTuple):
    """A call from one file of hcviz into another; the caller may be outside ("you")."""

    caller: str
    file: str
    function: str


class Walk(NamedTuple):
    """What the page says of a walk."""

    steps: list[Call]
    back: list[bool]
    beside: set[str]
    """Other files that it names."""


def walk(title: str) -> Walk:
    text = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \d \| `(.+?)` \| `(.+?)` \| (back in )?(.+?) \|", text, re.MULTILINE)
    steps = [Call(by.strip("`"), file, function) for file, function, _, by in rows]
    named = set(re.findall(r"`(\w+/\w+\.py)`", text)) - {step.file for step in steps}
    return Walk(steps, [bool(back) for _, _, back, _ in rows], named)


CLONE, TRAIN = walk("From `clone()` to the last tensor"), walk("From `train()` to a figure")


def where(frame: FrameType) -> tuple[str, str] | None:
    """Return the file of hcviz and the function that a frame runs, if any."""
    path = Path(frame.f_code.co_filename)
    inside = path.is_relative_to(PACKAGE)
    return (path.relative_to(PACKAGE).as_posix(), frame.f_code.co_name) if inside else None


def traced(act, side_door: str) -> tuple[list[Call], list[Call]]:
    """Return the calls between files while something runs, and those made behind a side door."""
    found, aside = [], []

    def note(frame: FrameType, event: str, _: object) -> None:
        here = where(frame) if event == "call" else None
        if not here:
            return
        stack, above = [], frame.f_back
        while above is not None:
            stack.append(where(above))
            above = above.f_back
        stack = [place for place in stack if place and place not in WRAPPERS]
        if any(function == "<module>" for _, function in (here, *stack)):  # an import
            return
        by = stack[0][0] if stack else "you"
        if by != here[0]:
            behind = any(file == side_door for file, _ in stack)
            (aside if behind else found).append(Call(by, *here))

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return found, aside


def taken(steps: list[Call], calls: list[Call]) -> list[Call]:
    """Return, of each step's function in turn, the next call to it that was made."""
    found, left = [], iter(calls)
    for _, *wanted in steps:
        found.append(next((call for call in left if [*call[1:]] == wanted), None))
    return found


def test_clone_takes_the_walk_of_the_page():
    clone, model = hcviz.clone, tiny.model()
    calls, _ = traced(lambda: clone(model, check=False), "widening/twin.py")
    assert taken(CLONE.steps, calls) == CLONE.steps
    walked = {step.file for step in CLONE.steps}
    assert {call.file for call in calls} - walked == CLONE.beside - {"architecture/tiny.py"}


def test_the_twin_takes_the_same_walk_first():
    clone, model = hcviz.clone, tiny.model("gpt_neox", vocab_size=2001)  # not tried before
    calls, twin = traced(lambda: clone(model), "widening/twin.py")
    assert taken(CLONE.steps, calls) == CLONE.steps
    inside = [step[1:] for step in CLONE.steps[2:]]
    assert [call[1:] for call in taken(CLONE.steps[2:], twin)] == inside
    assert "architecture/tiny.py" in {call.file for call in twin}


def test_training_and_measuring_take_the_walk_of_the_page(tmp_path):
    model, tokenizer = hcviz.clone(tiny.model(), check=False), tiny.tokenizer()
    options = {"corpus": tiny.write_text(tmp_path), "tokenizer": tokenizer, "context": 32}
    options |= {"steps": 2, "snapshots": 2, "progress": False, "device": "cpu"}
    train, measure, ledger = hcviz.train, hcviz.measure, hcviz.plots.ledger

    def act():
        run = train(model, out=tmp_path / "run", **options)
        ledger(measure(run, metrics=["ledger"]))

    calls, _ = traced(act, "widening/layout.py")
    assert taken(TRAIN.steps, calls) == TRAIN.steps
    walked = {step.file for step in TRAIN.steps}
    assert {call.file for call in calls} - walked == TRAIN.beside


@pytest.mark.parametrize(("path", "climbs"), [(CLONE, 3), (TRAIN, 1)])
def test_a_walk_is_short_and_says_where_it_goes_back(path, climbs):
    files = [step.file for step in path.steps]
    assert len(files) == len(set(files)) == 8
    pairs = zip(["", *files], path.steps, strict=False)
    back = [step.caller not in ("you", last) for last, step in pairs]
    assert back == path.back
    assert sum(back) == climbs <= 3


def test_a_call_that_is_not_made_is_seen():
    steps = [Call("you", "a.py", "f"), Call("a.py", "b.py", "g")]
    assert taken(steps, steps[::-1]) == [steps[0], None]
    assert taken(steps, [steps[0], Call("c.py", "b.py", "g")]) != steps


def test_the_page_says_of_every_room_what_the_room_says():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE, re.MULTILINE))
    assert rows == script.rooms()
    assert [*rows] == [room for room in reversed(ROOMS) if room in rows]
    assert set(rows) == set(ROOMS) - {"errors", "__main__"}


def test_what_the_page_names_is_there():
    named = set(re.findall(r"`([\w/]+/\w+\.(?:py|md))`", PAGE))
    assert len(named) > 30
    assert not [p for p in named if not (PACKAGE / p).is_file() | (scripts.ROOT / p).is_file()]


def test_the_picture_is_that_of_the_imports():
    with Image.open(script.PICTURE) as picture:
        told = json.loads(picture.text["content"])
    assert told == script.content(), "python docs/architecture.py"
    assert script.PICTURE.stat().st_size < 60_000
    assert script.PLACES.keys() == script.rooms().keys()
    found = {room: set() for room in script.rooms()}
    for module, targets in graph().items():
        found.get(module.split(".")[0], set()).update(target.split(".")[0] for target in targets)
    for room, direct in script.imports().items():
        assert direct == found[room] - {room, "errors"}
        assert direct <= script.below(room, script.arrows())
        assert all(script.PLACES[room][1] > script.PLACES[other][1] for other in direct)
