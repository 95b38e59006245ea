"""The command line as users meet it: a process with streams, exit codes and files."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from awqc.cli import run
from tests.processes import COMMAND_LINE, Processes
from tests.tiny import mlp

COMMAND = [sys.executable, "-m", "awqc"]
ARTIFACTS = {
    "model.onnx", "model.pt2", "report.json", "report.html", "recipe.json", "scales.safetensors",
    "session.json", "awqc-files.json",
}  # fmt: skip
REPORT = {
    "schema": None,
    "sites": {"name", "linears", "status", "reason", "channels", "scales", "candidate",
              "loss_nearest", "loss"},
    "layers": {"name", "op", "bits", "group_size", "weight_error", "output_sqnr_db",
               "accumulated_sqnr_db", "bytes"},
    "skipped": None,
    "size": {"original_bytes", "quantized_bytes", "ratio"},
    "verify": {"original", "comparisons", "batches", "text", "notes", "ort"},
    "timing_s": {"export", "verify"},
    "recipe": {"pipeline", "quantization"},
    "environment": None,
}  # fmt: skip
CUSTOM = """
from torch import Tensor, nn

class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.inner(x)

def make() -> nn.Module:
    return Doubled()
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def awqc(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, whose libraries are loaded already."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        code = run([*map(str, args)])
    return checked(subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue()))


