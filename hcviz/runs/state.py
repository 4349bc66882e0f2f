"""What stands beside a run's snapshots, in the forms it must have: run.json, the Trainer's log."""

from pathlib import Path
from typing import Annotated, Any, Required

from pydantic import Field
from typing_extensions import TypedDict

from hcviz.io import forms

INFO, LOG = "run.json", "trainer_state.json"
AGAIN = "Put back the file as hcviz train wrote it, or remove it and do without."
Seed = Annotated[int, Field(ge=0)]


class Text(TypedDict, total=False):
    """The form of what ``run.json`` says of the corpus."""

    __pydantic_config__ = forms.OPEN
    name: str
    context: Annotated[int, Field(ge=1)]
    holdout: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class Info(TypedDict, total=False):
    """The form of ``run.json``."""

    __pydantic_config__ = forms.OPEN
    label: str | None
    status: str
    started: str
    source: str | None
    seed: Seed | None
    clone: forms.Recipe | None
    corpus: Text | None
    request: dict[str, Any]


class LogRow(TypedDict, total=False):
    """The form of a row of the Trainer's log."""

    __pydantic_config__ = forms.OPEN
    step: Required[int]
    loss: float
    eval_loss: float
    learning_rate: float | None
    tokens: int | None
    seconds: float | None
    flops: float | None


class State(TypedDict):
    """The form of ``trainer_state.json``."""

    __pydantic_config__ = forms.OPEN
    log_history: list[LogRow]


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``run.json``; empty if there is none.

    Raises:
        HcvizError: If it cannot be read.
    """
    path = folder / INFO
    return forms.read(path, Info, AGAIN) if path.is_file() else {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a ``trainer_state.json``; none if there is none.

    Raises:
        HcvizError: If it cannot be read.
    """
    return forms.read(path, State, AGAIN)["log_history"] if path.is_file() else []
