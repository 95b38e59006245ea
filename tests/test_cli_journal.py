"""A command that was killed goes on when it is given again, and its result is the same."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import awqc
from awqc.artifacts.manifest import MANIFEST
from awqc.artifacts.work_folder import WorkFolder
from awqc.cli import run
from awqc.errors import CaptureError, UsageError, VerificationError
from awqc.executor import segments
from tests.commands.test_cli import environment, fill
from tests.processes import Processes
from tests.tiny import inputs, model
from tests.tiny_language_models import VOCABULARY, save_decoder

Capture = pytest.CaptureFixture[str]
COMMAND = (
    "compile", "model.pt", "--calib", "data.npz", "--group-size", "16", "--formats", "onnx,ort",
    "-o", "out",
)  # fmt: skip
"""At the default effort: scales are tuned."""

WORK = ".out.awqc-work"
DRIVER = """
import os, signal, sys
from awqc.artifacts.work_folder import WorkFolder
from awqc.cli import main
from awqc.executor import segments
segments.SMALLEST = 1
add = WorkFolder.add
def signalled(folder, name, tree):
    if name == "segment-0002":
        os.kill(os.getpid(), getattr(signal, f"SIG{sys.argv[1]}"))
    add(folder, name, tree)
WorkFolder.add = signalled
main(sys.argv[2:])
"""
"""``awqc`` that gets a signal while it writes what became of the second segment."""


@pytest.fixture(autouse=True)
def _each_layer_is_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SMALLEST", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, and a result of them; tests get copies."""
    folder = fill(tmp_path_factory.mktemp("journal"))
    torch.manual_seed(0)
    layers = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8)
    torch.save(nn.Sequential(*layers).eval(), folder / "model.pt")  # no scale passes a GELU
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(segments, "SMALLEST", 1)
        assert run(COMMAND) == 0
    assert {path.name for path in folder.iterdir()} == {"data.npz", "model.pt", "out"}
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of `made` without the result."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("out"))
    monkeypatch.chdir(folder)
    return folder


def content(folder: Path) -> dict[str, object]:
    """Each file, but for times."""
    found: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (MANIFEST, "report.html")
    }
    report = json.loads((folder / "report.json").read_text())
    assert report.pop("timing_s")
    return {**found, "report.json": report}


def test_the_same_command_goes_on_after_a_kill(
    work: Path, made: Path, processes: Processes, capsys: Capture
) -> None:
    done = processes.start(DRIVER, ["KILL", *COMMAND], cwd=work, env=environment()).wait()
    assert done.returncode == -9, done.stderr
    assert not (work / "out").exists()
    assert run(COMMAND) == 0
    assert "note: going on after segment 1 of 3" in capsys.readouterr().err
    assert content(work / "out") == content(made / "out")
    assert {path.name for path in work.iterdir()} == {"data.npz", "model.pt", "out"}


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143)])
def test_a_command_that_is_told_to_end_says_how_to_go_on(
    name: str, code: int, work: Path, processes: Processes
) -> None:
    done = processes.start(DRIVER, [name, *COMMAND], cwd=work, env=environment()).wait()
    assert done.returncode == code, done.stderr
    said, how = done.stderr.splitlines()[-2:]
    assert said.endswith("nothing was written")
    assert how == (
        f"segment 1 of 3 is kept in {work / WORK}: the same compile, run again, goes on from there"
    )
    assert not (work / "out").exists()


QUICK: dict[str, Any] = {"calib": "data.npz", "group_size": 16, "formats": "onnx", "effort": "fast"}


def test_a_result_that_fails_is_judged_again_without_the_work(work: Path) -> None:
    """Another limit is no other compile."""
    with pytest.raises(VerificationError) as caught:
        awqc.compile("model.pt", output_dir="out", max_loss=1e-9, **QUICK)
    (note,) = caught.value.__notes__
    assert note.startswith(f"segment 3 of 3 is kept in {work / WORK}")
    said: list[str] = []
    awqc.compile("model.pt", output_dir="out", notify=lambda note: said.append(str(note)), **QUICK)
    assert said[0].startswith("going on after segment 3 of 3")
    assert not (work / WORK).exists()


