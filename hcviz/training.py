"""Train a model for a while on `transformers.Trainer`, with snapshots at log-spaced steps."""

import contextlib
import copy
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments

from hcviz import files
from hcviz.corpus import Corpus, load_corpus
from hcviz.dropout import dropout_fields, set_dropout
from hcviz.errors import HcvizError
from hcviz.runs import Run
from hcviz.sources import load, tokenizer_for
from hcviz.trainer import SCHEDULES, Bar, BlockOrder, Snapshots, SnapshotTrainer, snapshot_steps, whole_checkpoints


def train(
    model: Any,
    *,
    out: str | Path,
    corpus: str | Path | Corpus = "asv",
    tokenizer: Any = None,
    steps: int = 120,
    batch_size: int = 8,
    context: int = 128,
    lr: float = 1e-3,
    warmup: float = 0.1,
    schedule: str = "cosine-to-tenth",
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.999),
    dropout: float | None = None,
    seed: int = 0,
    snapshots: int | Sequence[int] = 12,
    eval_every: int | None = None,
    eval_blocks: int = 32,
    log_every: int = 1,
    label: str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    source: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    on_log: Callable[[dict], None] | None = None,
    trainer_args: dict[str, Any] | None = None,
    info: dict[str, Any] | None = None,
) -> Run:
    """Train a copy of a model and return the run.

    The order of the data depends on ``seed`` and the corpus only, so runs that share them see the same batches
    whatever their size or dropout, and on any number of processes (``torchrun`` splits each batch).

    Args:
        model: A causal language model, or what `hcviz.load` takes (``"nano:NAME"``, a folder, a hub id). It is left
            as it is.
        out: The run's folder. One that holds the same run is resumed, or returned if it is whole.
        corpus: A `Corpus`, or what `hcviz.corpus.load_corpus` takes.
        tokenizer: By default the model's own, found through its folder or its source.
        steps: Optimizer steps.
        batch_size: Blocks in a step, over all processes.
        context: Tokens in a block; a `Corpus` brings its own.
        lr: Peak learning rate of AdamW.
        warmup: Share of the steps in which the rate rises linearly.
        schedule: ``"cosine-to-tenth"``, ``"linear-to-tenth"`` or ``"constant"``, after warm-up.
        weight_decay: Decoupled, on matrices only.
        betas: AdamW's.
        dropout: Sets every dropout rate of the model; None keeps its configuration.
        seed: Of the data order and of dropout.
        snapshots: How many (log-spaced), or at which steps; 0 and the last are always saved.
        eval_every: Also evaluate every so many steps; snapshots always are.
        eval_blocks: Held-out blocks used, evenly spaced and the same for every run of the corpus.
        log_every: Steps between two rows of the training loss, each the mean since the one before.
        label: The run's name in tables and plots; by default the folder's.
        resume: Continue an interrupted run of the same request.
        overwrite: Replace a run that is already there.
        progress: Show a bar; False is silent.
        source: What the model was made from, for the record.
        device: ``"cpu"`` forces the CPU; None takes what the Trainer finds.
        dtype: ``"bfloat16"`` or ``"float16"`` trains in mixed precision; None in the model's own dtype.
        on_log: Called with every row of the log while the run goes on.
        trainer_args: Further `transformers.TrainingArguments`, for example ``{"fsdp": "full_shard"}``.
        info: Further entries of ``run.json``, for example a clone recipe.

    Returns:
        The `Run`. Its newest checkpoint alone keeps the optimizer's state.

    Raises:
        HcvizError: Before training, if an argument, the text, the folder or the disk will not do; during training,
            if a loss is not finite (the snapshots before it are kept).

    Example:
        >>> import tempfile
        >>> out = tempfile.mkdtemp() + "/run"
        >>> run = train("nano:llama", out=out, steps=2, snapshots=2, batch_size=2, context=32, progress=False)
        >>> run.steps
        [0, 2]
    """
    out = Path(out)
    _check_numbers(steps=steps, batch_size=batch_size, lr=lr, warmup=warmup, schedule=schedule, dtype=dtype)
    at = snapshot_steps(steps, snapshots)
    if isinstance(model, str | Path):
        source = source or str(model)
        model, loaded = load(model)
        tokenizer = tokenizer or loaded
    else:
        model = copy.deepcopy(model)
    tokenizer = tokenizer or tokenizer_for(model)
    if not isinstance(corpus, Corpus):
        corpus = load_corpus(corpus, tokenizer=tokenizer, context=context)
    _check_fit(model, corpus)
    if dropout is not None:
        set_dropout(model, dropout)

    recipe = getattr(model.config, "hcviz", None)
    request = {
        "model": _weights_hash(model),
        "corpus": corpus.fingerprint,
        "context": corpus.context,
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "warmup": warmup,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "betas": list(betas),
        "dropout": dropout_fields(model.config),
        "seed": seed,
        "snapshots": at,
        "eval_every": eval_every,
        "eval_blocks": eval_blocks,
        "log_every": log_every,
        "dtype": dtype,
        "trainer_args": {key: repr(value) for key, value in (trainer_args or {}).items()},
    }
    request = json.loads(json.dumps(request))
    with _world(device) as world:
        if batch_size % world.num_processes:
            raise HcvizError(f"batch_size {batch_size} is not a multiple of the {world.num_processes} processes.")
        begin = None
        with world.main_process_first():  # the others find the folder as the first has left it
            if world.is_main_process:
                begin = _prepare(out, request, model, at, resume=resume, overwrite=overwrite)
        done = _read_info(out).get("status") == "done"
        if done:
            return Run(out)
        begin = next(whole_checkpoints(out), None)

        bar = Bar(label or out.name, progress=progress, on_log=on_log)
        saver = Snapshots(at, eval_every=eval_every, tokenizer=tokenizer)
        arguments = TrainingArguments(
            **{
                "output_dir": str(out),
                "max_steps": steps,
                "per_device_train_batch_size": batch_size // world.num_processes,
                "per_device_eval_batch_size": max(1, 16 // world.num_processes),
                "learning_rate": lr,
                "weight_decay": weight_decay,
                "adam_beta1": betas[0],
                "adam_beta2": betas[1],
                "optim": "adamw_torch",
                "seed": seed,
                "logging_steps": log_every,
                "logging_first_step": True,
                "logging_nan_inf_filter": False,  # it would replace a NaN by the mean
                "save_strategy": "no",  # the Snapshots callback decides
                "eval_strategy": "no",
                "eval_on_start": begin is None,
                "prediction_loss_only": True,
                "disable_tqdm": True,
                "report_to": "none",
                "use_cpu": device == "cpu",
                "bf16": dtype == "bfloat16",
                "fp16": dtype == "float16",
                "dataloader_pin_memory": torch.cuda.is_available() and device != "cpu",
                **(trainer_args or {}),
            }
        )
        trainer = SnapshotTrainer(
            model=model,
            args=arguments,
            train_dataset=BlockOrder(corpus.train, count=steps * batch_size, seed=seed),
            eval_dataset=BlockOrder(corpus.heldout, count=eval_blocks),
            callbacks=[saver, bar],
            schedule=schedule,
            warmup_steps=round(warmup * steps),
            tokens_per_step=batch_size * corpus.context,
        )
        saver.trainer = trainer
        trainer.remove_callback(PrinterCallback)

        record = {
            "label": label or out.name,
            "status": "running",
            "source": source or (recipe or {}).get("source") or model.config.name_or_path or None,
            "clone": recipe,
            "seed": seed,
            "corpus": corpus.describe(),
            "tokens": steps * batch_size * corpus.context,
            "epochs": round(steps * batch_size / len(corpus.train), 3),
            "parameters": sum(p.numel() for p in model.parameters()),
            "world_size": arguments.world_size,
            "device": arguments.device.type,
            "versions": versions(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **(info or {}),
            "request": request,
        }
        if world.is_main_process:
            _write_info(out, record)
        try:
            trainer.train(resume_from_checkpoint=str(begin) if begin else None)
            record["status"] = "done"
        except BaseException as error:
            record["status"] = f"stopped: {type(error).__name__}"
            raise
        finally:
            bar.close()
            if world.is_main_process and out.is_dir():
                trainer.save_state()
                _write_info(out, record)
        world.wait_for_everyone()
    return Run(out)


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    names = ("hcviz", "torch", "transformers", "tokenizers", "safetensors")
    found = {"python": sys.version.split()[0]}
    for name in names:
        with contextlib.suppress(ModuleNotFoundError):
            found[name] = version(name)
    return found


@contextlib.contextmanager
def _world(device: str | None) -> Iterator[Any]:
    """Yield accelerate's view of the processes; under ``torchrun`` there are several."""
    from accelerate import PartialState

    yield PartialState(cpu=True) if device == "cpu" else PartialState()


def _check_numbers(
    *, steps: int, batch_size: int, lr: float, warmup: float, schedule: str, dtype: str | None
) -> None:
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise HcvizError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if not lr > 0:
        raise HcvizError(f"lr must be positive, not {lr!r}.")
    if not 0 <= warmup <= 1:
        raise HcvizError(f"warmup is a share of the steps, between 0 and 1, not {warmup!r}.")
    if schedule not in SCHEDULES:
        raise HcvizError(f"Unknown schedule {schedule!r}. Use one of {', '.join(SCHEDULES)}.")
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise HcvizError(f"Unknown dtype {dtype!r}. Use float32, bfloat16 or float16 (mixed precision), or None.")


def _check_fit(model: Any, corpus: Corpus) -> None:
    """Refuse a text that the model cannot read."""
    largest = max(int(corpus.train.max()), int(corpus.heldout.max()))
    if largest >= model.config.vocab_size:
        raise HcvizError(
            f"The tokenizer's tokens go up to {largest}, and the model has {model.config.vocab_size} of them. "
            "Give the model's own tokenizer."
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and corpus.context > longest:
        raise HcvizError(
            f"context {corpus.context} is longer than the {longest} positions of the model. Use --context {longest}."
        )


def _prepare(
    out: Path, request: dict, model: Any, at: Sequence[int], *, resume: bool, overwrite: bool
) -> None:
    """Make the folder, or see that it holds this very request; refuse what would lose something."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    files.check_space(out, (len(at) + 2) * size, f"A run of {len(at)} snapshots and the optimizer's state")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        known = _read_info(out)
        if overwrite:
            if not known and not any(out.glob("checkpoint-*")):
                raise HcvizError(f"{out} is not a run, so --overwrite will not delete it. Choose another --out.")
            shutil.rmtree(out)
        elif not (resume and known.get("request") == request):
            before = known.get("request", {})
            changed = sorted(key for key in request if before.get(key) != request[key]) if before else []
            why = f"a run that differs in {', '.join(changed)}" if changed else "something else"
            raise HcvizError(f"{out} already holds {why}. Use --overwrite to replace it, or another --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".tmp-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HcvizError(f"Cannot write to {out}: {error}. Choose another --out.") from error


def _weights_hash(model: Any) -> str:
    """Hash shapes and up to 4,096 evenly spaced values of every weight: enough to tell two models apart."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().flatten()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        digest.update(flat[:: max(1, flat.numel() // 4096)].double().cpu().numpy().tobytes())
    return digest.hexdigest()


def _read_info(out: Path) -> dict[str, Any]:
    try:
        return json.loads((out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_info(out: Path, record: dict[str, Any]) -> None:
    files.write_text(out / "run.json", json.dumps(record, indent=2, default=str) + "\n")
