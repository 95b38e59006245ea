"""What is published opens and runs by itself, in a process that holds nothing of awqc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import awqc.export.formats as formats
from awqc.artifacts.names import ARCHIVE, MODEL, TUNED
from awqc.capture.module import capture_module
from awqc.compiler import compile_graph
from awqc.errors import VerificationError
from awqc.export.formats import FORMATS
from awqc.passes.pipeline import DEFAULT
from awqc.program import Program
from awqc.verify.published import check_published
from awqc.verify.reference import Reference, take_reference
from awqc.verify.trials import take_trials
from awqc.verify.verification import Verification, verify
from tests.tiny import calibration, captured, inputs, model, run

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Program, Reference, Path, Verification]:
    folder = tmp_path_factory.mktemp("published")
    program = captured("mlp")
    reference = take_reference(program, calibration(program))
    run(program, DEFAULT)
    for form in ("onnx", "ort", "pt2"):
        FORMATS[form](program, folder, {})
    return program, reference, folder, verify(program, reference, folder, provider="cpu")


def test_every_form_runs_by_itself(exported: tuple[Program, Reference, Path, Verification]) -> None:
    program, reference, folder, verification = exported
    check_published(program, program, reference.batches, folder, verification)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", [ARCHIVE, MODEL, f"{TUNED}/{MODEL}"])
def test_a_damaged_file_is_refused(
    name: str, exported: tuple[Program, Reference, Path, Verification]
) -> None:
    program, reference, folder, verification = exported
    whole = (folder / name).read_bytes()
    try:
        cut(folder / name)
        with pytest.raises(VerificationError, match=rf"{name} does not open or .* by itself"):
            check_published(program, program, reference.batches, folder, verification)
    finally:
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("form", ["pt2", "onnx", "ort"])
def test_a_file_that_computes_something_else_is_refused(
    form: str, exported: tuple[Program, Reference, Path, Verification], tmp_path: Path
) -> None:
    program, reference, _, verification = exported
    other = program.clone()
    other.set_weight("4.bias", other.weight("4.bias") + 0.1)
    FORMATS[form](other, tmp_path, {})
    with pytest.raises(VerificationError, match=r"opened by itself .* differs from the quantized"):
        check_published(program, program, reference.batches, tmp_path, verification)


def test_a_compile_whose_archive_is_damaged_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = formats.FORMATS["pt2"]

    def damaged(*given: Any) -> Path:
        path = write(*given)
        cut(path)
        return path

    monkeypatch.setitem(formats.FORMATS, "pt2", replace(write, write=damaged))
    with pytest.raises(VerificationError, match=r"model.pt2 does not open .*Nothing was written"):
        compile_graph(model("mlp"), (inputs("mlp"),), formats=("pt2",), effort="fast",
                output_dir=tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()


class Nested(torch.nn.Module):
    """Keyword arguments, a number among them, and nested outputs of several dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(32, 32)

    def forward(self, x: torch.Tensor, *, times: float, other: dict[str, Any]) -> Any:
        y = self.body(x) * times
        return {"y": [y, y.argmax(-1)], "z": (y + other["a"] > 0, None)}


def test_archives_are_called_as_the_model_is(tmp_path: Path) -> None:
    def batch() -> dict[str, Any]:
        return {"x": torch.randn(4, 32), "times": 2.0, "other": {"a": torch.randn(4, 32)}}

    compiled = compile_graph(
        Nested(), batch(), [batch() for _ in range(6)], effort="fast", bits=8, provider="cpu"
    )
    outputs = compiled.report["verify"]["original"]["outputs"]
    assert len(outputs) == 3
    assert all(entry["compared"] > 0 for entry in outputs.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_models_run_by_themselves(dtype: torch.dtype) -> None:
    data = [(inputs("mlp", seed=seed).to(dtype),) for seed in range(6)]
    compile_graph(
        model("mlp").to(dtype), data[0], data, formats=("pt2", "onnx"), effort="fast", bits=8
    )


def test_vectors_see_every_element_of_a_weight() -> None:
    from awqc.verify.fresh_child import directions

    weight = np.random.default_rng(1).standard_normal((5, 8))
    left, right = directions(*weight.shape)
    for row in range(5):
        for column in range(8):
            other = weight.copy()
            other[row, column] *= 1.001
            assert np.abs(left @ other - left @ weight).max() > 1e-6
            assert np.abs(other @ right - weight @ right).max() > 1e-6


class Averaged(nn.Module):
    """Takes a mean over an axis that may have any size, or ``among`` so many."""

    def __init__(self, among: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.among, self.project = among, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.project(x)
        return rows.mean(1) if self.among is None else rows.sum(1) / self.among


def check_sizes(archived: Program, tmp_path: Path) -> tuple[str, ...]:
    """Check the archive of ``archived`` as that of a mean; what is told of it."""
    example = (torch.randn(2, 5, 8),)
    program = capture_module(Averaged(), example, dynamic={"x": [0, 1]})
    FORMATS["pt2"](archived, tmp_path, {})
    batch, none = {"x": torch.randn(3, 5, 8)}, Verification(None, (), 0, None, [])
    check_published(program, program, [batch], tmp_path, none, take_trials(program))
    return program.notes


def test_an_archive_is_run_at_other_sizes(tmp_path: Path) -> None:
    example = (torch.randn(2, 5, 8),)
    assert check_sizes(capture_module(Averaged(), example, dynamic={"x": [0, 1]}), tmp_path) == ()
    wrong = capture_module(Averaged(5), example, dynamic={"x": [0, 1]})
    with pytest.raises(VerificationError, match=r"model\.pt2 with axis 1 of x = .*differs"):
        check_sizes(wrong, tmp_path)


def test_sizes_that_an_archive_refuses_are_told(tmp_path: Path) -> None:
    fixed = capture_module(Averaged(), (torch.randn(2, 5, 8),), dynamic={"x": [0]})
    told = check_sizes(fixed, tmp_path)
    assert told
    assert all("model.pt2 does not take" in note for note in told)