def test_other_options_are_refused_and_fresh_starts_anew(work: Path, capsys: Capture) -> None:
    with pytest.raises(VerificationError):
        awqc.compile("model.pt", output_dir="out", max_loss=1e-9, **QUICK)
    data = ("--calib", "data.npz")
    command = ("compile", "model.pt", *data, "--formats", "onnx", "--effort", "fast", "-o", "out")
    assert run([*command, "--bits", "8"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "awqc: error: --work-dir .out.awqc-work: the work there belongs to another compile: pass "
        "quantize-weights: quantize-weights{group-size=16} there, quantize-weights{bits=8} now, "
        "other choice of weights; give --fresh to remove it and start anew, or give another folder "
        "with --work-dir to keep it"
    )
    assert run([*command, "--bits", "8", "--work-dir", "elsewhere"]) == 0
    assert (work / WORK).is_dir()
    assert not (work / "elsewhere").exists()
    assert run([*command, "--bits", "8", "--fresh"]) == 0
    assert not (work / WORK).exists()


def test_a_place_that_is_in_the_way_is_refused_before_any_work(work: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    for place, told in (("out", "is"), ("out/work", "lies in"), ("mine", "holds what is no work")):
        with pytest.raises(UsageError, match=f"work_dir {place}: {told}"):
            awqc.compile("nothing.pt2", output_dir="out", work_dir=place, **QUICK)
    assert Path("mine/notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("work")
def test_two_compiles_do_not_share_a_folder() -> None:
    first = WorkFolder(Path(WORK))
    first.take({}, fresh=False)
    with pytest.raises(UsageError, match=f"{WORK}: another compile is at work there; wait until"):
        awqc.compile("model.pt", output_dir="out", **QUICK)
    first.remove()
    awqc.compile("model.pt", output_dir="out", **QUICK)


def test_nothing_is_kept_where_there_is_no_place_for_it(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an output folder, or where the model is one segment."""

    def refuse(*_: object) -> None:
        raise AssertionError("something is kept")

    monkeypatch.setattr(WorkFolder, "take", refuse)
    awqc.compile(model("mlp"), (inputs("mlp"),), **QUICK)
    monkeypatch.setattr(segments, "SMALLEST", 2**23)
    awqc.compile("model.pt", output_dir="out", work_dir="kept", **QUICK)
    assert {path.name for path in work.iterdir()} == {"data.npz", "model.pt", "out"}


def test_it_is_kept_where_python_says(work: Path) -> None:
    with pytest.raises(VerificationError):
        awqc.compile("model.pt", work_dir=Path("kept"), max_loss=1e-9, **QUICK)
    assert (work / "kept" / "segment-0003.safetensors").is_file()
    said: list[str] = []
    awqc.compile("model.pt", work_dir="kept", notify=lambda note: said.append(str(note)), **QUICK)
    assert said[0].startswith("going on after segment 3 of 3")
    assert not (work / "kept").exists()


FULL = """
import resource, sys
from awqc.artifacts.work_folder import WorkFolder
from awqc.cli import main
from awqc.executor import segments
segments.SMALLEST = 1
add = WorkFolder.add
def small(folder, name, tree):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if name == "segment-0002":
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        add(folder, name, tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
WorkFolder.add = small
main(sys.argv[1:])
"""
"""``awqc`` whose second segment finds no room."""


def test_a_full_disk_says_how_to_go_on(work: Path, processes: Processes) -> None:
    pytest.importorskip("resource")
    done = processes.start(FULL, [*COMMAND], cwd=work, env=environment()).wait()
    assert done.returncode == 1, done.stderr
    said, how = done.stderr.splitlines()[-2:]
    assert said.startswith("awqc: error: --work-dir .out.awqc-work: segment-0002")
    assert "File too large; what was kept before still is" in said
    assert how.startswith(f"segment 1 of 3 is kept in {work / WORK}: the same compile, run again")
    assert run(COMMAND) == 0


def test_a_model_that_is_written_to_meanwhile_is_told(work: Path) -> None:
    """The segment that is wrong is not kept."""

    def write(note: object) -> None:
        if str(note).startswith("going on"):
            os.utime("model/model.safetensors", ns=(0, 0))

    save_decoder("llama", Path("model"))
    ids = torch.arange(64).reshape(8, 8) % VOCABULARY
    quick = {**QUICK, "calib": {"input_ids": ids}}
    with pytest.raises(VerificationError):
        awqc.compile("model", output_dir="out", max_loss=1e-9, **quick)
    (work / WORK / "segment-0002.safetensors").unlink()
    with pytest.raises(CaptureError, match=r"model\.safetensors: was written to while") as caught:
        awqc.compile("model", output_dir="out", notify=write, **quick)
    assert not (work / WORK / "segment-0002.safetensors").exists()
    assert "is kept in" in caught.value.__notes__[0]
