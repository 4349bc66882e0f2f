"""The paper's pairs on paper: shapes, memory, FLOPs, hours and cost; beside its tables 1 and 2."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig

from hcviz.architecture.infer import NUMBER, tensors
from hcviz.architecture.widths import AXES, widths
from hcviz.cloning.clone import decide
from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.io.files import data_folder
from hcviz.io.models import blank
from hcviz.io.sources import config_of
from hcviz.training.request import TrainRequest
from hcviz.training.schedule import SCHEDULES
from hcviz.training.trainer import inner_parameters
from hcviz.widening.plan import Plan
from hcviz.widening.request import CloneRequest

FFN = tuple(axis for axis in AXES if axis.endswith("ffn"))


@dataclass(frozen=True)
class Launch:
    """What a pair is trained with, in the units of table 2: an iteration is a batch on every GPU.

    The defaults are what the paper says of all its pairs.
    """

    __pydantic_config__ = forms.CLOSED
    batch_per_gpu: int = 2
    gpus: int = 64
    accumulation: int = 16
    """Iterations in an optimizer step."""
    context: int = 1024
    lr: float = 1.5e-4
    weight_decay: float = 0.05
    betas: Sequence[float] = (0.9, 0.999)
    warmup_iterations: int = 25_000
    iterations: int = 2_500_000
    """Of the schedule."""
    schedule: str = "cosine-to-tenth"
    """The paper names no form of its decay."""
    dtype: str = "bfloat16"
    """It does not say what it computes in."""

    def request(self, processes: int | None = None) -> dict[str, Any]:
        """Return the keywords of :func:`hcviz.train`: the same steps on any number of processes.

        Raises:
            HcvizError: If the blocks of a step cannot be shared out to so many.
        """
        processes = processes or self.gpus
        blocks = self.batch_per_gpu * self.gpus * self.accumulation
        parts, rest = divmod(blocks, self.batch_per_gpu * processes)
        if rest or not parts:
            raise HcvizError(
                f"A step's {blocks} blocks, {self.batch_per_gpu} at a time, cannot be shared out "
                f"to {processes} GPUs. Take a divisor of {blocks // self.batch_per_gpu}."
            )
        return {
            "steps": self.iterations // self.accumulation,
            "batch_size": blocks,
            "warmup": self.warmup_iterations / self.iterations,
            "betas": tuple(self.betas),
            "trainer_args": {"gradient_accumulation_steps": parts},
            **{k: getattr(self, k) for k in ("context", "lr", "weight_decay", "schedule", "dtype")},
        }


@dataclass(frozen=True)
class Pair:
    """A source and what is made of it: one file of ``configs/pairs``."""

    __pydantic_config__ = forms.CLOSED
    name: str
    hub: str
    """The source: an id of the hub, or what else :func:`hcviz.load` takes."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The fields of its configuration; none: those of ``hub``."""
    clone: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of :func:`hcviz.clone`."""
    launch: Launch = field(default_factory=Launch)
    table1: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """What the paper's table says of source and clone."""
    table2: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Assumptions:
    """What no file says; each is printed beside what comes of it.

    Raises:
        HcvizError: If a number is not positive.
    """

    gpus: float = 0
    """GPUs that the model is sharded over; 0: those of the pair's file."""
    tokens: float = 0
    """Tokens to train on; 0: the whole schedule, every block full."""
    teraflops: float = 989.0
    """Peak of one GPU, in 10^12 a second: an H100 SXM in dense bfloat16, as its maker says."""
    utilisation: float = 0.4
    """Share of the peak that the model's own FLOPs reach."""
    dollars: float = 2.5
    """Price of a GPU-hour: a round number, not an offer."""
    watts: float = 700.0
    """Power of one GPU: the H100 SXM's limit; what else the machine draws is left to the PUE."""
    pue: float = 1.2
    """Power of the whole site over that of the GPUs."""
    weight_bytes: float = 4
    """Of a weight, which hcviz holds in float32 whatever it computes in."""
    gradient_bytes: float = 4
    """Of a gradient."""
    moment_bytes: float = 8
    """Of AdamW's two moments, in float32."""
    compute_bytes: float = 2
    """Of a number in forward and backward: bfloat16."""

    def __post_init__(self):
        """Refuse what is no size."""
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name not in ("gpus", "tokens")):
                raise HcvizError(f"{name}={value:g} must be positive.")


