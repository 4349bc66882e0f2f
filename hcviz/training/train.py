"""Train a model for a while on `transformers.Trainer`, with snapshots at log-spaced steps."""

import atexit
import contextlib
import copy
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from hcviz.cloning.lockstep import Pace, paces
from hcviz.errors import HcvizError
from hcviz.io.files import locked
from hcviz.io.models import check_model
from hcviz.io.parameters import takes
from hcviz.io.process import machine, quiet, surroundings
from hcviz.io.sources import load, tokenizer_for
from hcviz.runs.run import Run
from hcviz.runs.state import read_info
from hcviz.text.corpus import Corpus, load_corpus
from hcviz.training.breakers import BreakerCallback, dropout_fields, set_dropout
from hcviz.training.live import Bar, MetricsCallback
from hcviz.training.record import prepare_folder, status_kept, weights_hash
from hcviz.training.request import TrainRequest, check_fit, hold_weights, trainer_arguments
from hcviz.training.schedule import BlockOrder, parse_breakers
from hcviz.training.snapshots import Keeping, Plan, newest_whole, plan, processes_of
from hcviz.training.trainer import Begin, Snapshots, SnapshotTrainer


@takes(TrainRequest)
def train(model: Any, *, out: str | Path, request: TrainRequest) -> Run:
    """Train a copy of a model and return the run.

    The order of the data depends on ``seed`` and the corpus only, so runs that share them see the
    same batches whatever their size or dropout, and on any number of processes (``torchrun`` splits
    each batch). Gradients are clipped at norm 1, as the Trainer does by default.

    Args:
        model: A causal language model, or what `hcviz.load` takes (``"nano:NAME"``, a folder, a hub
            id). It is left as it is.
        out: The run's folder. One that holds the same request is resumed, or returned if it is
            whole.
        request: {options}

    Returns:
        The `Run`. Its newest checkpoint alone keeps the optimizer's state.

    Raises:
        HcvizError: Before training, if an argument, the text, the folder or the disk will not do,
            or another process trains there; during training, if a loss is not finite, the disk is
            full or another process of the run has ended (the snapshots are kept).

    Example:
        >>> import tempfile
        >>> out = tempfile.mkdtemp() + "/run"
        >>> train("nano:llama", out=out, steps=2, snapshots=2, context=32, progress=False).steps
        [0, 2]
    """
    out = Path(out)
    model, tokenizer, source = _opened(model, request)
    corpus = request.corpus
    if not isinstance(corpus, Corpus):
        corpus = load_corpus(corpus, tokenizer=tokenizer, context=request.context)
    check_fit(model, corpus)
    cast = hold_weights(model, request.dtype)
    if request.dropout is not None:
        set_dropout(model, request.dropout)
    keeping = Keeping(request.keep, request.snapshot_dtype)
    planned = plan(
        model, tokenizer, keeping,
        steps=request.steps, snapshots=request.snapshots, budget=request.disk_budget,
        part=(request.begin.step if request.begin else 0, request.until or request.steps),
    )  # fmt: skip
    asked = request.decided(**_settled(request, model, corpus, keeping, planned))
    label = request.label or out.name
    callbacks = [Bar(label, progress=request.progress, on_log=request.on_log)]
    if request.breaker:
        callbacks.append(BreakerCallback(request.breaker, seed=request.seed))
        callbacks[-1].learn(model, request.steps)
    if request.metrics:
        at = planned.steps if request.metric_steps is None else request.metric_steps
        callbacks.append(MetricsCallback(request.metrics, tensors=request.metric_tensors, steps=at))
        callbacks[-1].origin = planned.steps[0]
    recipe = getattr(model.config, "hcviz", None)
    seen = planned.steps[-1] * request.batch_size
    record = {
        "label": label,
        "status": "running",
        "source": str(source or (recipe or {}).get("source") or model.config.name_or_path or "")
        or None,
        "clone": recipe,
        "seed": request.seed,
        "corpus": corpus.describe(),
        "tokens": seen * corpus.context,
        "epochs": round(seen / len(corpus.train), 3),
        "parameters": model.num_parameters(),
        **({"cast": cast} if cast else {}),
        **surroundings(),
        "machine": machine(),
        **(request.info or {}),
        "request": asked,
    }
    arguments = trainer_arguments(out, asked, request.device, request.trainer_args or {})
    first = arguments.process_index == 0
    with locked(out) if first else contextlib.nullcontext():
        if first:
            again = {"resume": request.resume, "overwrite": request.overwrite}
            prepare_folder(out, asked, plan=planned, **again)
        if arguments.world_size > 1:
            torch.distributed.barrier()
        if read_info(out).get("status") == "done":
            return _whole(out)
        if request.progress and first:
            told = planned if request.disk_budget or keeping != Keeping() else None
            for line in filter(None, (cast, told)):
                print(f"{label}: {line}", file=sys.stderr)
        with quiet():
            _run(model, tokenizer, corpus, arguments, record, callbacks, request.begin)
        return _whole(out)


