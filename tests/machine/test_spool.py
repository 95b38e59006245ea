"""Values are kept in memory up to a bound, then in a file, and come back as they were."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pytest
import torch

from awqc.errors import ExportError
from awqc.machine import spool
from awqc.machine.memory import unchanged_maps
from awqc.machine.spool import Spool

VALUES = [
    torch.arange(6).reshape(2, 3),
    torch.randn(3, 4).bfloat16(),
    torch.tensor(True),
    torch.randn(4, 5).T,
    torch.empty(0, 3),
    (torch.randn(2), torch.ones(1, dtype=torch.bool)),
    7,
]


@pytest.mark.parametrize("bound", [0, 60, 10**6])
def test_values_come_back(bound: int) -> None:
    held = Spool("values", bound)
    kept = [held.keep(value) for value in VALUES]
    for _ in range(2):
        for value, each in zip(VALUES, kept, strict=True):
            torch.testing.assert_close(each, value, rtol=0, atol=0)


def test_beyond_the_bound_nothing_stays_in_memory() -> None:
    first, second = torch.randn(8), torch.randn(8)
    held = Spool("values", bound=32)
    places = [held.keep(each).data_ptr() for each in (first, second)]
    assert places[0] == first.data_ptr()
    assert places[1] != second.data_ptr()


def test_what_is_kept_needs_no_gradient() -> None:
    value = torch.randn(3, requires_grad=True)
    assert not any(Spool("values", bound).keep(value * 2).requires_grad for bound in (0, 100))


def test_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Spool("values").keep(torch.ones(4))
    assert list(tmp_path.iterdir()) == []
    assert kept.tolist() == [1, 1, 1, 1]


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ExportError, match=r"gone: .*No such file.* TMPDIR"):
        Spool("values").keep(torch.ones(4))


def test_small_values_stay_where_they_are() -> None:
    small, large = torch.ones(3), torch.ones(5000)
    kept = Spool("values", small=100).keep([small, large])
    assert kept[0].data_ptr() == small.data_ptr()
    assert kept[1].data_ptr() != large.data_ptr()
    assert torch.equal(kept[1], large)


def test_what_is_in_the_file_holds_no_memory_but_its_pages() -> None:
    gc.collect()
    before = len(unchanged_maps())
    kept = Spool("values").keep((torch.ones(5000), torch.ones(3)))
    assert len(unchanged_maps()) == before + 2
    assert float(kept[0].sum()) == 5000


def test_a_full_disk_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "map_private", full)
    with pytest.raises(ExportError, match=r"of values .* No space left on device; make room there"):
        Spool("values").keep(torch.ones(3))
