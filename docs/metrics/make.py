"""Draw the pictures of these pages from the recorded demo: python docs/metrics/make.py [NAME ...].

Each page docs/metrics/NAME.md has one, NAME.png; its entry in PICTURES draws it.
"""

import copy
import functools
import io
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.linalg import expm
from transformers import AutoModelForCausalLM, MixtralConfig

import hcviz
from hcviz import plots
from hcviz.claims.frames import open_frames
from hcviz.plots._coordinates import KINDS, change_by_width, said, slopes
from hcviz.views.figures import FRAMES

mpl.use("agg")
HERE = Path(__file__).parent
DEMO = hcviz.recorded("demo")


def measured(*metrics: str) -> pd.DataFrame:
    """Measure the recorded weights of the three clones: one attention output, in float16."""
    return hcviz.measure([run for run in DEMO.runs if run.is_clone], metrics=metrics)


@functools.cache
def on_text(figure: str, tensors: str | None = None) -> pd.DataFrame:
    """Train the demo's arms for 40 steps in runs/pages, once, and measure what a figure shows."""
    out = HERE.parents[1] / "runs" / "pages"
    runs = hcviz.run_arms(out=out, steps=40, lr=1e-3, snapshots=8, eval_every=2)
    return hcviz.measure(runs, metrics=FRAMES[figure], tensors=tensors)


def slices() -> pd.DataFrame:
    """Compute the loss around two of the trained arms."""
    runs = HERE.parents[1] / "runs" / "pages"
    return pd.concat([hcviz.loss_slice(runs / name) for name in ("symmetric", "noisy-10-dB")])


def mixture() -> pd.DataFrame:
    """Train a small mixture of experts and its clones in runs/pages-experts, once."""
    out = HERE.parents[1] / "runs" / "pages-experts"
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    torch.manual_seed(0)
    fresh = AutoModelForCausalLM.from_config(
        MixtralConfig(vocab_size=2048, max_position_embeddings=128, **sizes)
    )
    how = {"tokenizer": hcviz.load("nano:llama")[1], "lr": 3e-3, "eval_blocks": 2}
    source = hcviz.train(fresh, out=out / "source", steps=200, snapshots=2, **how).model()
    arms = {"symmetric": {}, "noisy 10 dB": {"expansion": "noisy-symmetric"}}
    runs = [
        hcviz.train(
            hcviz.clone(source, **arm), out=out / name, steps=80, snapshots=9, label=name, **how
        )
        for name, arm in arms.items()
    ]
    return hcviz.measure(runs, metrics=FRAMES["experts"])


@functools.cache
def widths() -> pd.DataFrame:
    """Train models of three widths for eight steps in runs/pages-widths, once."""
    out, lr = HERE.parents[1] / "runs" / "pages-widths", 1e-3
    source, tokenizer = hcviz.load("nano:gpt-neox-quarter")
    how = {"tokenizer": tokenizer, "steps": 8, "snapshots": [1, 2, 4, 8], "eval_blocks": 2}
    how |= {"warmup": 0.0, "schedule": "constant", "trainer_args": {"max_grad_norm": 0.0}}
    frames = []
    for n in (1, 2, 4):
        wide = hcviz.clone(source, hidden=n) if n > 1 else source
        config = copy.deepcopy(wide.config)
        config.hcviz = None
        torch.manual_seed(0)
        random = AutoModelForCausalLM.from_config(config)
        families = {
            "clones, same rate": (wide, {"lr": lr}),
            "clones, rate / factor": (wide, {"lr": lr / n}),
            "clones, lockstep": (wide, {"lr": lr, "lockstep": wide if n > 1 else None}),
            "random init, same rate": (random, {"lr": lr}),
        }
        for family, (model, more) in families.items():
            run = hcviz.train(model, out=out / f"{family.replace(' / ', '-by-')} {n}", **how | more)
            frames.append(hcviz.measure(run, metrics=FRAMES["coordinates"]).assign(family=family))
    return pd.concat(frames)


