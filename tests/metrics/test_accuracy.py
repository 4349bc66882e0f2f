"""Accuracy on tasks: the items that ship, the scorer against sums by hand, and the harness."""

import math
import re
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import scripts
import tiny
import torch
from torch.nn.functional import one_hot

import hcviz
from hcviz.errors import HcvizError
from hcviz.io.files import data_folder
from hcviz.metrics import _tasks
from hcviz.metrics.accuracy import evaluate
from hcviz.text.corpus import split_documents
from hcviz.text.documents import read_documents

NAMES = _tasks.task_names()
make = scripts.load("data/tasks/make.py")


class Told(torch.nn.Module):
    """A model that finds likely what stands in a text: the next token is told by the last five."""

    def __init__(self, texts, tokenizer):
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=512, name_or_path="told")
        self.device, self.known = torch.device("cpu"), {}
        for text in texts:
            ids = tokenizer(text)["input_ids"]
            for end in range(1, len(ids)):
                self.known[tuple(ids[max(0, end - 5) : end])] = ids[end]

    def forward(self, input_ids, attention_mask):
        told = [
            [self.known.get(tuple(row[max(0, end - 5) : end]), 0) for end in range(1, len(row) + 1)]
            for row in input_ids.tolist()
        ]
        return SimpleNamespace(logits=9.0 * one_hot(torch.tensor(told), 2048).float())


def test_there_are_ten_small_tasks():
    assert set(NAMES) == set(make.TASKS)
    assert len(NAMES) == 10
    files = [_tasks.task_file(name) for name in NAMES]
    assert sum(file.stat().st_size for file in files) < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_items_can_be_answered_but_not_by_their_place_or_length(name):
    items, tokenizer = _tasks.read_items(name), tiny.tokenizer()
    assert (
        len(items)
        == len({(item.context, item.options) for item in items})
        == make.TASKS[name].items
    )
    places = [item.answer for item in items]
    for item in items:
        assert len(item.options) == len(set(item.options)) == make.TASKS[name].wrong + 1
        assert 0 <= item.answer < len(item.options)
        assert len({len(tokenizer(option)["input_ids"]) for option in item.options}) == 1
        before, whole = (
            tokenizer(t)["input_ids"] for t in (item.context, item.context + item.options[0])
        )
        assert whole[: len(before)] == before
    most = max(map(places.count, set(places)))
    share = 1 / len(items[0].options)
    assert most / len(items) < share + 4 * math.sqrt(share * (1 - share) / len(items))


def test_no_context_is_of_the_training_part():
    train, heldout = "", {}
    for version in ("asv", "kjv"):
        sides = split_documents(read_documents(version)[0])
        train += "\n".join(document.text for document in sides[0])
        heldout |= {f"{version} {document.group}": document.text for document in sides[1]}
    items = [item for name in NAMES for item in _tasks.read_items(name)]
    assert all(item.context in heldout[item.place] for item in items)
    assert min(len(item.context) for item in items) >= 10
    begun = {item.context[:10]: [] for item in items}
    for item in items:
        begun[item.context[:10]].append(item.context)
    for word in re.finditer(r"(?<!\S)\S", train):
        for context in begun.get(train[word.start() : word.start() + 10], ()):
            assert not train.startswith(context, word.start())


@pytest.mark.parametrize("name", ["order", "question"])
def test_items_are_made_again_as_they_ship(name):
    made = [{**item, "options": tuple(item["options"])} for item in make.items(name)]
    assert [_tasks.Item(**item) for item in made] == _tasks.read_items(name)


def test_a_model_that_was_told_is_right_and_a_random_one_guesses():
    tokenizer = tiny.tokenizer()
    right = [
        item.context + item.options[item.answer]
        for name in ("ending", "order")
        for item in _tasks.read_items(name)
    ]
    frame = evaluate(Told(right, tokenizer), tasks=["ending", "order"], tokenizer=tokenizer)
    assert (frame["value"] > 0.98).all()  # five tokens of one item may end otherwise in another
    model = tiny.model("llama", max_position_embeddings=256).eval()
    frame = evaluate(model, tokenizer=tokenizer)
    assert list(frame) == ["run", "step", "task", "metric", "value", "stderr", "chance", "items"]
    assert frame["task"].tolist() == NAMES
    bound = 4 * (frame["chance"] * (1 - frame["chance"]) / frame["items"]) ** 0.5
    assert ((frame["value"] - frame["chance"]).abs() < bound).all()


