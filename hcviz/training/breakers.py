"""Breakers: what parts the copies of a clone while it trains; steps of their own, and dropout.

`BreakerCallback` acts on the step alone: on the gradient, the moments, or how far a copy moves. No
weight changes when it sets in, so the model computes what it did. What it does follows from the
settings, the seed and the number of the step. Dropout acts on the function itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from hcviz.architecture.axes import SYMMETRY
from hcviz.architecture.blocks import Blocks, pieces
from hcviz.architecture.factors import read_factors
from hcviz.cloning.lockstep import POWERS
from hcviz.errors import HcvizError
from hcviz.training.live import sharded
from hcviz.training.schedule import Breaker, parse_breakers
from hcviz.widening.layout import layout
from hcviz.widening.plan import recipe_of


class BreakerCallback(TrainerCallback):
    """Let breakers act in any `Trainer` of transformers, on a clone.

    No weight changes when a breaker sets in, only the step that follows. The learning rate that the
    Trainer logs is the schedule's, without a breaker's share. A callback that measures gradients
    sees the noise if it is added after this one. Parameters that are sharded are refused.

    Args:
        breakers: As `hcviz.train` takes them: ``"gradient-noise:scale=0.01,steps=1,axis=N"``.
        seed: Seed of the noise.
        factors: How the model was cloned, as in `hcviz.clone`; by default what its configuration
            says.

    Raises:
        HcvizError: If a breaker is none; and when training begins, if the model is no clone, has no
            copies along an axis, or is sharded, or the run ends before a breaker sets in.

    Example:
        >>> trainer.add_callback(BreakerCallback("copy-frozen:steps=100"))  # doctest: +SKIP
    """

    def __init__(
        self,
        breakers: str | Sequence[str],
        *,
        seed: int = 0,
        factors: Mapping[str, Any] | None = None,
    ):
        """Read the breakers; the model is seen when training begins."""
        self.breakers, self.seed, self.given = parse_breakers(breakers), seed, factors

    def learn(self, model: Any, steps: int) -> None:
        """Learn the axes of a model, and when each breaker acts in a run of so many steps."""
        self.spans = [breaker.span(steps) for breaker in self.breakers]
        if not self.given:
            recipe_of(model)  # refuses what is no clone
        self.factors = read_factors(model.config, self.given)
        self.axes = layout(model, factors=self.factors)
        self.parameters = dict(model.named_parameters())
        split = [n for n, p in self.parameters.items() if n not in self.axes or sharded(p)]
        if split:
            raise HcvizError(
                f"{split[0]} is sharded over processes, so none of them sees its copies, and a "
                "breaker cannot act. Train without fsdp or deepspeed, or without breakers."
            )
        grown = {
            SYMMETRY.get(axis)
            for name, parameter in self.parameters.items()
            for blocks in pieces(parameter.detach(), self.axes[name], self.factors)
            for axis in blocks.copy_axes
        }
        for breaker in self.breakers:
            if not grown & set(breaker.axis):
                there = ", ".join(sorted(grown - {None})) or "none"
                raise HcvizError(
                    f"{breaker.name}: the model has no copies along {breaker.axis}; those it has "
                    f"are along {there} (R hidden, H heads, N ffn). Choose among them."
                )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Learn the axes of the model."""
        for name in ("fsdp", "deepspeed"):
            if getattr(args, name, None):
                raise HcvizError(
                    f"A breaker cannot act under {name}, which shards the state of the optimizer. "
                    "Train without one of the two."
                )
        self.learn(kwargs["model"], state.max_steps)
        self.kept: list[tuple[torch.Tensor, torch.Tensor, float]] = []

    @torch.no_grad()
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Disturb gradients and moments, and remember what is to move otherwise."""
        step = state.global_step + 1
        for number, (breaker, span) in enumerate(zip(self.breakers, self.spans, strict=True)):
            if step not in span:
                continue
            done = step - span.start
            if breaker.name == "gradient-noise":
                draw = np.random.default_rng([self.seed, number, step])
                self._add_noise(breaker, breaker.scale * breaker.decay**done, draw)
            if breaker.name == "moments-reset" and not done:
                self._reset(breaker, kwargs["optimizer"])
            share = breaker.share(done, len(span))
            if share is not None:
                blocks = self._moved(breaker)
                self.kept += [(block, block.clone(), share) for block in blocks]

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let what moves otherwise go its own share of the way."""
        for block, before, share in self.kept:
            block.copy_(before + share * (block - before))
        self.kept.clear()

    def _moved(self, breaker: Breaker) -> Iterator[torch.Tensor]:
        """Yield what a breaker moves otherwise: the last copy, or all while the moments warm up."""
        for name, parameter in self.parameters.items():
            if breaker.name == "moments-warm":
                yield parameter.detach()
            else:
                yield from self._last(name, parameter.detach(), breaker.axis)

    def _last(self, name: str, tensor: torch.Tensor, axis: str) -> Iterator[torch.Tensor]:
        """Yield the blocks of a tensor that are the last copy along each of some axes it has."""
        for blocks in pieces(tensor, self.axes[name], self.factors):
            on = _levels(blocks, axis)
            if any(on):
                yield blocks.view[tuple(-1 if one else slice(None) for one in on)]

    def _add_noise(self, breaker: Breaker, scale: float, draw: np.random.Generator) -> None:
        """Add noise to every gradient: another in each copy along the axes, the same in others."""
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            noise = torch.zeros_like(parameter.grad)
            if breaker.axis == "RHN":
                noise.copy_(_normal(draw, noise.shape))
            else:
                for blocks in pieces(noise, self.axes[name], self.factors):
                    on, sizes = _levels(blocks, breaker.axis), blocks.view.shape
                    if any(on):
                        copies = [n if one else 1 for one, n in zip(on, sizes, strict=False)]
                        blocks.view.copy_(_normal(draw, (*copies, *sizes[len(on) :])))
            length = noise.float().norm()
            if length > 0:
                parameter.grad.add_(noise * (scale * parameter.grad.float().norm() / length))

    def _reset(self, breaker: Breaker, optimizer: Any) -> None:
        """Set the moments of the last copy to zero."""
        for name, parameter in self.parameters.items():
            state = optimizer.state.get(parameter, {})
            shaped = {k: v for k, v in state.items() if getattr(v, "shape", 0) == parameter.shape}
            moments = [value for key, value in shaped.items() if key in POWERS]
            if state and not moments:
                raise HcvizError(
                    f"{breaker.name}: the optimizer keeps {', '.join(state)} for {name}, and "
                    f"none of {', '.join(POWERS)} in its shape. Use AdamW, Adam, or SGD "
                    "with momentum."
                )
            for moment in moments:
                for block in self._last(name, moment, breaker.axis):
                    block.zero_()


