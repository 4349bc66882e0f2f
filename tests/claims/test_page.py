"""The page of claims, from made-up frames: every figure, every verdict, nothing typed."""

import re

import matplotlib.pyplot as plt
import pytest
import recordings

from hcviz.claims import frames as module
from hcviz.claims.claim import claims
from hcviz.claims.figures import FIGURES, show
from hcviz.claims.page import write_page
from hcviz.claims.reproduce import verdicts, verdicts_of
from hcviz.errors import HcvizError


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    (data / "claims").mkdir()
    for claim in claims().values():
        (data / "claims" / claim.path.name).write_bytes(claim.path.read_bytes())
    recordings.write(data / "runs" / "long", sources=(recordings.HALF, "nano:opt-half"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "data_folder", lambda: data)
        out = tmp_path_factory.mktemp("figures")
        yield out, write_page(out), verdicts()


def test_every_claim_has_a_row_with_its_verdict(page):
    out, _, table = page
    text = (out / "README.md").read_text(encoding="utf-8")
    for one in table.itertuples():
        [row] = [line for line in text.splitlines() if f'id="{one.claim}"' in line]
        assert f"**{one.verdict}**" in row
        assert one.title in row
        assert one.note in row
    assert f"Of {len(table)} claims:" in text


def test_every_picture_is_there_and_every_figure_says_what_the_paper_shows(page):
    out, written, _ = page
    text = (out / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert {path.name for path in written if path.suffix == ".png"} == set(pictures)
    assert all((out / name).is_file() for name in pictures)
    assert "figure-2-opt.png" in pictures
    assert "*opt, accuracy*\n\n![Figure 2](figure-2-opt-accuracy.png)" in text
    assert "figure-9.png" not in pictures  # nothing of it was run
    assert FIGURES["figure_5".replace("_", "-")].__doc__.splitlines()[0] in text


def test_each_figure_lists_its_claims(page):
    out, _, table = page
    text = (out / "README.md").read_text(encoding="utf-8")
    section = text.split("## Figure 7")[1].split("## ")[0]
    for one in table[table["figure"] == "figure-7"].itertuples():
        assert f"**{one.verdict}** · {one.title}" in section


def test_a_family_is_compared_once_all_arms_have_their_seeds():
    made = recordings.tables(sources=(recordings.HALF, "nano:opt-half"))
    lacking = "source == 'nano:opt-half' and arm == 'diagonal' and seed == 2"
    less = {name: table.drop(table.query(lacking).index) for name, table in made.items()}
    for tables, families in ((made, ["gpt-neox", "opt"]), (less, ["gpt-neox"])):
        found = FIGURES["figure-7"]({"long": module.Frames(**tables)})
        assert [family for family, _ in found] == families
    plt.close("all")


def test_one_figure_and_its_verdicts_are_a_call_each(page, capsys):
    table = page[2]
    plt.close("all")
    assert show("figure-2", "opt").get_xlabel() == "training tokens"
    assert len(plt.get_fignums()) == 1  # the other families' are closed
    assert show("figure-9") is None
    assert capsys.readouterr().out == "figure-9: these runs are not recorded yet.\n"
    found, wanted = verdicts_of("figure-7"), table[table["figure"] == "figure-7"]
    assert found["verdict"].to_dict() == dict(zip(wanted["title"], wanted["verdict"], strict=True))
    none = found[found["verdict"] == "no runs yet"]
    assert (none[["effect", "interval"]] == "").all(axis=None)
    effect = "-0.08 nats/token (gpt-neox-half -0.08, opt-half -0.08)"
    assert found.loc["Noise of 10 dB changes nothing at the end", "effect"] == effect
    assert len(verdicts_of()) == len(table)
    with pytest.raises(HcvizError, match=r"'rates' or drawn in it.*figure-7.*clone-better"):
        verdicts_of("rates")
