"""Draw the pictures of these pages from clones of tiny random models: python docs/axes/make.py.

Each page docs/axes/NAME.md has one, NAME.png; its entry in PICTURES draws it. What is drawn is
read off the clones' weights: which unit of the source a unit is a copy of, and with which share.
"""

import io
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Arc, Rectangle
from PIL import Image
from tiles import MULTIPLES, box, matrix, origins, say, sheet, written
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

import hcviz
from hcviz.architecture.factors import factors_to, resolve_factors
from hcviz.plots import theme

mpl.use("agg")
HERE = Path(__file__).parent
SIZES = {"vocab_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 16}


def llama(hidden=4, heads=2, kv_heads=1, head_dim=2, ffn=4, **more) -> LlamaForCausalLM:
    """Build a tiny Llama with random weights."""
    torch.manual_seed(3)
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "head_dim": head_dim}
    sizes |= {"num_key_value_heads": kv_heads, "intermediate_size": ffn}
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **sizes, **more})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def weight(model, name: str) -> np.ndarray:
    """Return a weight of the first layer as an array."""
    return model.get_parameter(f"model.layers.0.{name}.weight").detach().numpy()


def sides(letter: str, of_written: str, of_read: str, calls: dict[str, dict], words: str):
    """Draw a weight that writes an axis and one that reads it, in the source and in its clones."""
    source = llama()
    models = {"source": source, **{k: hcviz.clone(source, **call) for k, call in calls.items()}}
    ax = sheet(28.5, 22.4)
    say(ax, 0.2, 0.6, words, weight="bold", size=9.5)
    say(ax, 0.2, 1.9, f"{_leaf(of_written)} writes them: rows are repeated")
    say(ax, 0.2, 13.6, f"{_leaf(of_read)} reads them: copies share a column")
    say(ax, 0.2, 21.8, MULTIPLES)
    x = 2.6
    for label, model in models.items():
        out, into = weight(model, of_written), weight(model, of_read)
        matrix(ax, x, 4.2, out, weight(source, of_written), letter, rows=True)
        matrix(ax, x, 16.2, into, weight(source, of_read), letter, rows=False)
        say(ax, x - 1.2, 3.3, label, weight="bold")
        x += into.shape[1] + (4.6 if into.shape[1] < 8 else 2.8)
    return ax


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def hidden():
    """Whole and padded."""
    calls = {f"hidden={n}": {"hidden": n, "ffn": 1, "heads": 1} for n in (2, 1.5)}
    words = "Residual stream: 4 units h1 to h4 become 8, or 6 of which two are padding"
    return sides("h", "mlp.down_proj", "mlp.up_proj", calls, words)


def ffn():
    """Whole and uneven."""
    calls = {f"ffn={n}": {"hidden": 1, "ffn": n, "heads": 1} for n in (2, 1.5)}
    words = "FFN: 4 neurons n1 to n4 become 8, or 6 of which two pairs are copies"
    return sides("n", "mlp.up_proj", "mlp.down_proj", calls, words)


