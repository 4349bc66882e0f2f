"""Claims as files: all of them are whole, and a damaged one is refused with file and field."""

import pytest

from hcviz.claims.claim import KINDS, claims, find_claim, read_claim
from hcviz.claims.figures import FIGURES
from hcviz.claims.quantities import QUANTITIES
from hcviz.errors import HcvizError
from hcviz.views.arms import ARMS

ALL = claims()
TEXT = """title = "t"
said = "s"
where = "w"
kind = "doubt"
[runs]
recording = "long"
sources = ["nano:gpt-neox-half"]
[measure]
what = "loss"
arm = "symmetric"
against = "random init"
[test]
expect = "below"
"""


def test_there_are_claims_of_every_kind():
    kinds = [claim.kind for claim in ALL.values()]
    assert len(ALL) >= 24
    assert kinds.count("follow-up") >= 8
    assert set(kinds) == set(KINDS)


@pytest.mark.parametrize("claim", ALL.values(), ids=ALL)
def test_a_claim_names_what_is_there(claim):
    assert claim.measure.what in QUANTITIES
    assert claim.figure in FIGURES or not claim.recording
    assert claim.measure.unit
    for key in ("arm", "against"):
        arm = claim.measure.arguments.get(key, "symmetric")
        assert (arm if isinstance(arm, str) else arm["arm"]) in ARMS


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'kind = "doubt"',
            'kind = "hope"',
            "kind: Input should be 'paper', 'doubt' or 'follow-up', not 'hope'",
        ),
        ('title = "t"', "title = 3", "title: Input should be a valid string, not 3"),
        ('title = "t"\n', "", "title: Field required"),
        (
            'expect = "below"',
            'expect = "under"',
            "measure.expect: Input should be 'above', 'below' or 'equal'",
        ),
        (
            'expect = "below"',
            'expect = "below"\nbound = "0"',
            "measure.bound: Input should be a valid number, not '0'",
        ),
        (
            'recording = "long"',
            'recording = "long"\nseed = 3',
            "seed: Unexpected keyword argument, not 3",
        ),
        ("[measure]", "[measure", "cannot be read: "),
    ],
)
def test_a_damaged_claim_is_refused_with_file_and_field(tmp_path, old, new, said):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    with pytest.raises(HcvizError) as error:
        read_claim(path)
    assert said in str(error.value)
    assert "mine.toml" in str(error.value)


def test_an_unknown_claim_is_told_which_there_are():
    with pytest.raises(HcvizError, match="lock-holds"):
        find_claim("nothing")
