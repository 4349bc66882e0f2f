"""Metrics of whole models in measure(): what they are given, and what becomes of their rows."""

import json

import pytest
import tiny
import torch

import hcviz
from hcviz.errors import HcvizError
from hcviz.metrics import METRICS, metric, patterns
from hcviz.metrics._models import source_of, text_of
from hcviz.text.corpus import load_corpus


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    wide = hcviz.clone(tiny.model("gpt_neox"), expansion="noisy-symmetric")
    return hcviz.train(
        wide, out=folder / "wide", corpus=tiny.write_text(folder), tokenizer=tiny.tokenizer(),
        steps=2, snapshots=2, batch_size=2, context=16, eval_blocks=2, progress=False,
    )  # fmt: skip


@pytest.fixture
def seen():
    """Register a metric that keeps what it is given."""
    calls = []

    @metric("seen", of="model", needs=("source",))
    def seen(model, batch, layout, factors, source=None):
        """Keep everything."""
        calls.append((model, batch, layout, factors, source))
        yield {"tensor": "gpt_neox.layers.1", "axis": "R", "value": 1.0}
        yield {"tensor": "gpt_neox.layers.0.mlp", "axis": "N", "value": 2.0}

    yield calls
    del METRICS["seen"]


def test_a_metric_of_the_model_gets_the_text_the_axes_and_the_source(run, seen):
    frame = hcviz.measure(run, metrics=["seen", "ledger"], tensors=["mlp"])
    rows = frame[frame["metric"] == "seen"]
    assert list(rows["step"]) == run.steps
    assert set(rows["tensor"]) == {"gpt_neox.layers.0.mlp"}  # tensors= chooses modules too
    assert list(rows["layer"]) == [0, 0]
    assert set(frame["metric"]) == {"seen", "ledger"}
    (model, batch, layout, factors, source), _ = seen
    assert not model.training
    assert batch.shape == (4, 16)
    assert factors == run.factors
    assert layout is run.layout
    torch.testing.assert_close(source(batch).logits, run.model(0)(batch).logits)


def test_the_text_is_held_out_text_and_may_be_the_callers(run, seen):
    corpus = load_corpus(run.info["corpus"]["name"], tokenizer=tiny.tokenizer(), context=16)
    torch.testing.assert_close(text_of(run, run.model()), corpus.heldout)
    mine = torch.arange(6).view(1, 6)
    hcviz.measure(run, metrics=["seen"], steps=[0], batch=mine)
    torch.testing.assert_close(seen[0][1], mine)


def test_the_source_may_be_named(run):
    mine = tiny.model("gpt_neox")
    assert source_of(run, mine) is mine
    assert source_of(run, "nano:llama").config.model_type == "llama"


def test_a_path_of_the_source_is_its_text(run, tmp_path, monkeypatch):
    tiny.model("gpt_neox").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert source_of(run, tmp_path).config.model_type == "gpt_neox"
    first = hcviz.measure(run, metrics=["cka"], steps=[2], source=tmp_path)
    loaded = []
    monkeypatch.setattr("hcviz.runs.run.Run.model", lambda self, step=None: loaded.append(step))
    assert hcviz.measure(run, metrics=["cka"], steps=[2], source=str(tmp_path)).equals(first)
    assert loaded == []  # it is kept under one name


def test_the_source_is_found_in_checkpoints_that_do_not_say_how_they_were_cloned(run, tmp_path):
    for step in run.steps:
        plain = run.model(step)
        del plain.config.hcviz
        plain.save_pretrained(tmp_path / f"step_{step}")
    other = hcviz.Run.of(tmp_path, factors={"hidden": 2})
    ids = torch.arange(8).view(1, 8)
    torch.testing.assert_close(source_of(other, None)(ids).logits, run.model(0)(ids).logits)


def test_snapshots_with_chosen_tensors_only_are_passed_over(run, seen):
    demo = hcviz.recorded("demo").runs[0]
    with pytest.raises(HcvizError, match=r"seen need a whole model.*symmetric keeps chosen"):
        hcviz.measure(demo, metrics=["seen"])
    assert not seen


@pytest.mark.parametrize(
    ("metrics", "change", "said"),
    [
        (["twins"], {"num_hidden_layers": 9}, "need a whole model"),
        (["cosine"], {"head_dim": 64}, "does not fit the factors"),
    ],
)
def test_a_checkpoint_that_is_not_what_it_says_is_named(metrics, change, said, tmp_path):
    hcviz.clone(tiny.model().eval()).save_pretrained(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(HcvizError, match=said) as caught:
        hcviz.measure(hcviz.Run.of(tmp_path / "run"), metrics=metrics, cache=False)
    assert str(tmp_path / "run") in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_tied_models_are_whole(family, tmp_path):
    model = tiny.model(family, tie_word_embeddings=True)
    hcviz.clone(model.eval()).save_pretrained(tmp_path / "step_0")
    frame = hcviz.measure(
        hcviz.Run.of(tmp_path), metrics=["twins"], batch=torch.arange(2, 10).view(1, 8)
    )
    assert set(frame["axis"]) == {"R", "H", "N"}


def test_a_model_has_no_update(run, seen):
    with pytest.raises(HcvizError, match=r"whole model.*update"):
        hcviz.measure(run, metrics=["update.seen"])


def test_rows_of_models_are_kept_until_the_text_changes(run, monkeypatch):
    from hcviz.runs.run import Run

    first = hcviz.measure(run, metrics=["cka"], steps=[0])
    loaded = []
    monkeypatch.setattr(Run, "model", lambda self, step=None: loaded.append(step))
    again = hcviz.measure(run, metrics=["cka"], steps=[0])
    assert loaded == []
    assert again.equals(first)
    with pytest.raises(AttributeError):  # another text wants the model again, which is none here
        hcviz.measure(run, metrics=["cka"], steps=[0], batch=torch.arange(6).view(1, 6))
    assert loaded


def test_patterns_are_the_models_own_attention_head_by_head(run):
    text = "And God said, Let there be light."
    frame = patterns(run, text, step=2, tensors="layers.0")
    ids = tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert frame["query_token"].unique().tolist() == [tiny.tokenizer().decode([i]) for i in ids]
    model = run.model(2)
    model.set_attn_implementation("eager")
    [wanted, _] = model(torch.tensor([ids]), output_attentions=True).attentions
    count = model.config.num_attention_heads
    found = torch.tensor(frame["value"]).reshape(2, count // 2, len(ids), len(ids))
    # a copy of all heads comes after all heads
    torch.testing.assert_close(found.flatten(0, 1).float(), wanted[0], atol=1e-6, rtol=0)
    assert set(frame["step"]) == {2}
    assert set(frame["layer"]) == {0}
    assert set(patterns(run, text)["layer"]) == {1}  # of two layers the second is the middle one


def test_patterns_say_what_they_lack(run):
    with pytest.raises(HcvizError, match=r"No attention matches 'nowhere'.*layers.0"):
        patterns(run, "one two three", tensors="nowhere")
    with pytest.raises(HcvizError, match="has 0 tokens"):
        patterns(run, "")