class Entry(NamedTuple):
    """An entry of a table of the paper, beside ours."""

    what: str
    ours: Any
    theirs: Any

    @property
    def differs(self) -> bool:
        """Whether the two are apart by more than 1 in 1,000: steps are whole, 65K is rounded."""
        pairs = zip(*(x if isinstance(x, list | tuple) else [x] for x in self[1:]), strict=True)
        return any(abs(one - other) > 1e-3 * abs(other) for one, other in pairs)


def pair_names() -> list[str]:
    """Return the names of the pairs that ship."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def read_pair(spec: str | Path) -> Pair:
    """Return a pair: one that ships by its name, a .toml file, or any model, doubled.

    Raises:
        HcvizError: If the file is not whole, or there is no such model.

    Example:
        >>> read_pair("olmo-1b").clone
        {'hidden': 2, 'ffn': 1}
    """
    path = Path(spec)
    if str(spec) in pair_names():
        path = _folder() / f"{spec}.toml"
    elif path.suffix != ".toml":
        longest = getattr(config_of(spec), "max_position_embeddings", None) or Launch.context
        launch = Launch(context=min(Launch.context, longest))
        return Pair(f"{spec}, doubled", str(spec), clone={"hidden": 2}, launch=launch)
    return forms.read(path, Pair, f"There are {', '.join(pair_names())}.")


def _folder() -> Path:
    return data_folder().parent / "configs" / "pairs"


class Planned(NamedTuple):
    """A pair as models on the meta device."""

    source: Any
    wide: Any
    plan: Plan
    said: tuple[str, ...]
    """What cloning warns of."""


def planned(pair: Pair) -> Planned:
    """Plan a clone by the code that clones; no weight is read or made.

    Raises:
        CloneError: As :func:`hcviz.clone`.
    """
    config = AutoConfig.for_model(**pair.source) if pair.source else config_of(pair.hub)
    source = blank(config, pair.name).eval()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        plan = decide(source, CloneRequest(**pair.clone))
    return Planned(source, plan.wide, plan, tuple(str(one.message) for one in said))


def shapes(found: Planned) -> list[tuple[str, int, tuple | None, tuple]]:
    """Return every kind of tensor: its name, how many there are, the source's shape, the clone's.

    The head that a clone gets for itself has no shape in its source.
    """
    before, kinds = tensors(found.source), {}
    for name, tensor in tensors(found.wide).items():
        own = tuple(before[name].shape) if name in before else None
        key = NUMBER.sub("*", name), own, tuple(tensor.shape)
        kinds[key] = kinds.get(key, 0) + 1
    return [(name, count, own, wide) for (name, own, wide), count in kinds.items()]


def table_1(pair: Pair, found: Planned) -> list[Entry]:
    """Compare source and clone with table 1; nothing where it has no row."""
    rows = []
    for model in (found.source, found.wide):
        size, units = widths(model.config), _ffn_units(model, found.plan)
        layers = model.config.num_hidden_layers
        rows.append({"layers": layers, "heads": size.heads, "width": size.hidden, "ffn": units})
    return [Entry(what, [row[what] for row in rows], row) for what, row in pair.table1.items()]


def _ffn_units(model: Any, plan: Plan) -> int:
    """Count what a layer's FFN matrices write into neurons: gate and up each, as table 1 does."""
    total = 0
    for name, tensor in tensors(model).items():
        dims = plan.axes.get(name, ())
        if dims and tensor.dim() == 2 and dims[0].role == "write":
            total += tensor.shape[0] * any({*s.axes()} & {*FFN} for s in dims[0].segments)
    return total // model.config.num_hidden_layers


