"""Which stored tensors make which of a model's, whole or not; and the kinds that are not read."""

import functools
import re
import warnings
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.initialization import no_init_weights

from hcviz.errors import HcvizError
from hcviz.io import forms
from hcviz.io.files import natural

WRAPPER = re.compile(r"^(?:(?:module|_orig_mod|_fsdp_wrapped_module)\.)+")
"""What wrapping (in parallel, compiled) leaves before the names of a state dict that is saved."""
ADAPTED = (
    "an adapter (LoRA and the like), which hcviz does not read. Merge it into the weights first, "
    "with merge_and_unload() of peft, and {then}."
)
QUANTIZED = (
    "quantized, and shares of such weights would not be exact. Give the model in float16, bfloat16 "
    "or float32."
)
ITS_OWN = "Take the config.json that the weights came with."


def read_config(place: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Read a configuration; code that comes with it runs only if that is asked for.

    Args:
        place: A folder, or the id of a model of the hub.
        trust_remote_code: Run code that comes with the model.

    Raises:
        HcvizError: If there is none that opens, it needs code of its own, or is an adapter's.
    """
    check_folder(place)
    if Path(place, "config.json").is_file():
        forms.read(Path(place, "config.json"), forms.CONFIGURATION, ITS_OWN)
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    except Exception as error:  # configurations check themselves, and raise many unrelated kinds
        if asks_for_trust(error):
            raise own_code(place) from error
        raise HcvizError(
            f"{str(place)!r} has no configuration that opens: {' '.join(str(error).split())} Give "
            "a folder with config.json, a hub id, or nano:NAME."
        ) from error


def blank(
    config: Any,
    place: Any,
    model_class: Any = None,
    *,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Build a model on the meta device: names and shapes, no memory.

    Args:
        config: Its configuration.
        place: Whose it is, for the message.
        model_class: Its class; by default that of the causal language models of this kind.
        dtype: Its dtype, if the class is not given; by default that of the configuration.
        trust_remote_code: Run code that comes with the model.

    Raises:
        HcvizError: If it makes no model.
    """
    cast = {} if dtype is None else {"dtype": dtype}
    try:
        with torch.device("meta"), no_init_weights():
            if model_class is None:
                model = AutoModelForCausalLM.from_config(
                    config, trust_remote_code=trust_remote_code, **cast
                )
            else:
                model = model_class(config)
            model.tie_weights(recompute_mapping=False)
            return model
    except Exception as error:  # modelling files raise all kinds
        if asks_for_trust(error):
            raise own_code(place) from error
        raise HcvizError(
            f"The configuration of {place} makes no model: {type(error).__name__}: "
            f"{' '.join(str(error).split())} {ITS_OWN}"
        ) from error


def check_folder(place: str | Path) -> None:
    """Refuse a folder that holds an adapter, with the weights that it adapts or without."""
    if isinstance(place, Path) and (place / "adapter_config.json").is_file():
        then = "give the folder that the merged model is saved in"
        raise HcvizError(f"{place} holds {ADAPTED.format(then=then)}")


def check_config(config: Any, where: Any) -> None:
    """Refuse a configuration whose weights are quantized; ``where`` names it."""
    if getattr(config, "quantization_config", None):
        raise HcvizError(f"The weights of {where} are {QUANTIZED}")


def check_model(model: Any) -> None:
    """Refuse a model in memory that carries an adapter, or is quantized.

    Raises:
        HcvizError: Naming its kind, and what to do with it first.
    """
    name = type(model).__name__
    if getattr(model, "_hf_peft_config_loaded", False) or getattr(model, "peft_config", None):
        raise HcvizError(f"This {name} carries {ADAPTED.format(then='pass the merged model')}")
    check_config(getattr(model, "config", None), f"this {name}")
    for path, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if ".quantized." in f"{type(module).__module__}.":
            raise HcvizError(f"The weights of {path} of this {name} are {QUANTIZED}")


def asks_for_trust(error: Exception) -> bool:
    """Tell whether transformers refuses to run code that comes with a model."""
    return "trust_remote_code" in str(error)


def own_code(place: Any) -> HcvizError:
    """Say that a model needs code of its own, and how it is let run."""
    return HcvizError(
        f"{place} needs code of its own (auto_map in its configuration), which hcviz runs only "
        "where it is told to. Read that code; then pass --trust-remote-code, or "
        "trust_remote_code=True to hcviz.load or hcviz.clone_checkpoint. What reads runs never "
        "runs it; hcviz.diff and hcviz.verify take models that are loaded."
    )


@dataclass(frozen=True)
class _Configured:
    """A configuration by its text: snapshots of one run have one model of names and shapes."""

    text: str
    folder: Path = field(compare=False)


@functools.lru_cache(maxsize=8)
def _model_of(one: _Configured) -> PreTrainedModel:
    """Return the model of a folder's configuration, on the meta device."""
    config = read_config(one.folder)
    check_config(config, one.folder)
    try:
        return blank(config, one.folder)
    except HcvizError as error:
        kind, *_ = getattr(config, "architectures", None) or [""]
        model_class = getattr(transformers, kind, None)
        known = isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)
        if asks_for_trust(error) or not known:
            raise
        return blank(config, one.folder, model_class)


