"""The shipped source models by their folders, and how any source is found and loaded."""

import difflib
import os
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from hcviz.errors import HcvizError
from hcviz.io.checkpoint import Checkpoint
from hcviz.io.files import data_folder, natural
from hcviz.io.models import (
    WRAPPER,
    asks_for_trust,
    blank,
    check_config,
    own_code,
    read_config,
    whole,
    wrapped,
)

VOCABULARY = 2048
"""Tokens of the tokenizer that the shipped sources share."""


def source_names() -> list[str]:
    """Return the names of the shipped sources: ``NAME``, or ``NAME@STEP`` for a checkpoint.

    A folder of ``data/sources`` is one if it holds weights; ``NAME-step-N`` is ``NAME@N``.

    Example:
        >>> [name for name in source_names() if name.startswith("gpt-neox@")]
        ['gpt-neox@300', 'gpt-neox@600', 'gpt-neox@1200']
    """
    folders = (data_folder() / "sources").glob("*/model.safetensors")
    return sorted((path.parent.name.replace("-step-", "@") for path in folders), key=natural)


def source_path(name: str) -> Path:
    """Return the folder of a shipped source.

    Args:
        name: One of :func:`source_names`.

    Raises:
        HcvizError: If there is no such source.

    Example:
        >>> source_path("gpt-neox@300").name
        'gpt-neox-step-300'
    """
    known, folder = source_names(), data_folder() / "sources"
    if name not in known:
        raise HcvizError(
            f"Unknown source 'nano:{name}'. The shipped ones are {', '.join(known) or 'gone'} (in "
            f"{folder}). One that is missing there is made by: python data/sources/make.py NAME"
        )
    return folder / name.replace("@", "-step-")


