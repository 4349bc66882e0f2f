"""Every notebook runs from top to bottom in a fresh kernel; an error inside a widget counts too."""

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest
from client import Client

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
VIEW = "application/vnd.jupyter.widget-view+json"


def execute(path, tmp_path, **parameters):
    notebook = nbformat.read(path, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    place = {"metadata": {"path": str(tmp_path)}}
    return Client(notebook, timeout=60, kernel_name="python3", resources=place).execute()


def hidden_errors(notebook):
    """Return the errors inside Output widgets, which do not stop a notebook."""
    states = notebook.metadata.get("widgets", {}).values()
    models = [model for state in states for model in state.get("state", {}).values()]
    outputs = [out for model in models for out in model.get("state", {}).get("outputs", [])]
    return [out for out in outputs if out.get("output_type") == "error"]


def kinds(cell):
    return {kind for out in cell.get("outputs", []) for kind in out.get("data", {})}


def sources(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


RUNS = [(path, True) for path in NOTEBOOKS] + [(FOLDER / "00_tour.ipynb", False)]


@pytest.mark.parametrize(
    ("path", "live"), RUNS, ids=lambda value: getattr(value, "stem", {True: "live"}.get(value))
)
def test_notebook_runs(path, live, tmp_path, monkeypatch):
    """With live cells of two steps; what is recorded is drawn either way."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel draws as in a real session
    done = execute(path, tmp_path, LIVE=live, STEPS=2)
    assert not hidden_errors(done)
    drawn = [kinds(cell) for cell in done.cells if "image/png" in kinds(cell)]
    assert len(drawn) > 1
    for cell in (cell for cell in done.cells if cell.cell_type == "code"):
        if "hcviz.plots." in cell.source:
            assert kinds(cell) & {"image/png", VIEW}, cell.source
        if live and "hcviz.watch(" in cell.source:
            assert kinds(cell) >= {"image/png", VIEW}, "a picture that grew, and a bar"
        if "hcviz.explore(" in cell.source or "@interact" in cell.source:
            assert VIEW in kinds(cell)
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_notebook_teaches(path):
    """Questions before folded answers, a live cell, exercises with solutions, a way to keep it."""
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert prose.count("**Predict first**") > 1
    kinds = [cell.cell_type for cell in notebook.cells]
    assert ("markdown", "markdown") not in itertools.pairwise(kinds), "a question apart"
    assert prose.count("<details>") == prose.count("</details>") > 1
    assert any("if LIVE:" in source for source in sources(notebook))
    assert any("hcviz.recorded(" in source for source in sources(notebook))
    assert [c for c in notebook.cells if "solution" in c.metadata.get("tags", [])]
    assert any("hcviz.plots.save(" in source for source in sources(notebook))
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", prose):
        assert (FOLDER / target).exists(), target


def test_an_error_inside_a_widget_is_seen():
    cell = "import ipywidgets as w\no = w.Output()\nwith o:\n    raise ValueError('hidden')\no"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    done = Client(notebook, timeout=60, kernel_name="python3").execute()
    assert [error["evalue"] for error in hidden_errors(done)] == ["hidden"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_thin(path):
    for source in sources(nbformat.read(path, as_version=4)):
        assert len(source.splitlines()) <= 9, source
        helpers = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
        assert all(len(helper.body) <= 3 for helper in helpers), source
