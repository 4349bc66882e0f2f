"""How one tensor grows: shares of the copies that are read, and noise that cancels over them."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real

import torch

from hcviz.blocks import Blocks, TensorAxes, pieces, wide_shape
from hcviz.errors import CloneError

EXPANSIONS = ("symmetric", "diagonal", "noisy-symmetric", "noisy-diagonal", "random")
DEFAULT_SNR_DB = 10.0


@dataclass(frozen=True)
class Expansion:
    """The parameters of an expansion (paper figure 7)."""

    form: str = "symmetric"
    """How the copies that are read share a weight; one of :data:`EXPANSIONS`."""
    snr_db: float | None = None
    """Signal-to-noise ratio of the noisy forms, in dB."""
    seed: int = 0
    """Seed of noise and random shares, apart from every other random number."""

    @classmethod
    def of(cls, form: str, snr_db: float | None, seed: int) -> "Expansion":
        """Check the parameters; a noisy form without ``snr_db`` has 10 dB.

        Raises:
            CloneError: If the form is unknown, ``snr_db`` does not go with it, or a number is none.
        """
        if form not in EXPANSIONS:
            raise CloneError(
                f"expansion={form!r} is unknown. Choose one of {', '.join(EXPANSIONS)}."
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
        if not isinstance(seed, Integral) or isinstance(seed, bool):
            raise CloneError(f"seed={seed!r} is not a whole number. Choose one, such as 0.")
        decibels = DEFAULT_SNR_DB if snr_db is None else float(snr_db)
        return cls(form, decibels if noisy else None, int(seed))

    @property
    def plain(self) -> bool:
        """Whether all copies are equal, so that a tensor can be filled by one broadcast copy."""
        return self.form == "symmetric"


def shares(form: str, written: int, read: int, generator: torch.Generator) -> torch.Tensor:
    """Return how the copies that are read share one weight.

    Args:
        form: One of :data:`EXPANSIONS`.
        written: Number of written copies.
        read: Number of copies that are read.
        generator: Source of the random shares.

    Returns:
        ``[written, read]`` in float64; every row sums to one. The diagonal forms need as many
        written as read copies and fall back on equal shares elsewhere; random shares are uniform
        on the simplex.

    Example:
        >>> shares("diagonal", 2, 2, torch.Generator())
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
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
    factors: Mapping[str, int],
    expansion: Expansion,
    scale: float = 1.0,
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

    Returns:
        A new tensor of shape ``wide_shape(axes, factors)`` in the source's dtype and device.
        Summed over the copies that are read, every written copy is the source's tensor again
        (times ``scale``), up to one rounding of the dtype.
    """
    wide = torch.empty(wide_shape(axes, factors), dtype=source.dtype, device=source.device)
    seed = (expansion.seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63
    generator = torch.Generator().manual_seed(seed)
    for small, large in zip(pieces(source, axes, {}), pieces(wide, axes, factors), strict=True):
        read = math.prod(large.read_copies)
        if read == 1 or expansion.plain:
            piece = small.view if scale == 1 else small.view * scale
            large.view.copy_(piece if read == 1 else piece / read)
        else:
            _share(small.view.double() * scale, large, expansion, generator)
    return wide


def _share(block: torch.Tensor, large: Blocks, expansion: Expansion, generator) -> None:
    """Fill a piece whose copies get unequal shares or noise; the last that is read takes the rest.

    Giving the rest to the last copy makes the sum over copies exact up to one rounding, in any
    dtype.
    """
    written, read = math.prod(large.write_copies), math.prod(large.read_copies)
    table = shares(expansion.form, written, read, generator)
    for i in range(written):
        noise = _noise(block, table[i], expansion, generator)
        rest = block.clone()
        for j in range(read):
            share = block * float(table[i, j]) + (noise[j] if noise is not None else 0)
            place = large.view[(*_index(i, large.write_copies), *_index(j, large.read_copies))]
            place.copy_(share if j < read - 1 else rest)
            rest -= place.double()


def _noise(block: torch.Tensor, row: torch.Tensor, expansion: Expansion, generator):
    """Return noise ``[read, *block.shape]`` that sums to zero over the copies.

    The signal is the row of blocks without noise, the noise what is added to it; their mean squares
    differ by ``snr_db``. For equal shares this is the ratio block by block.
    """
    if expansion.snr_db is None:
        return None
    read = len(row)
    noise = torch.randn(read, *block.shape, dtype=torch.float64, generator=generator).to(
        block.device
    )
    noise -= noise.mean(0)
    signal = block.square().mean() * row.square().mean().item()
    power = signal / 10 ** (expansion.snr_db / 10)
    return noise * (power / noise.square().mean().clamp_min(1e-300)).sqrt()


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the position of a flat copy number among several levels of copies."""
    position = []
    for size in reversed(shape):
        flat, at = divmod(flat, size)
        position.insert(0, at)
    return tuple(position)
