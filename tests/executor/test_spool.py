"""Values are kept in memory up to a bound, then in a file, and come back as they were."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from awqc.errors import UsageError
from awqc.executor.spool import Spool

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
    spool = Spool(bound)
    kept = [spool.keep(value) for value in VALUES]
    for _ in range(2):
        for value, each in zip(VALUES, kept, strict=True):
            torch.testing.assert_close(each.load(), value, rtol=0, atol=0)


def test_beyond_the_bound_nothing_stays_in_memory() -> None:
    first, second = torch.randn(8), torch.randn(8)
    spool = Spool(bound=32)
    places = [spool.keep(each).load().data_ptr() for each in (first, second)]
    assert places[0] == first.data_ptr()
    assert places[1] != second.data_ptr()


def test_what_is_kept_needs_no_gradient() -> None:
    value = torch.randn(3, requires_grad=True)
    assert not any(Spool(bound).keep(value * 2).load().requires_grad for bound in (0, 100))


def test_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Spool(bound=0).keep(torch.ones(4))
    assert list(tmp_path.iterdir()) == []
    assert kept.load().tolist() == [1, 1, 1, 1]


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"gone: .*No such file.* TMPDIR"):
        Spool(bound=0).keep(torch.ones(4))
