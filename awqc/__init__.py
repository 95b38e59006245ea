"""awqc: the quantizing compiler for PyTorch.

``compile`` takes a model and gives back the same model with low-bit weights, exported and
verified. Names are loaded when they are first used, so that what runs without torch
(`generate`) stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from awqc.compiler import Compiled as Compiled
    from awqc.errors import AwqcError as AwqcError
    from awqc.front_door import compile as compile
    from awqc.partial import PartialCompiled as PartialCompiled
    from awqc.partial import compile_partial as compile_partial
    from awqc.runtimes.generate import generate as generate
    from awqc.runtimes.loading import load as load
    from awqc.whole.compiling import CompiledBundle as CompiledBundle

_HOMES = {
    "AwqcError": "awqc.errors",
    "Compiled": "awqc.compiler",
    "CompiledBundle": "awqc.whole.compiling",
    "PartialCompiled": "awqc.partial",
    "compile": "awqc.front_door",
    "compile_partial": "awqc.partial",
    "generate": "awqc.runtimes.generate",
    "load": "awqc.runtimes.loading",
}

__all__ = [
    "AwqcError", "Compiled", "CompiledBundle", "PartialCompiled", "compile", "compile_partial",
    "generate", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'awqc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
