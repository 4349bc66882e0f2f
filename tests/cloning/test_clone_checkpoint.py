"""A streamed clone is the clone in memory: same files, resumed, checked, and little memory."""

import filecmp
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import models
import pytest
import tiny
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import hcviz
from hcviz.cloning import clone_checkpoint as streaming
from hcviz.io.shards import write_shard

SMALL = "20KB"
PT = {"format": "pt"}
NOISY = {"hidden": 3, "expansion": "noisy-symmetric", "seed": 3}
APART = {"ffn": 3, "expansion": "random", "tie": "untie"}
MATRIX = [
    *((name, {}) for name in ("gpt_neox", "llama", "gemma3")),
    *((name, NOISY) for name in ("opt-350m", "olmo-tied", "llama", "gpt2", "phi3")),
    *((name, APART) for name in ("llama", "gemma3", "gpt2", "qwen3")),
    *((name, {"hidden": 1.5}) for name in ("gpt_neox", "olmo", "phi3")),
    *((name, {"head_dim": 2, "expansion": {"ffn": "random"}}) for name in ("llama", "gemma3")),
]
_EXPERTS = {**models._GROUPED, "num_experts_per_tok": 2}
EXPERTS = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {
        "num_experts": 4,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 28,
    },
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8},
    "deepseek_v3": {
        **{"num_key_value_heads": 4, "moe_intermediate_size": 24, "n_routed_experts": 8},
        **{"n_group": 2, "topk_group": 1, "first_k_dense_replace": 0, "q_lora_rank": 16},
        **{"kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
    },
}


def stream(src, out, **call):
    """Clone a checkpoint into small shards, without a bar and with the twin only."""
    call = {"check": "twin", "max_shard_size": SMALL, "progress": False, **call}
    return hcviz.clone_checkpoint(src, out, **call)


def saved(name, folder, dtype=torch.float32):
    """Save a tiny model as users do."""
    models.source(name, dtype).save_pretrained(folder)
    return folder


def check_same_files(src, folder, dtype="auto", out_dtype=None, **call):
    """Clone in memory and by streaming; weights, index and configuration have the same bytes."""
    source = AutoModelForCausalLM.from_pretrained(src, dtype=dtype)
    hcviz.clone(source, check=False, **call).save_pretrained(
        folder / "memory", max_shard_size=SMALL
    )
    stream(src, folder / "streamed", dtype=out_dtype, **call)
    names = [path.name for path in (folder / "memory").iterdir()]
    assert sum(name.endswith(".safetensors") for name in names) > 2
    different = filecmp.cmpfiles(folder / "memory", folder / "streamed", names, shallow=False)
    assert different[1:] == ([], [])


@pytest.mark.filterwarnings("ignore:OlmoForCausalLM has no gain")
@pytest.mark.parametrize(("name", "call"), MATRIX)
def test_files_are_those_of_a_clone_in_memory(name, call, tmp_path):
    check_same_files(saved(name, tmp_path / "source"), tmp_path, **call)


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_return_to_the_form_in_which_they_are_stored(name, tmp_path):
    config = AutoConfig.for_model(name, **{**_EXPERTS, **EXPERTS[name]})
    model = models.randomise(AutoModelForCausalLM.from_config(config)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "source")
    check_same_files(tmp_path / "source", tmp_path, expansion="random")
    apart = "gpt_oss" != name  # the others keep every expert by itself
    stored = load_file(tmp_path / "source" / "model.safetensors")
    assert apart == (len(stored) > len(model.state_dict()))


def test_source_is_cast_before_it_grows(tmp_path):
    kind = torch.bfloat16
    src = saved("llama", tmp_path / "source")
    check_same_files(src, tmp_path, kind, kind, hidden=3, expansion="random")


