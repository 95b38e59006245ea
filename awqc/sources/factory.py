"""A model that a function of the user's makes: ``package.module:factory``."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from awqc.capture.failure import model_line
from awqc.capture.module import ExampleInputs
from awqc.capture.pickled import importable_cwd
from awqc.errors import CaptureError, UsageError


def call_factory(module_name: str, attribute: str) -> tuple[nn.Module, ExampleInputs | None]:
    """The module, and example inputs if it gives some, that the factory returns.

    Raises:
        UsageError: there is no such function, or it returns something else.
        CaptureError: it fails.
    """
    name = f"{module_name}:{attribute}"
    with importable_cwd():
        value: Any = _import(module_name, name)
        for part in attribute.split("."):
            if not hasattr(value, part):
                raise UsageError(f"{name}: the module {module_name!r} has no {attribute!r}")
            value = getattr(value, part)
        made = value
        if not isinstance(value, nn.Module):
            if not callable(value):
                raise UsageError(
                    f"{name}: is a {type(value).__name__}; a function that returns an "
                    "nn.Module is needed"
                )
            try:
                made = value()
            except Exception as error:
                raise CaptureError(_blame(f"{name}() failed", error)) from error
    example = None
    if isinstance(made, tuple) and len(made) == 2:
        made, example = made
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"{name}: returned a {type(made).__name__}; return an nn.Module, or the pair "
            "(module, example_inputs)"
        )
    return made, (example,) if isinstance(example, torch.Tensor) else example


def _import(module_name: str, name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            raise UsageError(
                f"{name}: there is no Python module {error.name!r}; run awqc in the folder that "
                "holds it, or put that folder on PYTHONPATH"
            ) from error
        raise CaptureError(_blame(f"{name}: import failed", error)) from error
    except Exception as error:
        raise CaptureError(_blame(f"{name}: import failed", error)) from error


def _blame(what: str, error: Exception) -> str:
    line = model_line(error)
    return f"{what}: {type(error).__name__}: {error}" + (f"\n  at {line}" if line else "")
