"""What the commands write to, and what they must not: inputs, others' work, devices."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import awqc
from awqc.artifacts.manifest import MANIFEST
from awqc.cli import run
from awqc.errors import UsageError
from awqc.partial import compile_partial
from awqc.sources.source import load_program
from tests.commands.test_cli import COMMAND, environment, fill
from tests.fork_server import NOBODY
from tests.processes import COMMAND_LINE, Processes
from tests.test_partial import Branching
from tests.tiny import inputs, model

Capture = pytest.CaptureFixture[str]
QUICK = ("compile", "model.pt", "--calib", "data.npz", "--formats", "onnx", "--effort", "fast")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, and a result of them; tests get copies."""
    folder = fill(tmp_path_factory.mktemp("outputs"))
    args = ["compile", str(folder / "model.pt"), "--calib", str(folder / "data.npz")]
    assert run([*args, "--formats", "onnx", "--effort", "fast", "-o", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made`, the working folder."""
    folder = shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


def state(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def own(folder: str, **files: Path) -> None:
    """Make ``files`` part of a result of awqc's: they alone do not stop it."""
    from awqc.artifacts.publish import staging

    with staging(Path(folder)) as made:
        for name, path in files.items():
            shutil.copy(path, made / name.replace("_", "."))


IN_THE_WAY = {
    "model": ("compile own/model.pt --calib data.npz -o own", "own: holds own/model.pt"),
    "calibration": ("compile model.pt --calib own/data.npz -o own", "own: holds own/data.npz"),
    "dots": ("compile model.pt --calib own/../own/data.npz -o ./out/../own", "holds own/.."),
    "link": ("compile to-model --calib data.npz -o own", "own: holds to-model"),
    "hard link": ("compile hard --calib data.npz -o own", "own: holds hard"),
    "target through a link": ("compile own/model.pt -o alias/own", "holds own/model.pt"),
    "recipe": ("compile model.pt --recipe out/recipe.json -o out", "out: holds out/recipe.json"),
    "recipe's folder": ("compile model.pt --recipe out -o out", "out: is out,"),
    "in recipe's folder": ("compile model.pt --recipe out -o out/new", "out/new: lies in out,"),
    "recipe in pipeline": (
        "compile model.pt --pipeline canonicalize,load-scales{recipe=out/recipe.json} -o out",
        "out: holds out/recipe.json",
    ),
    "old statistics": ("compile model.pt --stats own/data.npz -o own", "own: holds own/data.npz"),
    "new statistics": ("compile model.pt --stats out/stats -o out", "out: holds out/stats"),
    "statistics in pipeline": (
        "compile model.pt --pipeline canonicalize,insert-observers,calibrate{stats=out/s} -o out",
        "out: holds out/s",
    ),
    "dumps in target": ("compile model.pt --dump-dir new/dumps -o new", "new: holds new/dumps"),
    "target in dumps": ("compile model.pt --dump-dir new -o new/out", "new/out: lies in new,"),
    "dumps are target": ("compile model.pt --dump-dir new -o new", "new: is new,"),
    "dumps over data": ("compile model.pt --calib own/data.npz --dump-dir own", "dir own: holds"),
    "dumps over result": ("compile model.pt --recipe out/recipe.json -o new --dump-dir out",
                          "--dump-dir out: holds out/recipe.json"),
    "dumps among files": ("compile model.pt --dump-dir .", "model-awq: lies in .,"),
    "dumps in a folder of others": ("compile model.pt --dump-dir others",
                                    "--dump-dir others: holds files that awqc did not write: x"),
    "partial": ("compile own/model.pt --partial -o own", "own: holds own/model.pt"),
    "partial's data": ("compile model.pt --calib own/data.npz --partial -o own", "holds own/da"),
    "demo": ("demo -o .", ".: holds files that awqc did not write: "),
    "device": ("compile model.pt -o /dev/full", "/dev/full: is a device"),
    "pipe": ("compile model.pt -o pipe", "pipe: is a pipe"),
    "demo to a pipe": ("demo -o pipe", "pipe: is a pipe"),
    "statistics to a device": ("compile model.pt --stats /dev/null", "--stats /dev/null: is a dev"),
    "statistics to a pipe": ("compile model.pt --stats pipe", "--stats pipe: is a pipe"),
    "dumps to a pipe": ("compile model.pt --dump-dir pipe", "--dump-dir pipe: is a pipe"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(IN_THE_WAY))
def test_nothing_is_done_where_something_would_be_lost(
    case: str, work: Path, capsys: Capture
) -> None:
    own("own", model_pt=work / "model.pt", data_npz=work / "data.npz")
    (work / "to-model").symlink_to("own/model.pt")
    (work / "alias").symlink_to(".")
    os.link("own/model.pt", "hard")
    os.mkfifo("pipe")
    (work / "others").mkdir()
    (work / "others" / "x").write_text("")
    before, names = state(work), sorted(work.iterdir())
    line, message = IN_THE_WAY[case]
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert state(work) == before
    assert sorted(work.iterdir()) == names


def test_a_hugging_face_folder_is_not_written_into(work: Path, capsys: Capture) -> None:
    (work / "model").mkdir()
    (work / "model" / "config.json").write_text("{}")
    assert run(["compile", "model", "-o", "model/compiled"]) == 2
    assert "model/compiled: lies in model," in capsys.readouterr().err
    assert run(["compile", "model", "-o", "model"]) == 2
    assert "did not write: config.json" in capsys.readouterr().err


def test_own_results_are_replaced_and_those_that_were_touched_are_not(
    work: Path, capsys: Capture
) -> None:
    assert run([*QUICK, "-o", "out", "--bits", "8"]) == 0
    (work / "out" / "recipe.json").write_text("edited by hand")
    before = state(work)
    capsys.readouterr()
    assert run([*QUICK, "-o", "out"]) == 2
    assert "were changed since awqc wrote them: recipe.json" in capsys.readouterr().err
    assert state(work) == before


def test_dumps_are_replaced_by_the_next_runs(work: Path, capsys: Capture) -> None:
    args = [*QUICK, "-o", "out", "--dump-dir", "dumps"]
    assert run(args) == 0
    first = set(os.listdir("dumps"))
    assert run([*args, "--pipeline", "canonicalize,quantize-weights"]) == 0
    assert set(os.listdir("dumps")) == {"00-canonicalize.txt", "01-quantize-weights.txt", MANIFEST}
    assert len(first) > 3
    (work / "dumps" / "00-canonicalize.txt").write_text("with my notes")
    capsys.readouterr()
    assert run(args) == 2
    assert "--dump-dir dumps: holds files that were changed" in capsys.readouterr().err


def test_a_failed_run_keeps_the_dumps_of_the_last(work: Path) -> None:
    assert run([*QUICK, "-o", "out", "--dump-dir", "dumps"]) == 0
    before = state(work)
    assert run(["compile", "data.npz", "-o", "out", "--dump-dir", "dumps"]) == 2
    assert state(work) == before


def test_from_python_inputs_are_not_replaced_either(work: Path) -> None:
    own("own", model_pt=work / "model.pt", data_npz=work / "data.npz")
    before = state(work)
    module, example = model("mlp"), (inputs("mlp"),)
    with pytest.raises(UsageError, match=r"own: holds own/data\.npz"):
        awqc.compile(module, example, "own/data.npz", output_dir="own")
    with pytest.raises(UsageError, match=r"out: holds out/recipe\.json"):
        awqc.compile(module, example, recipe="out/recipe.json", output_dir="out")
    with pytest.raises(UsageError, match="out: holds out/stats"):
        awqc.compile(module, example, stats="out/stats", output_dir="out")
    with pytest.raises(UsageError, match="stats /dev/null: is a device"):
        awqc.compile(module, example, stats="/dev/null")
    with pytest.raises(UsageError, match=r"own: holds own/model\.pt"):
        awqc.compile(load_program("own/model.pt"), output_dir="own")
    with pytest.raises(UsageError, match="out: holds out/stats"):
        compile_partial(Branching(), example, stats="out/stats", output_dir="out")
    assert state(work) == before


def test_what_a_compile_read_is_not_replaced_when_it_is_saved_later(work: Path) -> None:
    own("own", data_npz=work / "data.npz")
    compiled = awqc.compile(
        model("mlp"), (inputs("mlp"),), "own/data.npz", formats="pt2", effort="fast"
    )
    with pytest.raises(UsageError, match=r"own: holds own/data\.npz"):
        compiled.save("own")
    compiled.save("out")


@pytest.mark.parametrize(
    ("name", "moment"),
    [("TERM", "run"), ("HUP", "_flush"), ("TERM", "publish"), ("INT", "publish")],
)
def test_a_signal_cleans_up_and_the_message_is_true(
    name: str, moment: str, work: Path, tmp_path: Path, processes: Processes
) -> None:
    """The signal comes from a pass, and later while the result is being published."""
    before = state(work)
    bits = ("--bits", "8" if moment == "publish" else "4")
    env = environment(TMPDIR=str(tmp_path))
    arguments = [name, moment, *QUICK, *bits, "-o", "out"]
    done = processes.start(DRIVER, arguments, cwd=work, env=env).wait()
    assert done.returncode == (130 if name == "INT" else 143), done.stderr
    how = "interrupted" if name == "INT" else "terminated"
    wrote = "out had been" if moment == "publish" else "nothing"
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"awqc: {how}; {wrote}"), done.stderr
    assert "Traceback" not in done.stderr
    assert (state(work) == before) == (wrote == "nothing")
    assert {path.name for path in work.iterdir()} == {"data.npz", "model.pt", "out"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("awqc-")]


DRIVER = """
import os, signal, sys
from awqc.artifacts import publish
from awqc.passes.pipeline import Pipeline
from awqc.cli import main
name, moment = sys.argv[1:3]
place = Pipeline if moment == "run" else publish
work = getattr(place, moment if moment != "publish" else "_publish")
def signalled(*args, **named):
    if moment == "publish":
        work(*args, **named)
    os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
    if moment != "publish":
        work(*args, **named)
setattr(place, work.__name__, signalled)
main(sys.argv[3:])
"""


def test_a_hangup_that_is_ignored_stays_ignored(
    work: Path, tmp_path: Path, processes: Processes
) -> None:
    """As under nohup."""
    env = environment(TMPDIR=str(tmp_path))
    arguments = ["HUP", "run", *QUICK, "-o", "out"]
    done = processes.start(DRIVER, arguments, cwd=work, env=env, ignore=["SIGHUP"]).wait()
    assert done.returncode == 0, done.stderr


def test_python_keeps_its_own_signal_handlers() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    assert run(["passes"]) == 0
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.parametrize("streams", [["stdout"], ["stdout", "stderr"]], ids=" ".join)
def test_an_output_that_nobody_reads_is_no_failure(
    streams: list[str], work: Path, processes: Processes
) -> None:
    """As with ``| true``: the first thing that is printed meets a closed pipe."""
    option = "--json" if streams == ["stdout"] else "--print-changed"
    arguments = [*QUICK, "--bits", "8", "-o", "out", option]
    unread = dict.fromkeys(streams, NOBODY)
    done = processes.start(COMMAND_LINE, arguments, cwd=work, env=environment(), **unread).wait()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert '"bits": 8' in (work / "out" / "recipe.json").read_text()


def test_an_output_that_is_closed_is_no_failure(work: Path) -> None:
    command = f"{' '.join([*COMMAND, *QUICK])} --bits 8 -o out >&-"
    done = subprocess.run(["bash", "-c", command], cwd=work, env=environment(), check=False)
    assert done.returncode == 0


def test_a_report_that_cannot_be_printed_is_told_with_what_was_written(
    work: Path, processes: Processes
) -> None:
    arguments = [*QUICK, "--bits", "8", "-o", "out", "--json"]
    full = {"stdout": "/dev/full"}
    done = processes.start(COMMAND_LINE, arguments, cwd=work, env=environment(), **full).wait()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    assert "nothing was written" not in done.stderr
    assert '"bits": 8' in (work / "out" / "recipe.json").read_text()
