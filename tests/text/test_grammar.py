"""hcviz.text.grammar: what its entropy says is what its texts and a counting of derivations say."""

import functools
import math

import numpy as np
import pytest
import tiny

from hcviz.errors import HcvizError
from hcviz.text.corpus import load_corpus
from hcviz.text.grammar import ENGLISH, Grammar


def derivations(rules, symbol, words):
    """Count the ways to derive words from a symbol, by dynamic programming over spans."""

    @functools.cache
    def count(symbol, i, j):
        if symbol not in rules:
            return int(j - i == 1 and words[i] == symbol)
        return sum(sequence(tuple(right), i, j) for _, right in rules[symbol])

    @functools.cache
    def sequence(parts, i, j):
        if len(parts) == 1:
            return count(parts[0], i, j)
        last = j - len(parts) + 1
        return sum(
            count(parts[0], i, k) * sequence(parts[1:], k, j) for k in range(i + 1, last + 1)
        )

    return count(symbol, 0, len(words))


def test_entropies_known_by_hand():
    """A run of heads of p = 3/4: H(p) / (1 - p); a die beside a coin: their sum."""
    run = Grammar({"TEXT": [(1, ["a"]), (3, ["a", "TEXT"])]})
    assert run.entropy == pytest.approx(4 * -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert run.expected(len) == pytest.approx(4)
    both = Grammar(
        {
            "TEXT": [(1, ["COIN", "DIE"])],
            "COIN": [(1, "h"), (1, "t")],
            "DIE": [(2, face) for face in "123456"],
        }
    )
    assert both.entropy == pytest.approx(math.log(2) + math.log(6))


def test_the_mean_of_the_texts_is_the_entropy():
    """The mean of 20,000 draws lies within five standard errors; so does the number of words."""
    drawn = list(ENGLISH.texts(20_000, seed=3))
    for values, exact in (
        ([nats for _, nats in drawn], ENGLISH.entropy),
        ([len(text.replace(".", " .").split()) for text, _ in drawn], ENGLISH.expected(bool)),
    ):
        assert abs(np.mean(values) - exact) < 5 * np.std(values) / math.sqrt(len(values))


def test_every_text_has_one_derivation():
    """Else the draws would have more entropy than the texts."""
    ambiguous = {"TEXT": [(1, ["x"]), (1, ["TEXT", "TEXT"])]}
    assert derivations(ambiguous, "TEXT", ["x"] * 4) == 5
    for text, _ in ENGLISH.texts(40, seed=1):
        sentence = text.partition(".")[0] + " ."
        words = [word if word == "." else f" {word}" for word in sentence.split()]
        assert derivations(ENGLISH.rules, "SENTENCE", words) == 1
    lexicon = [part for rules in ENGLISH.rules.values() for _, right in rules for part in right]
    places = {
        word: {symbol for symbol, rules in ENGLISH.rules.items() if [word] in [r for _, r in rules]}
        for word in lexicon
        if word not in ENGLISH.rules
    }
    shared = {word: found for word, found in places.items() if len(found) > 1}
    assert shared == {" the": {"DET-one", "DET-many"}}  # the noun after it tells the number


def test_a_seed_is_a_text_and_another_is_fresh():
    one, again, other = ([t for t, _ in ENGLISH.texts(50, seed)] for seed in (0, 0, 1))
    assert one == again
    assert len(set(one) & set(other)) <= 1


def test_a_grammar_without_end_is_refused():
    with pytest.raises(HcvizError, match="of 'TEXT' does not end"):
        Grammar({"TEXT": [(1, ["a"]), (1, ["TEXT", "TEXT"])]}).entropy  # noqa: B018


def test_the_corpus_knows_the_floor_of_its_loss(tmp_path):
    """The drawn texts' own nats over their own tokens; a loss is told as excess over it."""
    tokenizer = tiny.tokenizer()
    corpus = load_corpus("grammar:4000", tokenizer=tokenizer, context=64)
    assert corpus.documents == 4000
    drawn = list(ENGLISH.texts(4000))
    tokens = sum(len(row) + 1 for row in tokenizer([text for text, _ in drawn])["input_ids"])
    assert corpus.floor == pytest.approx(sum(nats for _, nats in drawn) / tokens, rel=0.01)
    assert corpus.describe()["floor"] == pytest.approx(corpus.floor, abs=1e-6)
    assert "floor" not in load_corpus(tiny.write_text(tmp_path), tokenizer=tokenizer).describe()
    with pytest.raises(HcvizError, match="grammar:lots"):
        load_corpus("grammar:lots", tokenizer=tokenizer)
