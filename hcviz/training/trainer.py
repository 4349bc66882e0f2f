"""What hcviz adds to `transformers.Trainer`: snapshots, a guard against NaN, one progress bar."""

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, str_to_bool
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerState

from hcviz.cloning.lockstep import Pace
from hcviz.errors import HcvizError
from hcviz.io.checkpoint import weight_files
from hcviz.io.files import open_to_readers
from hcviz.io.sources import read_model
from hcviz.training.schedule import SCHEDULES
from hcviz.training.snapshots import Keeping, drop_resume_files, seal


@dataclass(frozen=True)
class Begin:
    """Where a run has stopped, for another one that goes on from there with a grown model."""

    checkpoint: Path
    """Its last one: log and generators are taken from it."""
    step: int
    flops: float
    """Of training until there."""
    states: Mapping[str, Mapping[str, Any]]
    """What the optimizer begins with, by parameter of the grown model; empty: afresh."""

    def describe(self) -> dict[str, Any]:
        """Return what tells it from others, JSON-ready."""
        optimizer = "grown" if self.states else "fresh"
        return {"step": self.step, "flops": self.flops, "optimizer": optimizer}


class SnapshotTrainer(Trainer):
    """A Trainer that keeps the data order, logs tokens and seconds, and stops at NaN."""

    def __init__(
        self,
        *,
        schedule: str,
        warmup_steps: int,
        tokens_per_step: int,
        paces: Mapping[str, Pace] | None = None,
        begin: Begin | None = None,
        **kwargs: Any,
    ):
        """Take `transformers.Trainer`'s keywords, the schedule's, and those of `lockstep.paces`."""
        self.spent = (begin.step, begin.flops) if begin else (0, 0.0)
        self.paces = paces
        self.schedule = SCHEDULES[schedule]
        self.warmup_steps = warmup_steps
        self.tokens_per_step = tokens_per_step
        self.started: float | None = None
        self.saving: Path | None = None
        self.use_cache = getattr(kwargs["model"].config, "use_cache", True)
        self.flops_per_token = 6 * inner_parameters(kwargs["model"])
        super().__init__(**kwargs)

    def create_accelerator_and_postprocess(self) -> None:
        """Shard over CPUs too, if that is asked for; accelerate leaves it out without a word."""
        super().create_accelerator_and_postprocess()
        asked = self.args.fsdp or str_to_bool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
        state = self.accelerator.state
        if not asked or state.distributed_type != DistributedType.MULTI_CPU:
            return
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**(self.args.fsdp_plugin_args or {}))
        if self.accelerator.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(self.accelerator.mixed_precision)
        for one in (state, PartialState()):
            one.distributed_type = DistributedType.FSDP
        self.is_fsdp_enabled = True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load every weight by its stored name; the Trainer leaves out those that are renamed."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        model = model or self.model
        stored = read_model(Path(resume_from_checkpoint), model_class=type(model))
        model.load_state_dict(stored.state_dict())

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return SequentialSampler(self.train_dataset)  # which its own seed has shuffled

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Give every parameter a group of its own where each has a pace of its own."""
        if self.optimizer is None and self.paces:
            model, args = model or self.model, self.args
            kind, options = self.get_optimizer_cls_and_kwargs(args, model)
            decayed = set(self.get_decay_parameter_names(model))
            groups = []
            for name, parameter in model.named_parameters():
                decay = args.weight_decay * (name in decayed)
                own = Pace(args.learning_rate, args.adam_epsilon, decay).times(self.paces[name])
                groups.append({"params": [parameter], **own})
            self.optimizer = kind(groups, **options)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Warm up linearly from the first step's 1/warmup, then follow the schedule."""
        warm, rest = self.warmup_steps, max(1, num_training_steps - self.warmup_steps)

        def share(step: int) -> float:
            return (step + 1) / warm if step < warm else self.schedule(min(1, (step - warm) / rest))

        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save whole weights, and the cache as it was: the Trainer turns it off while it trains.

        ``saving`` is the checkpoint's folder until all is in it.
        """
        self.saving = Path(output_dir or self.args.output_dir)
        config = self.accelerator.unwrap_model(self.model).config
        off, config.use_cache = config.use_cache, self.use_cache
        try:
            if self.is_fsdp_enabled:  # in shards the Trainer would leave no weights to open
                self._save(output_dir, state_dict=self._whole_state())
            else:
                super().save_model(output_dir, _internal_call)
        finally:
            config.use_cache = off

    def _whole_state(self) -> dict[str, torch.Tensor]:
        """Gather the weights of all processes in the first one, tied ones once."""
        state = self.accelerator.get_state_dict(self.model)
        once = {name for name, _ in self.model.named_parameters()}
        named = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return {name: weight for name, weight in state.items() if name not in named - once}

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run one step; refuse to go on from a loss that is not a number."""
        loss = super().training_step(*args, **kwargs)
        self.refuse_nan(loss.item(), "training")
        return loss

    def refuse_nan(self, loss: float, what: str) -> None:
        """Raise if the loss is not finite, before anything is saved."""
        if math.isfinite(loss):
            return
        step = self.state.global_step + (what == "training")
        rate = self._get_learning_rate()
        raise HcvizError(
            f"The {what} loss became {loss} at step {step} of {self.state.max_steps} (learning "
            f"rate {rate:.3g}). The snapshots before it are kept in {self.args.output_dir}. Lower "
            "the learning rate, lengthen the warm-up, or train in float32."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the tokens seen, FLOPs and seconds of training, over all resumed parts."""
        if self.started is None:
            done = [row["seconds"] for row in self.state.log_history if "seconds" in row]
            self.started = time.perf_counter() - (done[-1] if done else 0.0)
        logs["tokens"] = self.state.global_step * self.tokens_per_step
        step, flops = self.spent
        seen = (self.state.global_step - step) * self.tokens_per_step
        logs["flops"] = flops + float(seen * self.flops_per_token)
        logs["seconds"] = round(time.perf_counter() - self.started, 3)
        super().log(logs, start_time)


class Snapshots(TrainerCallback):
    """Save and evaluate at the chosen steps; the newest checkpoint alone can be resumed."""

    def __init__(
        self,
        steps: Sequence[int],
        *,
        eval_every: int | None,
        until: int | None = None,
        tokenizer: Any,
        keeping: Keeping,
    ):
        """Take the steps to save at, where to stop, and what to keep of older snapshots."""
        self.steps, self.eval_every, self.until = frozenset(steps), eval_every, until
        self.tokenizer, self.keeping = tokenizer, keeping
        self.trainer: SnapshotTrainer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the model as it comes, before the first step."""
        self.trainer.started = None
        if state.global_step == 0:
            folder = Path(args.output_dir, "checkpoint-0")
            self.trainer.save_model(str(folder), _internal_call=True)
            self._finish(state, folder)
        else:
            self._thin_out(state, Path(args.output_dir, f"checkpoint-{state.global_step}"))

    def take_over(self, begin: Begin) -> Path:
        """Leave the checkpoint from which this run goes on where another one stopped.

        Raises:
            HcvizError: If the model or its optimizer is spread over processes.
        """
        trainer = self.trainer
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise HcvizError(
                "A model that fsdp or deepspeed has in shards cannot grow inside a run. Train it "
                "to the step, clone the checkpoint (hcviz clone), and train the clone."
            )
        trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
        for name, kept in begin.states.items():
            trainer.optimizer.state[trainer.model.get_parameter(name)] = dict(kept)
        saved = begin.checkpoint / "trainer_state.json"
        trainer.state = state = TrainerState.load_from_json(str(saved))
        state.is_world_process_zero = trainer.is_world_process_zero()
        # the held-out loss there is the grown model's, measured next
        before = (r for r in state.log_history if r["step"] != begin.step or "eval_loss" not in r)
        state.log_history = list(before)
        schedule = trainer.lr_scheduler
        there = {"last_epoch": begin.step - 1, "_step_count": begin.step + 1}
        schedule.load_state_dict(schedule.state_dict() | there)
        schedule.step()
        folder = Path(trainer.args.output_dir, f"checkpoint-{begin.step}")
        trainer.save_model(str(folder), _internal_call=True)
        if state.is_world_process_zero:
            trainer._save_optimizer_and_scheduler(str(folder))
            state.save_to_json(str(folder / "trainer_state.json"))
            for path in begin.checkpoint.glob("rng_state*.pth"):
                shutil.copyfile(path, folder / path.name)
        self._finish(state, folder)
        trainer.accelerator.wait_for_everyone()
        return folder

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask the Trainer to save and evaluate here, or not, and to stop."""
        control.should_training_stop |= state.global_step == self.until
        control.should_save = state.global_step in self.steps
        often = self.eval_every and state.global_step % self.eval_every == 0
        control.should_evaluate = control.should_save or bool(often)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Stop before a model is saved whose held-out loss is not a number."""
        self.trainer.refuse_nan(metrics["eval_loss"], "held-out")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finish the new checkpoint and thin out the older ones."""
        newest = Path(args.output_dir, f"checkpoint-{state.global_step}")
        self.trainer.accelerator.wait_for_everyone()  # each process has saved its generators
        self._finish(state, newest)
        self._thin_out(state, newest)

    def _finish(self, state: Any, folder: Path) -> None:
        """Write what the Trainer leaves out; last of all, for a resume, the list of what is there.

        Until then the checkpoint before is whole, and the one that a run goes on from.
        """
        if state.is_world_process_zero:
            self.tokenizer.save_pretrained(folder)
            open_to_readers(folder)
            seal(folder)
        self.trainer.saving = None

    def _thin_out(self, state: Any, newest: Path) -> None:
        if state.is_world_process_zero:
            for folder in {*newest.parent.glob("checkpoint-*")} - {newest}:
                drop_resume_files(folder)
                if weight_files(folder):
                    self.keeping.thin(folder)


def inner_parameters(model: Any) -> int:
    """Count the parameters outside the tables of vocabulary and positions and the unembedding.

    Six times their number is the usual estimate of a training token's FLOPs (Kaplan et al., 2020,
    section 2.1): forward and backward, without the attention's scores.
    """
    tables = {m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    head = model.get_output_embeddings()
    tables |= {head.weight} if head is not None else set()
    return sum(p.numel() for p in model.parameters() if p not in tables)