def attention(ax, x, y, model, source, label) -> None:
    """Draw query heads over the key/value heads that serve them."""
    size = model.config.head_dim

    def heads(part, m):
        found = weight(m, f"self_attn.{part}_proj")
        found = found.T if part == "o" else found
        return found.reshape(-1, size, found.shape[1])

    queries, keys, outs = (origins(heads(p, model), heads(p, source)) for p in "qko")
    say(ax, x, y, label, weight="bold")
    group = len(queries) // len(keys)
    for i, ((unit, _), (_, share)) in enumerate(zip(queries, outs, strict=True)):
        box(ax, x + i, y + 1.9, unit, source.config.num_attention_heads, f"q{unit + 1}")
        ax.text(x + i + 0.5, y + 1.4, written(share), ha="center", va="center", size=8.5)
        middle = x + (i // group + 0.5) * group
        ax.plot([x + i + 0.5, middle], [y + 2.95, y + 4.5], color="#3c3c3c", lw=0.9)
    for i, (unit, _) in enumerate(keys):
        at = x + (i + 0.5) * group - 0.6
        box(ax, at, y + 4.5, unit, source.config.num_key_value_heads, f"kv{unit + 1}", w=1.2)


def heads():
    """Grouped queries and a single key/value head."""
    grouped, single = (llama(24, 4, kv_heads) for kv_heads in (2, 1))
    ax = sheet(26.5, 16.2)
    say(ax, 0.2, 0.6, "Which key/value head serves which query head", weight="bold", size=9.5)
    for x, y, source, call in (
        (0.5, 2, grouped, None),
        (6.5, 2, grouped, {"heads": 2}),
        (16.5, 2, grouped, {"heads": 2, "kv_heads": 1}),
        (0.5, 9, grouped, {"heads": 1.5}),
        (9.5, 9, single, None),
        (16.5, 9, single, {"heads": 2}),
    ):
        wide = hcviz.clone(source, hidden=1, ffn=1, **call) if call else source
        asked = ", ".join(f"{name}={value}" for name, value in (call or {}).items())
        kind = "grouped source" if source is grouped else "multi-query source"
        attention(ax, x, y, wide, source, asked or kind)
    say(
        ax,
        0.2,
        15.6,
        "Over each query head: its share in the output projection, which adds heads up.",
    )
    return ax


def head_dim():
    """A head's units, which of them turn together, and how fast."""
    source = llama(4, 1, 1, 4)
    wide = hcviz.clone(source, head_dim=2)
    stock = LlamaForCausalLM(LlamaConfig(**{**SIZES, "hidden_size": 8, "num_attention_heads": 1}))
    _, (top, low) = plt.subplots(
        2, 1, figsize=(7, 4.3), height_ratios=(1.1, 1), layout="constrained"
    )
    top.set(xlim=(0, 21.5), ylim=(5.2, -0.7), aspect="equal")
    top.axis("off")
    where = {"source": source, "head_dim=2": wide}
    known = weight(source, "self_attn.q_proj")
    for start, (label, model) in zip((0.5, 9), where.items(), strict=True):
        rows = weight(model, "self_attn.q_proj")[:, : known.shape[1]]
        units = [unit for unit, _ in origins(rows, known)]
        say(top, start, -0.3, f"{label}: one head of {len(units)} units")
        half = len(units) // 2
        for i, unit in enumerate(units):
            box(top, start + i * 1.3, 0.5, unit, 4, f"d{unit + 1}", w=1.2)
        for j in range(half):
            ends = [start + k * 1.3 + 0.6 for k in (j, j + half)]
            wide_arc = Arc((sum(ends) / 2, 1.55), ends[1] - ends[0], 3 + j, theta1=0, theta2=180)
            top.add_patch(wide_arc)
            wide_arc.set(linewidth=1.6, linestyle="-" if units[j] == 0 else (0, (3, 1.5)))
    say(top, 0.5, 4.9, "arcs: units that turn together; solid: fast, dashed: slowly")
    looks = (
        ("source", source, "o"),
        ("clone: longrope", wide, "s"),
        ("wide heads, stock", stock, "x"),
    )
    for row, (_, model, marker) in enumerate(looks):
        speeds = model.model.rotary_emb.inv_freq.numpy()
        low.plot(speeds, [row] * len(speeds), marker, color="black", ms=7, mfc="white", mew=1.6)
        for speed in sorted(set(speeds.round(6))):
            count = int((np.abs(speeds / speed - 1) < 1e-3).sum())
            times = "1 pair" if count == 1 else f"{count} pairs"
            low.annotate(times, (speed, row), (0, 9), textcoords="offset points", ha="center")
    low.set(xscale="log", ylim=(2.5, -0.8), xlabel="radians that a pair turns per position")
    low.set_yticks(range(3), [label for label, _, _ in looks])
    low.grid(axis="x")
    low.set_title("How fast the pairs turn: the clone as its source, a stock wide head otherwise")
    return low


def experts():
    """The router, and one expert's fused gate/up and down projection."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2}
    sizes |= {"moe_intermediate_size": 3, "num_experts": 3, "num_experts_per_tok": 2}
    source = Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**SIZES, **sizes, "intermediate_size": 4}))
    for parameter in source.eval().parameters():
        torch.nn.init.normal_(parameter)
    stream = hcviz.clone(source, hidden=2, heads=1, ffn=1)
    inner = hcviz.clone(source, hidden=1, heads=1, expert_ffn=2)

    def part(model, name):
        found = model.get_parameter(f"model.layers.0.mlp.{name}").detach().numpy()
        return found[0] if found.ndim == 3 else found

    ax = sheet(28.5, 19.7)
    say(ax, 0.2, 0.6, "Mixture of 3 experts, each of 3 neurons", weight="bold", size=9.5)
    gate, fused, down = "gate.weight", "experts.gate_up_proj", "experts.down_proj"
    say(ax, 0.5, 2.2, "hidden=2: the router", weight="bold")
    say(ax, 0.5, 3.2, "has 3 scores as before", size=8)
    matrix(ax, 1.2, 6.6, part(stream, gate), part(source, gate), "h", rows=False)
    say(ax, 11.2, 2.2, "expert_ffn=2: gate and up, fused", weight="bold")
    say(ax, 11.2, 3.2, "each part repeats in itself", size=8)
    names = [f"g{i}" for i in (1, 2, 3)] + [f"u{i}" for i in (1, 2, 3)]
    matrix(ax, 14, 4.6, part(inner, fused), part(source, fused), "", rows=True, names=names)
    say(ax, 20.8, 2.2, "expert_ffn=2: down", weight="bold")
    matrix(ax, 21.2, 6.6, part(inner, down), part(source, down), "n", rows=False)
    say(ax, 0.5, 17.9, "g, u: a neuron's row in the gate and in the up part of the first expert.")
    say(ax, 0.5, 19, MULTIPLES)
    return ax


def depth():
    """Identities and a stack."""
    source = llama(8, 2, 2, 4, num_hidden_layers=3)
    ids = torch.arange(12).unsqueeze(0)
    rows = {"source": source}
    rows |= {
        f"layers=6, {m}": hcviz.deepen(source, layers=6, method=m) for m in ("identity", "stack")
    }
    ax = sheet(28, 12.4)
    for row, (label, model) in enumerate(rows.items()):
        y = 1.0 + 3.6 * row
        with torch.no_grad():
            logits, wanted = model(ids).logits, source(ids).logits
        error = ((logits - wanted).abs().max() / wanted.abs().max()).item()
        say(ax, 0.3, y, f"{label}", weight="bold")
        count = model.config.num_hidden_layers
        ax.plot([0.3, count * 3.3 + 0.6], [y + 1.7] * 2, color="#3c3c3c", lw=1.6, zorder=0)
        for i, layer in enumerate(model.model.layers):
            mine = layer.mlp.up_proj.weight
            same = [torch.equal(mine, other.mlp.up_proj.weight) for other in source.model.layers]
            silent = (
                not layer.mlp.down_proj.weight.any() and not layer.self_attn.o_proj.weight.any()
            )
            x = 0.8 + 3.3 * i
            box(ax, x, y + 0.8, same.index(True), 3, f"layer {same.index(True) + 1}", w=2.6, h=1.8)
            if silent:
                frame = Rectangle((x, y + 0.8), 2.6, 1.8, fill=False, ec="black", hatch="///", lw=0)
                ax.add_patch(frame)
                ax.texts[-1].set(bbox={"fc": "white", "ec": "none", "pad": 1.2}, color="black")
        if row:
            same = "logits as\nthe source's" if error < 1e-5 else f"logits differ\nby {error:.0%}"
            say(ax, count * 3.3 + 1.2, y + 1.7, same, weight="bold")
    say(
        ax,
        0.3,
        11.9,
        "Hatched: writes zero to the residual stream (the line), and can learn to write.",
    )
    return ax


def expansions():
    """One weight under every form."""
    source = llama(6, 2, 2, 2, 6)
    small = weight(source, "mlp.up_proj")
    forms = ("symmetric", "diagonal", "noisy-symmetric", "noisy-diagonal", "random")
    forms = {form: form for form in forms} | {"a table": [[0.9, 0.1], [0.3, 0.7]]}
    figure, panels = plt.subplots(2, 3, figsize=(7, 5.6), layout="constrained")
    most = np.abs(small).max()
    for ax, (label, form) in zip(panels.flat, forms.items(), strict=True):
        quiet = form.removeprefix("noisy-") if isinstance(form, str) else form
        wide, plain = (
            weight(hcviz.clone(source, expansion={"up_proj": one}, seed=2), "mlp.up_proj")
            for one in (form, quiet)
        )
        image = ax.imshow(wide, cmap=theme.diverging(), vmin=-most, vmax=most)
        ax.axhline(5.5, color="white", lw=3)
        ax.axvline(5.5, color="white", lw=3)
        for i in range(2):
            for j in range(2):
                share = (plain[6 * i : 6 * i + 6, 6 * j : 6 * j + 6] * small).sum()
                text = f"{share / (small * small).sum():.2f} W"
                if form != quiet:
                    text = "noise" if share == 0 else f"{text}\n+ noise"
                look = {"fc": "white", "ec": "none", "pad": 1.5}
                ax.text(6 * j + 2.5, 6 * i + 2.5, text, ha="center", va="center", bbox=look, size=7)
        ax.set_title(label)
        ax.grid(visible=False)
        ax.set_xticks([2.5, 8.5], ["copy 1", "copy 2"])
        ax.set_yticks([2.5, 8.5], ["copy 1", "copy 2"], rotation=90, va="center")
        ax.tick_params(length=0)
    figure.supxlabel("inputs that are read", size=9)
    figure.supylabel("outputs that are written", size=9)
    figure.suptitle("The same weight W under each form; every row of blocks adds up to W")
    figure.colorbar(image, ax=panels, label="weight", shrink=0.6, extend="both")
    return panels[0, 0]


def targets():
    """The sizes of a source, of its target, and what a clone reaches."""
    source = LlamaConfig(
        hidden_size=64, num_attention_heads=4, intermediate_size=96, vocab_size=512
    )
    wanted = LlamaConfig(
        hidden_size=96, num_attention_heads=6, intermediate_size=240, vocab_size=768
    )
    fields = ("num_attention_heads", "hidden_size", "intermediate_size", "vocab_size")
    missed = ""
    try:
        factors_to(source, wanted)
    except hcviz.CloneError as error:
        missed = str(error)
    reached = {field: getattr(wanted, field) for field in fields if f"{field} is " not in missed}
    factors = resolve_factors(source, **factors_to(source, reached))
    by_field = {"hidden_size": factors["hidden"], "intermediate_size": factors["ffn"]}
    by_field["num_attention_heads"] = factors["kv_heads"] * factors["group"]
    _, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    for row, field in enumerate(fields):
        ends = [getattr(config, field) for config in (source, wanted)]
        there = field in reached
        ax.plot(ends, [row] * 2, color="black", lw=2.4 if there else 1.2, ls="-" if there else ":")
        ax.plot(ends[0], row, "o", color="black", ms=8)
        ax.plot(ends[1], row, "o" if there else "X", color="black", mfc="white", ms=9, mew=1.6)
        text = f"times {by_field[field]}" if there else "no width: not reached"
        ax.annotate(text, (ends[1], row), (10, 0), textcoords="offset points", va="center")
        for size, turn in zip(ends, (-1, 1), strict=True):
            ax.annotate(size, (size, row), (4 * turn, 9), textcoords="offset points", ha="center")
    ax.set(
        xscale="log",
        xlim=(3, 5000),
        ylim=(3.5, -0.7),
        xlabel="size (● source, ○ target that is reached)",
    )
    ax.set_yticks(range(4), fields)
    ax.minorticks_off()
    ax.set_title("to_config: every width has its own factor, and every other field must agree")
    return ax


PICTURES = {
    "hidden": hidden,
    "ffn": ffn,
    "heads": heads,
    "head_dim": head_dim,
    "experts": experts,
    "depth": depth,
    "expansions": expansions,
    "targets": targets,
}
"""Page -> what draws its picture: axes of the figure."""


def main(names: list[str]) -> None:
    """Draw the named pictures, or all, in 256 colours to keep them small."""
    for name in names or PICTURES:
        buffer = io.BytesIO()
        with theme.style(), theme.palette(), theme.context("paper"):
            figure = PICTURES[name]().figure
            figure.savefig(buffer, dpi=110)
        plt.close(figure)
        picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        picture.save(HERE / f"{name}.png", optimize=True)
        print(f"{name}.png: {(HERE / f'{name}.png').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
