"""The residual stream beside its source's: CKA, and what each layer would already say."""

from collections.abc import Iterator
from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hcviz.architecture.axes import RESIDUAL
from hcviz.architecture.infer import tensors
from hcviz.cloning.verify import kl
from hcviz.metrics._activations import Layout, layer_paths, observed
from hcviz.metrics._registry import Row, metric


@metric("cka", of="model", needs_clone=False, needs=("source",))
def cka(
    model: nn.Module, batch: torch.Tensor, layout: Layout, factors, source=None
) -> Iterator[Row]:
    """Linear CKA of the residual stream with the source's, layer by layer.

    It cannot see copies: of x and [x, x] it is 1 (Kornblith et al., 2019). With fewer tokens than
    units it is too high.
    """
    if source is None:
        return
    ours, theirs = (_streams(one, batch) for one in (model, source))
    for (path, a), b in zip(ours.items(), theirs.values(), strict=True):
        yield {"tensor": path, "axis": RESIDUAL, "value": linear_cka(a, b)}


@metric("lens", of="model", needs_clone=False, needs=("source",))
def lens(
    model: nn.Module, batch: torch.Tensor, layout: Layout, factors, source=None
) -> Iterator[Row]:
    """Logit lens: each layer's stream through the model's own final norm and head.

    ``part`` is ``loss`` of the next token, or ``kl``, the divergence of the last layer's prediction
    from this one; both in nats per token. ``source loss`` and ``source kl`` are the source's.
    """
    for of, one in {"": model, "source ": source}.items():
        if one is None:
            continue
        *early, final = layer_logits(one, batch)
        for path, logits in zip(layer_paths(layout), [*early, final], strict=True):
            where = {"tensor": path, "axis": RESIDUAL}
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
            yield {**where, "part": f"{of}loss", "value": loss.item()}
            yield {**where, "part": f"{of}kl", "value": kl(final, logits)}


def linear_cka(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the linear CKA of two representations of the same tokens: [T, W] and [T, V].

    Example:
        >>> x = torch.randn(9, 3, dtype=torch.float64)
        >>> round(linear_cka(x, torch.cat([x, x], 1)), 12)
        1.0
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    a, b = a @ a.T, b @ b.T
    return ((a * b).sum() / (a.norm() * b.norm())).item()


@torch.no_grad()
def layer_logits(model: nn.Module, batch: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the logits that a model gives if it stops after each of its layers, float32.

    All layers are replaced by ones that return a recorded stream, so that norm, head, soft caps and
    scales are the model's own whatever its family; the last logits are the model's.
    """
    layers = [model.get_submodule(path) for path in layer_paths(tensors(model))]
    outputs: dict[nn.Module, object] = {}
    handles = [
        layer.register_forward_hook(lambda one, _, out: outputs.__setitem__(one, out))
        for layer in layers
    ]
    try:
        model.base_model(input_ids=batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        with ExitStack() as stack:
            for other in layers:
                stack.enter_context(
                    patch.object(other, "forward", lambda *_, out=outputs[layer], **__: out)
                )
            logits = model(input_ids=batch, use_cache=False).logits.float()
        yield logits


def _streams(model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the residual stream after every layer, ``[T, W]`` in the model's dtype."""
    paths = layer_paths(tensors(model))
    return dict(observed(model, batch, paths, lambda _, x: [x.to(model.dtype)], outputs=True))