def model_of(folder: Path) -> PreTrainedModel:
    """Return the model that a folder's configuration makes, on the meta device; not to be changed.

    Raises:
        HcvizError: If it is of a kind that hcviz does not read.
    """
    check_folder(folder)
    path = folder / "config.json"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return _model_of(_Configured(text, folder))


@dataclass(frozen=True)
class Unit:
    """Stored tensors that make tensors of a model by themselves."""

    name: str
    """The first tensor of the model that they make."""
    stored: tuple[tuple[str, str], ...]
    """The stored names, each with the pattern by which the converter knows it."""
    converter: WeightConverter | None

    @property
    def names(self) -> list[str]:
        """The tensors of the model that they make."""
        first, *others = self.converter.target_patterns if self.converter else ("",)
        return [self.name, *(self.name.replace(first, other, 1) for other in others)]

    def read(
        self, model: PreTrainedModel, tensor_of, dtype: torch.dtype | None = None
    ) -> dict[str, Any]:
        """Return the model's tensors by name.

        Args:
            model: The model, on the meta device.
            tensor_of: Gives a stored tensor by its name.
            dtype: The dtype that they get; as stored if None.
        """
        if self.converter is None:
            tensor = tensor_of(self.stored[0][1])
            return {self.name: tensor if dtype is None else tensor.to(dtype)}
        converter = deepcopy(self.converter)
        for pattern, key in self.stored:
            tensor = tensor_of(key)
            converter.add_tensor(
                self.name, key, pattern, tensor if dtype is None else tensor.to(dtype)
            )
        made = converter.convert(self.name, model=model, config=model.config)
        return {name: x[0] if isinstance(x, list) else x for name, x in made.items()}


