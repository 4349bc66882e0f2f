"""verify(): the report card of a clone, on the real pair of models."""

import inspect
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel

from hcviz.errors import HcvizError
from hcviz.io.models import check_model
from hcviz.io.process import quiet
from hcviz.io.sources import read_model
from hcviz.widening.twin import TrueFloat64, loop_over_experts, relative_error

ROUNDINGS = 64
"""Roundings of the dtype that may add up along the depth of a model: float32 is allowed 64 epsilon
(8e-6) of the largest logit. A missing 1/n or a wrong layout is off by a tenth of it or more."""
FLOAT64_TOLERANCE = 1e-12
"""Arithmetic in float64 leaves 1e-15. What remains is the rounding of the clone's weights to their
dtype, half an epsilon each where 1/n is not a power of two; 8 epsilon are allowed."""
CACHES = {"past_key_values": "KV cache", "cache_params": "cached states", "state": "cached states"}
"""What models keep while they generate, by the argument that takes it."""


@dataclass(frozen=True)
class Check:
    """One line of a report: a number against its tolerance."""

    name: str
    value: float
    tolerance: float
    at_least: bool = False
    """Whether the value must be at least the tolerance (an agreement), not at most (an error)."""

    @property
    def passed(self) -> bool:
        """Whether the value is within its tolerance; a value that is not a number is not."""
        return self.value >= self.tolerance if self.at_least else self.value <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The report card of a clone; prints as a table."""

    checks: tuple[Check, ...]
    max_relative_error: float
    """Largest logit difference over the largest logit, in the models' dtype."""
    scale_ratio: float
    """The factor from the source's logits to the clone's (least squares); 1 for a clone."""

    @property
    def passed(self) -> bool:
        """Whether every line passed."""
        return all(check.passed for check in self.checks)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per line: check, value, tolerance, passed."""
        rows = [(c.name, c.value, c.tolerance, c.passed) for c in self.checks]
        return pd.DataFrame(rows, columns=["check", "value", "tolerance", "passed"])

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [f"{'check':<{width}}  {'value':>10}  {'allowed':>11}  result"]
        for c in self.checks:
            sign = ">=" if c.at_least else "<="
            result = "pass" if c.passed else "FAIL"
            numbers = f"{c.value:>10.3g}  {sign} {c.tolerance:>8.2g}"
            lines.append(f"{c.name:<{width}}  {numbers}  {result}")
        said = (
            "The clone computes what its source does." if self.passed else "NOT a faithful clone."
        )
        return "\n".join([*lines, said])


@torch.no_grad()
def verify(
    source: PreTrainedModel,
    clone: PreTrainedModel,
    *,
    input_ids: torch.Tensor | None = None,
    seed: int = 0,
    float64: bool = True,
    reload: bool = True,
) -> Report:
    """Compare a clone with its source: logits and their scale, cache, padding, and after a reload.

    Args:
        source: The source model.
        clone: The clone, on the same device.
        input_ids: Token ids ``[batch, length]`` with ``length >= 4``; random ones if None.
        seed: Seed of the random ids.
        float64: Also compare copies of both in true float64 (needs 8 bytes a parameter for both).
        reload: Also save the clone to a temporary folder and load it with ``from_pretrained``.

    Returns:
        A :class:`Report`. A shifted scale (logits halved) fails even where the top token agrees.

    Raises:
        HcvizError: If the vocabularies differ or the ids do not fit.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> import hcviz
        >>> sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
        >>> small = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=100))
        >>> hcviz.verify(small.eval(), hcviz.clone(small)).passed
        True
    """
    for model in (source, clone):
        check_model(model)
        if not isinstance(model, PreTrainedModel):
            raise TypeError(
                f"verify() compares two transformers models, and got a {type(model).__name__}. "
                "Load it with hcviz.load(...) first, which returns the model and its tokenizer."
            )
    ids = _ids(source, clone, input_ids, seed)
    modes = [(module, module.training) for m in (source, clone) for module in m.modules()]
    source.eval(), clone.eval()
    try:
        a, b = _logits(source, ids), _logits(clone, ids)
        tolerance = max(tolerance_of(source), tolerance_of(clone))
        dtype = str(clone.dtype).removeprefix("torch.")
        scale = scale_ratio(a, b)
        checks = [
            Check(f"relative logit error, {dtype}", relative_error(a, b), tolerance),
            Check("logit scale off by", abs(scale - 1), tolerance),
            Check("KL(source || clone), nats", kl(a, b), max(tolerance, 1e-6)),
            Check("top-1 agreement where decided", top1(a, b, tolerance), 1.0, at_least=True),
        ]
        if float64:
            stored = max(FLOAT64_TOLERANCE, 8 * torch.finfo(clone.dtype).eps)
            exact = _in_float64(source, clone, ids)
            checks.append(Check("relative logit error, true float64", exact, stored))
        if cache := _cache_of(clone):
            error = _cached(source, clone, ids, cache)
            checks.append(Check(f"greedy generation with {CACHES[cache]}", error, tolerance))
        checks.append(Check("with left padding", _padded(source, clone, ids), tolerance))
        if reload:
            again = relative_error(a, _reloaded(clone, ids))
            checks.append(Check("after save and reload", again, tolerance))
    finally:
        for module, mode in modes:
            module.training = mode
    return Report(tuple(checks), relative_error(a, b), scale)


def tolerance_of(model: PreTrainedModel) -> float:
    """Return the relative logit error that a dtype explains: 64 epsilon, for half types 8."""
    epsilon = torch.finfo(model.dtype).eps
    return epsilon * (8 if epsilon > 1e-4 else ROUNDINGS)


def scale_ratio(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the ``s`` that makes ``s * a`` closest to ``b``, each row's mean taken off."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return ((a * b).sum() / (a * a).sum()).item()


def kl(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the mean KL divergence of the next-token distributions, in nats."""
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def top1(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> float:
    """Return how often the top tokens agree, where the source's lead is above the allowed error.

    Positions where it is not are no test of a clone; if there is no other position, the answer is
    1.
    """
    lead, _ = a.topk(2, -1)
    decided = lead[..., 0] - lead[..., 1] > 2 * tolerance * a.abs().max()
    same = a.argmax(-1) == b.argmax(-1)
    return same[decided].double().mean().item() if decided.any() else 1.0


def _ids(source, clone, input_ids, seed) -> torch.Tensor:
    """Return checked token ids on the source's device."""
    sizes = source.config.vocab_size, clone.config.vocab_size
    if sizes[0] != sizes[1]:
        raise HcvizError(
            f"The source's vocabulary has {sizes[0]} tokens and the clone's {sizes[1]}: these two "
            "models are not source and clone. Pass the source that the clone was made from."
        )
    if input_ids is None:
        generator = torch.Generator().manual_seed(seed)
        length = min(24, getattr(source.config, "max_position_embeddings", 24))
        input_ids = torch.randint(0, sizes[0], (2, length), generator=generator)
    if input_ids.dim() != 2 or input_ids.shape[1] < 4:
        raise HcvizError(
            f"input_ids has shape {tuple(input_ids.shape)}; give [batch, length >= 4]."
        )
    if input_ids.is_floating_point() or not 0 <= input_ids.min() <= input_ids.max() < sizes[0]:
        raise HcvizError(
            f"input_ids has values from {input_ids.min().item()} to {input_ids.max().item()}; "
            f"give whole numbers from 0 to {sizes[0] - 1}."
        )
    return input_ids.to(source.device)


def _logits(model, ids, **inputs) -> torch.Tensor:
    """Return a model's logits in float64."""
    return model(input_ids=ids, **inputs).logits.double()


def _in_float64(source, clone, ids) -> float:
    """Return the relative error of both models cast to float64, one after the other, and back."""
    logits = []
    for model in (source, clone):
        tensors = [*model.named_parameters(), *model.named_buffers()]
        dtypes = {name: tensor.dtype for name, tensor in tensors}
        experts = getattr(model.config, "_experts_implementation", None)
        model.double()
        loop_over_experts(model)
        try:
            with TrueFloat64(model):
                logits.append(_logits(model, ids))
        finally:  # a value that came from a narrower type returns unchanged
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                tensor.data = tensor.data.to(dtypes[name])
            if experts:
                model.set_experts_implementation(experts)
    return relative_error(*logits)


def _cache_of(model) -> str | None:
    """Return by which argument a model takes its cache, of keys and values or of states."""
    taken = inspect.signature(type(model).forward).parameters
    return next((name for name in CACHES if name in taken), None)


def _cached(source, clone, ids, name: str) -> float:
    """Let the clone write the second half greedily, token by token with its cache.

    The source follows with its own cache, and the logits of every step are compared.
    """
    given, total = max(1, ids.shape[1] // 2), ids.shape[1]
    text, caches, logits = ids[:, :given], [None, None], ([], [])
    while text.shape[1] <= total:
        for k, model in enumerate((source, clone)):
            fresh = text if caches[k] is None else text[:, -1:]
            out = model(input_ids=fresh, use_cache=True, **{name: caches[k]})
            caches[k] = out[name]
            logits[k].append(out.logits.double())
        text = torch.cat([text, out.logits[:, -1:].argmax(-1)], 1)
    return relative_error(*(torch.cat(steps, 1) for steps in logits))


def _padded(source, clone, ids) -> float:
    """Compare both models on a batch whose rows are padded on the left by different amounts."""
    mask = torch.ones_like(ids)
    for row in range(len(ids)):
        mask[row, : 1 + row % 3] = 0
    a, b = (_logits(model, ids, attention_mask=mask)[mask.bool()] for model in (source, clone))
    return relative_error(a, b)


def _reloaded(clone, ids) -> torch.Tensor:
    """Return the logits of the clone after a round trip through a folder, as the stock class."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        clone.save_pretrained(folder)
        again = read_model(Path(folder), dtype=clone.dtype, model_class=type(clone))
        again.to(clone.device)
        return _logits(again, ids)
