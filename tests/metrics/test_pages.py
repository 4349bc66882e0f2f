"""Every metric has a page in docs/metrics with its formula, its limits, a picture, its source.

Of all metrics, whatever their file.
"""

import ast
import re
from pathlib import Path

import pytest

from hcviz.metrics import METRICS, resolve

FOLDER = Path(__file__).parents[2] / "docs" / "metrics"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


def entries() -> set[str]:
    """The pictures that docs/metrics/make.py draws, read without running it."""
    for node in ast.parse((FOLDER / "make.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "PICTURES":
            return {key.value for key in node.value.keys}
    raise AssertionError("docs/metrics/make.py has no PICTURES")


def test_every_metric_is_on_a_page():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    missing = [name for name in METRICS if not any(f"`{name}`" in text for text in texts)]
    assert not missing, "write docs/metrics/NAME.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_has_its_parts(page):
    text = page.read_text(encoding="utf-8")
    parts = " ".join(re.findall(r"^## (.+)$", text, flags=re.MULTILINE)).lower()
    assert all(part in parts for part in ("formula", "sees", "blind to", "source"))
    pictures = re.findall(r"\]\((\w+)\.png\)", text)
    assert pictures
    assert set(pictures) <= entries()
    assert all((FOLDER / f"{name}.png").stat().st_size < 60_000 for name in pictures)
    for target in re.findall(r"\]\((\w+\.md)\)", text):
        assert (FOLDER / target).is_file(), target
    for name in re.findall(r"`((?:update|grad|exp_avg|exp_avg_sq)\.[\w.]+)`", text):
        resolve(name)
