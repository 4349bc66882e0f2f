"""grow(): train a model, grow it where told, train on: as one run, or by itself in stages."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hcviz.errors import HcvizError
from hcviz.io.parameters import parse_pairs, takes
from hcviz.runs.run import Run
from hcviz.training.request import TrainRequest
from hcviz.widening.request import SIZES

WIDTH = {**dict.fromkeys(SIZES, str), "expansion": str, "snr_db": float, "seed": int, "tie": str}
DEPTH = {"layers": int, "method": str}
REST = {"optimizer": str, "pace": str}
READ = {**WIDTH, **DEPTH, **REST}
"""The settings of a growth and how each is read: those of clone(), of deepen(), and two more."""
CHOICES = {"optimizer": ("grown", "fresh"), "pace": ("own", "source")}
Growth = Mapping[str, Any]


@takes(TrainRequest)
def grow(model: Any, *, out: str | Path, at: Mapping[int, Growth | str], request) -> Run:
    """Train a model, and widen or deepen it at given steps of the run.

    Schedule, data order and log go on; so does AdamW's state, by the map that grows the weights
    (exact for symmetric clones; layers that are identities begin without one). The held-out loss
    after a growth is measured and stands in the history in the place of the one before it.

    Args:
        model: As for :func:`hcviz.train`.
        out: The run's folder: its last part, with the history of all. The parts before lie beside
            it, in ``OUT-until-STEP``. The same call goes on where it was interrupted.
        at: By step, the settings of :func:`hcviz.clone` (hidden, heads, ..., expansion, snr_db,
            seed, tie), or of :func:`hcviz.deepen` (layers, method), or both; as a mapping, or
            written ``hidden=2,snr_db=20``. Two settings more: ``optimizer`` (``grown``, or
            ``fresh``) and ``pace`` (``own``, or ``source``: the clone goes in lockstep with what it
            was made from, as long as gradients are not clipped).
        request: {options}

    Returns:
        The `Run` of the last part. ``run.info["request"]["begin"]`` says where it began.

    Raises:
        HcvizError: Before training, if a step or a setting is none; otherwise as
            :func:`hcviz.train`, :func:`hcviz.clone` and :func:`hcviz.deepen`.

    Example:
        >>> import tempfile
        >>> out = tempfile.mkdtemp() + "/run"
        >>> short = {"snapshots": 2, "context": 32, "batch_size": 2, "eval_blocks": 2}
        >>> run = grow("nano:gpt-neox-quarter", out=out, at={2: {"hidden": 2}}, steps=4,
        ...     progress=False, **short)
        >>> run.steps, run.history["step"].tolist()[0]
        ([2, 4], 0)
    """
    from hcviz.training.train import train

    growths = {step: settings(how) for step, how in sorted(at.items())}
    outside = [step for step in growths if not 0 < step < request.steps]
    if outside or not growths:
        raise HcvizError(
            f"Growth at step {', '.join(map(str, outside)) or 'none'} of {request.steps}: give "
            f"steps from 1 to {request.steps - 1}, and what grows there, such as 600=hidden=2."
        )
    out, label = Path(out), request.label or Path(out).name
    options, run = vars(request) | {"label": label}, None
    for first, last in itertools.pairwise([0, *growths, request.steps]):
        place = out.with_name(f"{out.name}-until-{last}") if last in growths else out
        stop = {"until": last, "label": f"{label} until {last}"} if last in growths else {}
        how = growths.get(first, {})
        if run:
            model, begin = _grown(run, first, how)
            paced = model if how.get("pace") == "source" else None
            options |= {"begin": begin, "source": run.info["source"], "lockstep": paced}
        run = train(model, out=place, **(options | stop))
    return run


def settings(how: Growth | str) -> dict[str, Any]:
    """Read what grows: a mapping as it is, a text such as ``hidden=2,snr_db=20``.

    Raises:
        HcvizError: If a setting or its value is none.

    Example:
        >>> settings("hidden=3/2,layers=6")
        {'hidden': '3/2', 'layers': 6}
    """
    found = {}
    for key, value in (how if isinstance(how, Mapping) else parse_pairs(str(how))).items():
        if key not in READ:
            raise HcvizError(f"A growth has no setting {key!r}; it has {', '.join(READ)}.")
        try:
            found[key] = READ[key](value) if isinstance(value, str) else value
        except ValueError:
            raise HcvizError(f"{key}={value!r}: {key} is {READ[key].__name__}.") from None
        if key in CHOICES and found[key] not in CHOICES[key]:
            raise HcvizError(f"{key}={value!r}: choose {' or '.join(CHOICES[key])}.")
    if not found.keys() & {*WIDTH, *DEPTH}:
        raise HcvizError(f"{how!r} grows nothing. Say hidden=2, or layers=6.")
    return found


def _grown(run: Run, step: int, how: Growth) -> tuple[Any, Any]:
    """Grow a run's last model and its optimizer's state."""
    from hcviz.cloning.clone import clone
    from hcviz.cloning.deepen import deepen, deepen_states
    from hcviz.cloning.lockstep import grow_states
    from hcviz.runs.moments import read_moments
    from hcviz.training.trainer import Begin

    place, model = run.path / f"checkpoint-{step}", run.model(step)
    states = {} if how.get("optimizer") == "fresh" else read_moments(place)
    for own, grow_model, grow_them in ((WIDTH, clone, grow_states), (DEPTH, deepen, deepen_states)):
        if asked := {key: value for key, value in how.items() if key in own}:
            grown = grow_model(model, **asked)
            states, model = grow_them(states, model, grown), grown
    return model, Begin(place, step, float(run.history["flops"].iloc[-1]), states)
