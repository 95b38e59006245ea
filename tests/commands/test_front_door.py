"""From Python and on the command line the same input gives the same folder."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import awqc
from awqc.artifacts.manifest import MANIFEST, read_manifest
from awqc.cli import run
from awqc.errors import CaptureError, UsageError
from awqc.options.compile_options import on_command_line
from tests.commands.test_cli import CUSTOM, fill
from tests.tiny import inputs, model
from tests.tiny_language_models import save_decoder, save_tokenizer

QUICK: dict[str, Any] = {"effort": "fast", "provider": "cpu"}
WORDS = " ".join(f"w{4 + index % 100}" for index in range(600))
TIMES = {"timing_s"}
TIMED = {"report.json", "report.html"}
"""Files that hold times."""


def content(folder: Path) -> dict[str, Any]:
    """Bytes by path; of the report all but the times, of its page nothing, since it shows them.

    The list of files has the digests of both, which are left out there.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "report.json":
            report = json.loads(path.read_text())
            found[name] = {key: value for key, value in report.items() if key not in TIMES}
        elif path.name == MANIFEST:
            listed = read_manifest(folder)
            assert listed is not None
            found[name] = {file: None if file in TIMED else listed[file] for file in listed}
        elif path.is_file():
            found[name] = path.read_bytes() if path.name != "report.html" else b""
    return found