def load(spec: str | Path, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Load a source model and its tokenizer.

    Args:
        spec: ``"nano:NAME"`` for a shipped source, a folder, or the id of a model of the Hugging
            Face hub; :func:`place_of` says which of them a name is.
        trust_remote_code: Run code that comes with the model. Weights are read from safetensors
            only, either way.

    Returns:
        The model in eval mode and its own dtype, and the tokenizer.

    Raises:
        HcvizError: If it cannot be found or read, or computes nothing.

    Example:
        >>> model, tokenizer = load("nano:llama")
        >>> model.config.model_type, len(tokenizer)
        ('llama', 2048)
    """
    from transformers import AutoTokenizer

    from hcviz.io.process import quiet

    place, trust = str(place_of(spec)), {"trust_remote_code": trust_remote_code}
    folder = folder_of(spec, **trust)
    try:
        model = read_model(folder, **trust)
        model.config._name_or_path = place
        with quiet(), torch.no_grad():
            tokenizer = AutoTokenizer.from_pretrained(place, **trust)
            model(input_ids=torch.zeros(1, 2, dtype=torch.long))  # some configurations cannot
    except Exception as error:  # the loaders raise many unrelated kinds
        reason = " ".join(str(own_code(spec) if asks_for_trust(error) else error).split())
        raise HcvizError(
            f"The model {str(spec)!r} cannot be loaded: {reason} Needed are "
            "config.json, whole safetensors weights and a tokenizer. Give a model folder, "
            f"a hub id, or one of {_shipped()}."
        ) from error
    return model, tokenizer


def read_model(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    model_class: Any = None,
) -> Any:
    """Load the model of a checkpoint folder: all of its weights as they are stored, and no others.

    Args:
        folder: The folder.
        dtype: Cast it; its own dtype if None.
        trust_remote_code: Run code that comes with the model.
        model_class: Its class; by default the one that its configuration names.

    Returns:
        The model in eval mode.

    Raises:
        HcvizError: If a tensor is missing, left over or of another shape, naming the first, or the
            folder is of a kind that hcviz does not read.
    """
    from transformers import AutoModelForCausalLM

    from hcviz.io.process import quiet

    opens = model_class or AutoModelForCausalLM
    trust = {} if model_class else {"trust_remote_code": trust_remote_code}
    cast = {"dtype": dtype} if dtype else {}
    with quiet():
        if model_class:
            config = model_class.config_class.from_pretrained(folder)
        else:
            config = read_config(folder, **trust)
        check_config(config, folder)
        files = Checkpoint(folder)
        try:
            made, _ = whole(blank(config, folder, model_class, **trust), files)
            names = {WRAPPER.pattern: ""} if any(map(wrapped, made.values())) else None
            options = {"use_safetensors": True, "key_mapping": names, **cast, **trust}
            model, found = opens.from_pretrained(folder, output_loading_info=True, **options)
        except ValueError as error:
            if asks_for_trust(error):
                raise own_code(folder) from error
            raise
    odd = {*found["missing_keys"], *found["mismatched_keys"]}
    if odd:
        raise HcvizError(f"{min(odd)} of {folder} was not loaded by transformers, but made up.")
    return model.eval()


def _shipped() -> str:
    """Name the shipped sources, without their checkpoints."""
    return ", ".join(f"nano:{name}" for name in source_names() if "@" not in name)


def config_of(source: Any) -> Any:
    """Return the configuration of a model, of what :func:`place_of` takes, or one that is given.

    Raises:
        HcvizError: If a name has no configuration that opens.

    Example:
        >>> config_of("nano:llama").model_type
        'llama'
    """
    if not isinstance(source, str | PathLike):
        return getattr(source, "config", source)
    return read_config(place_of(source))


KINDS = (
    "Give a model folder, a hub id (NAME or OWNER/NAME; hf:OWNER/NAME in any case), or nano:NAME."
)


def place_of(spec: str | PathLike, *, remedy: str = KINDS) -> Path | str:
    """Return the folder that a name stands for, or the id of a model of the hub.

    The one rule for whatever takes a name, in this order:

    - ``nano:NAME`` is a shipped source, and ``hf:ID`` a model of the hub, whatever lies here.
    - A folder that is here is that folder.
    - A ``Path`` must be here, and so must a text that reads like one: it is absolute, begins with
      ``.`` or ``~``, ends in a separator, has more than one, or its first part is a folder here, as
      in ``runs/x`` beside ``runs/``. So a slip in a path is told, and not looked up on the hub.
    - What is left, ``NAME`` or ``OWNER/NAME``, is the id of a model of the hub.

    Nothing is downloaded.

    Args:
        spec: The name.
        remedy: What to give instead of one that is wrong, for the message.

    Raises:
        HcvizError: If the folder is missing, with what is there in its stead, or it is no name.

    Example:
        >>> place_of("nano:gpt-neox@300").name, place_of("gpt2"), place_of("hf:owner/name")
        ('gpt-neox-step-300', 'gpt2', 'owner/name')
    """
    text = os.fspath(spec)
    if text.startswith("nano:"):
        return source_path(text.removeprefix("nano:"))
    name, path = text.removeprefix("hf:"), Path(os.path.expanduser(text))
    if name == text:
        if text and os.path.isdir(path):
            return path
        first, *more = text.replace(os.sep, "/").split("/")
        given = not isinstance(spec, str) or path.is_absolute() or text.startswith((".", "~"))
        if given or len(more) > 1 or (more and (not more[0] or os.path.isdir(first))):
            raise _missing(text, path, remedy)
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HcvizError(
            f"{text!r} is no folder here, and no id of a model of the hub: {error} {remedy}"
        ) from error
    return name


def local_folder(spec: str | PathLike, remedy: str) -> Path:
    """Return the folder that a name stands for, which must be here.

    Args:
        spec: As in :func:`place_of`.
        remedy: What to give instead, for the message.

    Raises:
        HcvizError: If it is not here.
    """
    place = place_of(spec, remedy=remedy)
    if isinstance(place, str):
        raise HcvizError(f"{str(spec)!r} is not a folder here. {remedy}")
    return place


def _missing(text: str, path: Path, remedy: str) -> HcvizError:
    """Say that a folder is not there, and which folders are."""
    if os.path.exists(path):
        return HcvizError(f"{text!r} is a file, not a folder. Give its folder, {path.parent}.")
    above = next(place for place in path.absolute().parents if os.path.isdir(place))
    wanted = path.absolute().relative_to(above).parts[0]
    there = sorted(p.name for p in above.iterdir() if p.is_dir() and not p.name.startswith("."))
    near = difflib.get_close_matches(wanted, there, n=3) or there[:4]
    has = f"folders in {above}: {', '.join(near)}" if near else f"{above} holds no folder"
    return HcvizError(f"There is no folder {text!r} ({has}). {remedy}")


def folder_of(spec: str | Path, *, trust_remote_code: bool = False) -> Path:
    """Return a source's folder; a hub id is downloaded to the cache of the hub's own library.

    Args:
        spec: As in :func:`load`.
        trust_remote_code: Also download code.

    Raises:
        HcvizError: If it cannot be found.
    """
    from huggingface_hub import snapshot_download

    place = place_of(spec)
    if isinstance(place, Path):
        return place
    kinds = ["*.json", "*.safetensors", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.md"]
    kinds += ["LICENSE*", "NOTICE*", *(["*.py"] if trust_remote_code else [])]
    try:
        found = snapshot_download(
            place, allow_patterns=kinds, ignore_patterns=["*/*", "consolidated*"]
        )
    except Exception as error:  # no network, no such id, no permission: many unrelated kinds
        raise HcvizError(
            f"The model {str(spec)!r} cannot be downloaded: {' '.join(str(error).split())} Give a "
            f"model folder, the id of a model of the hub, or one of {_shipped()}."
        ) from error
    return Path(found)


def tokenizer_for(model: Any) -> Any:
    """Find a model's tokenizer: in its own folder, in its source's, or the shipped one if it fits.

    Raises:
        HcvizError: If none is found.
    """
    from transformers import AutoTokenizer

    recipe = getattr(model.config, "hcviz", None) or {}
    for place in (model.config.name_or_path, recipe.get("source")):
        if not place:
            continue
        try:
            found = AutoTokenizer.from_pretrained(place_of(place), trust_remote_code=False)
        except Exception:  # not there; try the next place
            continue
        if found("a")["input_ids"]:  # of a folder without one transformers makes an empty one
            return found
    if model.config.vocab_size == VOCABULARY:
        return AutoTokenizer.from_pretrained(data_folder() / "sources" / "tokenizer")
    raise HcvizError(
        f"No tokenizer was found for this {type(model).__name__} of {model.config.vocab_size} "
        "tokens. Save one in the folder of the model, or pass tokenizer= where there is one."
    )
