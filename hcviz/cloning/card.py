"""The card of a streamed clone: the README.md of its folder, as the hub shows it."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from hcviz.architecture.widths import widths
from hcviz.io.process import surroundings
from hcviz.io.sources import place_of
from hcviz.widening.twin import TOLERANCE

TEXT = """
# {name}

A clone of `{src}`: {parameters[0]:,} parameters widened to {parameters[1]:,} so that it computes
what its source does ([HyperCloning](https://arxiv.org/abs/2409.12903)). It opens as any model of
transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

## Recipe

| | source | clone |
|---|---|---|
{sizes}

Expansion {expansion}, seed {seed}; stored in {dtype}. Made on {started} by

```sh
{command}
```

with {versions}.

## Check

{check}

## Source files

Revision: {revision}. Tensors that no part of the model wants, left out: {stale}.

| file | sha256 |
|---|---|
{hashes}
"""

TWIN = (
    "A tiny random twin of the configuration went through the same code, and its logits agree to "
    f"{TOLERANCE:.0e} in float64. The models themselves were not compared: `hcviz verify` does it."
)


def card(src, place: Path, out: Path, transfer, report, hashes: dict[str, str]) -> str:
    """Return the text of a clone's card, with the front matter that the hub reads.

    Args:
        src: The source as it was given.
        place: Its folder; the license and the language of its own card carry over.
        out: The clone's folder.
        transfer: What was done: ``source`` and ``plan``, ``parameters``, ``dtype``, ``stale``.
        report: The report card of the pair, or None.
        hashes: SHA-256 of the source's files by name.
    """
    given = {}
    about = place / "README.md"
    if about.is_file() and about.read_text(encoding="utf-8", errors="replace").startswith("---"):
        given = ModelCard.load(about).data.to_dict()
    kept = {key: given[key] for key in ("license", "language") if key in given}
    base = place_of(src)
    front = ModelCardData(
        base_model=base if isinstance(base, str) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["hypercloning", "hcviz"],
        **kept,
    )
    made, recipe = surroundings(), transfer.plan.config.hcviz
    small, wide = widths(transfer.source.config), widths(transfer.plan.config)
    names = ("hidden", "heads", "head_dim")
    rows = [(name, getattr(small, name), getattr(wide, name)) for name in names]
    rows += [("key/value heads", small.kv_heads, wide.kv_heads)]
    rows += [(field, size, wide.ffn[field]) for field, size in small.ffn.items()]
    noise = f" at {recipe['snr_db']} dB" if recipe["snr_db"] is not None else ""
    text = TEXT.format(
        name=out.name,
        src=src,
        parameters=transfer.parameters,
        sizes="\n".join(f"| {name} | {a} | {b} |" for name, a, b in rows),
        expansion=f"{recipe['expansion']}{noise}",
        seed=recipe["seed"],
        dtype=str(transfer.dtype).removeprefix("torch."),
        started=made["started"],
        command=made["command"],
        versions=", ".join(f"{name} {number}" for name, number in made["versions"].items()),
        check=f"The saved files against the source:\n\n```\n{report}\n```" if report else TWIN,
        revision=place.name if place.parent.name == "snapshots" else "not of the hub",
        stale=", ".join(f"`{key}`" for key in transfer.stale) or "none",
        hashes="\n".join(f"| {name} | `{digest}` |" for name, digest in hashes.items()),
    )
    return f"---\n{front.to_yaml()}\n---\n{text}"