def test_scores_are_the_sums_of_log_likelihoods():
    model, tokenizer = tiny.model("gpt_neox", max_position_embeddings=32).eval(), tiny.tokenizer()
    context = "And it came to pass in those days, that there went out a decree"
    items = [
        _tasks.Item("And God", (" said", " saw the light"), 0, ""),
        _tasks.Item(context * 3, (" from", " unto"), 1, ""),  # longer than the model can read
    ]
    found = _tasks.option_scores(model, tokenizer, items, batch_size=2)
    for item, scores in zip(items, found, strict=True):
        for option, score in zip(item.options, scores, strict=True):
            ids = torch.tensor([tokenizer(item.context + option)["input_ids"][-33:]])
            count = len(tokenizer(option)["input_ids"])
            with torch.no_grad():
                logs = model(input_ids=ids[:, :-1]).logits.log_softmax(-1)[0, -count:]
            wanted = logs.gather(1, ids[0, -count:, None]).sum().item()
            assert score == pytest.approx(wanted, abs=1e-4)


def test_runs_are_evaluated_at_their_steps_and_what_was_kept_is_used(tmp_path, monkeypatch):
    text = tiny.write_text(tmp_path)
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    run = hcviz.train(
        model, out=tmp_path / "run", tokenizer=tokenizer, corpus=text, steps=2, context=32,
        batch_size=2, snapshots=[1, 2], progress=False,
    )  # fmt: skip
    asked = {"tasks": ["rare", "order"], "limit": 12}
    first = evaluate([run, model], **asked, tokenizer=tokenizer)
    assert first["step"].tolist() == [0, 0, 1, 1, 2, 2, pd.NA, pd.NA]
    assert first["items"].unique().tolist() == [12]
    monkeypatch.setattr(hcviz.Run, "model", None)  # nothing is loaded again
    again = evaluate(tmp_path / "run", steps=[2], **asked)
    pd.testing.assert_frame_equal(again, first[4:6].reset_index(drop=True))
    with pytest.raises(HcvizError, match=re.escape("whole models at the steps [0, 1, 2]")):
        evaluate(run, steps=[7], **asked)
    with pytest.raises(HcvizError, match="has no steps"):
        evaluate("nano:llama", steps=[7], **asked)


def test_the_good_source_is_above_chance_in_every_task():
    frame = pd.read_csv(data_folder() / "tasks" / "scores.csv")
    good = frame[frame["run"] == make.GOOD]
    assert set(good["task"]) == set(NAMES)
    assert (good["value"] - good["chance"] > 2 * good["stderr"]).all()
    mean = frame.groupby("run")["value"].mean()
    ladder = [f"nano:gpt-neox-half{at}" for at in ("@188", "@375", "@750", "")]
    assert mean[[*ladder, make.GOOD]].is_monotonic_increasing
    readme = (data_folder() / "tasks" / "README.md").read_text(encoding="utf-8")
    assert readme == make.readme(frame)


def test_without_the_extra_its_tasks_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(HcvizError, match=r"hellaswag needs .*pip install 'hcviz\[eval\]'"):
        evaluate("nano:gpt-neox-quarter", tasks="hellaswag")


def test_nothing_asked_for_is_said():
    with pytest.raises(HcvizError, match="limit 0"):
        evaluate("nano:llama", limit=0)


@pytest.fixture
def lm_eval():
    return pytest.importorskip(
        "lm_eval", reason="the extra hcviz[eval], 200 MB, is not installed", exc_type=ImportError
    )


@pytest.mark.filterwarnings("ignore")
def test_the_harness_finds_the_same(lm_eval, monkeypatch):
    asked = {"tasks": ["agreement", "ending"], "limit": 30}
    ours, theirs = (evaluate("nano:gpt-neox-quarter", **asked, harness=h) for h in (False, True))
    pd.testing.assert_frame_equal(ours, theirs)
    with pytest.raises(HcvizError, match="There is no task 'helaswag'"):
        evaluate("nano:gpt-neox-quarter", tasks="helaswag")
