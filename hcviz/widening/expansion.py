"""How one tensor grows: shares of the copies that are read, and noise that cancels over them."""

import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real

import torch

from hcviz.architecture.axes import Factors, TensorAxes, growing, wide_shape
from hcviz.architecture.blocks import Blocks, padding, pieces
from hcviz.errors import CloneError

EXPANSIONS = ("symmetric", "diagonal", "noisy-symmetric", "noisy-diagonal", "random")
DEFAULT_SNR_DB = 10.0
LOUDEST, FAINTEST = -60, 300
"""The range of noise, in dB: amplitudes of 1,000 times the weights, and of 10^-15 of them."""
PARTS = {"ffn": {"ffn", "expert_ffn"}, "heads": {"kv_heads", "group", "head_dim"}, "hidden": set()}
"""Parts of a model by the axes that their tensors have; ``hidden``: those with neither, such as
the output head."""


@dataclass(frozen=True)
class Expansion:
    """The parameters of an expansion (paper figure 7), for all tensors or by rules."""

    form: str = "symmetric"
    """How the copies that are read share a weight; one of :data:`EXPANSIONS`, or ``given``."""
    snr_db: float | None = None
    """Signal-to-noise ratio of the noisy forms, in dB."""
    seed: int = 0
    """Seed of noise and random shares, apart from every other random number."""
    table: tuple[tuple[float, ...], ...] | None = None
    """The shares of the form ``given``: a row per written copy, in turn; rows add up to one."""
    rules: tuple[tuple[str, "Expansion"], ...] = ()
    """Which tensors have an expansion of their own: a part of the model (:data:`PARTS`) or a
    regular expression over names; the first that finds a tensor counts."""

    @classmethod
    def of(cls, form, snr_db=None, seed: int = 0) -> "Expansion":
        """Check the parameters; a noisy form without ``snr_db`` has 10 dB.

        Args:
            form: One of :data:`EXPANSIONS`, a table of shares, or ``{part or pattern: form}``; the
                tensors that no key finds are then symmetric.
            snr_db: A number of dB, or ``{part or pattern: dB}``.
            seed: Seed of noise and random shares.

        Raises:
            CloneError: If the form is unknown, ``snr_db`` does not go with it, or a number is none.

        Example:
            >>> Expansion.of({"ffn": "noisy-symmetric"}, 20).rules[0][1].snr_db
            20.0
        """
        if not isinstance(seed, Integral) or isinstance(seed, bool):
            raise CloneError(f"seed={seed!r} is not a whole number. Choose one, such as 0.")
        if not isinstance(form, Mapping) and not isinstance(snr_db, Mapping):
            return cls._one(form, snr_db, int(seed))
        forms = form if isinstance(form, Mapping) else dict.fromkeys(snr_db, form)
        levels = snr_db if isinstance(snr_db, Mapping) else {}
        unused = [key for key in levels if key not in forms]
        if unused or not forms:
            raise CloneError(
                f"expansion={form!r}, snr_db={snr_db!r}: {unused or 'nothing'} has no form. Give "
                "both with the same keys, such as expansion={'ffn': 'noisy-symmetric'}, "
                "snr_db={'ffn': 20}."
            )
        noisy = [key for key, one in forms.items() if str(one).startswith("noisy-")]
        if levels or snr_db is None or not noisy:
            same = levels or dict.fromkeys(forms, snr_db)
        else:
            same = dict.fromkeys(noisy, snr_db)
        rules = [(_pattern(k), cls._one(f, same.get(k), int(seed))) for k, f in forms.items()]
        rest = cls._one("symmetric" if form is forms else form, None, int(seed))
        return replace(rest, rules=tuple(rules))

    @classmethod
    def _one(cls, form, snr_db, seed: int) -> "Expansion":
        """Check one form and its noise."""
        table = None
        if isinstance(form, list | tuple | torch.Tensor):
            form, table = "given", _table(form)
        elif form not in EXPANSIONS:
            raise CloneError(
                f"expansion={form!r} is unknown. Choose one of {', '.join(EXPANSIONS)}, or give a "
                "table of shares."
            )
        noisy = form.startswith("noisy-")
        if snr_db is not None and not noisy:
            raise CloneError(
                f"snr_db={snr_db} goes with a noisy form, and expansion={form!r} has no noise. "
                "Use expansion='noisy-symmetric' or 'noisy-diagonal', or leave snr_db out."
            )
        number = isinstance(snr_db, Real) and not isinstance(snr_db, bool)
        if snr_db is not None and not (number and math.isfinite(snr_db)):
            raise CloneError(f"snr_db={snr_db!r} is not a finite number of dB. The paper uses 10.")
        if snr_db is not None and not LOUDEST <= snr_db <= FAINTEST:
            raise CloneError(
                f"snr_db={snr_db}: below {LOUDEST} dB the rounding of the noise would show in the "
                f"logits, and above {FAINTEST} dB noise is lost in the rounding of the weights, in "
                "float64 too. The paper uses 10."
            )
        decibels = DEFAULT_SNR_DB if snr_db is None else float(snr_db)
        return cls(form, decibels if noisy else None, seed, table)

    @property
    def plain(self) -> bool:
        """Whether all copies are equal, so that a tensor can be filled by one broadcast copy."""
        return self.form == "symmetric" and not self.rules

    @property
    def noisy(self) -> bool:
        """Whether it adds noise anywhere."""
        return any(one.snr_db is not None for one in (self, *(rule for _, rule in self.rules)))

    def at(self, name: str, axes: TensorAxes) -> "Expansion":
        """Return the expansion of one tensor."""
        found = (rule for key, rule in self.rules if finds(key, name, axes))
        return next(found, replace(self, rules=()))

    def to_dict(self) -> dict:
        """Return the arguments of :meth:`of`, JSON-ready."""
        if not self.rules:
            form = self.form if self.table is None else [list(row) for row in self.table]
            return {"expansion": form, "snr_db": self.snr_db, "seed": self.seed}
        each = {key: rule.to_dict() for key, rule in self.rules}
        if self.form != "symmetric":  # what no key finds
            each[".*"] = replace(self, rules=()).to_dict()
        levels = {k: one["snr_db"] for k, one in each.items() if one["snr_db"] is not None}
        forms = {key: one["expansion"] for key, one in each.items()}
        return {"expansion": forms, "snr_db": levels or None, "seed": self.seed}


