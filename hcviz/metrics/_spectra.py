"""Metrics of spectra: what the singular values of a weight say."""

from collections.abc import Iterator, Mapping

import torch

from hcviz.blocks import TensorAxes
from hcviz.metrics._registry import Row, metric


@metric("spectrum", needs_clone=False)
def spectrum(weight: torch.Tensor, axes: TensorAxes, factors: Mapping[str, int]) -> Iterator[Row]:
    """Singular values of the whole matrix, largest first; row is the index."""
    if weight.dim() != 2:
        return
    values = torch.linalg.svdvals(weight.double())
    for row, value in enumerate(values.tolist()):
        yield {"row": row, "value": value}
