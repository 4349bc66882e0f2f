"""Notebooks as pages without a kernel or a network: executed, the sliders' pictures baked in.

python notebooks/gallery.py --out gallery
"""

import argparse
import base64
import html
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hcviz.io.files import check_free, fresh_folder

HERE = Path(__file__).resolve().parent
FREEZE = f"import sys\n\nsys.path.insert(0, {str(HERE)!r})\nimport gallery\n\ngallery.freeze()"
"""The first cell of every notebook while it is executed; it is not in the page."""
MOST_FRAMES = 64
MARK = "<title>hcviz: notebooks</title>"
"""By this line of its first page a gallery is known, and may be replaced."""
INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
{mark}
<style>
  body {{ font: 17px/1.5 system-ui, sans-serif; color: #222; max-width: 44em; margin: 3em auto;
    padding: 0 1em; }}
  ol {{ list-style: none; padding: 0; }}
  a {{ color: #0b3c8c; font-weight: 600; font-size: 1.1em; }}
  p {{ margin: 0.2em 0 1.2em; }}
</style>
<h1>hcviz</h1>
<p>See what a widened language model makes of its copies. These pages need no kernel and no network;
their sliders move.</p>
<ol>
{links}
</ol>
"""
PAGE = """<div class="hcviz-frames" style="margin:.5em 0">{controls}
<button type="button">play</button><pre></pre><img style="max-width:100%" alt="{alt}">
<script type="application/json">{frames}</script></div>
<script>(() => {{
  const box = document.currentScript.previousElementSibling, timers = [];
  const frames = JSON.parse(box.querySelector("script").textContent);
  const inputs = [...box.querySelectorAll("input, select")];
  const last = inputs[inputs.length - 1], most = () => Number(last.max || last.length - 1);
  const at = (one) => one.tagName === "SELECT" ? one.selectedIndex : Number(one.value);
  const show = () => {{
    const frame = frames[inputs.map(at).join("-")];
    box.querySelector("img").src = frame.image;
    box.querySelector("pre").textContent = frame.text;
    for (const one of inputs)
      if (one.max) one.nextElementSibling.textContent = JSON.parse(one.dataset.values)[one.value];
  }};
  const next = () => {{
    const to = (at(last) + 1) % (most() + 1);
    if (last.max) last.value = to; else last.selectedIndex = to;
    show();
  }};
  for (const one of inputs) one.addEventListener("input", show);
  box.querySelector("button").addEventListener("click", (event) => {{
    if (timers.length) clearInterval(timers.pop()); else timers.push(setInterval(next, 600));
    event.target.textContent = timers.length ? "pause" : "play";
  }});
  show();
}})();</script>"""


def frozen(
    choices: Mapping[str, Sequence[Any]],
    frames: Mapping[tuple[int, ...], tuple[bytes, str]],
    start: Sequence[int],
) -> str:
    """Return HTML with a slider per choice (a list for words), and a picture for every setting.

    Args:
        choices: Name -> its values.
        frames: Index of each value -> PNG and text.
        start: The indices to begin with.

    Example:
        >>> page = frozen({"step": [0, 9]}, {(0,): (b"", "a"), (1,): (b"", "b")}, [1])
        >>> page.count('type="range" min="0" max="1" value="1"')
        1
    """
    controls = []
    for (name, values), first in zip(choices.items(), start, strict=True):
        label, said = (
            html.escape(name),
            [f"{v:g}" if isinstance(v, float) else str(v) for v in values],
        )
        if isinstance(values[0], str):
            options = "".join(
                f"<option{' selected' * (i == first)}>{html.escape(one)}</option>"
                for i, one in enumerate(said)
            )
            controls.append(f"<label>{label} <select>{options}</select></label> ")
        else:
            controls.append(
                f'<label>{label} <input type="range" min="0" max="{len(said) - 1}" value="{first}" '
                f"data-values='{json.dumps(said)}'><output></output></label> "
            )
    data = {
        "-".join(map(str, key)): {
            "image": f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else "",
            "text": text,
        }
        for key, (png, text) in frames.items()
    }
    whole = json.dumps(data).replace("<", "\\u003c")
    return PAGE.format(controls="".join(controls), alt=", ".join(choices), frames=whole)


def freeze() -> None:
    """Let explore() and ipywidgets.interact show frozen pages from now on, in this process."""
    import ipywidgets

    from hcviz.views.explore import View

    View._repr_mimebundle_ = lambda view, **_: {"text/html": _frozen_view(view)}
    ipywidgets.interact = _interact


def _frozen_view(view: Any) -> str:
    """Return the frames of an explorer: a list of tensors and a slider over the steps."""
    made = view.frames()
    choices = {"tensor": list(made), "step": view.canvas.steps}
    frames = {(i, j): (p, "") for i, one in enumerate(made.values()) for j, p in enumerate(one)}
    return frozen(choices, frames, [0, view.slider.index])


def _interact(**options: Any) -> Callable[[Callable], Callable]:
    """Call a function with every setting, at most MOST_FRAMES, and show the pictures it draws."""
    import ipywidgets
    from IPython.display import HTML, display

    def decorate(function: Callable) -> Callable:
        made = ipywidgets.interactive(function, {"manual": True}, **options)
        controls = {one.description: one for one in made.kwargs_widgets}
        choices = thin({name: _values(one) for name, one in controls.items()})
        frames = {}
        for key in itertools.product(*(range(len(values)) for values in choices.values())):
            setting = {
                name: values[i] for i, (name, values) in zip(key, choices.items(), strict=True)
            }
            frames[key] = _picture(function, setting)
        start = [
            min(range(len(values)), key=lambda i: _far(values[i], controls[name].value))
            for name, values in choices.items()
        ]
        display(HTML(frozen(choices, frames, start)))
        return function

    return decorate


def thin(choices: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Take every second value of the longest choice until all settings fit MOST_FRAMES.

    Example:
        >>> [len(values) for values in thin({"a": range(21), "b": range(21)}).values()]
        [6, 6]
    """
    kept = dict(choices)
    while _product(kept.values()) > MOST_FRAMES:
        longest = max(kept, key=lambda name: len(kept[name]))
        kept[longest] = kept[longest][::2]
    return kept


def _product(values: Iterable[Sequence]) -> int:
    found = 1
    for one in values:
        found *= len(one)
    return found


def _far(value: Any, wanted: Any) -> float:
    """Return how far a value is from the wanted one; words are equal or not."""
    return float(value != wanted) if isinstance(value, str) else abs(value - wanted)


def _values(control: Any) -> list[Any]:
    """Return the values that a control offers."""
    if hasattr(control, "_options_values"):
        return list(control._options_values)
    count = round((control.max - control.min) / control.step)
    return [control.min + i * control.step for i in range(count + 1)]


def _picture(function: Callable, setting: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the figure that a call draws, as PNG, and the text that it prints."""
    import contextlib

    from matplotlib import pyplot as plt

    plt.close("all")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        function(**setting)
    buffer = io.BytesIO()
    if plt.get_fignums():
        plt.gcf().savefig(buffer, format="png", dpi=80)
    plt.close("all")
    return buffer.getvalue(), said.getvalue()


def render(notebook: Path, **parameters: Any) -> str:
    """Execute a notebook in its folder and return it as one HTML page that needs nothing else.

    Args:
        notebook: The file.
        parameters: Set after the cell tagged ``parameters``.
    """
    import nbformat
    from client import Client
    from nbconvert import HTMLExporter

    pages = nbformat.read(notebook, as_version=4)
    for cell in pages.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    pages.cells.insert(0, nbformat.v4.new_code_cell(FREEZE))
    place = {"metadata": {"path": str(notebook.parent)}}
    Client(pages, timeout=600, kernel_name="python3", resources=place).execute()
    pages.cells.pop(0)
    pages.metadata.pop("widgets", None)
    addresses = ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url")
    # without embed_images: it takes HTML apart, and closes every <details> before its answer
    exporter = HTMLExporter(template_name="lab", **dict.fromkeys(addresses, ""))
    return exporter.from_notebook_node(pages, {"metadata": {"name": notebook.stem}})[0]


def heading(notebook: Path) -> tuple[str, str]:
    """Return a notebook's title and the first paragraph below it, as plain text."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    first = next((cell.source for cell in cells if cell.cell_type == "markdown"), "")
    title, *rest = [part.replace("\n", " ") for part in first.split("\n\n")]
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", rest[0] if rest else "")
    return title.lstrip("# ") or notebook.stem, plain


def is_gallery(folder: Path) -> bool:
    """Tell whether a folder holds a gallery and nothing else, so that a new one may replace it.

    Example:
        >>> import tempfile
        >>> is_gallery(Path(tempfile.mkdtemp()))
        False
    """
    index = folder / "index.html"
    text = index.read_text(encoding="utf-8", errors="replace") if index.is_file() else ""
    made = {index.name, *(html.unescape(name) for name in re.findall(r'<a href="(.*?)">', text))}
    return MARK in text and {path.name for path in folder.iterdir()} <= made


def main(words: Sequence[str] | None = None) -> None:
    """Render notebooks into a folder, with an index; it replaces an earlier gallery, no more.

    Raises:
        HcvizError: If the folder holds anything else, and ``--overwrite`` is not given.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")))
    parser.add_argument("--out", type=Path, default=Path("gallery"))
    parser.add_argument("--overwrite", action="store_true", help="replace whatever OUT holds")
    options = parser.parse_args(words)
    check_free(options.out, overwrite=options.overwrite or is_gallery(options.out))
    with fresh_folder(options.out, overwrite=True) as folder:
        links = []
        for notebook in options.notebooks:
            page = folder / f"{notebook.stem}.html"
            page.write_text(render(notebook), encoding="utf-8")
            title, lead = heading(notebook)
            links.append(
                '<li><a href="{}">{}</a><p>{}</p></li>'.format(
                    *map(html.escape, (page.name, title, lead))
                )
            )
            print(f"{options.out / page.name}: {page.stat().st_size / 1e6:.1f} MB", flush=True)
        index = INDEX.format(mark=MARK, links="\n".join(links))
        (folder / "index.html").write_text(index, encoding="utf-8")


if __name__ == "__main__":
    main()
