"""One matrix by hand: widen it as a layer of a model is widened, and measure its copies."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from hcviz.architecture.axes import Dim, Segment, TensorAxes
from hcviz.errors import HcvizError
from hcviz.metrics import metric_rows, resolve
from hcviz.runs.rows import table
from hcviz.widening.expansion import Expansion, widen


def widen_matrix(
    matrix: Any,
    *,
    written: int = 2,
    read: int = 2,
    expansion: Any = "symmetric",
    snr_db: float | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Widen one matrix ``[outputs, inputs]`` as :func:`hcviz.clone` widens a layer (paper fig. 3).

    Args:
        matrix: The weight, as ``torch.nn.Linear`` keeps it.
        written: Copies of every output; 1 is the paper's first case, input only.
        read: Copies of every input; 1 is the second case, output only.
        expansion: As in :func:`hcviz.clone`.
        snr_db: As in :func:`hcviz.clone`.
        seed: As in :func:`hcviz.clone`.

    Returns:
        ``[written * outputs, read * inputs]``. Summed over the copies that are read, every written
        copy is the matrix again.

    Raises:
        HcvizError: If the matrix has not two dimensions, or an argument is wrong.

    Example:
        >>> widen_matrix([[4.0, 8.0]], written=1)
        tensor([[2., 4., 2., 4.]])
    """
    weight = torch.as_tensor(matrix)
    axes, factors = _axes(weight.shape, written, read), {"ffn": written, "hidden": read}
    weight = weight if weight.is_floating_point() else weight.float()
    return widen("matrix", weight, axes, factors, Expansion.of(expansion, snr_db, seed))


def measure_matrix(
    matrices: Mapping[str, Any],
    *,
    written: int = 2,
    read: int = 2,
    metrics: Sequence[str] = ("cosine", "ledger"),
) -> pd.DataFrame:
    """Measure wide matrices as :func:`hcviz.measure` measures the weights of a run.

    Each is taken for an up-projection: it reads the residual stream (R) and writes neurons (N).

    Args:
        matrices: Name -> wide matrix; the names go to the column ``run``.
        written: Copies of every output.
        read: Copies of every input.
        metrics: Those that need no run: cosine, pairs, ledger, sectors, spectrum, ...

    Returns:
        The frame of :func:`hcviz.measure`, at step 0.

    Raises:
        HcvizError: If a metric is unknown or looks at a run, or a shape is not whole blocks.

    Example:
        >>> locked = widen_matrix([[4.0, 8.0]])
        >>> measure_matrix({"locked": locked})["value"].round(6).tolist()
        [1.0, 0.0, 0.0]
    """
    asked = {label: resolve(label) for label in metrics}
    wrong = [name for name, (sub, one) in asked.items() if sub or one.needs or one.of != "weight"]
    if wrong:
        raise HcvizError(f"{', '.join(wrong)}: needs a training run; use hcviz.measure(run, ...).")
    rows, factors = [], {"ffn": written, "hidden": read}
    for name, wide in matrices.items():
        wide = torch.as_tensor(wide)
        source = [size // n for size, n in zip(wide.shape, (written, read), strict=False)]
        axes = _axes(source, written, read)
        if [n * size for n, size in zip((written, read), source, strict=True)] != [*wide.shape]:
            raise HcvizError(f"{name} {tuple(wide.shape)} is no grid of {written} x {read} blocks.")
        found = metric_rows(
            asked, {"": wide}.get, name="up_proj", step=0, axes=axes, factors=factors
        )
        rows += [{"run": name} | row for row in found]
    return table(rows)


def _axes(shape: Sequence[int], written: int, read: int) -> TensorAxes:
    """Return the axes of an up-projection of that shape, in source units."""
    if len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in (written, read)):
        raise HcvizError(
            f"A matrix of shape {tuple(shape)} with written={written!r} and read={read!r}: give "
            "two dimensions [outputs, inputs] and whole numbers of copies from 1."
        )
    kinds = zip(("write", "read"), ("ffn", "hidden"), shape, strict=True)
    return tuple(Dim(role, (Segment(((axis, size),)),)) for role, axis, size in kinds)
