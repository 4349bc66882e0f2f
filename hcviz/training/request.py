"""What a training run is asked, said once: keywords, command line, docs, record, arguments."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcviz.errors import HcvizError

MIXED = ("bfloat16", "float16")
DECIDE = (
    *("steps", "batch_size", "lr", "warmup", "schedule", "weight_decay", "betas", "seed"),
    *("eval_every", "eval_blocks", "log_every", "dtype"),
)
"""The fields that tell one run from another as they are; others do when a model settles them."""
LAUNCH = "Start them by torchrun --nproc_per_node N -m hcviz train ..."


@dataclass(frozen=True)
class TrainRequest:
    """The keywords of :func:`hcviz.train`; what can be checked without a model is checked here.

    Raises:
        HcvizError: If a value is none that the field can have.
    """

    corpus: Any = "asv"
    """The text: asv, kjv, sotu, grammar, pydoc or several (asv+kjv); a .txt or .jsonl file; hf:ID
    for a dataset of the hub; a folder of tokens (hcviz.text.tokens); or a Corpus."""
    tokenizer: Any = None
    """By default the model's own, found through its folder or its source."""
    steps: int = 120
    """Optimizer steps."""
    batch_size: int = 8
    """Blocks in a step, over all processes."""
    context: int = 128
    """Tokens in a block; a Corpus brings its own."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises linearly."""
    schedule: str = "cosine-to-tenth"
    """cosine-to-tenth, linear-to-tenth or constant, after warm-up."""
    weight_decay: float = 0.05
    """Decoupled; not on norms and biases."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's."""
    dropout: float | None = None
    """Set every dropout rate of the model; None: as configured."""
    breaker: str | Sequence[str] | None = None
    """What parts the copies of a clone: gradient-noise, moments-reset, copy-rate, copy-frozen,
    moments-warm; one or several, with settings: gradient-noise:scale=0.01,steps=1,axis=N
    (docs/breakers.md)."""
    until: int | None = None
    """Stop after this step of the schedule, which stays that of all steps."""
    begin: Any = None
    """Where another run stopped, a hcviz.training.trainer.Begin: this one goes on from there with
    the model that it is given, as hcviz.grow does."""
    lockstep: Any = None
    """A symmetric clone. If it is the model itself, it takes the steps that its source would; if
    the model is its source, the source takes the clone's, which are larger: the matched effective
    learning rate. Exact where gradients are not clipped (trainer_args={"max_grad_norm": 0.0}):
    their norm is another one in a clone."""
    seed: int = 0
    """Seed of the data order, of dropout and of a breaker's noise."""
    snapshots: int | Sequence[int] = 12
    """How many (log-spaced), or at which steps; 0 and the last are always saved."""
    keep: str | None = None
    """A regular expression: older snapshots keep the tensors that it finds. The newest, from which
    the run can resume, stays whole. None: all."""
    snapshot_dtype: str | None = None
    """Cast older snapshots, to bfloat16 or float16; rounding may hide small differences between
    copies."""
    disk_budget: str | int | None = None
    """Most that the run may take on the disk, for example 2GB. A number of snapshots that does not
    fit is lowered; what comes of it is told first."""
    metrics: Sequence[str] = ()
    """Measure these while the model trains, for example ledger grad.ledger. run.json tells their
    share of the time."""
    metric_tensors: str | Sequence[str] | None = None
    """Regular expressions of the tensors to measure; none: all."""
    metric_steps: int | Sequence[int] | None = None
    """How many steps to measure at (log-spaced), or which; None: those of the snapshots."""
    eval_every: int | None = None
    """Also evaluate every so many steps; snapshots always are."""
    eval_blocks: int = 32
    """Held-out blocks used, evenly spaced, the same for every run of the corpus."""
    log_every: int = 1
    """Steps between two rows of the training loss, each the mean since the one before."""
    label: str | None = None
    """The run's name in tables and plots; None: the folder's."""
    resume: bool = True
    """Continue an interrupted run of the same request."""
    overwrite: bool = False
    """Replace a run that is already there."""
    progress: bool = True
    """Show a bar; False is silent."""
    source: str | Path | None = None
    """What the model was made from, for the record."""
    device: str | None = None
    """cpu forces the CPU; None takes the best there is."""
    dtype: str | None = None
    """bfloat16 or float16 (GPU only) computes in mixed precision, float32 in float32. The weights
    are trained and saved in float32 either way: in half precision AdamW's small steps, and with
    them the differences between copies, round to nothing. None: float32, or float64 of a model
    that is float64."""
    on_log: Callable[[dict], None] | None = None
    """Called with every row of the log while the run goes on, for live curves."""
    trainer_args: dict[str, Any] | None = None
    """Further transformers.TrainingArguments, for example {"fsdp": True}."""
    info: dict[str, Any] | None = None
    """Further entries of run.json, for example {"clone": recipe}."""

    def __post_init__(self):
        """Refuse numbers and names that no run can have."""
        from hcviz.training.schedule import SCHEDULES, parse_breakers, snapshot_steps  # torch: slow

        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise HcvizError(f"{name} must be a whole number of at least 1, not {value!r}.")
        if not self.lr > 0:
            raise HcvizError(f"lr must be positive, not {self.lr!r}.")
        if not 0 <= self.warmup <= 1:
            raise HcvizError(
                f"warmup is a share of the steps, between 0 and 1, not {self.warmup!r}."
            )
        if self.schedule not in SCHEDULES:
            raise HcvizError(
                f"Unknown schedule {self.schedule!r}. Use one of {', '.join(SCHEDULES)}."
            )
        if self.dtype not in (None, "float32", *MIXED):
            raise HcvizError(
                f"Unknown dtype {self.dtype!r}. Use float32, or {' or '.join(MIXED)} (mixed)."
            )
        if self.until is not None and not 1 <= self.until <= self.steps:
            raise HcvizError(f"until={self.until!r} is no step of 1 to {self.steps}.")
        snapshot_steps(self.steps, self.snapshots)
        parse_breakers(self.breaker)

    def decided(self, **found: Any) -> dict[str, Any]:
        """Return what tells this run from others, JSON-ready.

        Args:
            found: What the model and the text settle, such as a hash of the weights.
        """
        plain = {name: getattr(self, name) for name in DECIDE}
        plain["dtype"] = self.dtype if self.dtype in MIXED else None  # float32 is in the weights
        further = {key: repr(value) for key, value in (self.trainer_args or {}).items()}
        return json.loads(json.dumps({**plain, "trainer_args": further, **found}))


