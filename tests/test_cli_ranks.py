"""``torchrun … -m awqc compile``: several processes, one result, one that speaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from awqc.cli import run
from awqc.errors import UsageError
from tests.commands.test_cli import environment, fill
from tests.passes.test_ranks import free_port

COMPILE = "compile", "model.pt", "--calib", "data.npz", "--group-size", "16"


@pytest.mark.slow
def test_two_processes_make_one_result(tmp_path: Path) -> None:
    fill(tmp_path)
    launched = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-port", str(free_port()), "-m", "awqc", *COMPILE, "-o",
    ]  # fmt: skip
    started = environment(PYTHONPATH=str(Path(__file__).parents[1]))
    done = subprocess.run(
        [*launched, "two"], cwd=tmp_path, env=started, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("capturing model.pt") == 1
    assert done.stdout.count("wrote two") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"data.npz", "model.pt", "two"}
    alone = subprocess.run(
        [sys.executable, "-m", "awqc", *COMPILE, "-o", "one"],
        cwd=tmp_path, env=started, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    two, one = (
        json.loads((tmp_path / name / "report.json").read_text())["verify"]["original"]["sqnr_db"]
        for name in ("two", "one")
    )
    assert two == pytest.approx(one, abs=1.0)


@pytest.mark.parametrize("option", ["--partial", "--dry-run", "--print-changed"])
def test_what_is_for_one_process_is_refused(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["compile", str(tmp_path / "model.pt"), option]) == UsageError.exit_code
    assert "are for one process; start awqc without torchrun" in capsys.readouterr().err
