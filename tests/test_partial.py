"""Models that no graph can hold, compiled in the blocks that one can."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import dynamic_module_utils

from awqc.cli import run
from awqc.compiler import compile_graph as compile_model
from awqc.errors import CaptureError, UsageError
from awqc.partial import compile_partial
from tests.commands.test_cli import awqc
from tests.tiny_language_models import save_decoder, save_encoder


class Block(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        out: Tensor = x + gain * self.down(torch.relu(self.up(self.norm(x))))
        return out


class Branching(nn.Module):
    """Leaves out a block by the values that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 32)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.rare, self.head = Block(), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, gain=0.5)
        if x.abs().max() > 1e6:
            x = self.rare(x)
        out: Tensor = self.head(x)
        return out


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own, of its pickles
def test_blocks_that_trace_are_compiled(tmp_path: Path) -> None:
    model = Branching().eval()
    with pytest.raises(CaptureError, match=r"test_partial.py:\d+ in forward: if x.abs"):
        compile_model(model, (torch.randn(2, 16),))
    batches = [(torch.randn(4, 16),) for _ in range(3)]
    result = compile_partial(
        model, (torch.randn(2, 16),), batches, formats=("onnx",), output_dir=tmp_path / "out"
    )
    assert set(result.blocks) == {"stem", "blocks.0", "blocks.1", "head"}
    assert "not called" in result.refused["rare"]
    statuses = {site["status"] for site in result.blocks["blocks.0"].report["sites"]}
    assert "folded" in statuses
    x = torch.randn(5, 16)
    wanted, found = model(x), result.module(x)
    assert (wanted - found).norm() < 0.2 * wanted.norm()
    assert not torch.equal(wanted, found)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "if x.abs" in report["why"]
    assert (tmp_path / "out" / report["blocks"]["blocks.1"] / "model.onnx").is_file()
    loaded = torch.load(tmp_path / "out" / "model.pt", weights_only=False)
    assert torch.equal(loaded(x), found)


def test_another_flag_than_compiled_for_is_refused() -> None:
    batches = [(torch.randn(4, 16),) for _ in range(3)]
    result = compile_partial(Branching(), (torch.randn(2, 16),), batches, formats=("pt2",))
    with pytest.raises(UsageError, match="was compiled for"):
        result.module.get_submodule("blocks.0")(torch.randn(2, 32), gain=2.0)


def test_a_pattern_must_fit_a_weight_of_the_whole_not_of_each_block() -> None:
    example = (torch.randn(2, 16),)
    options: Any = {"formats": ("pt2",), "effort": "fast"}
    result = compile_partial(Branching(), example, exclude="blocks.1.up,^head", **options)
    skipped = {
        path: [entry["name"] for entry in compiled.report["skipped"]]
        for path, compiled in result.blocks.items()
    }
    assert skipped == {"stem": [], "blocks.0": [], "blocks.1": ["up.weight"], "head": ["weight"]}
    with pytest.raises(UsageError, match=r"'blocks.1.upp' matches no .* blocks.\d.up.weight"):
        compile_partial(Branching(), example, exclude="blocks.1.upp", **options)


def test_a_branch_is_no_more_than_what_stands_around_it() -> None:
    """What no pass can look into leaves the layers before it."""

    class Switched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = torch.cond(
                x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (self.block(x),)
            )
            return made

    x = torch.randn(4, 32)
    result = compile_partial(Switched().eval(), (x,), calib=[(x,)], effort="fast", bits=8)
    assert list(result.blocks) == ["block"]


def test_a_model_that_can_be_captured_is_not_cut() -> None:
    with pytest.raises(UsageError, match="as a whole"):
        compile_partial(Block(), (torch.randn(2, 32),))


def test_nothing_traces() -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.inner.weight) if x.sum() > 0 else x

    with pytest.raises(CaptureError, match="No submodule with weights"):
        compile_partial(Bad(), (torch.randn(2, 8),))


SOURCE = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = self.body(x)
        if x.abs().max() > 1e6:
            x = x / 2
        return self.head(x)

def make():
    torch.manual_seed(0)
    return Branching()
"""


def test_the_command_compiles_the_blocks(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    result = awqc(
        "compile",
        "net:make",
        "--input",
        "x=float32[3,32]",
        "--bits",
        "8",  # in 4, on three made-up rows, it is chance whether half of the signal is kept
        "--partial",
        "-o",
        "out",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "if x.abs().max() > 1e6:" in result.stderr
    assert "compiled body: 2 weights" in result.stdout
    assert "compiled head: 1 weights" in result.stdout
    assert (tmp_path / "out" / "model.pt").exists()
    whole = awqc("compile", "net:make", "--input", "x=float32[3,32]", cwd=tmp_path)
    assert whole.returncode == 1
    assert "--partial" in whole.stderr


OWN_CODE = """
import pathlib
import torch
from transformers import LlamaConfig, LlamaForCausalLM

pathlib.Path({marker!r}).touch()

class Config(LlamaConfig):
    model_type = "nobody"

class Branching(LlamaForCausalLM):
    config_class = Config

    def forward(self, input_ids=None, **more):
        if input_ids.sum() < 0:
            input_ids = -input_ids
        return super().forward(input_ids=input_ids, **more)
"""


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A decoder with code of its own, which branches on values and leaves the file ``ran``."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    save_decoder("llama", folder)
    (folder / "own.py").write_text(OWN_CODE.format(marker=str(tmp_path / "ran")))
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Branching"}
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "nobody", "auto_map": classes})
    )
    return folder


def test_a_folder_with_code_of_its_own(
    own_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "compile", str(own_folder), "--partial", "--effort", "fast", "--formats", "pt2",
        "--bits", "8", "--head-bits", "none", "--max-loss", "0.1", "-o", str(tmp_path / "out"),
        "--task", "text-generation",
    ]  # fmt: skip
    assert run(command) == 2
    assert "runs only when you say that you trust it" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert run([*command, "--trust-remote-code"]) == 0, capsys.readouterr().err
    assert (tmp_path / "ran").exists()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "if input_ids.sum() < 0" in report["why"]
    assert "model" in report["blocks"] or "model.layers.0" in report["blocks"]


def test_a_folder_is_opened_for_the_task_that_is_asked_for(tmp_path: Path) -> None:
    save_encoder("bert", tmp_path / "folder")
    with pytest.raises(UsageError, match="unknown-task"):
        compile_partial(tmp_path / "folder", task="unknown-task")
    with pytest.raises(CaptureError, match="would be random"):
        compile_partial(tmp_path / "folder", task="question-answering")
    with pytest.raises(UsageError, match="as a whole"):
        compile_partial(tmp_path / "folder")
    with pytest.raises(UsageError, match="brings its own"):
        compile_partial(tmp_path / "folder", (torch.zeros(1, 3, dtype=torch.long),))