def _levels(blocks: Blocks, axis: str) -> list[bool]:
    """Tell which levels of copies lie along one of some axes."""
    return [(SYMMETRY.get(level) or "-") in axis for level in blocks.copy_axes]


def _normal(draw: np.random.Generator, shape: Sequence[int]) -> torch.Tensor:
    """Draw on the CPU, so that every device and process has the same noise."""
    return torch.from_numpy(draw.standard_normal(tuple(shape), dtype=np.float32))


_ATTRIBUTES = ("dropout", "attention_dropout", "hidden_dropout", "activation_dropout")
_ATTRIBUTES += ("attn_dropout",)
_NOT_RATES = ("layerdrop", "classifier_dropout", "summary_first_dropout")
"""Of whole layers, or of other heads."""


def dropout_fields(config: Any) -> dict[str, float]:
    """Return the configuration's dropout rates, by field name.

    Example:
        >>> from transformers import LlamaConfig
        >>> dropout_fields(LlamaConfig())
        {'attention_dropout': 0.0}
    """
    return {
        name: value
        for name, value in config.to_dict().items()
        if ("dropout" in name or name.endswith("_pdrop"))
        and name not in _NOT_RATES
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }


def set_dropout(model: nn.Module, rate: float) -> int:
    """Set every dropout rate of a model, in place.

    What can drop differs by family: GPT-NeoX and OPT drop attention weights and the residual
    stream's inputs; Llama, OLMo and most later families have attention dropout only.

    Args:
        model: A `transformers` model.
        rate: Between 0 and 1 (1 excluded).

    Returns:
        How many places of the live model now hold the rate.

    Raises:
        HcvizError: If the rate is out of range, or above 0 where no place can drop.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> widths = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
        >>> config = LlamaConfig(vocab_size=8, num_hidden_layers=2, **widths)
        >>> set_dropout(LlamaForCausalLM(config), 0.1)
        2
    """
    if not 0 <= rate < 1:
        raise HcvizError(f"dropout must be at least 0 and below 1, not {rate}.")
    fields = dropout_fields(model.config)
    for name in fields:
        setattr(model.config, name, rate)
    count = 0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
            count += 1
        for name in _ATTRIBUTES:
            value = module.__dict__.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                setattr(module, name, rate)
                count += 1
    if count == 0 and rate > 0:
        raise HcvizError(
            f"{type(model).__name__} has nothing that can drop (configuration fields: "
            f"{sorted(fields) or 'none'}). Leave dropout at None, or break the symmetry by noise."
        )
    return count