def test_old_names_and_stale_tensors_are_understood(tmp_path):
    src = saved("llama", tmp_path / "source")
    weights = load_file(src / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    stale = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file({**bare, **stale}, src / "model.safetensors", PT)
    check_same_files(src, tmp_path)
    assert next(iter(stale)) in (tmp_path / "streamed" / "README.md").read_text()


def test_tied_weights_stored_twice_have_to_agree(tmp_path):
    src = saved("llama", tmp_path / "source")
    weights = load_file(src / "model.safetensors")
    twice = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(twice, src / "model.safetensors", PT)
    check_same_files(src, tmp_path)
    twice["lm_head.weight"][0, 0] += 1
    save_file(twice, src / "model.safetensors", PT)
    with pytest.raises(hcviz.HcvizError, match=r"ties .*embed_tokens.* different values"):
        stream(src, tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"model.norm.weight": None}, "model.norm.weight is not among the stored weights"),
        ({"model.norm.weight": torch.ones(3)}, r"model.norm.weight is stored as \(3,\).* \(32,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_left(tmp_path, damage, message):
    src = saved("llama", tmp_path / "source")
    weights = {**load_file(src / "model.safetensors"), **damage}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, src / "model.safetensors", PT)
    with pytest.raises(hcviz.HcvizError, match=message):
        stream(src, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"check": "some"}, "check='some' is unknown.*auto, full, twin"),
        ({"max_shard_size": "many"}, "max_shard_size='many'"),
        ({"hidden": 1}, "Every factor is 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(tmp_path, call, message):
    with pytest.raises(hcviz.HcvizError, match=message):
        stream("nano:llama", tmp_path / "out", **call)
    assert list(tmp_path.iterdir()) == []


def test_quantized_weights_are_refused(tmp_path):
    src = saved("llama", tmp_path / "source")
    config = json.loads((src / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (src / "config.json").write_text(json.dumps(config))
    with pytest.raises(hcviz.HcvizError, match=r"quantized.*bfloat16"):
        stream(src, tmp_path / "out")


def test_full_disk_is_seen_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(hcviz.HcvizError, match=r"The clone in .* needs 0.01 GB"):
        stream("nano:llama", tmp_path / "out")


class Interrupted:
    """Let some shards through, then stop as a kill would, in the middle of a file."""

    def __init__(self, after):
        self.left, self.wrote = after, []

    def __call__(self, path, tensors, parts):
        self.left -= 1
        if self.left < 0:
            path.with_name(f"{path.name}.1.part").write_bytes(b"half")
            raise KeyboardInterrupt
        write_shard(path, tensors, parts)
        self.wrote.append(path.name)


def test_interrupted_clone_goes_on(tmp_path, monkeypatch):
    src = saved("llama", tmp_path / "source")
    stream(src, tmp_path / "whole")
    monkeypatch.setattr("hcviz.cloning.transfer.write_shard", Interrupted(2))
    with pytest.raises(KeyboardInterrupt):
        stream(src, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("hcviz.cloning.transfer.write_shard", rest := Interrupted(99))
    stream(src, tmp_path / "out")
    whole = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == whole
    assert rest.wrote == [n for n in whole if n.endswith(".safetensors")][2:]
    names = [name for name in whole if name != "README.md"]
    assert filecmp.cmpfiles(tmp_path / "whole", tmp_path / "out", names, shallow=False)[0] == names
    assert not list(tmp_path.glob(".tmp*"))


def test_another_recipe_starts_again_and_says_so(tmp_path, monkeypatch):
    src = saved("llama", tmp_path / "source")
    monkeypatch.setattr("hcviz.cloning.transfer.write_shard", Interrupted(2))
    with pytest.raises(KeyboardInterrupt):
        stream(src, tmp_path / "out")
    monkeypatch.setattr("hcviz.cloning.transfer.write_shard", rest := Interrupted(99))
    with pytest.warns(UserWarning, match="unfinished clone with another recipe; starting again"):
        stream(src, tmp_path / "out", expansion="diagonal")
    assert len(rest.wrote) == len(list((tmp_path / "out").glob("*.safetensors")))


def test_existing_folder_is_kept_unless_told_to(tmp_path):
    out = tmp_path / "out"
    stream("nano:llama", out)
    before = (out / "config.json").read_text()
    with pytest.raises(hcviz.HcvizError, match="already exists"):
        stream("nano:llama", out, hidden=3)
    assert (out / "config.json").read_text() == before
    stream("nano:llama", out, hidden=3, overwrite=True)
    assert AutoConfig.from_pretrained(out).hidden_size == 384


def test_what_stands_beside_the_weights_comes_along(tmp_path):
    src = saved("llama", tmp_path / "source")
    words = tiny.tokenizer()
    words.chat_template = "{{ messages }}"
    words.save_pretrained(src)
    (src / "generation_config.json").write_text('{"temperature": 0.25, "do_sample": true}')
    (src / "optimizer.pt").write_bytes(b"not ours")
    stream(src, tmp_path / "out")
    again, _ = hcviz.load(tmp_path / "out")
    assert again.generation_config.temperature == 0.25
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert filecmp.cmp(src / name, tmp_path / "out" / name, shallow=False)
    assert not (tmp_path / "out" / "optimizer.pt").exists()


def test_card_says_how_from_what_and_whether_it_is_right(tmp_path):
    src = saved("llama", tmp_path / "source")
    (src / "README.md").write_text("---\nlicense: apache-2.0\ntags: [old]\n---\nA source.\n")
    done = stream(src, tmp_path / "out", check="full", expansion="noisy-diagonal", seed=7)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    assert card.data.tags == ["hypercloning", "hcviz"]
    digest = hashlib.sha256((src / "model.safetensors").read_bytes()).hexdigest()
    for fact in (digest, "noisy-diagonal at 10.0 dB, seed 7", "| heads | 4 | 8 |", str(src)):
        assert fact in card.text
    assert str(done.report) in card.text
    assert hcviz.__version__ in card.text
    stream(src, tmp_path / "twin")
    assert "were not compared" in (tmp_path / "twin" / "README.md").read_text()


@pytest.mark.parametrize(("free", "compared"), [(10**12, True), (10**6, False)])
def test_models_are_compared_where_both_fit(tmp_path, monkeypatch, free, compared):
    memory = type("Memory", (), {"available": free})
    monkeypatch.setattr(streaming.psutil, "virtual_memory", lambda: memory)
    done = stream("nano:llama", tmp_path / "out", check="auto")
    assert (done.report is not None) == compared


def test_nothing_is_left_of_a_clone_that_cannot_be_compared(tmp_path):
    tiny.model("llama", max_position_embeddings=2).save_pretrained(tmp_path / "small")
    with pytest.raises(hcviz.HcvizError, match=r"length >= 4"):
        hcviz.clone_checkpoint(tmp_path / "small", tmp_path / "wide", check="full", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_failed_clone_is_not_left_behind_unless_told_to(tmp_path, monkeypatch):
    widened = streaming.Transfer.make

    def halved(self, *args, **kwargs):
        made = widened(self, *args, **kwargs)
        return {n: t / (1 + (n == "model.norm.weight")) for n, t in made.items()}

    monkeypatch.setattr(streaming.Transfer, "make", halved)
    done = stream("nano:llama", tmp_path / "out", check="full")
    assert not done.report.passed
    assert done.path is None
    assert list(tmp_path.iterdir()) == []
    done = stream("nano:llama", tmp_path / "out", check="full", keep_failed=True)
    assert "NOT a faithful clone" in (done.path / "README.md").read_text()


CLONE = """
import sys
sys.path.insert(0, sys.argv[2])
import hcviz
from tables import peak
call = {"check": "twin", "progress": False}
hcviz.clone_checkpoint("nano:llama", sys.argv[1] + "/first", **call)  # what is loaded once
before = peak()
hcviz.clone_checkpoint(sys.argv[1] + "/source", sys.argv[1] + "/out", **call)
print(peak() - before)
"""


def test_memory_is_that_of_a_tensor_whatever_the_model(tmp_path):
    """A model of a billion parameters is cloned as this one is, from one file to one file."""
    small = tiny.model("llama", hidden_size=256, intermediate_size=512, num_hidden_layers=24)
    small.save_pretrained(tmp_path / "source")
    here = Path(__file__).parents[2] / "benchmarks"
    done = subprocess.run(
        [sys.executable, "-c", CLONE, str(tmp_path), str(here)],
        capture_output=True,
        text=True,
        check=True,
    )
    whole = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert int(done.stdout) < whole / 3  # two megabytes are the largest tensor, the rest is Python


@pytest.mark.parametrize("size", ["-5GB", "0", "five"])
def test_a_size_that_no_file_has_is_refused(size, tmp_path):
    with pytest.raises(hcviz.HcvizError, match=rf"max_shard_size={size!r}: .* Say 5GB, or 500MB"):
        hcviz.clone_checkpoint("nano:llama", tmp_path / "out", max_shard_size=size, progress=False)
    assert not (tmp_path / "out").exists()
