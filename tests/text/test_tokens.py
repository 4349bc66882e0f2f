"""hcviz.text.tokens: a text on the disk is the same text, and is refused when it is not whole."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import hcviz
from hcviz.errors import HcvizError
from hcviz.text.corpus import load_corpus
from hcviz.text.documents import read_documents
from hcviz.text.tokens import write_tokens

TEXTS = [document.text for document in read_documents("asv")[0][:200]]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    place = tmp_path_factory.mktemp("text") / "tokens"
    return write_tokens(iter(TEXTS), place, tokenizer=tokenizer, holdout=0.1, progress=False)


def test_what_is_read_is_what_was_written(folder, tokenizer):
    corpus = load_corpus(folder, tokenizer=tokenizer, context=32)
    held = {int(group.split()[1]) for group in corpus.heldout_groups}
    assert 5 < len(held) < 40  # 20 expected, with a deviation of 4.2
    for side, mine in (
        (corpus.train, lambda n: n not in held),
        (corpus.heldout, held.__contains__),
    ):
        texts = [text for number, text in enumerate(TEXTS) if mine(number)]
        rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
        tokens = [token for row in rows for token in [*row, tokenizer.eos_token_id]]
        assert side.flatten().tolist() == tokens[: len(tokens) // 32 * 32]
    assert corpus.largest == max(int(corpus.train.max()), int(corpus.heldout.max()))
    assert (corpus.documents, corpus.context) == (200, 32)
    assert corpus.text_bytes == sum(len(text.encode()) for text in TEXTS)
    predicted = tokenizer.decode(corpus.heldout[:, 1:].flatten(), skip_special_tokens=True)
    assert corpus.bytes_per_token == len(predicted.encode()) / corpus.heldout[:, 1:].numel()


def test_a_model_is_trained_on_it_as_on_the_same_text_in_memory(folder, tokenizer, tmp_path):
    short = {"steps": 3, "batch_size": 2, "progress": False, "tokenizer": tokenizer}
    run = hcviz.train(tiny.model(), out=tmp_path / "a", corpus=str(folder), context=32, **short)
    inside = load_corpus(folder, tokenizer=tokenizer, context=32)
    object.__setattr__(inside, "train", inside.train.long())
    other = hcviz.train(tiny.model(), out=tmp_path / "b", corpus=inside, **short)
    name = run.names(3)[0]
    assert torch.equal(run.tensor(name, 3), other.tensor(name, 3))
    assert run.info["corpus"]["name"] == str(folder)
    again = write_tokens(TEXTS, tmp_path / "c", tokenizer=tokenizer, holdout=0.1, progress=False)
    same = load_corpus(again, tokenizer=tokenizer, context=32)
    assert same.fingerprint == run.info["corpus"]["fingerprint"]
    assert hcviz.measure(run, metrics=["neurons"])["value"].notna().all(), "its text is found again"


def test_no_more_is_held_out_than_is_asked(tokenizer, tmp_path):
    place = write_tokens(
        TEXTS, tmp_path / "t", tokenizer=tokenizer, holdout=0.5, heldout_tokens=1, progress=False
    )
    assert len(load_corpus(place, tokenizer=tokenizer, context=8).heldout_groups) == 1


def test_writing_takes_no_more_than_a_batch_of_documents_at_once(tokenizer, tmp_path):
    asked = []

    def texts():
        for number in range(5000):
            written = sum(path.stat().st_size for path in tmp_path.rglob("train.bin"))
            asked.append((number, written))
            yield "In the beginning. " * 20

    write_tokens(texts(), tmp_path / "t", tokenizer=tokenizer, progress=False)
    assert asked[0][1] == 0
    assert asked[2500][1] > asked[-1][1] / 4


def test_a_tokenizer_without_bytes_counts_those_of_the_documents(tmp_path):
    words = {word: n for n, word in enumerate(["[UNK]", "</s>", "rain"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="[UNK]")
    place = write_tokens(100 * ["rain"], tmp_path / "t", tokenizer=plain, holdout=0.3)
    assert load_corpus(place, tokenizer=plain, context=2).bytes_per_token == 2  # and an </s> each


def cut(folder):
    path = folder / "train.bin"
    path.write_bytes(path.read_bytes()[:-4])


def said(change):
    def apply(folder):
        path = folder / "tokens.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"train\.bin has \d+ bytes, and tokens\.json says \d+"),
        (lambda folder: (folder / "heldout.bin").unlink(), r"heldout\.bin has 0 bytes"),
        (said({"train": {}}), r"tokens\.json cannot be read: train"),
        (said({"vocabulary": "0"}), "another tokenizer"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(damage, message, folder, tokenizer, tmp_path):
    damage(shutil.copytree(folder, tmp_path / "t"))
    with pytest.raises(HcvizError, match=message) as caught:
        load_corpus(tmp_path / "t", tokenizer=tokenizer, context=32)
    assert str(tmp_path / "t") in str(caught.value)


def test_a_side_without_a_block_is_refused(tokenizer, tmp_path):
    place = write_tokens(TEXTS[:2], tmp_path / "t", tokenizer=tokenizer, holdout=0, progress=False)
    with pytest.raises(HcvizError, match=r"held-out part .* is too short: 0 tokens"):
        load_corpus(place, tokenizer=tokenizer, context=32)
    assert np.fromfile(place / "train.bin", "<i4").max() < len(tokenizer)