def checked(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """``result``; no outcome may show a traceback or terminal codes."""
    assert "Traceback" not in result.stderr, result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    return result


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fill(folder: Path) -> Path:
    """Put a pickled model and calibration data for it into ``folder``."""
    torch.manual_seed(0)
    torch.save(mlp().eval(), folder / "model.pt")
    data = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    np.savez(folder / "data.npz", input=data)
    return folder


@dataclass(frozen=True)
class Done:
    """A process that has compiled in ``folder``."""

    folder: Path
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Done:
    """One compile with default output; tests must not change its folder."""
    folder = fill(tmp_path_factory.mktemp("cli"))
    args = ["compile", str(folder / "model.pt"), "--calib", str(folder / "data.npz"), "--json"]
    done = processes.start(COMMAND_LINE, args, cwd=folder, env=environment()).wait()
    checked(done)
    return Done(folder, done.returncode, done.stdout, done.stderr)


@pytest.fixture
def work(compiled: Done, tmp_path: Path) -> Path:
    """A copy of the folder that `compiled` worked in."""
    return shutil.copytree(compiled.folder, tmp_path / "work")


def test_compile_gives_the_report_on_stdout_and_the_rest_on_stderr(
    compiled: Done,
) -> None:
    assert compiled.returncode == 0
    report: dict[str, Any] = json.loads(compiled.stdout)
    assert "capturing" in compiled.stderr
    for key, inner in REPORT.items():
        value = report[key][0] if isinstance(report[key], list) and inner else report[key]
        assert inner is None or inner <= set(value), key
    assert report["schema"] == 3
    assert [layer["bits"] for layer in report["layers"]] == [4, 4, 4]
    assert report["verify"]["comparisons"][0]["kernels"]["low_bit"] == 3


def test_compile_writes_beside_the_model(compiled: Done) -> None:
    folder = compiled.folder
    assert {path.name for path in folder.iterdir()} == {"model.pt", "data.npz", "model-awq"}
    assert set(content(folder / "model-awq")) == ARTIFACTS
    assert json.loads((folder / "model-awq" / "report.json").read_text()) == json.loads(
        compiled.stdout
    )


def test_watching_the_passes(work: Path) -> None:
    result = awqc(
        "compile", "model.pt", "--calib", "data.npz", "--formats", "pt2", "-o", "out dir",
        "--print-after", "fold-scales", "--print-changed", "--dump-dir", "dumps", cwd=work,
    )  # fmt: skip
    assert result.returncode == 0
    assert "wrote out dir" in result.stdout
    assert "most affected" in result.stdout
    assert result.stderr.count("graph after ") == 1
    assert "graph after fold-scales:\n%input" in result.stderr
    assert "quantize-weights: 3 changes" in result.stderr
    assert [path.name for path in sorted((work / "dumps").glob("*.txt"))] == [
        "00-canonicalize.txt", "01-insert-observers.txt", "02-calibrate.txt",
        "03-search-scales.txt", "04-fold-scales.txt", "05-quantize-weights.txt",
        "06-tune-scales.txt",
    ]  # fmt: skip
    assert set(content(work / "out dir")) == ARTIFACTS - {"model.onnx", "session.json"}


def test_a_failed_run_keeps_the_earlier_output(work: Path) -> None:
    before = content(work / "model-awq")
    names = set(work.iterdir())
    args = ("compile", "model.pt", "--calib", "data.npz", "--bits", "2", "--max-loss", "0.001")
    result = awqc(*args, cwd=work)
    assert (result.returncode, result.stdout) == (1, "")
    assert "the loss against the original is" in result.stderr
    assert content(work / "model-awq") == before
    assert set(work.iterdir()) == names


def test_an_interrupt_leaves_nothing(tmp_path: Path, processes: Processes) -> None:
    fill(tmp_path)
    # Enough data that the compile is still at work when the signal comes.
    data = np.random.default_rng(0).normal(size=(60_000, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", input=data)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    args = ["compile", "model.pt", "--calib", "data.npz", "--dump-dir", "dumps"]
    env = environment(TMPDIR=str(scratch))
    process = processes.start(COMMAND_LINE, args, cwd=tmp_path, env=env)
    until = time.monotonic() + 60
    while not (tmp_path / "dumps" / "00-canonicalize.txt").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    done = process.wait()
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.splitlines()[-1] == "awqc: interrupted; dumps had been written"
    assert "Traceback" not in done.stderr
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.pt", "data.npz", "dumps", "scratch"}
    assert not list(scratch.glob("awqc-*"))


def test_a_disk_that_takes_no_more_leaves_nothing(work: Path, processes: Processes) -> None:
    before = content(work / "model-awq")
    names = set(work.iterdir())
    args = ["compile", "model.pt", "--calib", "data.npz", "--formats", "pt2"]
    process = processes.start(COMMAND_LINE, args, cwd=work, env=environment(), file_size=4096)
    result = process.wait()
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "could not be written" in result.stderr
    assert content(work / "model-awq") == before
    assert set(work.iterdir()) == names


def test_a_factory_and_a_pickle_of_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "own_models.py").write_text(CUSTOM)
    spec = ("--input", "x=float32[batch,16]", "--formats", "pt2")
    made = awqc("compile", "own_models:make", *spec, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "random inputs were made up" in made.stderr
    assert (tmp_path / "own_models-awq" / "model.pt2").is_file()

    save = "import torch, own_models; torch.save(own_models.make(), 'own.pt')"
    subprocess.run([sys.executable, "-c", save], cwd=tmp_path, check=True)
    trusted = awqc("compile", "own.pt", *spec, "--trust-pickle", cwd=tmp_path)
    assert trusted.returncode == 0, trusted.stderr


def test_explain(work: Path) -> None:
    shown = awqc("explain", "model.pt", cwd=work)
    assert shown.returncode == 0
    assert "2 of 3 sites fold; 3 weights would be quantized" in shown.stdout
    assert "1 segment, one in memory at a time" in shown.stdout
    assert "the model's own input" in shown.stdout


def test_verify(work: Path) -> None:
    args = ("verify", "model-awq", "--against", "model.pt", "--calib", "data.npz")
    result = awqc(*args, "--json", "--max-loss", "0.5", cwd=work)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["original"]["cosine"] > 0.98


def test_verify_finds_an_exchanged_model(work: Path) -> None:
    torch.manual_seed(1)
    torch.save(mlp().eval(), work / "other.pt")
    other = awqc("compile", "other.pt", "--calib", "data.npz", "--formats", "onnx", cwd=work)
    assert other.returncode == 0
    shutil.copy(work / "other-awq" / "model.onnx", work / "model-awq")
    result = awqc("verify", "model-awq", cwd=work)
    assert (result.returncode, result.stdout) == (1, "")
    assert "the onnx form in onnxruntime differs from the quantized model" in result.stderr


def test_wrong_usage(tmp_path: Path) -> None:
    missing = awqc("compile", "none.pt", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "none.pt: there is no such file or folder" in missing.stderr


def test_a_reader_that_stops_early(tmp_path: Path) -> None:
    script = f"{sys.executable} -m awqc passes | head -n 1"
    result = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == "canonicalize\n"
    assert result.stderr == ""
