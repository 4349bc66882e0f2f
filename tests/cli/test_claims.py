"""hcviz reproduce: the list, the page, one claim anew, and what is refused."""

import dataclasses
import re
import sys

import pandas as pd
import pytest

from hcviz import cli
from hcviz.claims import page, reproduce
from hcviz.claims.budget import Assumptions
from hcviz.claims.claim import claims, find_claim
from hcviz.claims.recipe import Job
from hcviz.claims.reproduce import Again
from hcviz.statistics.verdict import Verdict


@pytest.fixture
def hcviz(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["hcviz", "reproduce", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err

    return run


def test_all_claims_are_listed_with_their_verdicts(hcviz, monkeypatch):
    table = pd.DataFrame([dataclasses.asdict(Verdict("reproduced", -0.1, -0.2, 0.0, 3))])
    table = table.rename(columns={"name": "verdict", "seeds": "numbers"})
    table = table.assign(claim="lock-costs", unit="nats/token", title="The clone")
    monkeypatch.setattr(reproduce, "verdicts", lambda: table)
    code, out, _ = hcviz()
    assert code == 0
    assert "lock-costs" in out
    assert "reproduced" in out


@pytest.mark.parametrize(("after", "code"), [("reproduced", 0), ("not reproduced", 1)])
def test_a_claim_is_tested_anew(hcviz, monkeypatch, tmp_path, after, code):
    asked = {}

    def run(claim, out, **options):
        asked.update(options, out=out)
        return Again(claim, Verdict("reproduced"), Verdict(after))

    monkeypatch.setattr(reproduce, "reproduce", run)
    found, out, _ = hcviz("lock-costs", "--seeds", 2, "--steps", 5, "--out", tmp_path)
    assert found == code
    assert find_claim("lock-costs").title in out
    assert ("did not hold" in out) is bool(code)
    assert asked == {"seeds": 2, "steps": 5, "device": "cpu", "out": tmp_path}


def test_the_time_is_told_before_it_is_spent():
    claim = find_claim("lock-costs")
    assert "not recorded before" in reproduce.minutes_of(claim, [Job("mine", "symmetric", 1e-3)])


def test_the_page_is_written_where_asked(hcviz, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "write_page", lambda out: [out / "README.md"])
    code, out, _ = hcviz("--figures", "--out", tmp_path)
    assert (code, out.strip()) == (0, str(tmp_path / "README.md"))


def test_what_does_not_go_together_or_is_not_there_is_refused(hcviz):
    code, _, err = hcviz("lock-costs", "--figures")
    assert code == 2
    assert "leave the claim's name out" in err
    code, _, err = hcviz("hope")
    assert code == 2
    assert next(iter(claims())) in err


def test_a_claim_without_runs_is_judged_at_once(hcviz):
    code, out, _ = hcviz("table-2")
    assert code == 0
    assert "reproduced: 0" in out
    assert "no run is needed" in out
    assert find_claim("table-2").note in out


def test_the_dry_run_prints_what_the_paper_has_and_what_is_assumed(monkeypatch, capsys):
    words = ["hcviz", "dry-run", "opt-350m", "--assume", "gpus=8,utilisation=0.5"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for line in (
        r"layers\.\*\.fc1\.weight +24 of +4096 x 1024 -> 8192 x 2048",
        r"Parameters: 331,196,416 -> 1,240,633,344",
        r"heads +\[16, 32\] +as in table 1",
        r"betas +\[0\.9, 0\.999\] +as in table 2",
        r"warmup_iterations +24992 +as in table 2 to a whole step: 25000",
        r"tokens_per_iteration +131072 +DIFFERS: 65000",
        r"Memory +[\d.]+ GiB a GPU",
        r"GPU-hours .* on 8 GPUs  \[teraflops=989, utilisation=0\.5\]",
        r"Energy .* kWh  \[watts=700, pue=1\.2\]",
        r"hcviz clone facebook/opt-350m CLONE --hidden 2",
    ):
        assert re.search(line, out), line
    for assumption in dataclasses.fields(Assumptions):
        assert re.search(rf"^  {assumption.name} +[\d.]+", out, flags=re.MULTILINE)


@pytest.mark.parametrize("typed", ["fast", "gpus=many", "speed=3"])
def test_what_is_no_assumption_is_refused(monkeypatch, capsys, typed):
    monkeypatch.setattr(sys, "argv", ["hcviz", "dry-run", "opt-350m", "--assume", typed])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert typed.split("=")[-1] in (err := capsys.readouterr().err) or "speed" in err
