"""The shell around the package: environments that agree, a Makefile that works, papers in order."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import hcviz

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = "help setup demo test fuzz browser lint audit lab app gallery notebooks".split()
make = pytest.mark.skipif(
    not shutil.which("make") or sys.platform == "win32", reason="needs make and a unix shell"
)


def direct() -> list[Requirement]:
    """List what pyproject.toml asks for, with all extras."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def pins() -> dict[str, str]:
    """Read constraints.txt; every line of it must be an exact pin."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([\w.]+)", line).groups()
            assert canonicalize_name(name) not in found, f"{name} is pinned twice"
            found[canonicalize_name(name)] = version
    return found


def environment() -> tuple[dict, list[str]]:
    """Read environment.yml and the lines of its pip section."""
    whole = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    return whole, next(item["pip"] for item in whole["dependencies"] if isinstance(item, dict))


@pytest.mark.parametrize("requirement", direct(), ids=lambda requirement: requirement.name)
def test_dependency_is_pinned_within_its_range(requirement):
    pinned = pins().get(canonicalize_name(requirement.name))
    assert pinned, f"constraints.txt lacks {requirement.name}"
    assert requirement.specifier.contains(pinned)
    assert requirement.specifier, "a dependency needs a range"


def test_what_dependencies_need_is_pinned_too():
    """Follow the requirements of this environment; those of one platform only may stay open."""
    todo, seen = direct(), set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            lines = requires(requirement.name) or []
        except PackageNotFoundError:  # an optional one of another platform
            continue
        for line in lines:
            child = Requirement(line)
            local = child.marker and re.search(r"platform|sys_|os_name", str(child.marker))
            extras = requirement.extras or {""}
            wanted = not child.marker or any(child.marker.evaluate({"extra": e}) for e in extras)
            if wanted and not local:
                todo.append(child)
    names = {name for name, _ in seen} - {"pip"}
    assert len(names) > 100
    assert names <= set(pins())


def test_torch_is_pinned_without_a_build():
    assert "+" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert pins()["torch"].count(".") == 2


def test_conda_installs_the_same():
    whole, pip = environment()
    assert whole["name"] == PROJECT["name"] == "hcviz"
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    assert "dev" in PROJECT["optional-dependencies"]
    conda = [item for item in whole["dependencies"] if isinstance(item, str)]
    assert "pip" in conda
    # everything else comes through pip, or two lists would have to agree
    assert {re.split(r"[=<>]", item)[0] for item in conda} == {"python", "pip"}


def test_conda_python_is_one_we_support():
    whole, _ = environment()
    python = next(item for item in whole["dependencies"] if str(item).startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python=") + ".9")


def test_supported_python_is_the_same_everywhere():
    assert PROJECT["requires-python"] == ">=3.11"
    assert "version_info < (3, 11)" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hcviz.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[?([\d.]+)", changelog, re.MULTILINE).group(1) == hcviz.__version__


def test_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["references"][0]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Samragh", "Mirzadeh", "Alizadeh Vahid", "Faghri", "Cho", "Nabi", "Naik", "Farajtabar",
    ]  # fmt: skip
    assert paper["title"].startswith("Scaling Smart")
    assert paper["year"] == 2024
    assert paper["identifiers"][0]["value"] == "arXiv:2409.12903"


def test_license_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert re.findall(r"^   (\d)\. ", text, re.MULTILINE) == list("123456789")
    assert "END OF TERMS AND CONDITIONS" in text


def test_hooks_need_no_network():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    names = {hook["id"] for repo in hooks["repos"] for hook in repo["hooks"]}
    assert names == {"ruff-check", "ruff-format", "nbstripout"}


def test_check_script_uses_make():
    script = ROOT / ".ci" / "run"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == [
        "make setup",
        "make lint",
        "make test",
    ]
    if sys.platform != "win32":
        assert os.access(script, os.X_OK)


@pytest.fixture
def copy(tmp_path):
    """A folder with the Makefile and what it reads, and stubs of python and uv that write a log."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    log = f'echo "$(basename $0) $*" >> "{tmp_path}/log"'
    fake = f"""#!/bin/sh
{log}
case "$*" in
  *version_info*) exit ${{OLD:-0}};;
  --version) echo Python 3.9.6;;
  *venv*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python";;
esac
"""
    for name in ("fakepython", "uv"):
        (stubs / name).write_text(fake, encoding="utf-8")
        (stubs / name).chmod(0o755)
    return tmp_path


