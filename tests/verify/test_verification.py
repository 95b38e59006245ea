"""What is measured, with and without exported forms."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from awqc.export.formats import FORMATS
from awqc.passes.pipeline import DEFAULT
from awqc.program import Program
from awqc.verify.reference import Reference, take_reference
from awqc.verify.verification import verify
from tests.tiny import calibration, captured, run


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Reference, Path]:
    """A quantized program, the original's outputs, and a folder with all forms."""
    folder = tmp_path_factory.mktemp("verified")
    program = captured("mlp")
    reference = take_reference(program, calibration(program))
    run(program, DEFAULT)
    for form in ("onnx", "ort", "pt2"):
        FORMATS[form](program, folder, {})
    return program, reference, folder


def test_without_an_export_only_the_cost_is_measured(
    exported: tuple[Program, Reference, Path],
) -> None:
    program, reference, _ = exported
    found = verify(program, reference, None)
    assert found.comparisons == ()
    assert found.original is not None
    assert found.original["rel"] is not None
    assert found.batches == len(reference.batches) == 4
    assert found.ort is None


def test_each_form_is_compared_in_each_runtime_that_opens_it(
    exported: tuple[Program, Reference, Path],
) -> None:
    program, reference, folder = exported
    found = verify(program, reference, folder, ("onnxruntime", "torch-int4"), "cpu")
    places = [(each.runtime, each.form) for each in found.comparisons]
    assert places == [("onnxruntime", "onnx"), ("onnxruntime", "ort"), ("torch-int4", "pt2")]
    for each in found.comparisons:
        assert each.exact["rel"] < 1e-5
        assert each.default["rel"] < 0.05
        assert each.provider == "cpu"
        assert each.original is not None
        assert found.original is not None
        assert each.original["rel"] == pytest.approx(found.original["rel"], abs=0.05)
    qdq = found.find("onnxruntime", "onnx")
    assert qdq is not None
    assert (qdq.kernels.low_bit, qdq.kernels.precision) == (3, "int8 activations")
    assert found.find("torch-int4", "onnx") is None
    assert found.ort is not None
    assert found.ort["products"] == 3


def test_sessions_are_open_one_at_a_time(
    exported: tuple[Program, Reference, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds all weights, and takes several times as much when it is opened."""
    program, reference, folder = exported
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    others: list[int] = []

    class Watched(ort.InferenceSession):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            others.append(len(alive))
            alive.add(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(ort, "InferenceSession", Watched)
    verify(program, reference, folder, provider="cpu")
    assert others == [0] * 6  # of two forms: exactly, by default, and to see its kernels


def test_without_the_original_nothing_is_told_of_it(
    exported: tuple[Program, Reference, Path],
) -> None:
    program, reference, folder = exported
    found = verify(program, reference, folder, provider="cpu").of_exports()
    assert found.original is None
    assert [each.original for each in found.comparisons] == [None, None]
    assert found.comparisons[0].exact["rel"] < 1e-5
