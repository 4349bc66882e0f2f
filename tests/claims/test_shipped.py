"""The pages that ship say what the recorded frames say: no number in them is typed."""

import re

import pytest
import scripts

from hcviz.claims.claim import claims
from hcviz.claims.figures import FIGURES
from hcviz.claims.frames import is_recorded, open_frames
from hcviz.claims.page import section, tables
from hcviz.claims.reproduce import verdicts

PAGE = scripts.ROOT / "figures" / "README.md"


@pytest.fixture(scope="module")
def table():
    return verdicts()


def test_the_page_of_claims_is_that_of_the_frames(table):
    text = PAGE.read_text(encoding="utf-8")
    names = sorted({claim.recording for claim in claims().values() if claim.recording})
    recorded = {name: open_frames(name) for name in names if is_recorded(name)}
    assert text.startswith(tables(recorded, table)), "hcviz reproduce --figures"
    for name in FIGURES:
        pictures = re.findall(rf"!\[{name.replace('-', ' ').capitalize()}\]\((.*?)\.png\)", text)
        assert not pictures or section(name, pictures, table) in text, "hcviz reproduce --figures"
        assert all((PAGE.parent / f"{picture}.png").is_file() for picture in pictures)


def test_the_guide_is_that_of_the_frames(table):
    guide = scripts.load("docs/guide.py")
    assert guide.PAGE.read_text(encoding="utf-8") == guide.page(), "python docs/guide.py"
    told = guide.TEXT.read_text(encoding="utf-8")
    cited = set(re.findall(r"\{([\w-]+)\}", told)) & set(table["claim"])
    assert len(cited) >= 20


def test_a_number_that_was_typed_is_seen(table):
    guide = scripts.load("docs/guide.py")
    row = table.set_index("claim").loc["lock-costs"]
    assert f"{row['effect']:.3g}" in guide.said("lock-costs", table.set_index("claim"))
