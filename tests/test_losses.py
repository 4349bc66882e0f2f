"""What loss curves say: compute, speed-up over another arm, forgetting."""

import tiny

import hcviz


def test_history_counts_flops_outside_the_tables_and_knows_its_seed(tmp_path):
    run = hcviz.train(
        tiny.model("llama"), out=tmp_path / "run", corpus=tiny.write_text(tmp_path), steps=2,
        snapshots=2, batch_size=2, context=16, eval_blocks=2, seed=3, progress=False,
    )  # fmt: skip
    attention, mlp, norms = 16 * (16 + 8 + 8 + 16), 3 * 16 * 32, 2 * 16
    inner = 2 * (attention + mlp + norms) + 16
    history = run.history
    assert history["flops"].tolist() == (6 * inner * history["tokens"]).tolist()
    assert set(history["seed"]) == {3}
