"""Runs for the views: a source and two clones of it, three steps each."""

import pytest
import tiny

import hcviz


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    corpus = tiny.write_text(folder)
    small = tiny.model("gpt_neox", hidden_size=32)
    starts = {"source": small, "plain": hcviz.clone(small)}
    starts["noisy"] = hcviz.clone(small, expansion="noisy-symmetric")
    return [
        hcviz.train(
            model,
            out=folder / name,
            corpus=corpus,
            tokenizer=tiny.tokenizer(),
            steps=3,
            snapshots=3,
            batch_size=2,
            context=16,
            eval_blocks=2,
            lr=1e-2,
            progress=False,
        )
        for name, model in starts.items()
    ]


@pytest.fixture
def view(runs):
    return hcviz.explore(runs)