def slopes_of_widths() -> str:
    """Write what the picture of the coordinate check says as a table."""
    table = change_by_width(widths(), "family")
    lines = [["", *KINDS.values()], ["---"] * (1 + len(KINDS))]
    for family in table.index.unique("family"):
        cells = [said(slopes(table.loc[family, kind])).removeprefix("slope ") for kind in KINDS]
        lines.append([family, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rearranged() -> pd.DataFrame:
    """Part the neurons of a made-up layer's copies in three ways, ever further."""
    rng = np.random.default_rng(0)
    layer, other = rng.standard_normal((2, 48, 96))
    skew, frames = np.triu(rng.standard_normal((48, 48)), 1) / 10, []
    for step in (0, 1, 2, 4, 8, 16, 32, 48):
        share = step / 48
        order = [*np.roll(range(step), 1), *range(step, 48)]
        away = share * other + (1 - share) * layer
        second = {
            "reordered": layer[order],
            "turned": expm(share * (skew - skew.T)) @ layer,
            "replaced": away,
        }
        wide = {name: np.concatenate([layer, copy]) for name, copy in second.items()}
        frame = hcviz.measure_matrix(wide, read=1, metrics=FRAMES["matched"])
        frames.append(frame.assign(step=step))
    return pd.concat(frames, ignore_index=True)


def of_neurons(axes: np.ndarray) -> np.ndarray:
    """Say what goes on from left to right where nothing is trained."""
    for ax in axes:
        ax.set_xlabel("parted so far, in 48ths")
    return axes


def locked_curvature() -> pd.DataFrame:
    """Return the curvature of one locked clone, as it is recorded beside the breakers."""
    frame = open_frames("breakers").curvature
    return frame[frame["seed"] == 0]


PICTURES = {
    "angle": lambda: plots.cosine(measured("angle"), metric="angle"),
    "cka": lambda: plots.cka(on_text("cka")),
    "cloning_r2": lambda: plots.cloning_r2(on_text("cloning_r2"), log=True),
    "coordinates": lambda: plots.coordinates(widths(), hue="family"),
    "cosine": lambda: plots.cosine(DEMO.metric("cosine"), log=True),
    "curvature": lambda: plots.curvature(locked_curvature()),
    "escape": lambda: plots.escape(DEMO.metric("ledger")),
    "experts": lambda: plots.experts(mixture()),
    "evolution": lambda: plots.evolution(measured("norm", "distance", "turn", "update", "flips")),
    "histogram": lambda: plots.histograms(measured("histogram")),
    "marchenko_pastur": lambda: plots.spectrum(
        measured("spectrum", "marchenko_pastur"), random="symmetric", title="Against random entries"
    ),
    "heads": lambda: plots.heads(on_text("heads"), log=True),
    "in_context": lambda: plots.in_context(on_text("in_context")),
    "induction": lambda: plots.induction(on_text("induction")),
    "lens": lambda: plots.lens(on_text("lens")),
    "loss_slice": lambda: plots.loss_slice(slices()),
    "loss": lambda: plots.loss(DEMO.history),
    "matched": lambda: of_neurons(plots.matched(rearranged(), title="Neurons parted by hand")),
    "neurons": lambda: plots.neurons(on_text("neurons")),
    "twins": lambda: plots.activations(on_text("activations"), log=True),
    "pairs": lambda: plots.pairs(DEMO.metric("pairs"), runs=["noisy 10 dB", "dropout 0.1"]),
    "ledger": lambda: plots.ledger(DEMO.metric("ledger")),
    "power_law": lambda: plots.power_law(
        on_text("power_law", r"layers\.1\..*dense_h_to_4h.weight")
    ),
    "rank": lambda: plots.rank(
        measured("effective_rank", "participation", "stable_rank", "rank"), tensors=None
    ),
    "sectors": lambda: plots.sectors(measured("sectors")),
    "spectrum": lambda: plots.spectrum(DEMO.metric("spectrum")),
}
"""Page -> what draws its picture: axes, as the functions of hcviz.plots return them."""
TABLES = {"coordinates": slopes_of_widths}
"""Page -> what writes the table between its two lines ``<!-- measured -->``."""


def main(names: list[str]) -> None:
    """Draw the named pictures, or all, in 256 colours to keep them small."""
    for name in names or PICTURES:
        figure = np.ravel(np.asarray(PICTURES[name](), dtype=object))[0].figure
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110)
        plt.close(figure)
        picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(HERE / f"{name}.png", optimize=True)
        if name in TABLES:
            page, mark = HERE / f"{name}.md", "<!-- measured -->\n"
            before, _, after = page.read_text(encoding="utf-8").split(mark)
            page.write_text(f"{before}{mark}{TABLES[name]()}\n{mark}{after}", encoding="utf-8")
        print(f"{name}.png: {(HERE / f'{name}.png').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