def _whole(out: Path) -> Run:
    """Return a run that is whole; its processes part before Python ends.

    Threads of a group that is still there may hold tensors, and abort the process when they let go
    of them in an interpreter that is being torn down.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit.register(PartialState().destroy_process_group)
    return Run(out)


def _opened(model: Any, request: TrainRequest) -> tuple[Any, Any, str | Path | None]:
    """Return a model of one's own, its tokenizer, and what it was made from."""
    with quiet():
        if not isinstance(model, str | Path):
            check_model(model)
            model = copy.deepcopy(model)
            return model, request.tokenizer or tokenizer_for(model), request.source
        source = request.source or str(model)
        model, own = load(model)
        return model, request.tokenizer or own, source


def _settled(
    request: TrainRequest, model: Any, corpus: Corpus, keeping: Keeping, planned: Plan
) -> dict[str, Any]:
    """Return the part of a request that a model and a text settle."""
    found = {
        "model": weights_hash(model),
        "corpus": corpus.fingerprint,
        "context": corpus.context,
        "dropout": dropout_fields(model.config),
        "snapshots": planned.steps,
    }
    if keeping != Keeping():
        found["keeping"] = dataclasses.asdict(keeping)
    if request.metrics:
        measured = {"tensors": request.metric_tensors, "steps": request.metric_steps}
        found["metrics"] = {"metrics": list(request.metrics), **measured}
    if request.until is not None:
        found["until"] = request.until
    if request.begin:
        found["begin"] = request.begin.describe()
    if request.breaker:
        found["breaker"] = [dataclasses.asdict(one) for one in parse_breakers(request.breaker)]
    if request.lockstep is not None:
        found["lockstep"] = paces(model, request.lockstep)
    return found


def _run(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    arguments: TrainingArguments,
    record: dict[str, Any],
    callbacks: Sequence[TrainerCallback],
    handed: Begin | None = None,
) -> None:
    """Train from the newest whole checkpoint, or from the start, and keep ``run.json`` true."""
    out, request = Path(arguments.output_dir), record["request"]
    begin = _begin(out, arguments, record["label"], told=callbacks[0].progress)
    first = begin is None or (handed and begin.name == f"checkpoint-{handed.step}")
    arguments.eval_on_start = bool(first)
    snapshots = Snapshots(
        request["snapshots"], eval_every=request["eval_every"], until=request.get("until"),
        tokenizer=tokenizer, keeping=Keeping(**request.get("keeping", {})),
    )  # fmt: skip
    blocks = request["steps"] * request["batch_size"]
    trainer = SnapshotTrainer(
        model=model,
        args=arguments,
        train_dataset=BlockOrder(corpus.train, count=blocks, seed=request["seed"]),
        eval_dataset=BlockOrder(corpus.heldout, count=request["eval_blocks"]),
        callbacks=[snapshots, *callbacks],
        schedule=request["schedule"],
        warmup_steps=round(request["warmup"] * request["steps"]),
        tokens_per_step=request["batch_size"] * corpus.context,
        paces={name: Pace(*pace) for name, pace in request.get("lockstep", {}).items()},
        begin=handed,
    )
    snapshots.trainer = trainer
    for one in callbacks if arguments.report_to else ():
        if isinstance(one, MetricsCallback):
            one.report = trainer.log
    trainer.remove_callback(PrinterCallback)
    record |= {"world_size": arguments.world_size, "device": arguments.device.type}
    with contextlib.closing(callbacks[0]), status_kept(trainer, record):
        if handed and begin is None:
            begin = snapshots.take_over(handed)
        trainer.train(resume_from_checkpoint=str(begin) if begin else None)
        for one in callbacks:
            if isinstance(one, MetricsCallback):
                record["metrics_overhead"] = round(one.overhead, 5)
    trainer.accelerator.wait_for_everyone()


def _begin(out: Path, arguments: TrainingArguments, label: str, *, told: bool) -> Path | None:
    """Return the checkpoint to go on from, and say which; None to train from the start.

    Raises:
        HcvizError: If it was saved by another number of processes.
    """
    begin, wrong = newest_whole(out)
    saved, now = begin and processes_of(begin), arguments.world_size
    if begin and saved != now:
        raise HcvizError(
            f"{begin} was saved by {saved} processes, and going on with {now} would end in other "
            f"weights. Start as many as before, or train again with --overwrite."
        )
    if arguments.process_index == 0 and (wrong or (begin and told)):
        passed = f"; {wrong}" if wrong else ""
        print(f"{label}: goes on from {begin.name if begin else 'step 0'}{passed}", file=sys.stderr)
    return begin
