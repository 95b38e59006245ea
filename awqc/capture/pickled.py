"""Load a pickled `nn.Module` (``torch.save(model)``), without running code of the file.

A pickle may name any importable function and have it called. By default only what
torch itself holds safe and torch.nn's own layers are let in.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from awqc.capture.failure import model_line
from awqc.capture.stock import check_stock
from awqc.errors import CaptureError, UsageError, spelled
from awqc.machine.process import quiet_libraries

TRUST = spelled("trust_pickle", True)
_STOCK = "torch.nn.modules"
_ACTIVATIONS = (
    "relu", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "softplus",
)  # fmt: skip


def load_module(path: Path, *, trust: bool) -> nn.Module:
    """The module that is pickled in ``path``, on the CPU.

    With ``trust`` the file may import and call anything; without, only stock layers load, and
    these only with what the layers of torch.nn hold (`stock.check_stock`).

    Raises:
        UsageError: the file wants more than stock layers in and is not trusted; or it
            holds no module.
        CaptureError: the file is corrupt, or needs code that cannot be imported.
    """
    loaded = _load_trusted(path) if trust else _load_safely(path)
    if not isinstance(loaded, nn.Module):
        raise UsageError(f"{path}: {_describe(loaded)}")
    if not trust:
        check_stock(loaded, path, _functions())
    return loaded


def _load_safely(path: Path) -> Any:
    unsafe = _wanted(path)
    if unsafe:
        raise UsageError(_refusal(path, unsafe))
    try:
        with quiet_libraries(), torch.serialization.safe_globals(list(stock_globals())):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise UsageError(_refusal(path, [found[1]])) from error
        if "persistent_load" in str(error):
            raise UsageError(
                f"{path}: is a module in torch's old format, which cannot be read without "
                f"running code of the file. Save it again with torch.save, or, if you trust "
                f"where it comes from, pass {TRUST}"
            ) from error
        raise _corrupt(path, error) from error


def _wanted(path: Path) -> list[str]:
    """Names that the pickle wants and that are not known to be safe (zip format only)."""
    try:
        with torch.serialization.safe_globals(list(stock_globals())):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 - old format or corrupt: the loader says which
        return []


def _refusal(path: Path, wanted: list[str]) -> str:
    return (
        f"{path}: the file wants {', '.join(wanted)}, which is not part of torch.nn. "
        "Unpickling it means running code that the file chooses. If you trust where the file "
        f"comes from, pass {TRUST}; else export the model to a .pt2 (torch.export.save), or give "
        "it as package.module:factory"
    )


def _load_trusted(path: Path) -> Any:
    try:
        with quiet_libraries(), importable(Path.cwd()):
            return torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise CaptureError(
            f"{path}: the model's class is in the Python module {error.name!r}, which cannot be "
            "imported here. Put the folder that holds it on PYTHONPATH, or install its package"
        ) from error
    except AttributeError as error:
        raise CaptureError(_missing_class(path, error)) from error
    except Exception as error:
        raise _corrupt(path, error) from error


def _missing_class(path: Path, error: AttributeError) -> str:
    found = re.search(r"attribute '(\S+)' (?:on|from) <module '([\w.]+)'", str(error))
    if not found:
        return f"{path}: could not be loaded: {error}"
    name, module = found[1], found[2]
    if "__main__" in module:
        return (
            f"{path}: the class {name!r} was defined in the script that saved the model "
            "(__main__), and is not to be found. Move it into a module that can be imported and "
            "save again, or export the model to a .pt2 (torch.export.save)"
        )
    return (
        f"{path}: the Python module {module!r} that is found here has no {name!r}; put the "
        "version of the code that saved the model first on PYTHONPATH"
    )


def _corrupt(path: Path, error: Exception) -> CaptureError:
    text = str(error).strip().splitlines()
    line = model_line(error)
    return CaptureError(
        f"{path}: could not be loaded: {type(error).__name__}: {text[0] if text else ''}"
        + (f" (at {line})" if line else "")
        + ". The file is damaged, cut short, or was made by another version of its code"
    )


def _describe(loaded: Any) -> str:
    """What the file holds instead of a module, and what to do."""
    if isinstance(loaded, Tensor):
        return "holds a single tensor, no model"
    if not isinstance(loaded, dict):
        return f"holds a {type(loaded).__name__}; a pickled nn.Module is needed"
    modules = [key for key, value in loaded.items() if isinstance(value, nn.Module)]
    if modules:
        return (
            f"is a checkpoint whose entry {modules[0]!r} is the model; save that alone: "
            f"torch.save(torch.load(...)[{modules[0]!r}], 'model.pt')"
        )
    if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        what = f"is a bare state dict ({len(loaded)} tensors, the first is {next(iter(loaded))!r})"
    else:
        keys = ", ".join(repr(key) for key in list(loaded)[:5])
        what = f"is a dict with the keys {keys}, such as a training checkpoint"
    return (
        f"{what}: weights without the model's code. Give the class or function that builds the "
        "model, as package.module:factory or path/to/file.py:factory, and this file with "
        f"{spelled('weights')}; or save the whole model: torch.save(model, 'model.pt')"
    )


@cache
def stock_globals() -> tuple[tuple[Callable[..., Any], str], ...]:
    """What pickles of torch.nn's own layers name, each with the name that pickles use.

    Layers of ``torch.nn.modules``, and the activation functions that they hold.
    """
    found: dict[str, Callable[..., Any]] = {}
    for info in pkgutil.walk_packages(nn.modules.__path__, f"{_STOCK}."):
        for value in vars(importlib.import_module(info.name)).values():
            own = inspect.isclass(value) and value.__module__.startswith(_STOCK)
            if own and issubclass(value, nn.Module):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    for function in _functions():
        found[f"{function.__module__}.{function.__name__}"] = function
        found[f"torch.nn.functional.{function.__name__}"] = function
    found["builtins.set"] = found["__builtin__.set"] = set
    return tuple((value, name) for name, value in found.items())


def _functions() -> list[Callable[..., Any]]:
    """The functions that stock layers may hold as their activation."""
    return [getattr(functional, name) for name in _ACTIVATIONS]


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules in ``folder`` be imported, as ``python -m`` does in the working directory."""
    here = str(folder)
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
