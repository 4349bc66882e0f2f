"""Train a model for a while on `transformers.Trainer`, with snapshots at log-spaced steps."""

import copy
import dataclasses
import errno
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from hcviz.cloning.lockstep import Pace, paces
from hcviz.errors import HcvizError
from hcviz.io.corpus import Corpus, load_corpus
from hcviz.io.process import quiet, surroundings
from hcviz.io.sources import load, tokenizer_for
from hcviz.runs.run import Run
from hcviz.training.dropout import dropout_fields, set_dropout
from hcviz.training.live import MetricsCallback
from hcviz.training.record import prepare_folder, read_info, weights_hash, write_info
from hcviz.training.request import check_fit, check_numbers, trainer_arguments
from hcviz.training.schedule import BlockOrder, snapshot_steps
from hcviz.training.snapshots import Keeping, plan
from hcviz.training.trainer import Bar, Snapshots, SnapshotTrainer, whole_checkpoints


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
    lockstep: Any = None,
    seed: int = 0,
    snapshots: int | Sequence[int] = 12,
    keep: str | None = None,
    snapshot_dtype: str | None = None,
    disk_budget: str | int | None = None,
    metrics: Sequence[str] = (),
    metric_tensors: str | Sequence[str] | None = None,
    metric_steps: int | Sequence[int] | None = None,
    eval_every: int | None = None,
    eval_blocks: int = 32,
    log_every: int = 1,
    label: str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    source: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    on_log: Callable[[dict], None] | None = None,
    trainer_args: dict[str, Any] | None = None,
    info: dict[str, Any] | None = None,
) -> Run:
    """Train a copy of a model and return the run.

    The order of the data depends on ``seed`` and the corpus only, so runs that share them see the
    same batches whatever their size or dropout, and on any number of processes (``torchrun`` splits
    each batch). Gradients are clipped at norm 1, as the Trainer does by default.

    Args:
        model: A causal language model, or what `hcviz.load` takes (``"nano:NAME"``, a folder, a hub
            id). It is left as it is.
        out: The run's folder. One that holds the same request is resumed, or returned if it is
            whole.
        corpus: A `Corpus`, or what `hcviz.io.corpus.load_corpus` takes.
        tokenizer: By default the model's own, found through its folder or its source.
        steps: Optimizer steps.
        batch_size: Blocks in a step, over all processes.
        context: Tokens in a block; a `Corpus` brings its own.
        lr: Peak learning rate of AdamW.
        warmup: Share of the steps in which the rate rises linearly.
        schedule: ``"cosine-to-tenth"``, ``"linear-to-tenth"`` or ``"constant"``, after warm-up.
        weight_decay: Decoupled; not on norms and biases.
        betas: AdamW's.
        dropout: Sets every dropout rate of the model; None keeps its configuration's.
        lockstep: A symmetric clone. If it is the model itself, it takes the steps that its source
            would; if the model is its source, the source takes the clone's, which are larger: the
            matched effective learning rate. Exact where gradients are not clipped
            (``trainer_args={"max_grad_norm": 0.0}``): their norm is another one in a clone.
        seed: Of the data order and of dropout.
        snapshots: How many (log-spaced), or at which steps; 0 and the last are always saved.
        keep: A regular expression: older snapshots keep the tensors that it finds. The newest, from
            which the run can resume, stays whole.
        snapshot_dtype: What older snapshots are cast to, ``"bfloat16"`` or ``"float16"``; rounding
            may hide small differences between copies.
        disk_budget: Most that the run may take on the disk, for example ``"2GB"``. A number of
            ``snapshots`` that does not fit is lowered; what comes of it is told first.
        metrics: Measured while the model trains, for ``run.metrics`` and `hcviz.measure`; see
            `hcviz.MetricsCallback`. ``run.json`` tells their share of the time.
        metric_tensors: Regular expressions of the tensors to measure; None takes all.
        metric_steps: How many steps (log-spaced), or which; None: those of the snapshots.
        eval_every: Also evaluate every so many steps; snapshots always are.
        eval_blocks: Held-out blocks used, evenly spaced, the same for every run of the corpus.
        log_every: Steps between two rows of the training loss, each the mean since the one before.
        label: The run's name in tables and plots; by default the folder's.
        resume: Continue an interrupted run of the same request.
        overwrite: Replace a run that is already there.
        progress: Show a bar; False is silent.
        source: What the model was made from, for the record.
        device: ``"cpu"`` forces the CPU; None takes what the Trainer finds.
        dtype: ``"bfloat16"`` or ``"float16"`` trains in mixed precision; None in the model's own.
        on_log: Called with every row of the log while the run goes on, for live curves.
        trainer_args: Further `transformers.TrainingArguments`, for example
            ``{"fsdp": "full_shard"}`` or ``{"gradient_accumulation_steps": 2}``.
        info: Further entries of ``run.json``, for example ``{"clone": recipe}``.

    Returns:
        The `Run`. Its newest checkpoint alone keeps the optimizer's state.

    Raises:
        HcvizError: Before training, if an argument, the text, the folder or the disk will not do;
            during training, if a loss is not finite or the disk is full (the snapshots are kept).

    Example:
        >>> import tempfile
        >>> out = tempfile.mkdtemp() + "/run"
        >>> train("nano:llama", out=out, steps=2, snapshots=2, context=32, progress=False).steps
        [0, 2]
    """
    out = Path(out)
    check_numbers(
        steps=steps, batch_size=batch_size, lr=lr, warmup=warmup, schedule=schedule, dtype=dtype
    )
    snapshot_steps(steps, snapshots)
    keeping = Keeping(keep, snapshot_dtype)
    with quiet():
        if isinstance(model, str | Path):
            source = source or str(model)
            model, own = load(model)
            tokenizer = tokenizer or own
        else:
            model = copy.deepcopy(model)
            tokenizer = tokenizer or tokenizer_for(model)
    if not isinstance(corpus, Corpus):
        corpus = load_corpus(corpus, tokenizer=tokenizer, context=context)
    check_fit(model, corpus)
    if dropout is not None:
        set_dropout(model, dropout)
    planned = plan(
        model, tokenizer, keeping,
        steps=steps, snapshots=snapshots, budget=disk_budget,
    )  # fmt: skip
    measured = {"metrics": list(metrics), "tensors": metric_tensors, "steps": metric_steps}
    request = {
        "model": weights_hash(model),
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
        "snapshots": planned.steps,
        "eval_every": eval_every,
        "eval_blocks": eval_blocks,
        "log_every": log_every,
        "dtype": dtype,
        "trainer_args": {key: repr(value) for key, value in (trainer_args or {}).items()},
        **({"keeping": dataclasses.asdict(keeping)} if keeping != Keeping() else {}),
        **({"metrics": measured} if metrics else {}),
        **({"lockstep": paces(model, lockstep)} if lockstep is not None else {}),
    }
    callbacks = [Bar(label or out.name, progress=progress, on_log=on_log)]
    if metrics:
        at = planned.steps if metric_steps is None else metric_steps
        callbacks.append(MetricsCallback(metrics, tensors=metric_tensors, steps=at))
    recipe = getattr(model.config, "hcviz", None)
    record = {
        "label": label or out.name,
        "status": "running",
        "source": str(source or (recipe or {}).get("source") or model.config.name_or_path or "")
        or None,
        "clone": recipe,
        "seed": seed,
        "corpus": corpus.describe(),
        "tokens": steps * batch_size * corpus.context,
        "epochs": round(steps * batch_size / len(corpus.train), 3),
        "parameters": model.num_parameters(),
        **surroundings(),
        **(info or {}),
        "request": json.loads(json.dumps(request)),
    }
    arguments = trainer_arguments(out, record["request"], device, trainer_args or {})
    if arguments.process_index == 0:
        prepare_folder(
            out,
            record["request"],
            plan=planned,
            resume=resume,
            overwrite=overwrite,
        )
    if arguments.world_size > 1:
        torch.distributed.barrier()
    if read_info(out).get("status") == "done":
        return Run(out)
    if progress and arguments.process_index == 0 and (disk_budget or keeping != Keeping()):
        print(f"{label or out.name}: {planned}", file=sys.stderr)
    with quiet():
        _run(model, tokenizer, corpus, arguments, record, callbacks)
    return Run(out)


