"""Sliders in a real browser: JupyterLab, Voila, and pages of the gallery without a kernel."""

from importlib.util import find_spec

import nbformat
import pytest
import scripts
from browser import conftest as browser

NOTEBOOKS = sorted((browser.ROOT / "notebooks").glob("*.ipynb"))


def calls(path, word: str) -> int:
    """Count a word in the code of a notebook; its prose may name it, too."""
    cells = nbformat.read(path, as_version=4).cells
    return sum(cell.source.count(word) for cell in cells if cell.cell_type == "code")


SLIDERS = [path for path in NOTEBOOKS if calls(path, "explore(") + calls(path, "@interact")]
IDLE = """() => {
  const session = window.jupyterapp.shell.currentWidget?.sessionContext?.session;
  return session?.kernel?.status === "idle" && !document.querySelector(".jp-Dialog");
}"""
RUN = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }"
DONE = """() => ![...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(
  (one) => /\\*|\\[ \\]/.test(one.textContent))"""


def drag(page, handle, by: int) -> None:
    """Drag the handle of a slider sideways with the mouse."""
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by, y, steps=6)
    page.mouse.up()


def changes(page, picture, act) -> None:
    """Do something and wait until the picture is another one."""
    before = picture.get_attribute("src")
    act()
    page.wait_for_function(
        "([one, before]) => one.src !== before", arg=[picture.element_handle(), before]
    )


def try_linked(page, view, picture) -> None:
    """Click in the map of layers, then move by keys: bookmark and picture follow."""
    cover = view.locator("[role=application]").first
    bookmark = view.get_by_role("textbox", name="bookmark")
    box = picture.bounding_box()
    place = {"x": 0.12 * box["width"], "y": 0.1 * box["height"]}
    seen = []
    for act in (
        lambda: cover.click(position=place),
        lambda: page.keyboard.press("ArrowRight"),
        lambda: page.keyboard.press("ArrowLeft"),
    ):
        before, drawn = bookmark.input_value(), picture.get_attribute("src")
        act()
        page.wait_for_function(
            "([one, before]) => one.value !== before", arg=[bookmark.element_handle(), before]
        )
        assert picture.get_attribute("src") != drawn
        seen.append(bookmark.input_value())
    assert "layer=1" in seen[0] == seen[2] != seen[1]
    view.get_by_role("checkbox", name="heads on a sentence").check()
    view.get_by_text("not a whole model").first.wait_for()


def try_explorer(page) -> None:
    """Move the step slider by mouse and keys, play, and read the copies under the mouse."""
    view = page.locator(".widget-vbox:has(.widget-play)").last
    picture = view.locator("img.widget-image").first
    handle = view.locator(".widget-slider .noUi-handle")
    handle.focus()
    page.keyboard.press("ArrowLeft")
    changes(page, picture, lambda: page.keyboard.press("ArrowLeft"))
    changes(page, picture, lambda: drag(page, handle, -120))
    handle.focus()
    changes(page, picture, lambda: page.keyboard.press("Home"))
    assert view.locator(".widget-readout").inner_text() == "0"
    changes(page, picture, lambda: page.keyboard.press("ArrowRight"))
    changes(page, picture, lambda: page.keyboard.press("ArrowRight"))  # the focus stays
    changes(page, picture, view.locator(".widget-play button").first.click)
    view.locator(".widget-play button").nth(0).click()  # pause
    widths = [one.bounding_box()["width"] for one in (picture, view.locator("svg"))]
    assert widths[0] == pytest.approx(widths[1], abs=1)
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    under = page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('use')?.getAttribute('href')",
        [box["x"] + 0.08 * box["width"], box["y"] + 0.42 * box["height"]],
    )
    assert page.locator(f"{under} title").first.text_content().startswith("row 0, column 0")
    try_linked(page, view, picture)


def try_interact(page, form) -> None:
    """Move the first slider or list of an interact cell; its figure or its text is another one."""
    before = form.locator(".widget-output").inner_html()
    if form.locator(".noUi-handle").count():
        drag(page, form.locator(".noUi-handle").first, 60)
    else:
        form.locator("select").first.select_option(index=1)
    page.wait_for_function(
        "([one, before]) => one.innerHTML !== before && one.querySelector('img')",
        arg=[form.locator(".widget-output").element_handle(), before],
    )


@pytest.mark.parametrize("path", SLIDERS, ids=lambda path: path.stem)
def test_notebook_in_jupyterlab(path, lab, page):
    page.goto(lab.format(path.name))
    page.wait_for_selector(".jp-Notebook")
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.wait_for_function(IDLE)
    page.evaluate(RUN)
    page.wait_for_selector(".widget-slider .noUi-handle, .widget-interact select")
    page.wait_for_function(DONE)
    assert not page.locator(".jp-OutputArea-output[data-mime-type*=error]").count()
    for number in range(page.locator(".widget-interact").count()):
        try_interact(page, page.locator(".widget-interact").nth(number))
    if calls(path, "explore("):
        try_explorer(page)
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")


def test_the_view_in_voila(tmp_path, page):
    if not find_spec("voila"):
        browser.missing("Voila is not installed: pip install -c constraints.txt -e '.[app]'")
    port = browser.free_port()
    notebook = tmp_path / "view.ipynb"
    cell = nbformat.v4.new_code_cell("import hcviz\n\nhcviz.explore(hcviz.recorded('demo').runs)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    run = (
        "import sys, subprocess, hcviz.cli as cli; call = subprocess.call; "
        f"cli.subprocess.call = lambda words, **o: call([*words, '--port={port}'], **o); "
        f"sys.argv = ['hcviz', 'lab', '--app', '--no-browser', {str(notebook)!r}]; cli.main()"
    )
    server = browser.serve(tmp_path, f"http://127.0.0.1:{port}/static/", "-c", run)
    try:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector(".widget-slider .noUi-handle")
        page.wait_for_load_state("networkidle")
        try_explorer(page)
        assert not page.locator(".jp-InputArea-editor").count()  # no code
    finally:
        browser.stop(server)


@pytest.mark.parametrize("path", SLIDERS, ids=lambda path: path.stem)
def test_page_of_the_gallery(path, tmp_path, page, monkeypatch):
    from playwright.sync_api import expect  # the page is there, so it is installed

    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel draws as in a real session
    monkeypatch.setenv("PYTHONPATH", str(browser.ROOT))
    scripts.load("notebooks/gallery.py").main([str(path), "--out", str(tmp_path / "gallery")])
    page.goto((tmp_path / "gallery" / "index.html").as_uri())
    page.get_by_role("link").first.click()
    boxes = page.locator(".hcviz-frames")
    expect(boxes).to_have_count(calls(path, "@interact") + calls(path, "explore("))
    for number in range(boxes.count()):
        box = boxes.nth(number)
        picture = box.locator("img")
        if box.locator("input").count():
            box.locator("input").last.focus()
            changes(page, picture, lambda: page.keyboard.press("Home"))
            changes(page, picture, lambda: page.keyboard.press("ArrowRight"))
        changes(page, picture, box.locator("button").click)
    assert page.evaluate("() => [...document.images].every((one) => one.src.startsWith('data:'))")
    assert (tmp_path / "gallery" / f"{path.stem}.html").stat().st_size < 10e6
