"""Pages of docs/axes, of breakers and audit: their code runs, pictures and tests are there."""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest

from hcviz import cli
from hcviz.metrics.audit import WORDS
from hcviz.training.schedule import BREAKERS, parse_breakers

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "axes"
PAGES = sorted(FOLDER.glob("*.md"))
AXES = [page for page in PAGES if page.stem != "README"]


def entries() -> set[str]:
    """The pictures that docs/axes/make.py draws, read without running it."""
    for node in ast.parse((FOLDER / "make.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PICTURES":
            return {key.value for key in node.value.keys}
    raise AssertionError("docs/axes/make.py has no PICTURES")


PLAIN = [ROOT / "docs" / name for name in ("breakers.md", "growing.md")]


@pytest.mark.parametrize("page", [*AXES, *PLAIN], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "sh"]
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, page.name, "exec"), {})
            continue
        for words in map(shlex.split, block.splitlines()):
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert stop.value.code == 0, (words, capsys.readouterr().err)
            made = words[words.index("--out") + 1] if "--out" in words else words[3]
            assert (tmp_path / made / ("run.json" if "--out" in words else "config.json")).is_file()


def test_the_page_of_the_audit_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    python, sh = re.findall(r"^```(?:python|sh)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    exec(compile(python, "audit.md", "exec"), {})
    monkeypatch.setattr(sys, "argv", shlex.split(sh))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert (tmp_path / "steps.csv").is_file()
    assert {*WORDS} <= {*re.findall(r"`([\w ]+)`", text)}


@pytest.mark.parametrize("page", AXES, ids=lambda page: page.stem)
def test_a_page_has_its_parts_and_its_picture(page):
    text = page.read_text(encoding="utf-8")
    parts = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert parts == ["What grows", "Formula", "Exact?", "Refused", "Use"]
    assert re.findall(r"\]\((\w+)\.png\)", text) == [page.stem]
    assert page.stem in entries()
    assert (FOLDER / f"{page.stem}.png").stat().st_size < 60_000
    assert f"({page.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (FOLDER / target).is_file(), target
    for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        named = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in named, f"{file}::{test}"


def test_the_readme_counts_families_as_their_table_does():
    readme, table = (ROOT / name for name in ("README.md", "docs/families.md"))
    rows = re.findall(r"^\| \S+ \| (exact|partly|refused) ", table.read_text("utf-8"), re.MULTILINE)
    said = re.search(
        r"Of the (\d+) .*, (\d+) clone exactly, (\d+) .* (\d+) are", readme.read_text()
    )
    kinds = (rows.count(kind) for kind in ("exact", "partly", "refused"))
    assert [*map(int, said.groups())] == [len(rows), *kinds]


def test_the_page_of_breakers_names_every_one_with_its_settings():
    text = PLAIN[0].read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| `(\S+)` \|", text, re.MULTILINE))
    assert {name: parse_breakers(f"{name}:{said}") for name, said in rows.items()} == {
        name: parse_breakers(name) for name in BREAKERS
    }
    assert all(set(BREAKERS[name]) == set(re.findall(r"(\w+)=", rows[name])) for name in BREAKERS)
