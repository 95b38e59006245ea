"""Outputs that wait in a file are what they were."""

from __future__ import annotations

import gc

import pytest
import torch

from awqc.errors import UsageError
from awqc.machine.memory import unchanged_maps
from awqc.verify import waiting
from awqc.verify.waiting import WaitingOutputs


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool], ids=str
)
def test_large_tensors_come_back_bit_by_bit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LARGE", 100)
    given = [(torch.randn(size) * 3).to(dtype) for size in ((7, 33), (3,), (0, 4), (201,))]
    held = WaitingOutputs()
    for _ in range(2):
        kept = held.keep([each if each.ndim < 2 else each.t().contiguous().t() for each in given])
        assert [torch.equal(a, b) for a, b in zip(kept, given, strict=True)] == [True] * 4
        assert kept[1] is given[1], "small tensors stay where they are"


def test_they_hold_no_memory_but_pages_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LARGE", 1)
    gc.collect()
    before = len(unchanged_maps())
    held = WaitingOutputs()
    kept = held.keep([torch.ones(5000), torch.ones(3)])
    assert len(unchanged_maps()) == before + 2
    assert float(kept[0].sum()) == 5000


def test_a_full_disk_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(waiting, "LARGE", 1)
    monkeypatch.setattr(waiting, "map_private", full)
    with pytest.raises(UsageError, match="No space left on device; make room there"):
        WaitingOutputs().keep([torch.ones(3)])
