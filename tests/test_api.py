"""The public interface, written down: a change here is a change for every user."""

from __future__ import annotations

import inspect

import pytest

import awqc
import awqc.errors as errors

NAMES = ["AwqcError", "Compiled", "compile", "generate", "load"]
COMPILE = ["model", "example_inputs", "calib"]
ERRORS = {
    "UsageError": 2, "CaptureError": 1, "UnsupportedGraphError": 1, "CalibrationError": 1,
    "InvariantError": 1, "ExportError": 1, "VerificationError": 1,
}  # fmt: skip


def test_names() -> None:
    assert awqc.__all__ == NAMES
    assert dir(awqc) == sorted(NAMES)
    for name in NAMES:
        assert getattr(awqc, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'compiel'"):
        _ = awqc.compiel  # type: ignore[attr-defined]  # what is refused


def test_compile() -> None:
    parameters = inspect.signature(awqc.compile).parameters
    kinds = inspect.Parameter
    positional = [n for n, p in parameters.items() if p.kind is kinds.POSITIONAL_OR_KEYWORD]
    assert positional == COMPILE
    assert parameters["example_inputs"].default is None
    assert parameters["calib"].default is None
    named = {n: p.default for n, p in parameters.items() if p.kind is kinds.KEYWORD_ONLY}
    assert named.items() >= {"bits": 4, "group_size": "auto", "output_dir": None}.items()


def test_options_and_their_defaults() -> None:
    from awqc.options import Options

    options = Options()
    expected = {
        "bits": 4, "group_size": "auto", "symmetric": False, "exclude": (), "pipeline": None,
        "formats": ("onnx", "pt2"), "provider": "auto", "max_loss": None, "recipe": None,
        "num_samples": None, "seed": 0, "runtime_scales": "auto",
    }  # fmt: skip
    assert {name: getattr(options, name) for name in expected} == expected


def test_compiled() -> None:
    fields = [name for name in awqc.Compiled.__dataclass_fields__ if not name.startswith("_")]
    assert fields[:2] == ["graph_module", "report"]
    assert list(inspect.signature(awqc.Compiled.save).parameters) == ["self", "output_dir"]


def test_errors_and_their_exit_codes() -> None:
    found = {
        name: getattr(error, "exit_code", None)
        for name, error in vars(errors).items()
        if inspect.isclass(error) and error is not errors.AwqcError
    }
    assert found == ERRORS
    assert all(issubclass(getattr(errors, name), awqc.AwqcError) for name in found)
