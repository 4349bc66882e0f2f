"""Draw the pictures of these pages from the recorded demo: python docs/metrics/make.py [NAME ...].

Each page docs/metrics/NAME.md has one, NAME.png; its entry in PICTURES draws it.
"""

import io
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import hcviz
from hcviz import plots

mpl.use("agg")
HERE = Path(__file__).parent
DEMO = hcviz.recorded("demo")

PICTURES = {
    "cosine": lambda: plots.cosine(DEMO.metric("cosine")),
    "pairs": lambda: plots.pairs(DEMO.metric("pairs"), runs=["noisy 10 dB", "dropout 0.1"]),
    "ledger": lambda: plots.ledger(DEMO.metric("ledger")),
    "spectrum": lambda: plots.spectrum(DEMO.metric("spectrum")),
}
"""Page -> what draws its picture: axes, as the functions of hcviz.plots return them."""


def main(names: list[str]) -> None:
    """Draw the named pictures, or all, in 64 colours to keep them small."""
    for name in names or PICTURES:
        figure = np.ravel(np.asarray(PICTURES[name](), dtype=object))[0].figure
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110)
        plt.close(figure)
        picture = Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        picture.save(HERE / f"{name}.png", optimize=True)
        print(f"{name}.png: {(HERE / f'{name}.png').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
