"""Every command and every line of Python in the README runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hcviz import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(tool: str) -> list[list[str]]:
    lines = "".join(blocks("sh")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{tool} ")]


def test_the_commands_run_in_order_and_leave_what_they_say(tmp_path, monkeypatch, capsys):
    """The commands are hcviz clone, verify, deepen, declone, train, measure, evaluate, audit,
    figures, reproduce and dry-run."""
    monkeypatch.chdir(tmp_path)
    ran = []
    for words in commands("hcviz"):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0, (words, capsys.readouterr().err)
        ran.append(words[1])
    assert ran == [
        "clone",
        "clone",
        "verify",
        "clone",
        "deepen",
        "declone",
        "train",
        "measure",
        "evaluate",
        "plot",
        "diff",
        "audit",
        "figures",
        "reproduce",
        "dry-run",
    ]
    for place in (
        "wide-llama/README.md",
        "wider-llama/model.safetensors.index.json",
        "narrow-llama/losses.csv",
        "runs/wide/run.json",
        "ledger.csv",
        "pictures/ledger.svg",
    ):
        assert (tmp_path / place).is_file(), place


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_make_targets_exist(words):
    """A dry run of each, for they call this test or a browser."""
    assert words[1] in ("demo", "test", "browser", "lab", "app", "gallery")
    done = subprocess.run(["make", "-n", words[1]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [source] = blocks("python")
    scope = {}
    exec(compile(source, "README.md", "exec"), scope)
    assert {"R", "H", "N"} == set(scope["frame"].query("metric == 'ledger'")["axis"])


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target