def trainer_arguments(
    out: Path, request: dict[str, Any], device: str | None, extra: dict[str, Any]
) -> Any:
    """Turn a request into the Trainer's arguments, on this process's device.

    Raises:
        HcvizError: If ``extra`` sets what the request does, or the Trainer or the machine refuses.
    """
    import torch
    from transformers import TrainingArguments
    from transformers.training_args import ParallelMode

    from hcviz.io.process import device_of

    check_processes(device)
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", {"bfloat16": "bf16", "float16": "fp16"}.get(request["dtype"])):
        raise HcvizError(
            f"accelerate was told mixed_precision: {launched}, and dtype is {request['dtype']!r}. "
            "Set it to 'no' there: dtype (--dtype) decides."
        )

    ours = {
        "output_dir": str(out),
        "max_steps": request["steps"],
        "learning_rate": request["lr"],
        "weight_decay": request["weight_decay"],
        "adam_beta1": request["betas"][0],
        "adam_beta2": request["betas"][1],
        "seed": request["seed"],
        "logging_steps": request["log_every"],
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would put the mean in a NaN's place
        "save_strategy": "no",  # the Snapshots callback decides, here and for evaluation
        "eval_strategy": "no",
        "prediction_loss_only": True,
        "disable_tqdm": True,
        "use_cpu": device == "cpu" or not torch.accelerator.is_available(),
        "bf16": request["dtype"] == "bfloat16",
        "fp16": request["dtype"] == "float16",
    }
    decided = {*ours, "per_device_train_batch_size", "warmup_steps"}
    clash = sorted((decided | {"bf16_full_eval", "fp16_full_eval"}) & set(extra))
    if clash:
        raise HcvizError(
            f"trainer_args may not hold {', '.join(clash)}: train() sets them itself, by keywords "
            "of its own (dtype, steps, lr, ...)."
        )
    pin = torch.cuda.is_available() and device != "cpu"
    defaults = {"optim": "adamw_torch", "report_to": "none", "dataloader_pin_memory": pin}
    try:
        arguments = TrainingArguments(**{**defaults, **ours, **extra})
    except (TypeError, ValueError) as error:
        raise HcvizError(f"The Trainer refuses these arguments ({extra}): {error}") from error
    if device not in (None, "cpu") and arguments.device.type != device_of(device).type:
        raise HcvizError(f"device {device!r} was asked for, but torch finds {arguments.device}.")
    if request["dtype"] == "float16" and arguments.device.type == "cpu":
        raise HcvizError(
            "dtype 'float16' mixes on a GPU only: on the CPU the Trainer would leave it out "
            "without a word. Use bfloat16 or float32."
        )
    if arguments.fsdp and arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        raise HcvizError(
            f"fsdp shards a model over processes, and this one is alone. {LAUNCH}, or leave it out."
        )
    arguments._n_gpu = min(1, arguments.n_gpu)  # with more, one process would multiply the batch
    parts = arguments.world_size * arguments.gradient_accumulation_steps
    if request["batch_size"] % parts:
        raise HcvizError(
            f"batch_size {request['batch_size']} cannot be split over {arguments.world_size} "
            f"processes and {arguments.gradient_accumulation_steps} accumulation steps. Use a "
            f"multiple of {parts}."
        )
    arguments.per_device_train_batch_size = request["batch_size"] // parts
    arguments.per_device_eval_batch_size = max(1, 16 // arguments.world_size)
    return arguments


def check_processes(device: str | None) -> None:
    """Refuse more processes than there are, before they wait for each other or work alone.

    Raises:
        HcvizError: If a launcher was asked for several and started one, or started more than GPUs.
    """
    import torch

    known = os.environ
    asked, here = (int(known.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if asked > 1 and not known.keys() & {"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"}:
        raise HcvizError(
            f"WORLD_SIZE asks for {asked} processes, and no RANK says which of them this one is. "
            f"{LAUNCH}."
        )
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= known.keys() and "WORLD_SIZE" not in known:
        raise HcvizError(
            "accelerate was asked for several processes and started one alone, as it does on CPUs. "
            f"{LAUNCH}."
        )
    found = torch.cuda.device_count()
    if here > found > 0 and device != "cpu":
        raise HcvizError(
            f"{here} processes were started on a machine of {found} GPUs. Start one for each, or "
            "use --device cpu."
        )


def hold_weights(model: Any, dtype: str | None) -> str | None:
    """Cast a model, in place, to the dtype in which its weights are trained.

    That is float32 (see `TrainRequest.dtype`); a float64 model stays what it is unless a dtype is
    asked for.

    Args:
        model: A model of one's own.
        dtype: As asked.

    Returns:
        What was cast to what, in words; None if nothing was.

    Raises:
        HcvizError: If weights are quantized, or integers.
    """
    import torch

    stored = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    strange = set(stored) - {"float64", "float32", *MIXED}
    if strange or getattr(model, "is_quantized", False):
        raise HcvizError(
            f"The model's weights are quantized, or no numbers to train ({', '.join(stored)}). "
            "Give the checkpoint it was quantized from."
        )
    held = torch.float64 if stored == ["float64"] and dtype is None else torch.float32
    if stored == [str(held).removeprefix("torch.")]:
        return None
    model.to(held)
    return f"weights stored in {' and '.join(stored)} are trained, and saved, in float32"


def check_fit(model: Any, corpus: Any) -> None:
    """Refuse a text that the model cannot read."""
    if corpus.largest >= model.config.vocab_size:
        raise HcvizError(
            f"The tokenizer's tokens go up to {corpus.largest}, and the model has "
            f"{model.config.vocab_size}. Give the model's own tokenizer."
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and corpus.context > longest:
        raise HcvizError(
            f"context {corpus.context} is longer than the model's {longest} positions. "
            f"Use --context {longest} or less."
        )
