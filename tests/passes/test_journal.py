"""A compile that ended at any segment goes on behind it, with the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from awqc.artifacts.work_folder import WorkFolder
from awqc.errors import Note, UsageError
from awqc.executor.run import DEFAULT_BOUNDS, Bounds
from awqc.findings import FloatLayer
from awqc.machine.spool import Spool
from awqc.numerics.formats.int_grid import IntGrid
from awqc.passes.journal import Journal, WorkJournal
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Batch, Program
from awqc.verify.layers import compare_layers, float_layers
from tests.passes.test_in_segments import FINEST, GPTQ, NEAREST, data, tied
from tests.tiny import capture

COUNT = 5
"""Segments of each of these models."""


class Strided(nn.Module):
    """Between its layers live views of other tensors, a size, a tuple and complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(COUNT))

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.transpose(0, 1).split(16, dim=-1)
        turned = torch.complex(low, high)
        wide = x[:1].expand_as(x)
        for layer in self.layers:
            x = layer(x).relu() + wide + x.shape[1]
        real: Tensor = torch.view_as_real(turned).sum(-1).transpose(0, 1)
        out: Tensor = x + torch.cat([real, low.transpose(0, 1)], -1) + high.sum()
        return out


def strided() -> Program:
    torch.manual_seed(0)
    return capture(Strided().eval(), torch.randn(2, 5, 32))


captured = cache(lambda make: make())
"""What ``make`` gives, to be cloned."""


class StoppedError(Exception):
    """What ends a compile."""


@dataclass
class Compile:
    """One run of a pipeline with a journal in ``work``.

    Attributes:
        stop: the number of segments after which it is ended.
        bounds: of what stays in memory.
        said: what the user is told.
        worked: how many segments were worked on.
    """

    work: Path
    make: Callable[[], Program] = strided
    spec: str = NEAREST
    stop: int = COUNT
    fresh: bool = False
    bounds: Bounds = DEFAULT_BOUNDS
    said: list[str] = field(default_factory=list)
    worked: int = 0

    def run(self) -> list[object]:
        """What came of it, each tensor as its bytes."""
        program, batches = start(self.make)
        journal = WorkJournal(WorkFolder(self.work), self.fresh, self._say)
        with journal.kept():
            parse_pipeline(self.spec).run(
                program,
                batches,
                before_quantization=self._look,
                watched=batches[0],
                cut=FINEST,
                journal=journal,
                bounds=self.bounds,
            )
        return seen(program, batches[0])

    def _look(self, part: Program, batch: Batch) -> dict[str, FloatLayer]:
        if self.worked == self.stop:
            raise StoppedError
        self.worked += 1
        return float_layers(part, batch)

    def _say(self, note: Note) -> None:
        self.said.append(note.text)


def start(make: Callable[[], Program]) -> tuple[Program, list[Batch]]:
    program: Program = captured(make).clone()
    torch.manual_seed(1)
    return program, data(program)


def seen(program: Program, batch: Batch) -> list[object]:
    found = program.findings
    return [
        str(program.graph),
        {name: tensor.detach().numpy().tobytes() for name, tensor in program.parameters().items()},
        [(site.name, site.status, site.reason, sorted(site.edits)) for site in found.sites],
        {name: (scale.candidate, scale.loss, scale.scale.tolist())
         for name, scale in found.scales.items()},
        found.errors, found.skipped, found.facts, found.statistics,
        compare_layers(program, batch),
    ]  # fmt: skip


def stopped(work: Path, after: int, **more: object) -> Compile:
    """A compile that ends after some segments."""
    ended = Compile(work, stop=after, **more)  # type: ignore[arg-type]  # fields of it
    with pytest.raises(StoppedError) as caught:
        ended.run()
    notes = getattr(caught.value, "__notes__", [])
    told = f"segment {after} of {COUNT} is kept in {work}: the same compile, run again, goes on"
    assert [note[: len(told)] for note in notes] == ([told] if after else [])
    return ended


