"""The optimizer's state in a checkpoint, by the names of the parameters."""

import functools
from pathlib import Path

import torch

from hcviz.errors import HcvizError
from hcviz.io.checkpoint import file_stamp
from hcviz.io.models import read_config


def moments_mark(folder: Path) -> tuple:
    """Return what tells the moments of a checkpoint from others that were in its place."""
    return tuple(file_stamp(folder / name) for name in ("optimizer.pt", "config.json"))


def read_moments(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return what a checkpoint's optimizer keeps of each parameter, by name; {} without one.

    Raises:
        HcvizError: If which moments are whose cannot be told.
    """
    return {name: state for name, (state, _) in _read(folder, moments_mark(folder)).items()}


def divisors(folder: Path) -> dict[str, torch.Tensor]:
    """Return by tensor what Adam divides by, sqrt(v_hat) + eps; none where no moments are kept.

    Raises:
        HcvizError: As :func:`read_moments`.
    """
    return {
        name: (state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))).sqrt()
        + group["eps"]
        for name, (state, group) in _read(folder, moments_mark(folder)).items()
        if "exp_avg_sq" in state
    }


@functools.lru_cache(maxsize=16)  # mapped, not read
def _read(folder: Path, mark: tuple) -> dict[str, tuple[dict[str, torch.Tensor], dict]]:
    """Read a checkpoint's ``optimizer.pt``: by name the state and the group's numbers.

    The Trainer orders parameters so: decayed weights first; in lockstep, a group for each.
    """
    from transformers import AutoModelForCausalLM, Trainer

    from hcviz.architecture.infer import meta_model

    if not (folder / "optimizer.pt").is_file():
        return {}
    state = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True, mmap=True)
    config = read_config(folder)
    model = meta_model(config, AutoModelForCausalLM._model_mapping[type(config)])
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    decayed = shapes.keys() & set(Trainer.get_decay_parameter_names(None, model))
    order = sorted(shapes, key=lambda name: name not in decayed)
    expected = [len(decayed), len(shapes) - len(decayed)]
    sizes = [len(group["params"]) for group in state["param_groups"]]
    if sizes == [1] * len(shapes):
        order, expected = list(shapes), sizes
    found = dict(zip(order, (state["state"].get(i, {}) for i in range(sum(sizes))), strict=False))
    if sizes != expected or any(
        value.shape not in ((), shapes[name]) for name in found for value in found[name].values()
    ):
        raise HcvizError(
            f"{folder / 'optimizer.pt'} holds groups of {sizes} parameters, where the Trainer's "
            f"AdamW has {expected} (with weight decay and without) of this model's shapes. Which "
            "moments are whose cannot be told; measure a checkpoint that the Trainer wrote."
        )
    groups = [group for group in state["param_groups"] for _ in group["params"]]
    return {name: (found[name], group) for name, group in zip(order, groups, strict=True)}
