"""Check what `hcviz.train` was given, and turn it into the Trainer's arguments."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from hcviz.errors import HcvizError
from hcviz.io.corpus import Corpus
from hcviz.training.schedule import SCHEDULES

MIXED = ("bfloat16", "float16")


def trainer_arguments(
    out: Path, request: dict[str, Any], device: str | None, extra: dict[str, Any]
) -> TrainingArguments:
    """Turn a request into the Trainer's arguments, on this process's device.

    Raises:
        HcvizError: If ``extra`` sets what the request does, or the Trainer or the machine refuses.
    """
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
        "use_cpu": device == "cpu",
        "bf16": request["dtype"] == "bfloat16",
        "fp16": request["dtype"] == "float16",
    }
    clash = sorted({*ours, "per_device_train_batch_size", "warmup_steps"} & set(extra))
    if clash:
        raise HcvizError(f"trainer_args may not hold {', '.join(clash)}: train() sets them itself.")
    pin = torch.cuda.is_available() and device != "cpu"
    defaults = {"optim": "adamw_torch", "report_to": "none", "dataloader_pin_memory": pin}
    try:
        arguments = TrainingArguments(**{**defaults, **ours, **extra})
    except (TypeError, ValueError) as error:
        raise HcvizError(f"The Trainer refuses these arguments ({extra}): {error}") from error
    if device not in (None, "cpu") and arguments.device.type != torch.device(device).type:
        raise HcvizError(f"device {device!r} was asked for, but torch finds {arguments.device}.")
    parts = arguments.world_size * arguments.gradient_accumulation_steps
    if request["batch_size"] % parts:
        raise HcvizError(
            f"batch_size {request['batch_size']} cannot be split over {arguments.world_size} "
            "processes "
            f"and {arguments.gradient_accumulation_steps} accumulation steps. Use a multiple of "
            f"{parts}."
        )
    arguments.per_device_train_batch_size = request["batch_size"] // parts
    arguments.per_device_eval_batch_size = max(1, 16 // arguments.world_size)
    return arguments


def check_numbers(
    *, steps: int, batch_size: int, lr: float, warmup: float, schedule: str, dtype: str | None
) -> None:
    """Refuse numbers and names that no run can have."""
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise HcvizError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if not lr > 0:
        raise HcvizError(f"lr must be positive, not {lr!r}.")
    if not 0 <= warmup <= 1:
        raise HcvizError(f"warmup is a share of the steps, between 0 and 1, not {warmup!r}.")
    if schedule not in SCHEDULES:
        raise HcvizError(f"Unknown schedule {schedule!r}. Use one of {', '.join(SCHEDULES)}.")
    if dtype not in (None, *MIXED):
        raise HcvizError(f"Unknown dtype {dtype!r}. Use {' or '.join(MIXED)} (mixed), or None.")


def check_fit(model: Any, corpus: Corpus) -> None:
    """Refuse a text that the model cannot read."""
    largest = max(int(corpus.train.max()), int(corpus.heldout.max()))
    if largest >= model.config.vocab_size:
        raise HcvizError(
            f"The tokenizer's tokens go up to {largest}, and the model has "
            f"{model.config.vocab_size}. "
            "Give the model's own tokenizer."
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and corpus.context > longest:
        raise HcvizError(
            f"context {corpus.context} is longer than the model's {longest} positions. "
            f"Use --context {longest} or less."
        )
