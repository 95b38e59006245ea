"""Several processes share the batches and the work of one compile."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from awqc.errors import RankError, UsageError
from awqc.machine import ranks as ranks_file
from awqc.machine.ranks import ALONE, Ranks, all_ranks
from awqc.passes.pipeline import parse_pipeline
from tests import rank_child
from tests.tiny import calibration, captured

COUNT = 2


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found, see `tests/rank_child.py`."""
    folder = tmp_path_factory.mktemp("ranks")
    shared = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "WORLD_SIZE": str(COUNT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    command = [sys.executable, rank_child.__file__, str(folder)]
    started = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}) for rank in range(COUNT)
    ]
    assert [process.wait(120) for process in started] == [0, 9]
    return folder


def told(folder: Path, name: str) -> list[Any]:
    return [torch.load(folder / f"{name}-{rank}.pt") for rank in range(COUNT)]


def test_sums_and_answers_reach_all(answers: Path) -> None:
    for total, largest, gathered in told(answers, "do_sums"):
        assert total.tolist() == [3.0, 15.0]
        assert largest.tolist() == [2.0, 10.0]
        assert gathered == [0, 1]


def test_work_is_shared_out_and_comes_in_order(answers: Path) -> None:
    for found in told(answers, "do_each"):
        assert found == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]


def test_all_ranks_find_the_same_and_nearly_what_one_finds(answers: Path) -> None:
    """Moments are equal to rounding; the signs of their sketches are others, which tells little."""
    torch.manual_seed(0)
    one, (first, second) = rank_child.compiled(ALONE), told(answers, "do_compile")
    for kind in ("codes", "scales"):
        assert all(torch.equal(first[kind][n], second[kind][n]) for n in one[kind])
    assert torch.equal(first["outputs"][0], second["outputs"][0])
    wanted, found = one["outputs"][0], first["outputs"][0]
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    for name, error in one["errors"].items():
        assert first["errors"][name] == pytest.approx(error, rel=0.1)


def test_what_fails_on_one_rank_ends_all(answers: Path) -> None:
    failed = told(answers, "do_fail")
    assert failed == [
        "RankError: rank 1 of 2: layer 3 is broken",
        "InvariantError: layer 3 is broken",
    ]


def test_a_rank_that_is_gone_is_not_waited_for(answers: Path) -> None:
    said = torch.load(answers / "do_vanish-0.pt")
    assert said.startswith("RankError: another rank ended")


def test_a_rank_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_file, "PATIENCE", 1)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(RankError, match="not all came within 1 seconds"), all_ranks():
        pass


def test_more_ranks_than_batches_are_refused() -> None:
    program = captured("mlp")
    with pytest.raises(UsageError, match="5 ranks share 4 calibration batches"):
        parse_pipeline("canonicalize,insert-observers,calibrate").run(
            program, calibration(program, batches=4), ranks=Ranks(0, 5)
        )


def test_what_looks_at_all_batches_at_once_is_refused() -> None:
    program = captured("mlp")
    spec = "canonicalize,insert-observers{gram=true},calibrate,search-scales,fold-scales,"
    with pytest.raises(UsageError, match="several ranks cannot share"):
        parse_pipeline(spec + "quantize-weights{rounding=gptq,sequential=true}").run(
            program, calibration(program, batches=4), ranks=Ranks(0, 2)
        )
