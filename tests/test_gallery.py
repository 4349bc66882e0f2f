"""Pages without a kernel: what is baked in, and that nothing is asked of a network."""

import base64
import io
import json
import re

import nbformat
import pytest
import scripts
from bs4 import BeautifulSoup
from PIL import Image

import hcviz
from hcviz.errors import HcvizError

gallery = scripts.load("notebooks/gallery.py")

CELLS = {
    "parameters": "WIDE = 2",
    "drawn": """from ipywidgets import interact
from matplotlib import pyplot as plt

@interact(k=(1, 3), name=["a </script>", "b"])
def draw(k=2, name="b"):
    print(name, k * WIDE)
    plt.figure(figsize=(k, 1))""",
    "said": """plt.figure()  # left open

@interact(k=(1, 3))
def say(k=2):
    print(k)""",
    "view": "import hcviz\n\nhcviz.explore(hcviz.recorded('demo').runs)",
}

ANSWER = "<details><summary>Answer</summary>\n\nIt is **seven**.\n</details>\n\n## Next"


def baked(page):
    """Return what every slider of a page holds: setting -> image and text."""
    found = re.findall(r'<script type="application/json">(.*?)</script></div>', page, re.DOTALL)
    return [json.loads(one) for one in found]


def image(frame):
    kind, _, data = frame["image"].partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    notebook = nbformat.v4.new_notebook()
    for tag, source in CELLS.items():
        notebook.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}))
    notebook.cells.append(nbformat.v4.new_markdown_cell(ANSWER))
    path = tmp_path_factory.mktemp("gallery") / "small.ipynb"
    nbformat.write(notebook, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)  # the kernel draws as in a real session
        patch.setenv("PYTHONPATH", str(scripts.ROOT))
        return gallery.render(path, WIDE=5)


def test_interact_is_baked_in_at_every_setting(page):
    frames = baked(page)[0]
    assert set(frames) == {f"{k}-{name}" for k in range(3) for name in range(2)}
    assert frames["2-0"]["text"] == "a </script> 15\n"  # and with the parameter of this run
    assert [image(frames[f"{k}-1"]).width for k in range(3)] == [80, 160, 240]


def test_an_answer_is_folded_until_it_is_asked_for(page):
    [folded] = BeautifulSoup(page, "html.parser").find_all("details")
    assert folded.find("strong").text == "seven"
    assert not folded.find("h2")


def test_explore_is_baked_in_at_every_step(page):
    frames = baked(page)[2]
    steps = len(hcviz.recorded("demo").runs[0].steps)
    assert set(frames) == {f"0-{step}" for step in range(steps)}
    pictures = {frame["image"] for frame in frames.values()}
    assert len(pictures) == steps
    assert image(frames["0-0"]).width > 1000


def test_a_page_begins_where_the_notebook_does(page):
    drawn = BeautifulSoup(page, "html.parser")
    sliders = drawn.select(".hcviz-frames input")
    assert drawn.select_one("option[selected]").text == "b"
    last = str(len(hcviz.recorded("demo").runs[0].steps) - 1)
    assert [(one["max"], one["value"]) for one in sliders] == [("2", "1"), ("2", "1"), (last, last)]


def test_a_page_needs_no_network_and_no_kernel(page):
    assert not re.findall(r'<(?:script|img|iframe)[^>]* src="(?!data:)[^"]+"', page)
    assert not re.findall(r'<link[^>]* href="(?!data:)[^"]+"', page)
    assert "widget-view+json" not in page
    assert gallery.FREEZE.splitlines()[-1] not in page
    assert len(page) < 10e6


def test_an_error_stops_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "FREEZE", "")  # nothing to freeze: hcviz need not be loaded
    path = tmp_path / "wrong.ipynb"
    cells = [nbformat.v4.new_code_cell("raise ValueError('on purpose')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(Exception, match="on purpose"):
        gallery.render(path)


def test_many_settings_are_thinned_evenly():
    kept = gallery.thin({"a": range(21), "b": [0, 1]})
    assert [*kept["a"]] == [*range(21)]
    assert [*gallery.thin({"a": range(100), "b": [0, 1]})["a"]] == [*range(0, 100, 4)]


def test_a_call_that_draws_nothing_gives_its_text(page):
    assert baked(page)[1]["2"] == {"image": "", "text": "3\n"}


def test_a_heading_is_the_title_and_the_first_paragraph_as_plain_text(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# A *title*\n\nRead [this](a.md),\nthen `that`.\n\nMore")
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    assert gallery.heading(tmp_path / "a.ipynb") == ("A *title*", "Read this, then that.")


@pytest.fixture
def one(tmp_path, monkeypatch):
    """Return a call that makes a gallery of one notebook, which nobody executes."""
    path = tmp_path / 'first & "second".ipynb'
    cells = [nbformat.v4.new_markdown_cell("# First")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    monkeypatch.setattr(gallery, "render", lambda notebook: "a page")
    return lambda out, *words: gallery.main([str(path), "--out", str(out), *words])


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "index.html/x", "page.html"])
def test_a_folder_that_is_no_gallery_is_not_replaced(name, one, tmp_path):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(HcvizError, match=r"out already exists.*--overwrite"):
        one(tmp_path / "out")
    assert mine.read_text() == "mine"
    one(tmp_path / "out", "--overwrite")
    assert len([*(tmp_path / "out").iterdir()]) == 2


def test_a_file_is_not_replaced(one, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(HcvizError, match="out already exists"):
        one(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_gallery_is_made_again_until_it_holds_more_than_that(one, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(2):
        one(out)
        assert len([*out.iterdir()]) == 2
    (out / "mine.txt").write_text("mine")
    with pytest.raises(HcvizError, match="out already exists"):
        one(out)
    assert (out / "mine.txt").read_text() == "mine"
