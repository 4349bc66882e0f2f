"""Shards: the bytes of safetensors, a part at a time, the next made while one is written."""

import contextlib
import errno
import filecmp
import itertools
import os
import threading
import time
import weakref

import pytest
import torch
from safetensors.torch import save_file

import hcviz
from hcviz.io.shards import made_ahead, taken, write_shard

PT = {"format": "pt"}


def test_a_shard_has_the_bytes_of_safetensors_and_holds_one_part(tmp_path):
    kinds = (torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float16)
    tensors = {f"t{i}": torch.arange(24).view(4, 6).to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"scalar": torch.tensor(3.0), "turned": torch.randn(3, 5).t(), "é": torch.ones(1)}
    alive = []

    def parts():
        for name, tensor in sorted(tensors.items(), reverse=True):
            assert not any(ref() is not None for ref in alive), "more than what is being written"
            copy = tensor.clone()
            alive.append(weakref.ref(copy))
            part = {name: copy, "elsewhere": copy}
            del copy
            yield part
            del part

    empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    write_shard(tmp_path / "streamed", empty, parts())
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, tmp_path / "whole", PT)
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "whole").read_bytes()
    with pytest.raises(hcviz.HcvizError, match="file lacks scalar"):
        write_shard(tmp_path / "file", empty, iter([{"t0": tensors["t0"]}]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["streamed", "whole"]


@pytest.mark.parametrize("system", ["as it is", "knows no way", "refuses", "refuses later"])
def test_large_tensors_that_go_straight_to_the_disk_are_the_same_bytes(
    system, tmp_path, monkeypatch
):
    """Where the disk wants it otherwise, as a memory file system may, the rest goes as usual."""
    sizes = {"a": 2**21 + 25, "b": 10, "c": 5 * 2**20 + 1, "d": 2**21 - 3}  # 8 MiB are large
    tensors = {name: torch.rand(size) for name, size in sizes.items()}
    empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    left, write = {"refuses": 0, "refuses later": 1}.get(system, 99), getattr(os, "pwrite", None)

    def pwrite(*args):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(*args)

    if system == "knows no way":
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    monkeypatch.setattr(os, "pwrite", pwrite, raising=False)
    write_shard(tmp_path / "streamed", empty, iter([tensors]))
    save_file(tensors, tmp_path / "whole", PT)
    assert filecmp.cmp(tmp_path / "streamed", tmp_path / "whole", shallow=False)


def test_the_next_part_is_made_meanwhile_in_memory_that_is_used_again():
    """Every part is whole while it is used, although there is room for two only."""
    memories, made = itertools.cycle([torch.empty(800, dtype=torch.uint8) for _ in range(2)]), []
    ready = threading.Semaphore(0)

    def make(number):
        part = taken(next(memories))((100,), torch.float32).fill_(number)
        made.append(number)
        if number:
            ready.release()
        return part

    for number, part in enumerate(made_ahead(make, range(50))):
        assert number == 49 or ready.acquire(timeout=60), "the next was not made meanwhile"
        time.sleep(0.001)  # one more would be made now if it could
        assert (part == number).all()
        assert made == list(range(min(50, number + 2)))
    assert number == 49


def test_making_ahead_ends_with_either_side():
    """An error of the maker arrives, and a reader that stops leaves no thread that waits."""
    with pytest.raises(ZeroDivisionError):
        list(made_ahead(lambda number: 1 / (3 - number), range(9)))
    before = threading.active_count()
    with contextlib.closing(made_ahead(str, range(9))) as made:
        next(made)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