def finds(key: str, name: str, axes: TensorAxes) -> bool:
    """Tell whether a rule's key means a tensor: by its axes, or by its name."""
    if key not in PARTS:
        return re.search(key, name) is not None
    own = growing(axes)
    part = next((part for part in ("ffn", "heads") if own & PARTS[part]), "hidden")
    return part == key


def _pattern(key) -> str:
    """Check a rule's key."""
    try:
        re.compile(key)
    except (re.error, TypeError) as error:
        raise CloneError(
            f"{key!r} is no part ({', '.join(PARTS)}) and no regular expression: {error}."
        ) from error
    return key


def _table(rows) -> tuple[tuple[float, ...], ...]:
    """Check a table of shares."""
    try:
        table = torch.as_tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise CloneError(f"expansion={rows!r} is no table of numbers: {error}.") from error
    sums = table.sum(-1) if table.dim() == 2 else torch.tensor([math.nan])
    if not bool(((sums - 1).abs() < 1e-9).all()):
        raise CloneError(
            f"expansion={rows!r}: a table of shares has a row per written copy and a column per "
            "copy that is read, and every row adds up to 1, such as [[0.7, 0.3], [0.4, 0.6]]."
        )
    return tuple(map(tuple, table.tolist()))


def shares(
    form: str, written: int, read: int, generator: torch.Generator, table=None
) -> torch.Tensor:
    """Return how the copies that are read share one weight.

    Args:
        form: One of :data:`EXPANSIONS`.
        written: Number of written copies.
        read: Number of copies that are read.
        generator: Source of the random shares.
        table: The shares of the form ``given``; its rows are used in turn.

    Returns:
        ``[written, read]`` in float64; every row sums to one. The diagonal forms need as many
        written as read copies and fall back on equal shares elsewhere; random shares are uniform
        on the simplex.

    Raises:
        CloneError: If a given table has another number of columns.

    Example:
        >>> shares("diagonal", 2, 2, torch.Generator())
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    if table is not None:
        if len(table[0]) != read:
            raise CloneError(
                f"The given shares have {len(table[0])} columns, and {read} copies are read. Give "
                f"a row of {read} for this tensor, by its name: expansion={{'NAME': [[...]]}}."
            )
        return torch.tensor([table[i % len(table)] for i in range(written)], dtype=torch.float64)
    if form.endswith("diagonal") and written == read:
        return torch.eye(read, dtype=torch.float64)
    if form == "random":
        uniform = torch.rand(written, read, dtype=torch.float64, generator=generator)
        weights = -torch.log1p(-uniform)  # exponential variables, normalised: Dirichlet(1, ..., 1)
        return weights / weights.sum(1, keepdim=True)
    return torch.full((written, read), 1 / read, dtype=torch.float64)


def widen(
    name: str,
    source: torch.Tensor,
    axes: TensorAxes,
    factors: Factors,
    expansion: Expansion,
    scale: float = 1.0,
    fill: str = "zero",
    empty: Callable[..., torch.Tensor] = torch.empty,
) -> torch.Tensor:
    """Grow one tensor.

    Args:
        name: Its name; noise and random shares depend on the seed and the name, not on the order
            of calls.
        source: The source's tensor.
        axes: Its axis map.
        factors: The factor of each axis.
        expansion: Form, noise and seed.
        scale: A factor for the whole tensor (folded constants).
        fill: What padding writes: ``zero``, or the ``mean`` of the units that it is added to.
            Weights that read padding are free; they are random.
        empty: Gives the memory, as ``torch.empty`` does.

    Returns:
        A new tensor of shape ``wide_shape(axes, factors)`` in the source's dtype and device.
        Summed over the copies that are read, every written copy is the source's tensor again
        (times ``scale``), up to one rounding of the dtype.
    """
    wide = empty(wide_shape(axes, factors), dtype=source.dtype, device=source.device)
    form = expansion.at(name, axes)
    seed = (form.seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63
    generator = torch.Generator().manual_seed(seed)
    sources = pieces(source, axes, factors, wide=False)
    for small, large in zip(sources, pieces(wide, axes, factors), strict=True):
        read = math.prod(large.read_copies)
        if read == 1 or form.plain:
            piece = small.view if scale == 1 else small.view * scale
            if read == 1:
                large.view.copy_(piece)
            else:  # straight into place: a quotient in between would cost as much as a fourth copy
                torch.div(piece.expand_as(large.view), read, out=large.view)
        else:
            block = small.view.to(torch.promote_types(source.dtype, torch.float32))
            _share(name, block * scale if scale != 1 else block, large, form, generator)
    _pad(wide, axes, factors, fill, generator)
    return wide


def _pad(wide: torch.Tensor, axes: TensorAxes, factors: Factors, fill: str, generator) -> None:
    """Fill what a factor leaves over of the residual stream.

    What writes it is filled first, for what reads it is as large as the rest of the tensor; and
    again, for where both meet it is what is written that counts.
    """
    stretches = list(padding(wide, axes, factors))
    reads = [found for found in stretches if axes[found[0]].role == "read"]
    writes = [found for found in stretches if axes[found[0]].role != "read"]
    for d, rest, first in [*writes, *reads, *(writes if reads else ())]:
        if axes[d].role == "read":
            noise = torch.randn(rest.shape, dtype=torch.float64, generator=generator)
            rest.copy_(noise * first.double().std(correction=0).item())
        elif fill == "mean":
            rest.copy_(first.double().mean(d + 1, keepdim=True))
        else:
            rest.zero_()


def _share(name: str, block: torch.Tensor, large: Blocks, expansion: Expansion, generator) -> None:
    """Fill a piece whose copies get unequal shares or noise; the last that is read takes the rest.

    Giving the rest to the last copy makes the sum over copies exact up to one rounding, in any
    dtype: of two copies the rest is one difference, of more it is summed in float64.
    """
    written, read = math.prod(large.write_copies), math.prod(large.read_copies)
    try:
        table = shares(expansion.form, written, read, generator, expansion.table)
    except CloneError as error:
        raise CloneError(f"{name}: {error}") from error
    power = 0.0 if expansion.snr_db is None else _mean_square(block)
    for i, row in enumerate(table.tolist()):
        noise = _noise(block, row, power, expansion.snr_db, generator) if power else None
        rest = block if read == 2 else block.double()
        for j, share in enumerate(row[:-1]):
            place = large.view[(*_index(i, large.write_copies), *_index(j, large.read_copies))]
            if noise is None:
                place.copy_(block * share)
            elif place.dtype == block.dtype:
                torch.add(noise[j], block, alpha=share, out=place)
            else:
                place.copy_(torch.add(noise[j], block, alpha=share))
            rest = rest - place
        place = large.view[(*_index(i, large.write_copies), *_index(read - 1, large.read_copies))]
        place.copy_(rest)


def _noise(block: torch.Tensor, row: list[float], power: float, snr_db: float, generator):
    """Return noise for the copies that are read: ``[read, *block.shape]``, summing to zero.

    The signal is the row of blocks without noise, the noise what is added to it; their mean squares
    differ by ``snr_db``. For equal shares this is the ratio block by block. Of two copies the
    second gets the first one's, negated, and is left out.
    """
    read = len(row)
    drawn = 1 if read == 2 else read
    noise = torch.randn(drawn, *block.shape, dtype=block.dtype, generator=generator)
    if drawn > 1:
        noise -= noise.mean(0)
    signal = power * sum(share * share for share in row) / read
    found = max(_mean_square(noise), 1e-300)
    return noise.mul_(math.sqrt(signal / 10 ** (snr_db / 10) / found)).to(block.device)


def _mean_square(tensor: torch.Tensor) -> float:
    """Return the mean square of a tensor's entries; in float64 where squares leave float32."""
    norm = torch.linalg.vector_norm(tensor).item()
    if not 1e-15 < norm < 1e15:
        norm = torch.linalg.vector_norm(tensor, dtype=torch.float64).item()
    return norm**2 / tensor.numel()


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the position of a flat copy number among several levels of copies."""
    position = []
    for size in reversed(shape):
        flat, at = divmod(flat, size)
        position.insert(0, at)
    return tuple(position)
