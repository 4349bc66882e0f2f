"""Every notebook runs from top to bottom in a fresh kernel; an error inside a widget counts too."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def execute(path, tmp_path, **parameters):
    notebook = nbformat.read(path, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    return client.execute()


def hidden_errors(notebook):
    """Return the errors inside Output widgets, which do not stop a notebook."""
    states = notebook.metadata.get("widgets", {}).values()
    models = [model for state in states for model in state.get("state", {}).values()]
    outputs = [out for model in models for out in model.get("state", {}).get("outputs", [])]
    return [out for out in outputs if out.get("output_type") == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("live", [False, True], ids=["recorded", "live"])
def test_notebook_runs(path, live, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel draws as in a real session
    done = execute(path, tmp_path, LIVE=live, STEPS=2)
    assert not hidden_errors(done)
    kinds = [
        kind
        for cell in done.cells
        for out in cell.get("outputs", [])
        for kind in out.get("data", {})
    ]
    drawn = sum("hcviz.plots." in c.source for c in done.cells if c.cell_type == "code")
    assert kinds.count("image/png") == drawn > 1
    assert "application/vnd.jupyter.widget-view+json" in kinds
    assert list(tmp_path.iterdir()) == ([tmp_path / "runs"] if live else [])


def test_an_error_inside_a_widget_is_seen():
    cell = "import ipywidgets as w\no = w.Output()\nwith o:\n    raise ValueError('hidden')\no"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    done = NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert [error["evalue"] for error in hidden_errors(done)] == ["hidden"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_thin(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 8
            assert "def " not in cell.source
