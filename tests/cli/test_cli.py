"""The command line: frozen options, exit codes, clear errors, nothing lost."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import tiny
from safetensors.torch import load_file, save_file

from hcviz import cli

OPTIONS = {
    "demo": "source out figures steps lr seed record overwrite",
    "clone": "hidden ffn heads kv-heads head-dim expert-ffn to-config expansion snr-db seed tie "
    "dtype max-shard-size check device overwrite keep-failed trust-remote-code",
    "verify": "dtype device csv trust-remote-code",
    "declone": "overwrite trust-remote-code",
    "deepen": "layers method overwrite trust-remote-code",
    "train": "out corpus steps batch-size context lr dropout breaker seed snapshots keep "
    "snapshot-dtype disk-budget metrics metric-tensors label device dtype overwrite grow-at",
    "measure": "metrics tensors steps out",
    "evaluate": "tasks steps limit harness out",
    "plot": "figure out tensors steps text",
    "diff": "factors top out",
    "audit": "revisions out",
    "figures": "out",
    "families": "out",
    "reproduce": "seeds steps out figures device",
    "dry-run": "assume",
    "lab": "app no-browser",
}
"""The options of every command. A new one is a decision: write it here."""


@pytest.fixture
def hcviz(monkeypatch, capsys):
    """Run a command in this process: (exit code, output, errors)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["hcviz", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err

    return run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "small"
    tiny.model("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_explains_every_option_and_none_is_new(hcviz, command):
    code, out, _ = hcviz(command, "--help")
    assert code == 0
    options = re.findall(
        r"--([a-z][a-z-]+)", re.sub(r"\([^)]*\)", "", out.partition(" options ")[2])
    )
    assert set(options) - {"help", "nproc"} == set(OPTIONS[command].split())
    assert len(out.splitlines()) > 10


def test_help_is_fast_to_load():
    code = "import sys, hcviz.cli; print(*{'torch', 'transformers', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_clone_then_verify(hcviz, source, tmp_path):
    code, out, _ = hcviz("clone", source, tmp_path / "wide", "--hidden", 3)
    assert code == 0
    assert "pass" in out
    assert "FAIL" not in out
    code, out, _ = hcviz("verify", source, tmp_path / "wide", "--csv", tmp_path / "card.csv")
    assert code == 0
    assert pd.read_csv(tmp_path / "card.csv")["passed"].all()


@pytest.mark.parametrize(
    ("words", "sizes", "expansion"),
    [
        (["--hidden", "1.5"], (24, 48, 6), "symmetric"),
        (["--head-dim", 2, "--expansion", "ffn=random,heads=diagonal"], (32, 64, 4), "random"),
        (["--to-config", "hidden_size=24,intermediate_size=40"], (24, 40, 6), "symmetric"),
        (["--expansion", "noisy-symmetric", "--snr-db", "up_proj=20"], (32, 64, 8), "symmetric"),
    ],
)
def test_clone_takes_the_same_words_as_python(hcviz, source, tmp_path, words, sizes, expansion):
    code, out, err = hcviz("clone", source, tmp_path / "wide", *words)
    assert code == 0, out + err
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    fields = ("hidden_size", "intermediate_size", "num_attention_heads")
    assert tuple(config[field] for field in fields) == sizes
    assert expansion in str(config["hcviz"]["expansion"])


def test_shares_come_from_a_file(hcviz, source, tmp_path):
    (tmp_path / "shares.json").write_text('{"up_proj": [[0.7, 0.3], [0.4, 0.6]]}')
    words = ["clone", source, tmp_path / "wide", "--expansion"]
    assert hcviz(*words, tmp_path / "shares.json")[0] == 0
    assert "0.7" in (tmp_path / "wide" / "config.json").read_text()
    code, _, err = hcviz(*words, tmp_path / "none.json", "--overwrite")
    assert code == 2
    assert "none.json cannot be read" in err


def test_deepen_saves_a_model_that_computes_the_same(hcviz, source, tmp_path):
    code, out, err = hcviz("deepen", source, tmp_path / "deep", "--layers", 3)
    assert code == 0, err
    assert "saved in" in out
    code, out, _ = hcviz("deepen", source, tmp_path / "stack", "--layers", 4, "--method", "stack")
    assert code == 0
    assert "NOT" in out


def test_verify_fails_a_clone_with_halved_logits(hcviz, source, tmp_path):
    hcviz("clone", source, tmp_path / "wide")
    weights = load_file(tmp_path / "wide" / "model.safetensors")
    head = "lm_head.weight"
    save_file(
        {**weights, head: weights[head] / 2},
        tmp_path / "wide" / "model.safetensors",
        {"format": "pt"},
    )
    code, out, _ = hcviz("verify", source, tmp_path / "wide")
    assert code == 1
    assert re.search(r"logit scale off by +0\.5 .*FAIL", out)
    assert re.search(r"top-1 agreement.*pass", out)


def test_a_failing_clone_is_not_left_behind_unless_told_to(hcviz, source, tmp_path, monkeypatch):
    from hcviz.cloning.transfer import Transfer

    make = Transfer.make

    def halved(self, *args, **kwargs):
        made = make(self, *args, **kwargs)
        return {name: t / (1 + ("lm_head" in name)) for name, t in made.items()}

    monkeypatch.setattr(Transfer, "make", halved)
    code, _, err = hcviz("clone", source, tmp_path / "wide")
    assert code == 1
    assert "--keep-failed" in err
    assert not (tmp_path / "wide").exists()
    code, _, _ = hcviz("clone", source, tmp_path / "wide", "--keep-failed")
    assert code == 0
    assert (tmp_path / "wide" / "model.safetensors").exists()


def test_a_model_grows_inside_a_run(hcviz, source, tmp_path):
    text, run = tiny.write_text(tmp_path), tmp_path / "run"
    words = ["train", source, "--out", run, "--corpus", text, "--steps", 3, "--snapshots", 2]
    words += ["--context", 16, "--batch-size", 2, "--grow-at"]
    code, out, _ = hcviz(*words, "1=hidden=2", "2=layers=3")
    assert code == 0
    assert f"the run is in {run}" in out
    config = json.loads((run / "checkpoint-3" / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"]) == (32, 3)
    code, _, err = hcviz(*words, "hidden=2", "--overwrite")
    assert code == 2
    assert "does not begin with a step" in err


def test_train_measure_and_figures(hcviz, source, tmp_path):
    hcviz("clone", source, tmp_path / "wide")
    text = tiny.write_text(tmp_path)
    train = ["train", tmp_path / "wide", "--out", tmp_path / "run", "--corpus", text, "--steps", 2]
    code, out, _ = hcviz(*train, "--context", 16, "--batch-size", 2, "--snapshots", 2)
    assert code == 0
    assert re.search(r"held-out loss \d\.\d+ -> \d\.\d+", out)
    code, out, _ = hcviz("measure", tmp_path / "run", "--metrics", "ledger")
    assert code == 0
    assert re.search(r"ledger +N", out)
    for name in ("table.csv", "table.parquet", "table.json"):
        assert hcviz("measure", tmp_path / "run", "--out", tmp_path / name)[0] == 0
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(
        pd.read_parquet(tmp_path / "table.parquet")
    )
    assert len(pd.read_json(tmp_path / "table.json")) == len(pd.read_csv(tmp_path / "table.csv"))
    code, out, _ = hcviz("plot", tmp_path / "run", "--figure", "cosine", "--out", tmp_path / "c")
    assert code == 0
    assert {path.name for path in tmp_path.glob("c.*")} == {"c.png", "c.svg", "c.csv", "c.json"}
    code, out, _ = hcviz("diff", source, tmp_path / "run", "--out", tmp_path / "diff.csv")
    assert code == 0
    assert re.search(r"(\d+) tensors, \1 of them moved", out)
    assert pd.read_csv(tmp_path / "diff.csv")["symmetric"].gt(0).all()
    code, out, _ = hcviz("figures", tmp_path / "run", "--out", tmp_path / "figures")
    assert code == 0
    assert "run: locked" in out
    assert (tmp_path / "figures" / "ledger.png").is_file()


def test_declone_says_what_was_lost_and_saves_it(hcviz, source, tmp_path):
    wide, small = tmp_path / "wide", tmp_path / "small"
    hcviz("clone", source, wide, "--check", "twin", "--max-shard-size", "30KB")
    index = json.loads((wide / "model.safetensors.index.json").read_text())
    file = wide / index["weight_map"]["lm_head.weight"]
    weights = load_file(file)
    weights["lm_head.weight"][:, :16] *= 1.5  # the copies part; the fixture's hidden size is 16
    save_file(weights, file, {"format": "pt"})
    code, out, err = hcviz("declone", wide, small)
    assert code == 0, err
    # halves 1.5 w/2 and 0.5 w: the mean 1.25 leaves 2 * 0.25**2 of 1.5**2 + 1 = 3.85 %
    assert re.search(r"lm_head.weight +3\.85%", out)
    losses = pd.read_csv(small / "losses.csv").set_index("tensor")
    head = weights["lm_head.weight"].square().sum().item()
    assert losses.loc["lm_head.weight", "squared_norm"] == pytest.approx(head)
    assert f"norm: {head * 0.125 / 3.25 / losses['squared_norm'].sum():.2%}" in out
    assert losses.loc["lm_head.weight", "lost"] == pytest.approx(0.125 / 3.25, rel=1e-4)
    assert losses.drop("lm_head.weight")["lost"].max() == 0
    assert load_file(small / "model.safetensors")["lm_head.weight"].shape == (2048, 16)
    assert (small / "tokenizer.json").exists()
    code, _, err = hcviz("declone", source, tmp_path / "none")
    assert code == 2
    assert "no config.hcviz" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clone", "nano:lama", "out"], r"nano:lama.*llama"),
        (["clone", "{source}", "{source}"], r"already exists.*--overwrite"),
        (["clone", "{source}", "out", "--hidden", "2", "--snr-db", "10"], "snr_db"),
        (["clone", "{source}", "out", "--heads", "2", "--kv-heads", "4"], "whole group"),
        (["clone", "{source}", "out", "--to-config", "hidden_size=x"], "int values"),
        (["deepen", "{source}", "out", "--layers", "1"], "layers=1"),
        (["clone", "{source}", "out", "--dtype", "int8"], "no floating dtype"),
        (["clone", "{source}", "out", "--max-shard-size", "5XB"], "5GB"),
        (["declone", "./nowhere", "out"], "nowhere"),
        (["verify", "{source}", "./nowhere"], "nowhere"),
        (["measure", "nowhere"], "nowhere"),
        (["measure", "nowhere", "--out", "x.txt"], "x.txt.*parquet"),
        (["train", "{source}", "--out", "run", "--steps", "0"], "steps"),
        (["train", "{source}", "--out", "run", "--corpus", "nothing.txt"], "nothing.txt"),
        (["figures"], "at least one run"),
        (["plot"], "at least one run"),
        (["diff", "{source}", "{source}", "--factors", "wide"], "hidden=2,ffn=2"),
        (["diff", "{source}", "./nowhere"], "nowhere"),
        (["lab", "nothing.ipynb"], "nothing.ipynb"),
    ],
)
def test_bad_input_is_one_clear_line(hcviz, source, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = hcviz(*[word.replace("{source}", str(source)) for word in words])
    assert code == 2
    assert re.search(message, err)
    assert "Traceback" not in err
    assert not list(Path().glob("*")), "something was left behind"


def test_a_truncated_checkpoint_is_named(hcviz, source, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in source.iterdir():
        data = path.read_bytes()
        (broken / path.name).write_bytes(
            data[: len(data) // 2] if path.suffix == ".safetensors" else data
        )
    code, _, err = hcviz("clone", broken, tmp_path / "out")
    assert code == 2
    assert "broken" in err
    assert not (tmp_path / "out").exists()


def test_lab_app_opens_voila_with_the_template_of_hcviz(hcviz, monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "find_spec", lambda name: name)
    monkeypatch.setattr(cli.subprocess, "call", lambda *a, **k: calls.append((a[0], k)) or 0)
    assert hcviz("lab", "--app", "--no-browser")[0] == 0
    [(words, options)] = calls
    assert words[1:3] == ["-m", "voila"]
    assert words[4:] == ["--template=hcviz", "--no-browser"]
    place = Path(options["env"]["JUPYTER_PATH"].split(cli.os.pathsep)[0])
    assert (place / "voila" / "templates" / "hcviz" / "index.html.j2").is_file()


def test_lab_app_without_voila_says_how_to_install_it(hcviz, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    code, _, err = hcviz("lab", "--app")
    assert code == 2
    assert re.search(r"Voila.*pip install -c constraints.txt -e '.\[app\]'", err)


def test_evaluate_prints_a_column_a_model_or_writes_a_table(hcviz, tmp_path):
    words = ["evaluate", "nano:gpt-neox-quarter", "nano:gpt-neox-half", "--tasks", "name", "order"]
    code, out, _ = hcviz(*words, "--limit", 8)
    assert code == 0
    assert out.split()[:5] == ["task", "metric", "chance", *words[1:3]]
    assert re.search(r"^ *order +acc +0\.500( +[01]\.\d{3}){2}$", out, flags=re.MULTILINE)
    code, _, _ = hcviz(*words, "--limit", 8, "--out", tmp_path / "table.csv")
    assert code == 0
    assert pd.read_csv(tmp_path / "table.csv")["items"].tolist() == [8] * 4
    code, _, err = hcviz("evaluate")
    assert code == 2
    assert "hcviz evaluate nano:llama" in err
