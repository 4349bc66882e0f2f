"""More than one process, and what a Trainer can do besides: the loss of one, or a refusal."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from accelerate.commands.config.config_args import load_config_from_file
from transformers import TrainingArguments

from hcviz.errors import HcvizError
from hcviz.runs.run import Run
from hcviz.text.corpus import load_corpus
from hcviz.training.train import train

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SHORT = {"steps": 6, "snapshots": [2, 4], "batch_size": 4, "lr": 1e-2, "progress": False}
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
SHARDED = (
    *("accelerate.commands.launch", "--num_processes", "2", "--config_file"),
    str(ROOT / "configs" / "eight-gpus.yaml"),
)
ARM = f"""
import atexit, os, signal, sys, tiny, time, torch
from hcviz.errors import HcvizError
from hcviz.text.corpus import load_corpus
from hcviz.training.train import train
from hcviz.training.trainer import SnapshotTrainer

text, out, killed = sys.argv[1:]
atexit.register(lambda: print("in a group at exit:", torch.distributed.is_initialized()))
step = SnapshotTrainer.training_step

def training_step(self, *args):
    if (str(self.args.process_index), self.state.global_step) == (killed, 5):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args)

SnapshotTrainer.training_step = training_step
corpus = load_corpus(text, tokenizer=tiny.tokenizer(), context=16)
model = tiny.model(tie_word_embeddings=True)
try:
    train(model, out=out, corpus=corpus, device="cpu", **{SHORT!r})
except HcvizError as error:
    time.sleep(1)  # the launcher's signal to end comes now; the error must outlast it
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def corpus(text):
    return load_corpus(text, tokenizer=tiny.tokenizer(), context=16)


@pytest.fixture(scope="module")
def one(corpus, tmp_path_factory):
    """The run of one process; read only."""
    out = tmp_path_factory.mktemp("runs") / "one"
    return train(tiny.model(tie_word_embeddings=True), out=out, corpus=corpus, **SHORT)


def start(launcher, *words, **changes):
    """Run Python modules under a launcher, as a user's shell would."""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", *launcher, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **changes},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def arm(launcher, text, out, *, killed=""):
    script = out.parent / "arm.py"
    script.write_text(ARM)
    return start(launcher, script, text, out, killed)


def tolerance(run):
    """Bound what another order of the same sums does to the loss.

    A gradient is a sum over the 64 tokens of a step, whose rounding errors add up like a random
    walk to delta = sqrt(64) eps of it. AdamW moves an entry by lr times its gradient over what it
    is used to, so by some lr delta / (relative size of the entry) more or less; times the gradient
    itself that is at most lr delta |g| an entry in the loss, and the sum of |g| over n entries is
    at most sqrt(n) times their norm. The steps add up. A loss near 8 is told to 8 eps, and is a
    mean of two means.
    """
    log = json.loads((run.path / "trainer_state.json").read_text())["log_history"]
    norms = sum(row["grad_norm"] for row in log if "grad_norm" in row)
    eps = torch.finfo(torch.float32).eps
    delta, entries = SHORT["batch_size"] ** 0.5 * 16**0.5 * eps, run.info["parameters"]
    return SHORT["lr"] * entries**0.5 * norms * delta + 2 * 8 * eps


def assert_same_course(run, one):
    columns = ["step", "split", "loss"]
    ours, theirs = (each.history[columns].to_numpy().tolist() for each in (run, one))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    bound = tolerance(one)
    assert bound < 5e-5, "a bound that says something: a step moves the loss by 1e-2 and more"
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], rel=0, abs=bound)


def files(run, step):
    return {path.name for path in (run.path / f"checkpoint-{step}").iterdir()}


# two processes