def units(model: PreTrainedModel, keys: Iterable[str]) -> tuple[list[Unit], list[str]]:
    """Sort stored tensors into units, by the rules by which transformers loads them.

    What a wrapper left before a name is not part of it (:data:`WRAPPER`).

    Args:
        model: The model, on the meta device.
        keys: The stored names.

    Returns:
        The units, and the names that no tensor of the model wants (old rotary tables and the like).

    Raises:
        HcvizError: If two stored tensors would make the same one.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    of_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    wanted, prefix = model.state_dict(), model.base_model_prefix
    found, stale = {}, []
    for key in sorted(keys, key=dot_natural_key):
        for plain in dict.fromkeys((key, WRAPPER.sub("", key))):
            name, pattern = rename_source_key(plain, renamings, converters, prefix, wanted)
            if name not in wanted and plain in wanted:
                name, pattern = rename_source_key(plain, [], [], prefix, wanted)
            if name in wanted:
                found.setdefault(name, []).append((pattern, key))
                break
        else:
            stale.append(key)
    made = [Unit(n, tuple(stored), of_pattern.get(stored[0][0])) for n, stored in found.items()]
    for unit in made:
        if unit.converter is None and len(unit.stored) > 1:
            raise HcvizError(
                f"{unit.stored[0][1]} and {unit.stored[1][1]} are both stored, and both are "
                f"{unit.name} of the model. Remove the one that is not meant."
            )
    return made, stale


def own_names(model: PreTrainedModel) -> dict[str, str]:
    """Return the one name of each tensor of a state dict; tied ones have that of the first."""
    first: dict[int, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        first.setdefault(id(tensor), name)
    state = model.state_dict(keep_vars=True)
    return {name: first[id(tensor)] for name, tensor in state.items() if id(tensor) in first}


def whole(model: PreTrainedModel, files) -> tuple[dict[str, Unit], list[str]]:
    """See that a checkpoint holds all tensors of a model, in their shapes, and no others.

    Args:
        model: The model that the configuration makes, on the meta device.
        files: The stored tensors.

    Returns:
        By which unit each tensor is made, by its own name; and the stored names that nothing wants
        and that may be there: tables that models compute by now, and what the class passes over.

    Raises:
        HcvizError: Naming the first tensor that is missing, left over, of another shape, or tied to
            another and stored with other values.
    """
    found, stale = units(model, files)
    own, state = own_names(model), model.state_dict()
    made: dict[str, tuple[Unit, str]] = {}
    for unit in found:
        try:
            tensors = unit.read(model, files.empty)
        except Exception as error:  # of whatever puts them together
            raise HcvizError(
                f"{unit.name} cannot be made of what {files.folder} stores of it: {error} The "
                "checkpoint is not whole, or is that of another configuration."
            ) from error
        for name, tensor in tensors.items():
            if tensor.shape != state[name].shape:
                raise HcvizError(
                    f"{name} is stored as {tuple(tensor.shape)} in {files.folder}, and the "
                    f"configuration makes it {tuple(state[name].shape)}. The two do not belong "
                    "together."
                )
            before = made.setdefault(own[name], (unit, name))
            if before != (unit, name):
                _check_tied(model, files, before, (unit, name))
    lost = set(own.values()) - made.keys()
    parameters = dict(model.named_parameters()).keys()
    odd = SimpleNamespace(missing_keys=lost - parameters, unexpected_keys=_unknown(model, stale))
    model._adjust_missing_and_unexpected_keys(odd)
    lost = (lost & parameters) | odd.missing_keys
    if lost or odd.unexpected_keys:
        raise _apart(model, files.folder, lost, odd.unexpected_keys)
    if any(wrapped(unit) for unit in found):
        warnings.warn(
            f"The names of the tensors in {files.folder} begin with what a wrapper left "
            f"({WRAPPER.match(next(filter(WRAPPER.match, files)))[0]!r}); it is passed over.",
            stacklevel=2,
        )
    return {name: unit for name, (unit, _) in made.items()}, stale


def wrapped(unit: Unit) -> bool:
    """Tell whether stored names begin with what a wrapper left, and the model's do not."""
    return any(WRAPPER.match(key) for _, key in unit.stored) and not WRAPPER.match(unit.name)


def _unknown(model: PreTrainedModel, stale: Iterable[str]) -> set[str]:
    """Leave out the names of tables that a model computes and does not store."""
    tables = [f".{name}" for name, _ in model.named_buffers()]
    odd = (key for key in stale if not key.endswith("rotary_emb.inv_freq"))
    return {key for key in odd if not any(table.endswith(f".{key}") for table in tables)}


def _apart(model, folder: Path, lost: Iterable[str], left: Iterable[str]) -> HcvizError:
    """Say where a checkpoint and the model of its configuration part."""
    name = type(model).__name__
    lost, left = (sorted(names, key=natural) for names in (lost, left))
    if not lost:
        text = f"{left[0]} is among the weights in {folder}, and its {name} has no such tensor"
    else:
        text = f"{lost[0]} is not among the stored weights in {folder}"
        text += f" (which hold {left[0]}, of which {name} knows nothing)" if left else ""
    return HcvizError(
        f"{text}. hcviz makes no weight up and leaves none out. Save the whole model again, or "
        "give the checkpoint its own config.json."
    )


def _check_tied(model, files, *places: tuple[Unit, str]) -> None:
    """See that a tied tensor that is stored twice is the same twice."""
    one, two = (unit.read(model, files.tensor)[name] for unit, name in places)
    if not torch.equal(one, two):
        raise HcvizError(
            f"The configuration ties {places[0][1]} and {places[1][1]}, and the two are stored "
            f"with different values in {files.folder}. Set tie_word_embeddings to false in its "
            "config.json."
        )
