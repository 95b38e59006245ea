"""What only parses or prints imports nothing heavy: told by modules, since times differ."""

from __future__ import annotations

import subprocess
import sys

import pytest

from awqc.cli import COMMANDS

HEAVY = {"torch", "numpy", "onnx", "onnxruntime", "onnxscript", "transformers", "safetensors"}


def loaded(code: str) -> set[str]:
    """The heavy packages that a new interpreter has imported after ``code``."""
    program = f"import sys\n{code}\nprint(*sorted(name for name in sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return HEAVY & set(done.stderr.split())


@pytest.mark.parametrize("code", ["import awqc", "import awqc.errors", "import awqc.options"])
def test_the_package_is_light(code: str) -> None:
    assert loaded(code) == set()


def test_every_help_is_light() -> None:
    lines = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    code = f"from awqc.cli import run\nfor line in {lines!r}: run(line)"
    assert loaded(code) == set()


def test_a_wrong_command_line_is_light() -> None:
    lines = [["compile"], ["compile", "m.pt2", "--bits", "5"], ["compile", "m.pt2", "--nope"],
             ["verify", "nowhere"], ["nope"]]  # fmt: skip
    code = f"from awqc.cli import run\nfor line in {lines!r}: assert run(line) == 2"
    assert loaded(code) == set()
