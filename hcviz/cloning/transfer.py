"""A stored source and its clone-to-be: which tensors of the files make which of the clone's."""

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from hcviz.architecture.infer import tensors
from hcviz.cloning.clone import decide
from hcviz.errors import CloneError
from hcviz.io.checkpoint import Checkpoint
from hcviz.io.files import write_text
from hcviz.io.forms import naming
from hcviz.io.models import Unit, blank, check_config, own_names, read_config, whole
from hcviz.io.shards import BLOCK, made_ahead, taken, write_shard
from hcviz.widening.plan import check_shapes
from hcviz.widening.request import CloneRequest

CARRIED = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt"),
    *("*.model", "*.tiktoken", "chat_template*", "additional_chat_templates"),
    *("generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*"),
)
"""What a clone takes over from its source's folder as it is."""


class Transfer:
    """A stored source and its clone-to-be; both models are on the meta device, without weights.

    ``outputs`` are the tensors of the clone's files by name, and ``unit_of`` says what makes each.
    """

    def __init__(self, place: Path, dtype, trust_remote_code: bool, request: CloneRequest):
        """Plan everything on the meta device."""
        config = read_config(place, trust_remote_code=trust_remote_code)
        check_config(config, place)
        self.stored = Checkpoint(place)
        kinds = (self.stored.empty(key).dtype for key in self.stored)
        self.dtype = dtype or config.dtype or next(kind for kind in kinds if kind.is_floating_point)
        trust = {"trust_remote_code": trust_remote_code}
        self.source = blank(config, place, dtype=self.dtype, **trust).eval()
        own = tensors(self.source)
        with naming(place):
            self.plan = decide(self.source, request)
            check_shapes(self.plan, own, tensors(self.plan.wide), type(self.source))
        self.wide = self.plan.wide
        self.pair = (self.source, self.wide)
        self.parameters = tuple(model.num_parameters() for model in self.pair)
        self.own_name = own_names(self.source)
        self.made_of = self.own_name | self.plan.origins
        made = remove_tied_weights_from_state_dict(self.wide.state_dict(), self.wide)
        for name in self.wide._keys_to_ignore_on_save or ():
            made.pop(name, None)
        exact = self.source._get_dtype_plan(self.dtype)
        kinds = {
            name: next((k for glob, k in exact.items() if _matches(glob, name)), own[name].dtype)
            for name in own
        }
        self.kinds = {name: kinds[own_name] for name, own_name in self.own_name.items()}
        odd = made.keys() - self.made_of.keys()
        if odd:
            raise CloneError(
                f"{min(odd)} has no counterpart in the source; this model cannot be widened yet."
            )
        empty = {
            name: torch.empty(tensor.shape, dtype=kinds[self.made_of[name]], device="meta")
            for name, tensor in made.items()
        }
        maker, self.stale = whole(self.source, self.stored)
        self.of_unit = {}
        for name in empty:
            self.of_unit.setdefault(maker[self.made_of[name]], []).append(name)
        self.room = max(
            sum(_nbytes(empty[name]) + BLOCK for name in names) for names in self.of_unit.values()
        )
        self.outputs = revert_weight_conversion(self.wide, empty)
        self.unit_of = {}
        for unit, names in self.of_unit.items():
            part = revert_weight_conversion(self.wide, {name: empty[name] for name in names})
            self.unit_of.update(dict.fromkeys(part, unit))
        odd = self.outputs.keys() ^ self.unit_of.keys()
        if odd:
            raise CloneError(
                f"{min(odd)} of this {config.model_type} checkpoint is made from tensors that lie "
                "apart, so it cannot be streamed. Load the model, and use hcviz.clone()."
            )

    def _read(self, unit: Unit, tensor_of) -> dict[str, torch.Tensor]:
        return unit.read(self.source, tensor_of, self.kinds[unit.name])

    def make(self, unit: Unit, empty=torch.empty) -> dict[str, torch.Tensor]:
        """Read, widen and bring to the form of the files what one unit makes.

        ``empty`` gives the memory of what is widened, as ``torch.empty`` does.
        """
        read = {self.own_name[n]: t for n, t in self._read(unit, self.stored.tensor).items()}
        head, wide = self.plan.head, {}
        for name in self.of_unit[unit]:
            own = self.made_of[name]
            wide[name] = self.plan.widened(name if name == head else own, read[own], empty)
        return revert_weight_conversion(self.wide, wide)

    def write(self, folder: Path, shards: dict[str, list[str]], progress: bool) -> None:
        """Write the shards that are not there yet; what comes next is made meanwhile."""
        sizes = {name: _nbytes(tensor) for name, tensor in self.outputs.items()}
        left = {
            file: {name: self.outputs[name] for name in names}
            for file, names in shards.items()
            if not (folder / file).exists()
        }
        jobs = {
            file: list(dict.fromkeys(self.unit_of[name] for name in names))
            for file, names in left.items()
        }
        there = sum(sizes[name] for file in shards.keys() - left for name in shards[file])
        memories = itertools.cycle([torch.empty(self.room, dtype=torch.uint8) for _ in range(2)])
        made = made_ahead(
            lambda unit: self.make(unit, taken(next(memories))),
            itertools.chain.from_iterable(jobs.values()),
        )
        look = {"unit": "B", "unit_scale": True, "disable": not progress, "desc": "Cloning"}
        bar = tqdm(total=sum(sizes.values()), initial=there, **look)

        def parts(units: list[Unit], names: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
            for unit in units:
                yield next(made)
                bar.update(sum(sizes[name] for name in names if self.unit_of[name] == unit))

        with bar, contextlib.closing(made):
            for file, tensors in left.items():
                write_shard(folder / file, tensors, parts(jobs[file], tensors))

    def write_rest(self, place: Path, folder: Path, split) -> None:
        """Write what stands beside the weights: index, configuration, tokenizer, generation."""
        if split.is_sharded:
            counted = {"total_parameters": self.parameters[1], **split.metadata}
            index = {"metadata": counted, "weight_map": split.tensor_to_filename}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            write_text(folder / "model.safetensors.index.json", text)
        self.plan.config.architectures = [type(self.source).__name__]
        self.plan.config.save_pretrained(folder)
        self.source.generation_config.save_pretrained(folder)
        code = ("*.py",) if self.source.is_custom_code() else ()
        for path in {path for pattern in (*CARRIED, *code) for path in place.glob(pattern)}:
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, folder / path.name, **({"dirs_exist_ok": True} if path.is_dir() else {}))


def _matches(glob: str, name: str) -> bool:
    return re.search(glob.replace("*", ".*"), name) is not None


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