def table_2(pair: Pair) -> list[Entry]:
    """Compare what :func:`hcviz.train` is asked for with table 2; nothing where it has no row."""
    asked, gpus = TrainRequest(**pair.launch.request()), pair.launch.gpus
    parts = asked.trainer_args["gradient_accumulation_steps"]
    ours = {
        "batch_per_gpu": asked.batch_size // parts // gpus,
        "gpus": gpus,
        "accumulation": parts,
        "warmup_iterations": round(asked.warmup * asked.steps) * parts,
        "iterations": asked.steps * parts,
        "final_rate": SCHEDULES[asked.schedule](1.0),
        "tokens_per_iteration": asked.batch_size // parts * asked.context,
        **{name: getattr(asked, name) for name in ("context", "lr", "weight_decay", "betas")},
    }
    return [Entry(what, ours[what], theirs) for what, theirs in pair.table2.items()]


def differences(pair: Pair, table: int, apart: Sequence[str] = ()) -> int:
    """Count the entries of a table in which a pair differs, those ``apart`` left out.

    Raises:
        HcvizError: If the paper's table has no row for it.
    """
    entries = table_1(pair, planned(pair)) if table == 1 else table_2(pair)
    if not entries:
        raise HcvizError(f"The paper's table {table} has no row for {pair.name}.")
    return sum(entry.differs for entry in entries if entry.what not in apart)


def estimate(pair: Pair, found: Planned, assume: Assumptions) -> dict[str, float]:
    """Return what training the clone takes: tokens, FLOPs, bytes on each GPU, hours, cost.

    FLOPs are forward and backward, twice the forward: ``6 N`` a token, N as in ``Run.history``, the
    unembedding's, and the attention's scores over the whole context (a kernel that leaves out what
    is masked needs half). Weights, gradients and moments are sharded over the GPUs (FSDP2); the
    embeddings and two layers at a time are gathered. Backward keeps, of every layer and token, 8
    widths and two numbers for each FFN unit (Korthikanti et al., 2022, without scores and dropout
    masks; within a third of what autograd keeps of tiny models), and the logits in
    ``compute_bytes``, in float32 and with their gradient.

    Raises:
        HcvizError: If a step's blocks cannot be shared out to the GPUs.
    """
    launch, model, size = pair.launch, found.wide, widths(found.wide.config)
    gpus = int(assume.gpus) or launch.gpus
    asked = launch.request(gpus)
    step = asked["batch_size"] * launch.context
    tokens = assume.tokens or asked["steps"] * step
    layers, count = model.config.num_hidden_layers, model.num_parameters()
    inner, head = inner_parameters(model), model.get_output_embeddings().weight.numel()
    block = sum(p.numel() for n, p in model.named_parameters() if NUMBER.search(n)) / layers
    here = launch.batch_per_gpu * launch.context
    flops = {
        "flops_inner": 6.0 * inner,
        "flops_head": 6.0 * head,
        "flops_attention": 12.0 * layers * launch.context * size.heads * size.head_dim,
    }
    kept = 8 * size.hidden + 2 * _ffn_units(model, found.plan)
    memory = {
        "weights": count * assume.weight_bytes / gpus,
        "gradients": count * assume.gradient_bytes / gpus,
        "moments": count * assume.moment_bytes / gpus,
        "gathered": (count - (layers - 2) * block) * assume.compute_bytes,
        "activations": here * layers * kept * assume.compute_bytes,
        "logits": here * model.config.vocab_size * (assume.compute_bytes + 8),
    }
    total = tokens * sum(flops.values())
    hours = total / (assume.teraflops * 1e12 * assume.utilisation) / 3600
    return {
        "gpus": gpus, "tokens_per_iteration": here * gpus, "tokens_per_step": step,
        "tokens": tokens, **flops, "flops": total, **memory, "memory": sum(memory.values()),
        "hours": hours, "days": hours / gpus / 24, "cost": hours * assume.dollars,
        "energy": hours * assume.watts * assume.pue / 1000,
    }  # fmt: skip


def assumed(given: Mapping[str, float] | None) -> Assumptions:
    """Return the assumptions with those that are given.

    Raises:
        HcvizError: If one is unknown or not positive.
    """
    names = [one.name for one in dataclasses.fields(Assumptions)]
    for name in given or {}:
        if name not in names:
            raise HcvizError(f"There is no assumption {name!r}; there are {', '.join(names)}.")
    return Assumptions(**(given or {}))