def _run(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    arguments: TrainingArguments,
    record: dict[str, Any],
    callbacks: Sequence[TrainerCallback],
) -> None:
    """Train from the newest whole checkpoint, or from the start, and keep ``run.json`` true."""
    out, request = Path(arguments.output_dir), record["request"]
    begin = next(whole_checkpoints(out), None)
    arguments.eval_on_start = begin is None
    snapshots = Snapshots(
        request["snapshots"],
        eval_every=request["eval_every"],
        tokenizer=tokenizer,
        keeping=Keeping(**request.get("keeping", {})),
    )
    trainer = SnapshotTrainer(
        model=model,
        args=arguments,
        train_dataset=BlockOrder(
            corpus.train, count=request["steps"] * request["batch_size"], seed=request["seed"]
        ),
        eval_dataset=BlockOrder(corpus.heldout, count=request["eval_blocks"]),
        callbacks=[snapshots, *callbacks],
        schedule=request["schedule"],
        warmup_steps=round(request["warmup"] * request["steps"]),
        tokens_per_step=request["batch_size"] * corpus.context,
        paces={name: Pace(*pace) for name, pace in request.get("lockstep", {}).items()},
    )
    snapshots.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    record |= {"world_size": arguments.world_size, "device": arguments.device.type}
    first = trainer.is_world_process_zero()
    if first:
        write_info(out, record)
    try:
        trainer.train(resume_from_checkpoint=str(begin) if begin else None)
        record["status"] = "done"
        for one in callbacks:
            if isinstance(one, MetricsCallback):
                record["metrics_overhead"] = round(one.overhead, 5)
    except (OSError, SafetensorError) as error:
        record["status"] = "stopped: cannot write"
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space" in str(error)
        raise HcvizError(
            f"Training stopped at step {trainer.state.global_step} because {out} cannot be written"
            f"{': the disk is full' if full else ''} ({error}). The snapshots before it are kept; "
            "make room and run the same command again to go on."
        ) from error
    except BaseException as error:
        record["status"] = f"stopped: {type(error).__name__}"
        raise
    finally:
        callbacks[0].close()
        if first and out.is_dir():
            _leave_record(trainer, record)
    trainer.accelerator.wait_for_everyone()


def _leave_record(trainer: SnapshotTrainer, record: dict[str, Any]) -> None:
    """Write the history and ``run.json``; a full disk must not hide what stopped the run."""
    try:
        if trainer.state.log_history:
            trainer.save_state()
        write_info(Path(trainer.args.output_dir), record)
    except OSError:
        if record["status"] == "done":
            raise