@pytest.mark.parametrize(
    ("launcher", "killed", "state"),
    [(TORCHRUN, "1", "optimizer.pt"), (SHARDED, "0", "optimizer_0")],
    ids=["whole", "sharded"],
)
def test_two_processes_do_the_work_of_one_though_one_dies(
    launcher, killed, state, one, text, tmp_path
):
    out = tmp_path / "two"
    done = arm(launcher, text, out, killed=killed)
    assert done.returncode != 0
    assert "Training stopped at step 5 because another of the 2 processes ended" in done.stderr
    assert "run the same command again to go on" in done.stderr
    two = Run(out)
    assert two.info["status"] in ("stopped: RuntimeError", "stopped: Terminated")
    assert two.steps == [0, 2, 4]

    done = arm(launcher, text, out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("in a group at exit: False") == 2
    assert (two.info["world_size"], two.info["status"]) == (2, "done")
    assert two.steps == one.steps
    assert_same_course(two, one)
    assert state in files(two, 6), "the optimizer's state tells whether it was sharded"
    sealed = json.loads((out / "checkpoint-6" / "resume.json").read_text())
    assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors"} < sealed.keys()
    for step in two.steps:
        assert two.names(step) == one.names(step)
        assert files(two, step) == files(one, step) or step == 6
    assert all(torch.equal(two.tensor(name, 0), one.tensor(name, 0)) for name in one.names(0))
    assert two.model(6).dtype == torch.float32


def test_a_run_that_is_told_to_end_says_so(corpus, tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def end(row):
        if row["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(tiny.model(), out=tmp_path / "r", corpus=corpus, on_log=end, **SHORT)
    run = Run(tmp_path / "r")
    assert (run.info["status"], run.steps) == ("stopped: Terminated", [0, 2, 4])
    assert run.history.step.max() >= 4
    assert signal.getsignal(signal.SIGTERM) == before


# processes that are not there


def test_accelerate_that_starts_one_process_instead_of_two_is_caught(tmp_path):
    launcher = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "hcviz")
    words = ("train", "nano:llama", "--out", tmp_path / "r", "--steps", "1")
    done = start(launcher, *words, ACCELERATE_CONFIG_FILE="")
    assert done.returncode != 0
    assert "started one alone, as it does on CPUs. Start them by torchrun" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE asks for 2 processes, and no RANK says which"),
        (
            {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "RANK": "0"},
            "8 processes were started on a machine of 2 GPUs",
        ),
    ],
)
def test_more_processes_than_there_are_is_refused(
    environment, message, corpus, tmp_path, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(HcvizError, match=message):
        train(tiny.model(), out=tmp_path / "r", corpus=corpus, **SHORT)
    assert not (tmp_path / "r").exists()


def test_one_process_alone_is_not_sharded(corpus, tmp_path):
    with pytest.raises(
        HcvizError, match="fsdp shards a model over processes, and this one is alon"
    ):
        train(tiny.model(), out=tmp_path / "r", corpus=corpus, trainer_args={"fsdp": True}, **SHORT)
    assert not (tmp_path / "r").exists()


def test_a_process_with_several_gpus_does_not_multiply_the_batch(corpus, tmp_path, monkeypatch):
    begin, rows = TrainingArguments.__post_init__, set()

    def two_gpus(self):
        begin(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", two_gpus)
    model = tiny.model()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.add((module.training, len(kwargs["input_ids"]))) or None,
        with_kwargs=True,
    )
    train(model, out=tmp_path / "r", corpus=corpus, **{**SHORT, "steps": 1, "snapshots": 2})
    assert {count for training, count in rows if training} == {4}


# what the Trainer can do besides


@pytest.mark.parametrize(
    ("way", "dtype"),
    [("checkpointing", None), ("checkpointing", "bfloat16"), ("compile", "bfloat16")],
)
def test_checkpointing_and_compiling_change_no_loss(way, dtype, corpus, tmp_path):
    extra = {
        "checkpointing": {"activation_checkpointing": True},
        "compile": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    }[way]
    calls, graphs = [], torch._dynamo.utils.counters["stats"]
    model, before = tiny.model(), graphs["unique_graphs"]
    options = {**SHORT, "steps": 2, "snapshots": 2, "corpus": corpus, "dtype": dtype}
    plain = train(model, out=tmp_path / "plain", **options)
    if way == "checkpointing":
        model.model.layers[0].mlp.register_forward_pre_hook(
            lambda mlp, _: calls.append(mlp.training)
        )
    run = train(model, out=tmp_path / way, trainer_args=extra, **options)
    assert sum(calls) == (4 if way == "checkpointing" else 0), "forward, and again for backward"
    assert (graphs["unique_graphs"] > before) == (way == "compile")
    assert run.history.loss.to_list() == pytest.approx(plain.history.loss.to_list(), abs=1e-4)
    assert run.names() == plain.names()
    assert run.model().dtype == torch.float32


@pytest.mark.parametrize("name", ["bf16", "fp16", "bf16_full_eval"])
def test_precision_has_one_name(name, corpus, tmp_path):
    with pytest.raises(HcvizError, match=rf"may not hold {name}.*keywords of its own \(dtype"):
        train(tiny.model(), out=tmp_path / "r", corpus=corpus, trainer_args={name: True}, **SHORT)


# the launchers' files


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_files(path):
    config = load_config_from_file(str(path))
    processes = {"one-gpu": (1, 1), "eight-gpus": (8, 1), "several-nodes": (16, 2)}[path.stem]
    assert (config.num_processes, config.num_machines) == processes
    assert config.mixed_precision == "no", "--dtype decides"
    assert f"accelerate launch --config_file configs/{path.name}" in path.read_text()
    sharded = path.stem != "one-gpu"
    assert (config.distributed_type.value == "FSDP") == sharded
    assert (config.fsdp_config or {}).get("fsdp_version") == (2 if sharded else None)


def test_there_is_a_file_for_each_kind_of_machine():
    assert {path.stem for path in CONFIGS} == {"one-gpu", "eight-gpus", "several-nodes"}
