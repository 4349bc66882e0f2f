"""What tests of training share: a short text in blocks, and a clone whose copies differ."""

import pytest
import tiny

import hcviz
from hcviz.text.corpus import load_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    text = tiny.write_text(tmp_path_factory.mktemp("text"))
    return load_corpus(text, tokenizer=tiny.tokenizer(), context=16)


@pytest.fixture(scope="module")
def wide():
    return hcviz.clone(tiny.model(), hidden=2, expansion="noisy-symmetric")
