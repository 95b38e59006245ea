"""What a compile will need, before it begins."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from awqc.errors import worded
from awqc.executor.run import Bounds
from awqc.executor.segments import SMALLEST, cut, whole
from awqc.export.onnx import MAX_INLINE_BYTES
from awqc.machine import room as room_file
from awqc.numerics.request import QuantizationSpec
from awqc.passes import forecast as forecast_file
from awqc.passes import planning
from awqc.passes.forecast import Forecast, forecast
from awqc.passes.planning import plan_ahead
from awqc.program import Program
from awqc.verify.text_pieces import MOST_LOGITS
from tests.executor.test_segments import FOUND, decoder
from tests.tiny import calibration, capture, captured, run
from tests.verify.test_steps import captured_decoder

NEAREST, GPTQ = QuantizationSpec(group_size=16), QuantizationSpec(group_size=16, rounding="gptq")
MB = 2**20


def seen(program: Program, spec: QuantizationSpec = NEAREST, **how: int) -> Forecast:
    return foreseen(run(program, FOUND), spec, **how)


def foreseen(found: Program, spec: QuantizationSpec = NEAREST, **how: int) -> Forecast:
    return forecast(found, cut(found, **how), calibration(found), spec, resident=100 * MB)


def test_sizes_follow_from_the_graph_and_the_data() -> None:
    found = seen(decoder(), smallest=1)
    batches, rows, width = 4, 2 * 5, 32
    assert len(found.segments) == len(found.working) >= 4
    assert (found.batches, found.rows) == (batches, batches * rows)
    # What lives at a cut is the stream, and the scale that all blocks read.
    assert found.values == batches * 4 * rows * (width + 1)
    assert found.weights == sum(found.segments)


def test_data_of_another_size_than_the_example_counts() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.layer(x))

    program = run(capture(Long().eval(), torch.randn(4, 16)), FOUND)
    (name,) = program.example
    few, many = (
        forecast(program, whole(program), [{name: torch.randn(rows, 16)}], NEAREST, 0)
        for rows in (3, 300)
    )
    assert (few.rows, many.rows) == (3, 300)
    assert few.operations * 100 == many.operations == 2 * 300 * 16 * 16
    assert many.working[0] - few.working[0] == 2 * 297 * 16 * 4


def test_moments_cost_memory_and_segments_save_it() -> None:
    assert max(seen(decoder(), GPTQ).working) > max(seen(decoder()).working)
    assert max(seen(decoder(), smallest=1).working) < max(seen(decoder()).working)


class Tied(nn.Module):
    """A table that is the head as well, or is not."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(4096, 32), nn.Linear(32, 4096, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.table(ids)))
        return out


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_that_is_a_table_costs_memory_when_it_is_opened(
    tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = run(capture(Tied(tied).eval(), torch.arange(6)[None]), FOUND)
    found = foreseen(program).verifying
    monkeypatch.setattr(forecast_file, "TURNED", 0)
    assert (found > foreseen(program).verifying) == tied


def test_logits_of_a_decoder_with_a_cache_are_there_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert forecast_file.PIECE == 4 * MOST_LOGITS
    program = run(captured_decoder(), FOUND)
    whole_logits = foreseen(program).verifying
    monkeypatch.setattr(forecast_file, "PIECE", 100)
    assert foreseen(program).verifying < whole_logits
    program.task = replace(program.task, head_outputs=())
    small = foreseen(program).verifying
    monkeypatch.undo()
    assert small == foreseen(program).verifying


def test_codes_that_lie_in_the_model_itself_are_known() -> None:
    assert forecast_file.INLINE == MAX_INLINE_BYTES


@pytest.mark.parametrize("limit", [900, 600, 300, 250, 0])
def test_bounds_are_the_largest_with_which_it_fits(limit: int) -> None:
    found = Forecast(
        1, (1, 1), 4, 9, 9, resident=100 * MB, values=1000 * MB, codes=1000 * MB,
        working=(50 * MB, 100 * MB), tuning=30 * MB, lessons=1000 * MB, on_the_way=20 * MB,
        verifying=70 * MB, named=("", ""),
    )  # fmt: skip
    bounds = found.within(limit * MB)
    least = found.least()
    assert least == 200 * MB
    assert bounds.limit == limit * MB
    assert found.peak(bounds) <= max(limit * MB, least)
    assert bounds.values <= Bounds().values
    assert bounds.codes <= Bounds().codes
    assert bounds.lessons <= Bounds().lessons
    if limit == 900:
        assert bounds == Bounds(limit=limit * MB)
    if limit == 300:
        assert found.peak(bounds) > 299 * MB


def test_of_what_cannot_fit_is_told_what_would_help() -> None:
    program = captured("mlp")
    plan = plan_ahead(program, calibration(program), NEAREST, tunes=False, memory=10**6)
    assert not plan.fits
    assert re.search(
        r"\d+ MB of memory are needed at least \(.* work on segment 1 of 1: "
        r"\d\.weight \(\d+ x \d+\) and \d more, .*\); memory leaves 1 MB. Smaller calibration "
        r"batches \(seq_len\), effort='fast', or a machine with more",
        worded(plan.shortage()),
    )


def test_a_plan_changes_nothing_and_tells_all() -> None:
    program = captured("mlp")
    before = str(program.graph)
    plan = plan_ahead(program, calibration(program), GPTQ, tunes=True, memory=10**12)
    assert str(program.graph) == before
    assert plan.fits
    assert re.fullmatch(
        r"\d\.\d million weights in 1 segment \(the largest has \d\.\d million\), 4 calibration "
        r"batches of \d+ rows; estimated: \d+ MB of memory, 0 MB of disk, \d seconds at .*",
        str(plan),
    )
    assert set(plan.as_dict()) >= {"peak", "disk", "seconds", "fits", "weights", "segments"}


def test_without_a_limit_what_there_is_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    program = captured("mlp")
    least = room_file.Room(0, "a control group, 0.1 GB in all")
    monkeypatch.setattr(planning, "room", lambda: least)
    monkeypatch.setattr(planning, "held", lambda: 10**6)
    plan = plan_ahead(program, calibration(program), NEAREST, tunes=False, memory=None)
    assert plan.limit == replace(least, free=10**6)
    assert not plan.fits
    assert "a control group, 0.1 GB in all leaves 1 MB" in plan.shortage()


@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is shown by Linux alone")
def test_what_a_process_holds() -> None:
    before = room_file.held()
    kept = torch.ones(2**24)
    assert kept.nbytes * 0.9 < room_file.held() - before < kept.nbytes * 1.5


@pytest.mark.parametrize("tunes", [False, True])
def test_segments_are_as_large_as_memory_leaves_room_for(
    tunes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual ones where they fit, small ones where only these do, the least where none does."""
    monkeypatch.setattr(planning, "held", lambda: 100 * MB)
    monkeypatch.setattr(forecast_file, "LIBRARIES", 0)
    program = decoder()

    def plan(memory: int) -> planning.Plan:
        return plan_ahead(program, calibration(program), GPTQ, tunes, memory)

    usual = plan(10**12)
    assert (usual.smallest, len(usual.forecast.segments)) == (SMALLEST, 1)
    small = plan(usual.forecast.least() - 1)
    assert small.smallest < SMALLEST
    assert small.fits == (small.forecast.least() < usual.forecast.least())
    none = plan(1)
    assert not none.fits
    assert none.forecast.least() == small.forecast.least()