def from_both(
    work: Path, source: str, calib: str | None, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Python wrote, and what the command line wrote."""
    given = {**QUICK, **options}
    awqc.compile(source, calib=calib, output_dir=work / "python", **given)
    flags = shlex.split(" ".join(on_command_line(*item) for item in given.items()))
    data = [] if calib is None else ["--calib", calib]
    assert run(["compile", source, *data, *flags, "-o", str(work / "command")]) == 0
    return content(work / "python"), content(work / "command")


def same(python: dict[str, Any], command: dict[str, Any]) -> bool:
    assert list(python) == list(command)
    return [name for name in python if python[name] != command[name]] == []


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_module_file_and_arrays(tmp_path: Path) -> None:
    fill(tmp_path)
    options = {"bits": 8, "group_size": 16, "formats": "onnx,pt2", "exclude": ["4"]}
    python, command = from_both(tmp_path, "model.pt", "data.npz", **options)
    assert same(python, command)
    assert python["report.json"]["calibration"]["source"] == "data.npz"
    assert "model.onnx" in python


def test_a_folder_and_text(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path / "decoder", num_hidden_layers=1)
    save_tokenizer(tmp_path / "decoder")
    (tmp_path / "text.md").write_text(WORDS)
    options = {"group_size": 32, "num_samples": 3, "seq_len": 16, "formats": "ort"}
    python, command = from_both(tmp_path, "decoder", "text.md", **options)
    assert same(python, command)
    runners = {"genai_config.json", "tokenizer.json", "tokenizer_config.json", "config.json"}
    assert runners | {f"ort/{name}" for name in runners} <= set(python)


def test_a_factory_without_data(tmp_path: Path) -> None:
    (tmp_path / "front_door_models.py").write_text(CUSTOM)
    options = {"inputs": ["x=float32[batch,16]"], "num_samples": 8, "formats": "pt2"}
    assert same(*from_both(tmp_path, "front_door_models:make", None, **options))


SUFFIXES = {"model.pt": "MODEL.PT", "model.pt2": "MODEL.PT2"}


@pytest.mark.parametrize("name", SUFFIXES)
def test_names_of_models_may_be_in_upper_case(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    batch = torch.export.Dim("batch")
    example = (inputs("mlp"),)
    exported = torch.export.export(model("mlp"), example, dynamic_shapes=({0: batch},))
    torch.export.save(exported, tmp_path / "model.pt2")
    (tmp_path / name).rename(tmp_path / SUFFIXES[name])
    assert run(["explain", SUFFIXES[name]]) == 0
    if name == "model.pt":
        return
    quick = ["--formats", "onnx,pt2", "--effort", "fast", "-o", "out"]
    assert run(["compile", SUFFIXES[name], "--num-samples", "8", *quick]) == 0
    assert run(["verify", "out", "--against", SUFFIXES[name]]) == 0
    turn = ["--turns", "1", "--threads", "1", "--json"]
    assert run(["bench", "out", "--against", SUFFIXES[name], *turn]) == 0
    assert "float torch" in capsys.readouterr().out


COMBINATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "two examples": (
        {"model": "model.pt", "example_inputs": (inputs("mlp"),), "inputs": ["x=float32[2,8]"]},
        "example_inputs and inputs say the same: give one of them",
    ),
    "inputs of an archive": (
        {"model": "model.pt2", "inputs": ["x=float32[2,8]"]},
        "inputs does not apply: a torch.export archive brings its own; leave it out",
    ),
    "example of an archive": (
        {"model": "model.pt2", "example_inputs": (inputs("mlp"),)},
        "example_inputs does not apply: a torch.export archive brings its own",
    ),
    "axes of an archive": (
        {"model": "model.pt2", "dynamic": {"x": [1]}},
        "dynamic does not apply: a torch.export archive brings its own",
    ),
    "text for arrays": (
        {"model": "model.pt", "calib": "text.md"},
        "text.md: is text, which is for language models",
    ),
    "tokens for arrays": (
        {"model": "model.pt", "seq_len": 8},
        "seq_len is for language models that read text; leave it out here",
    ),
    "no model": ({"model": 3}, "the model is a int; give an nn.Module, a path, or"),
    "no file": ({"model": "nothing.pt"}, "nothing.pt: there is no such file or folder"),
    "no inputs": (
        {"model": torch.nn.LayerNorm(8)},
        "example_inputs is missing (a tuple, or a dict, of inputs of the model): the inputs of",
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("combinations"))
    exported = torch.export.export(model("mlp"), (inputs("mlp"),))
    torch.export.save(exported, folder / "model.pt2")
    (folder / "text.md").write_text(WORDS)
    return folder


@pytest.mark.parametrize("case", COMBINATIONS)
def test_a_bad_combination_is_refused(
    case: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    given, message = COMBINATIONS[case]
    with pytest.raises(UsageError) as caught:
        awqc.compile(**given, formats="pt2")
    assert str(caught.value).startswith(message)


def test_a_captured_program_brings_its_own_inputs() -> None:
    from tests.tiny import captured

    with pytest.raises(UsageError, match="inputs does not apply: a captured program brings its"):
        awqc.compile(captured("mlp"), inputs=["x=float32[2,8]"])


def test_a_module_takes_its_inputs_from_arrays_or_its_first_layer() -> None:
    arrays = {"input": inputs("mlp", batch=12).numpy()}
    told = awqc.compile(model("mlp"), calib=arrays, formats="pt2", **QUICK)
    assert told.report["calibration"]["synthetic"] is False
    inferred = awqc.compile(model("mlp"), formats="pt2", num_samples=8, **QUICK)
    assert inferred.report["inputs"] == told.report["inputs"]


PARTIAL = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x):
        return self.body(x) if x.abs().max() < 1e6 else x

def make():
    torch.manual_seed(0)
    return Branching()
"""


def test_submodules_are_compiled_from_a_name_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "front_door_branching.py").write_text(PARTIAL)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(8, 32)).astype("f4"))
    name = "front_door_branching:make"
    with pytest.raises(CaptureError, match=r"can be captured, with awqc\.compile_partial"):
        awqc.compile(name, calib="data.npz")
    quick: dict[str, Any] = {"formats": "pt2", "effort": "fast"}
    result = awqc.compile_partial(name, calib="data.npz", output_dir="out", **quick)
    assert list(result.blocks) == ["body"]
    assert (tmp_path / "out" / "blocks" / "body" / "model.pt2").is_file()
    refused: dict[str, tuple[dict[str, Any], str]] = {
        "whole": ({"seq_len": 4}, "seq_len is for models that are captured whole"),
        "pass": ({"pipeline": "nonsense"}, "no pass is called 'nonsense'"),
        "text": ({"calib": "text.md"}, "calib: submodules are calibrated on what reaches them"),
        "names": ({"calib": {"y": np.zeros((2, 32), "f4")}, "inputs": ["x=float32[2,32]"]},
                  r"calib: holds arrays \['y'\]; one for each input by name is needed: \['x'\]"),
        "model": ({"model": model("mlp"), "example_inputs": (inputs("mlp"),)},
                  "can be captured as a whole: compile it without compile_partial"),
    }  # fmt: skip
    (tmp_path / "text.md").write_text(WORDS)
    for given, message in refused.values():
        call = {"model": name, "calib": None, "inputs": ["x=float32[2,32]"], **given}
        if "example_inputs" in call:
            del call["inputs"]
        with pytest.raises(UsageError, match=message):
            awqc.compile_partial(**call, formats="pt2")
