"""Pages of mapped files go back; what was changed in memory stays."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from awqc.capture.module import capture_module
from awqc.executor.run import Run
from awqc.huggingface.mapped import StoredTensor
from awqc.machine.memory import forget, give_back, map_private, unchanged_maps
from awqc.passes.calibrate import Calibrate
from awqc.passes.insert_observers import InsertObservers

COUNT = 1 << 23
"""Numbers in a file, enough to be worth giving back."""


def resident() -> int:
    """Bytes of files that lie in this process's memory."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers"
    np.arange(COUNT, dtype=np.float32).tofile(path)
    return path


def numbers(path: Path, first: int = 0) -> np.ndarray:
    with path.open("rb") as file:
        return np.frombuffer(map_private(file, 4 * first, 4 * (COUNT - first)), np.float32)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages were changed")
def test_pages_that_were_read_go_back_and_come_again(path: Path) -> None:
    before = resident()
    mapped = numbers(path)
    total = mapped.sum()
    read = resident()
    give_back()
    assert read - before > 3 * COUNT
    assert resident() - before < COUNT
    assert mapped.sum() == total


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages were changed")
def test_pages_that_went_with_another_file_make_no_room_for_new_ones(path: Path) -> None:
    other = numbers(path)
    assert other.sum()
    forget(())  # from now on only what comes besides would count
    del other
    gc.collect()
    before = resident()
    mapped = numbers(path)
    assert mapped.sum()
    assert resident() - before > 3 * COUNT
    give_back()
    assert resident() - before < COUNT


def test_changes_survive_and_never_reach_the_file(path: Path) -> None:
    mapped, other = numbers(path), numbers(path, 1000)
    mapped[5] = -1.0
    give_back()
    assert mapped[5] == -1.0
    assert other[0] == 1000.0
    assert np.fromfile(path, np.float32)[5] == 5.0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages were changed")
@pytest.mark.parametrize("changed", [[], [0], [3], [6], [1, 2, 5], list(range(7))])
def test_of_many_maps_those_that_were_changed_are_known(path: Path, changed: list[int]) -> None:
    before = set(unchanged_maps())
    arrays = [numbers(path, first) for first in range(7)]
    for index in changed:
        arrays[index][COUNT // 2] = -1.0
    assert len(set(unchanged_maps()) - before) == 7 - len(changed)


def test_a_file_is_let_go_with_its_last_array(path: Path) -> None:
    mapped = numbers(path)
    del mapped
    gc.collect()
    give_back()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages were changed")
def test_mapped_weights_leave_memory_while_batches_run(tmp_path: Path) -> None:
    layers, width = 16, 1024
    path = tmp_path / "weights"
    values = torch.randn(layers, width, width) / width**0.5
    values.numpy().tofile(path)
    net = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    for index, linear in enumerate(net):
        stored = StoredTensor(path, torch.float32, (width, width), index * 4 * width**2)
        linear.weight = nn.Parameter(stored.map())
    program = capture_module(net, (torch.randn(4, width),), copy=False)
    run = Run(tuple({"input": torch.randn(4, width)} for _ in range(3)))
    InsertObservers().apply(program)
    give_back()
    before = resident()
    Calibrate().apply(program, run)
    assert resident() - before < values.nbytes / 4
    for index in range(layers):
        assert torch.equal(program.weight(f"{index}.weight"), values[index])
    assert resident() - before > values.nbytes / 2, "the weights are in the file"
