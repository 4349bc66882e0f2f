"""Save a figure as a paper needs it: PNG, SVG, the data behind it, and the command that made it."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import hcviz
from hcviz.errors import HcvizError
from hcviz.io.files import check_name, fresh_files, printable

_SAVING = {"svg.hashsalt": "hcviz", "savefig.facecolor": "white"}


def save(
    figure: Figure | Axes | Sequence[Axes] | np.ndarray,
    stem: str | Path,
    *,
    data: pd.DataFrame | None = None,
    command: str | None = None,
    dpi: int = 160,
) -> dict[str, Path]:
    """Write ``stem.png``, ``stem.svg``, ``stem.csv`` (data) and ``stem.json`` (how it was made).

    All are drawn in memory first and then put in place together, so that a failure leaves the old
    ones. The CSV is plain; the command is in the JSON, and inside the PNG and SVG as their
    description. The same figure gives the same bytes.

    Args:
        figure: A figure, or axes of it as the plot functions return them.
        stem: Path without the ending; its folder is made.
        data: The frame that was drawn; None writes no CSV.
        command: The command that makes the figure again.
        dpi: Of the PNG.

    Returns:
        ``png``, ``svg``, ``csv``, ``json`` -> path, for those written.

    Raises:
        HcvizError: If the place cannot be written or ``figure`` is no figure.

    Example:
        >>> import tempfile, matplotlib.figure
        >>> stem = Path(tempfile.mkdtemp()) / "empty"
        >>> paths = save(matplotlib.figure.Figure(), stem, command="make demo")
        >>> json.loads(paths["json"].read_text())["command"]
        'make demo'
    """
    fig = _figure(figure)
    stem = Path(stem)
    check_name(stem)
    written = {end: stem.with_name(f"{stem.name}.{end}") for end in ("png", "svg", "csv", "json")}
    content, told = {}, None
    with mpl.rc_context(_SAVING):
        about = {"Title": printable(stem.name), "Description": command or ""}
        for ending, metadata in (("png", about), ("svg", about | {"Date": None})):
            buffer = io.BytesIO()
            fig.savefig(buffer, format=ending, dpi=dpi, metadata=metadata)
            content[ending] = buffer.getvalue()
    if data is not None:
        content["csv"] = data.to_csv(index=False, lineterminator="\n").encode()
        told = {"rows": len(data), "columns": [str(name) for name in data]}
    record = {
        "command": command,
        "hcviz": hcviz.__version__,
        "matplotlib": mpl.__version__,
        "files": [written[ending].name for ending in content],
        "data": told,
    }
    content["json"] = printable(json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
    with fresh_files(*(written[ending] for ending in content)) as scratch:
        for path, text in zip(scratch, content.values(), strict=True):
            path.write_bytes(text)
    return {ending: written[ending] for ending in content}


def _figure(given: Any) -> Figure:
    if isinstance(given, Figure):
        return given
    flat = np.ravel(np.asarray(given, dtype=object))
    if len(flat) and isinstance(flat[0], Axes):
        return flat[0].figure
    raise HcvizError(f"save() needs a matplotlib figure or axes, and got a {type(given).__name__}.")
