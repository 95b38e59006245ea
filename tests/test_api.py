"""The public interface, written down: a change here is a change for every user."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

import awqc
import awqc.errors as errors
from awqc.machine.ranks import ALONE
from awqc.options import Options

NAMES = [
    "AwqcError", "Compiled", "CompiledBundle", "PartialCompiled", "compile", "compile_partial",
    "generate", "load",
]  # fmt: skip
NEEDED = inspect.Parameter.empty
OPTIONS: dict[str, Any] = {
    "inputs": (), "dynamic": None, "trust_pickle": False, "part": None, "task": None,
    "trust_remote_code": False, "weights": None, "adapter": None,
    "num_samples": None, "seq_len": None, "image_size": None, "seed": 0,
    "bits": 4, "group_size": "auto", "symmetric": False, "exclude": (), "head_bits": 8,
    "embed_bits": 8, "conv_bits": None, "weight_format": "",
    "effort": "default", "rounding": "auto", "sequential": False, "avg_bits": None,
    "budget": None, "runtime_scales": "auto", "runtime_numerics": "fp", "stats": None,
    "recipe": None, "pipeline": None,
    "formats": ("onnx", "pt2"), "target": "auto", "positions": "auto", "gguf": None,
    "layout": "plain", "dtype": "auto",
    "accuracy_level": "auto",
    "work_dir": None, "memory": None, "fresh": False, "device": "cpu", "provider": "auto",
    "verify_with": ("onnxruntime",),
    "max_loss": 0.5,
}  # fmt: skip
POSITIONAL = {"model": NEEDED, "example_inputs": None, "calib": None}
WHOLE_MODEL = ("seq_len", "dynamic", "work_dir", "fresh", "layout", "gguf", "part", "image_size")
ERRORS = {
    "UsageError": 2, "CaptureError": 1, "UnsupportedGraphError": 1, "CalibrationError": 1,
    "InvariantError": 1, "RankError": 1, "ExportError": 1, "VerificationError": 1,
}  # fmt: skip


def parameters(function: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Defaults of positional parameters, and of keywords, in their order."""
    kinds = inspect.Parameter
    found = inspect.signature(function).parameters
    assert {parameter.kind for parameter in found.values()} <= {
        kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY
    }  # fmt: skip
    return (
        {n: p.default for n, p in found.items() if p.kind is kinds.POSITIONAL_OR_KEYWORD},
        {n: p.default for n, p in found.items() if p.kind is kinds.KEYWORD_ONLY},
    )


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Equal, in the same order too."""
    return list(found.items()) == list(wanted.items())


def test_names() -> None:
    assert awqc.__all__ == NAMES
    assert dir(awqc) == sorted(NAMES)
    for name in NAMES:
        assert getattr(awqc, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'compiel'"):
        _ = awqc.compiel  # type: ignore[attr-defined]  # what is refused


def test_options_and_their_defaults() -> None:
    assert same({field.name: field.default for field in dataclasses.fields(Options)}, OPTIONS)


def test_compile() -> None:
    positional, keywords = parameters(awqc.compile)
    assert same(positional, POSITIONAL)
    assert same(
        keywords,
        {"run": None, "output_dir": None, "observe": None, "notify": None, "ranks": ALONE}
        | OPTIONS,
    )
    for name in OPTIONS:
        assert f"\n    {name}: " in (awqc.compile.__doc__ or "")


def test_compile_partial() -> None:
    positional, keywords = parameters(awqc.compile_partial)
    assert same(positional, POSITIONAL)
    taken = {name: value for name, value in OPTIONS.items() if name not in WHOLE_MODEL}
    assert same(keywords, {"output_dir": None, **taken})


def test_compiled() -> None:
    fields = [name for name in awqc.Compiled.__dataclass_fields__ if not name.startswith("_")]
    assert fields == ["graph_module", "report"]
    assert public(awqc.Compiled) == {"folder", "save"}
    assert same(*both(awqc.Compiled.save, {"self": NEEDED, "output_dir": NEEDED}))


def test_partial_compiled() -> None:
    fields = list(awqc.PartialCompiled.__dataclass_fields__)
    assert [name for name in fields if not name.startswith("_")] == [
        "module", "blocks", "refused", "why", "sqnr_db",
    ]  # fmt: skip
    assert public(awqc.PartialCompiled) == {"report", "save"}
    assert same(*both(awqc.PartialCompiled.save, {"self": NEEDED, "output_dir": NEEDED}))


def both(function: Any, wanted: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    positional, keywords = parameters(function)
    assert keywords == {}
    return positional, wanted


def public(cls: type) -> set[str]:
    """Methods and properties of a class."""
    return {name for name in vars(cls) if not name.startswith("_")} - set(
        getattr(cls, "__dataclass_fields__", {})
    )


def test_generate_and_load() -> None:
    positional, keywords = parameters(awqc.generate)
    assert same(positional, {"folder": NEEDED, "prompt": NEEDED})
    assert same(keywords, {"max_new_tokens": 128, "temperature": 0.0, "seed": 0})
    positional, keywords = parameters(awqc.load)
    assert same(positional, {"path": NEEDED, "provider": "auto", "accuracy_level": None})
    assert same(keywords, {"backend": "onnxruntime"})


def test_errors_and_their_exit_codes() -> None:
    found = {
        name: getattr(error, "exit_code", None)
        for name, error in vars(errors).items()
        if inspect.isclass(error)
        and issubclass(error, errors.AwqcError)
        and error is not errors.AwqcError
    }
    assert found == ERRORS
