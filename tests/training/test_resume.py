"""A run that was stopped ends as if it had not been, or starts again; it says which."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from hcviz.errors import HcvizError
from hcviz.runs.run import Run
from hcviz.training.train import train

SHORT = {"steps": 6, "snapshots": [2, 4], "batch_size": 4, "lr": 1e-2, "progress": False}


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A whole run of the arguments in SHORT; read only."""
    return train(tiny.model(), out=tmp_path_factory.mktemp("runs") / "one", corpus=corpus, **SHORT)


def weights(run, step):
    return {name: run.tensor(name, step) for name in run.names(step)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(run):
    return run.history[["step", "split", "loss"]].to_numpy().tolist()


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])  # the head of one is stored renamed
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(family, corpus, tmp_path):
    options = {**SHORT, "corpus": corpus, "dropout": 0.1}
    straight = train(tiny.model(family), out=tmp_path / "straight", **options)

    def stop(row):
        if row["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny.model(family), out=tmp_path / "broken", on_log=stop, **options)
    broken = Run(tmp_path / "broken")
    assert broken.info["status"] == "stopped: KeyboardInterrupt"
    assert broken.steps == [0, 2, 4]
    rows = []
    resumed = train(tiny.model(family), out=tmp_path / "broken", on_log=rows.append, **options)
    assert rows[0]["step"] == 5
    assert same(weights(resumed, 6), weights(straight, 6))
    assert losses(resumed) == losses(straight)
    assert resumed.history.seconds.is_monotonic_increasing


def stopped_at(step, out, **options):
    """Train until a step is logged."""

    def stop(row):
        if row["step"] == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny.model(), out=out, on_log=stop, **{**SHORT, **options})
    return out


@pytest.fixture(scope="module")
def broken(corpus, tmp_path_factory):
    """A run that was stopped after its snapshot at step 4; to be copied."""
    return stopped_at(5, tmp_path_factory.mktemp("runs") / "broken", corpus=corpus)


def edited(change):
    """Return what rewrites the weights of a checkpoint."""

    def edit(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return edit


def cut(name):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 9)


def removed(name):
    return lambda folder: (folder / name).unlink()


DAMAGE = {
    "scheduler.pt is gone": removed("scheduler.pt"),
    "rng_state.pth is gone": removed("rng_state.pth"),
    "optimizer.pt is gone": removed("optimizer.pt"),
    "it has no resume.json": removed("resume.json"),
    "optimizer.pt has changed": cut("optimizer.pt"),
    "trainer_state.json has changed": cut("trainer_state.json"),
    "another value: model.safetensors has changed": edited(
        lambda state: {name: weight * 1.5 for name, weight in state.items()}
    ),
    "another dtype: model.safetensors has changed": edited(
        lambda state: {name: weight.bfloat16() for name, weight in state.items()}
    ),
    "other names: model.safetensors has changed": edited(
        lambda state: {name.replace("layers.0", "layers.9"): w for name, w in state.items()}
    ),
    "pytorch_model.bin came in": lambda folder: (folder / "pytorch_model.bin").write_bytes(b""),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_checkpoint_that_is_not_as_it_was_saved_is_not_resumed_from(
    what, run, broken, corpus, tmp_path, capfd
):
    out = shutil.copytree(broken, tmp_path / "one")
    DAMAGE[what](out / "checkpoint-4")
    rows = []
    again = train(tiny.model(), out=out, corpus=corpus, on_log=rows.append, **SHORT)
    assert rows[0]["step"] == 0
    assert same(weights(again, 6), weights(run, 6))
    told = capfd.readouterr().err.strip()
    assert told.startswith("one: goes on from step 0; checkpoint-4 ")
    assert what.split(": ")[-1] in told
    assert "\n" not in told


def test_the_newest_checkpoint_that_is_whole_is_taken_and_told(
    run, broken, corpus, tmp_path, capfd
):
    out = shutil.copytree(broken, tmp_path / "one")
    shutil.copytree(out / "checkpoint-4", out / "checkpoint-5")
    (out / "checkpoint-5" / "resume.json").unlink()
    options = {**SHORT, "corpus": corpus, "progress": True}
    again = train(tiny.model(), out=out, **options)
    told = capfd.readouterr().err
    assert "one: goes on from checkpoint-4; checkpoint-5 was not saved to the end" in told
    assert same(weights(again, 6), weights(run, 6))
    assert [path.parent.name for path in out.glob("*/resume.json")] == ["checkpoint-6"]


def test_another_number_of_processes_does_not_go_on(broken, corpus, tmp_path):
    out = shutil.copytree(broken, tmp_path / "one")
    folder = out / "checkpoint-4"
    shutil.copy(folder / "rng_state.pth", folder / "rng_state_1.pth")
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    from hcviz.training.snapshots import seal

    seal(folder)
    with pytest.raises(HcvizError, match=r"saved by 2 processes, and going on with 1 .*Start as"):
        train(tiny.model(), out=out, corpus=corpus, **SHORT)


def test_a_run_that_was_stopped_at_its_end_is_finished(run, broken, corpus, tmp_path):
    out = shutil.copytree(run.path, tmp_path / "one")
    info = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**info, "status": "stopped: cannot write"}))
    again = train(tiny.model(), out=out, corpus=corpus, **SHORT)
    assert again.info["status"] == "done"
    assert losses(again) == losses(run)
    assert same(weights(again, 6), weights(run, 6))


def test_a_second_training_is_refused_and_a_killed_one_goes_on(run, corpus, tmp_path):
    script = (
        "import sys, time, tiny\n"
        "from hcviz.text.corpus import load_corpus\n"
        "from hcviz.training.train import train\n"
        "def wait(row):\n"
        "    if row['step'] == 5:\n"
        "        print('here', flush=True)\n"
        "        time.sleep(120)\n"
        "corpus = load_corpus(sys.argv[1], tokenizer=tiny.tokenizer(), context=16)\n"
        f"train(tiny.model(), out=sys.argv[2], corpus=corpus, on_log=wait, **{SHORT!r})\n"
    )
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests, tests.parent)))
    text, out = tiny.write_text(tmp_path), tmp_path / "one"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(text), str(out)],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "here\n"
            for overwrite in (False, True):
                with pytest.raises(HcvizError, match=rf"another process \({process.pid}\)\. Wait"):
                    train(tiny.model(), out=out, corpus=corpus, overwrite=overwrite, **SHORT)
        finally:
            process.send_signal(signal.SIGKILL)
    rows = []
    again = train(tiny.model(), out=out, corpus=corpus, on_log=rows.append, **SHORT)
    assert rows[0]["step"] == 5
    assert same(weights(again, 6), weights(run, 6))