def run(folder: Path, *words: str, uv: bool = False, **env: str) -> subprocess.CompletedProcess:
    """Run make in a copy, with the stub of uv on the path or with no uv at all."""
    outer = ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTHON", "ARGS")  # of `make test ARGS=...`
    clean = {k: v for k, v in os.environ.items() if k not in outer}
    path = [p for p in os.get_exec_path() if not Path(p, "uv").exists()]
    if uv:
        path.insert(0, str(folder / "stubs"))
    env = {**clean, "PATH": os.pathsep.join(path), **env}
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, env=env)


def calls(folder: Path) -> list[str]:
    log = folder / "log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


@make
@pytest.mark.parametrize("words", [[], ["help"]], ids=["default", "help"])
def test_help_prints_every_target(copy, words):
    done = run(copy, *words)
    assert done.returncode == 0
    phony = re.search(r"^\.PHONY: (.*)$", (copy / "Makefile").read_text(), re.MULTILINE).group(1)
    assert phony.split() == TARGETS
    for target in TARGETS:
        assert re.search(rf"^  {target} +\S+", done.stdout, re.MULTILINE), target


@make
def test_notebooks_makes_every_recording_that_ships(copy):
    run(copy, "setup", f"PYTHON={copy}/stubs/fakepython")
    for script in (ROOT / "data" / "runs").glob("*.py"):
        (copy / "runs" / script.stem / "frames").mkdir(parents=True)
        (copy / "runs" / script.stem / "frames" / "runs.parquet").touch()
    (copy / ".venv" / "bin" / "hcviz").symlink_to(copy / "stubs" / "uv")
    calls(copy)
    assert run(copy, "notebooks").returncode == 0
    asked = calls(copy)
    shipped = {folder.name for folder in (ROOT / "data" / "runs").iterdir() if folder.is_dir()}
    for name in shipped - {"demo", "__pycache__"}:
        assert f"python data/runs/{name}.py runs/{name}" in asked
        assert f"python data/runs/{name}.py runs/{name} --frames" in asked
        assert (copy / "data" / "runs" / name / "runs.parquet").exists()


@make
def test_setup_installs_once_with_the_constraints(copy):
    python = f"PYTHON={copy}/stubs/fakepython"
    assert run(copy, "setup", python).returncode == 0
    asked = calls(copy)
    assert "fakepython -m venv .venv" in asked
    assert asked[-1] == "python -m pip install -c constraints.txt -e .[dev]"
    assert run(copy, "setup", python).returncode == 0
    assert calls(copy) == []  # nothing has changed
    later = (copy / ".venv" / ".hcviz-installed").stat().st_mtime + 5
    os.utime(copy / "constraints.txt", (later, later))
    assert run(copy, "setup", python).returncode == 0
    again = calls(copy)
    assert again[-1] == asked[-1]
    assert not any("venv .venv" in call for call in again)


@make
def test_setup_prefers_uv(copy):
    assert run(copy, "setup", uv=True).returncode == 0
    first, second = calls(copy)
    assert first == "uv venv --seed .venv"
    assert second == "uv pip install --python .venv/bin/python -c constraints.txt -e .[dev]"


@make
def test_setup_passes_a_chosen_python_to_uv(copy):
    assert run(copy, "setup", "PYTHON=python3.12", uv=True).returncode == 0
    assert calls(copy)[0] == "uv venv --seed --python python3.12 .venv"


@make
def test_setup_refuses_an_old_python(copy):
    done = run(copy, "setup", f"PYTHON={copy}/stubs/fakepython", OLD="1")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.9.6" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (copy / ".venv").exists()


@make
def test_setup_names_a_python_that_is_missing(copy):
    done = run(copy, "setup", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "'no-such-python' was not found" in done.stderr


@make
@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("demo", ".venv/bin/hcviz demo"),
        ("test", ".venv/bin/python -m pytest -n 2 --dist loadfile"),
        ("lint", ".venv/bin/ruff format --check ."),
        ("lab", ".venv/bin/jupyter lab notebooks/00_tour.ipynb"),
        ("app", ".venv/bin/hcviz lab --app"),
        ("gallery", ".venv/bin/python notebooks/gallery.py"),
        ("notebooks", "done"),
    ],
)
def test_targets_install_first(copy, target, last):
    lines = run(copy, "--dry-run", target).stdout.strip().splitlines()
    assert lines[-1].strip().endswith(last)
    assert any("constraints.txt" in line for line in lines)


def test_shipped_data_stays_small():
    """A clone of the repository must not take minutes: 60 MB for all of data/."""
    size = sum(path.stat().st_size for path in (ROOT / "data").rglob("*") if path.is_file())
    assert size < 60e6