def listing(work: Path) -> list[str]:
    return sorted(path.stem for path in work.glob("*.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What comes of `strided`."""
    return Compile(tmp_path_factory.mktemp("work")).run()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a compile that ended after three segments."""
    work = tmp_path_factory.mktemp("three") / "work"
    stopped(work, 3)
    return work


@pytest.fixture
def work(tmp_path: Path, kept: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(kept, tmp_path / "work")


def test_a_journal_changes_nothing(undisturbed: list[object]) -> None:
    program, batches = start(strided)
    parse_pipeline(NEAREST).run(
        program, batches, before_quantization=float_layers, watched=batches[0], cut=FINEST
    )
    assert seen(program, batches[0]) == undisturbed
    statuses = {site.status for site in program.findings.sites}
    assert "runtime" in statuses, statuses  # or the others show less than they say


@pytest.mark.parametrize(
    ("make", "spec", "stops"),
    [(tied, GPTQ, [2]), (strided, NEAREST, [1, 1, 1, 1])],
)
def test_it_goes_on_where_it_was_ended(
    make: Callable[[], Program], spec: str, stops: list[int], tmp_path: Path
) -> None:
    """Again and again, some segments further each time."""
    wanted = Compile(tmp_path / "other", make, spec).run()
    work = tmp_path / "work"
    for stop in stops:
        one = Compile(work, make, spec, stop=stop)
        with pytest.raises(StoppedError):
            one.run()
    last = Compile(work, make, spec)
    assert last.run() == wanted
    assert last.worked == COUNT - sum(stops)
    assert last.said[0].startswith(f"going on after segment {sum(stops)} of 5")
    assert not work.exists()


def test_what_was_finished_is_not_done_again(work: Path, undisturbed: list[object]) -> None:
    again = Compile(work)
    assert again.run() == undisturbed
    assert again.worked == COUNT - 3


def test_what_was_finished_is_held_within_the_bounds_too(
    work: Path, undisturbed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes of segments that were done, and values behind them, go to files."""
    written: list[str] = []
    write = Spool._written

    def watched(spool: Spool, tensor: Tensor) -> Tensor:
        written.append(spool._what)
        return write(spool, tensor)

    monkeypatch.setattr(Spool, "_written", watched)
    assert Compile(work, bounds=Bounds(values=0, codes=0)).run() == undisturbed
    first = written[: written.index("activations between two segments")]
    assert len(first) > 3 * len(IntGrid.roles)
    assert set(first) == {"quantized weights"}


def test_nothing_is_left_of_a_compile_that_finished_nothing(tmp_path: Path) -> None:
    stopped(tmp_path / "work", 0)
    assert not list(tmp_path.iterdir())


def test_values_of_the_last_cut_alone_are_kept(work: Path) -> None:
    names = ["cut-0003", "segment-0001", "segment-0002", "segment-0003"]
    assert listing(work) == names


def test_all_segments_are_kept_until_all_is_done(work: Path, undisturbed: list[object]) -> None:
    """What comes behind them may end too."""
    program, batches = start(strided)
    journal = WorkJournal(WorkFolder(work), False, lambda note: None)

    def export() -> None:
        with journal.kept():
            steps = parse_pipeline(NEAREST)
            steps.run(program, batches, None, float_layers, batches[0], FINEST, journal)
            raise StoppedError

    with pytest.raises(StoppedError):
        export()
    assert listing(work) == [f"segment-{n:04}" for n in range(1, COUNT + 1)]
    last = Compile(work)
    assert last.run() == undisturbed
    assert last.worked == 0
    assert last.said[0].startswith("going on after segment 5 of 5")


@pytest.mark.parametrize(
    ("gone", "damage", "again"),
    [
        (["segment-0001"], True, 1),
        (["segment-0003"], False, 1),
        (["cut-0003"], True, 0),
        (["cut-0003", "segment-0002"], True, 1),
        (["segment-0001", "segment-0002", "segment-0003"], False, 3),
    ],
)
def test_what_is_damaged_or_gone_is_done_anew_and_no_more(
    gone: list[str], damage: bool, again: int, work: Path, undisturbed: list[object]
) -> None:
    """The others are used; where values are missing, the float model gives them."""
    for name in gone:
        file = work / f"{name}.safetensors"
        file.write_bytes(file.read_bytes()[:-1]) if damage else file.unlink()
    rest = Compile(work)
    assert rest.run() == undisturbed
    assert rest.worked == COUNT - 3 + again
    told = [f"{name} in {work} is damaged; it is made anew" for name in gone] if damage else []
    assert [text for text in rest.said if "damaged" in text] == told


@pytest.mark.parametrize(("step", "name"), [("add", "segment-0004"), ("drop", "cut-0003")])
def test_what_is_left_of_a_kill_between_two_files_is_in_nobodys_way(
    step: str, name: str, work: Path, undisturbed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values behind a segment are there before its record, and the last ones until it is."""
    real = getattr(WorkFolder, step)

    def killed(self: WorkFolder, which: str, *tree: object) -> None:
        if which == name:
            raise StoppedError
        real(self, which, *tree)

    with monkeypatch.context() as patched:
        patched.setattr(WorkFolder, step, killed)
        with pytest.raises(StoppedError):
            Compile(work).run()
    assert {"cut-0003", "cut-0004"} <= set(listing(work))
    rest = Compile(work, stop=1)
    if step == "add":
        with pytest.raises(StoppedError):
            rest.run()
        assert listing(work)[0] == "cut-0004"
    assert Compile(work).run() == undisturbed


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            {"spec": NEAREST.replace("group-size=16", "group-size=8")},
            r"pass quantize-weights: quantize-weights\{group-size=16\} there, "
            r"quantize-weights\{group-size=8\} now, other choice of weights; give fresh=True",
        ),
        ({"make": tied}, "other operations, other choice of weights, other calibration data and"),
    ],
)
def test_another_compile_is_refused(work: Path, other: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=f"the work there belongs to another compile: {told}"):
        Compile(work, **other).run()  # type: ignore[arg-type]  # fields of it
    assert len(listing(work)) == 4


def test_fresh_begins_at_the_first_segment(work: Path, undisturbed: list[object]) -> None:
    anew = Compile(work, fresh=True)
    assert anew.run() == undisturbed
    assert anew.worked == COUNT
    assert anew.said == []
    assert not work.exists()


def test_a_clock_that_was_set_back_changes_nothing(
    work: Path, undisturbed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("awqc.passes.journal.time.time", lambda: 0.0)
    again = Compile(work)
    assert again.run() == undisturbed
    assert again.said == ["going on after segment 3 of 5"]


@pytest.mark.parametrize(
    ("done", "behind", "needs"),
    [
        ([], None, [True, True, True, True]),
        ([0, 1], 1, [False, False, True, True]),
        ([0, 1], None, [True, True, True, True]),
        ([0, 2], 2, [True, True, False, True]),
        ([1, 2], 2, [True, False, False, True]),
        ([0, 1, 2, 3], None, [False, False, False, False]),
        ([0, 1, 3], 1, [False, False, True, False]),
    ],
)
def test_segments_are_run_where_values_are_wanted(
    done: list[int], behind: int | None, needs: list[bool]
) -> None:
    journal = Journal()
    journal.done, journal.behind = frozenset(done), behind
    assert journal.needs(len(needs)) == needs


def test_segments_stay_as_large_as_those_that_are_kept(tmp_path: Path) -> None:
    """What there is of memory differs from run to run; another limit is planned for."""

    def journal(fresh: bool = False) -> WorkJournal:
        return WorkJournal(WorkFolder(tmp_path / "work"), fresh, lambda note: None)

    first = journal()
    assert first.size(100, None) == 100
    first.begin(lambda: {"model": "a"}, 2)
    first._folder.release()
    assert journal().size(50, None) == 100
    assert journal().size(50, 10**9) == 50
    assert journal(fresh=True).size(50, None) == 50
    (tmp_path / "work" / "compile.json").write_text("{}")
    assert journal().size(50, None) == 50
