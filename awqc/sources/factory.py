"""A model that a function of the user's makes: ``package.module:factory``, ``net.py:factory``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from awqc.capture.failure import model_line
from awqc.capture.module import ExampleInputs
from awqc.capture.pickled import importable
from awqc.errors import CaptureError, UsageError
from awqc.program import Transform

_MODULE = re.compile(r"(?P<place>[A-Za-z_][\w.]*):(?P<attribute>[A-Za-z_][\w.]*)")
_FILE = re.compile(r"(?P<place>.+\.py):(?P<attribute>[A-Za-z_][\w.]*)")
_RESULT = (
    "return an nn.Module, the pair (module, example_inputs), or (module, example_inputs, "
    "transform) with what makes an input of an image"
)


@dataclass(frozen=True)
class Made:
    """What a factory returns.

    Attributes:
        module: the model.
        example: its example inputs, if the factory gives some.
        transform: what makes its input of an image, likewise.
    """

    module: nn.Module
    example: ExampleInputs | None = None
    transform: Transform | None = None


@dataclass(frozen=True)
class Factory:
    """A function, a class or a module of the user's, by its name.

    Attributes:
        text: as the user wrote it.
        place: a Python module, or the path of a ``.py`` file.
        attribute: a name in it.
        file: whether ``place`` is a path.
    """

    text: str
    place: str
    attribute: str
    file: bool

    @classmethod
    def named(cls, model: str | Path) -> Factory | None:
        """The factory that ``model`` names; None where it names something else, such as a file."""
        if Path(model).expanduser().exists():
            return None
        text = str(model)
        for pattern in (_FILE, _MODULE):
            if found := pattern.fullmatch(text):
                return cls(text, found["place"], found["attribute"], pattern is _FILE)
        return None

    @property
    def name(self) -> str:
        """Name of the model: the last part of the module, or the file without its ending."""
        return Path(self.place).stem if self.file else self.place.rpartition(".")[2]

    @property
    def path(self) -> Path | None:
        """The file, where one is named."""
        return Path(self.place).expanduser() if self.file else None

    def call(self, arguments: Mapping[str, Any] | None = None) -> Made:
        """What it makes; a class gets those of ``arguments`` that it takes.

        Raises:
            UsageError: there is no such function, or it returns something else.
            CaptureError: it fails.
        """
        folder = Path.cwd() if self.path is None else self.path.resolve().parent
        with importable(folder):
            value: Any = self._import()
            for part in self.attribute.split("."):
                if not hasattr(value, part):
                    where = "file" if self.file else f"module {self.place!r}"
                    raise UsageError(f"{self.text}: the {where} has no {self.attribute!r}")
                value = getattr(value, part)
            if isinstance(value, nn.Module):
                return Made(value)
            if not callable(value):
                raise UsageError(
                    f"{self.text}: is a {type(value).__name__}; a function that returns an "
                    "nn.Module is needed"
                )
            given = _taken(value, arguments or {}) if inspect.isclass(value) else {}
            try:
                made = value(**given)
            except Exception as error:
                raise CaptureError(_blame(f"{self.text}() failed", error)) from error
        return self._checked(made)

    def _checked(self, made: Any) -> Made:
        result = made if isinstance(made, tuple) and len(made) in (2, 3) else (made,)
        module, example, transform = (*result, None, None)[:3]
        if not isinstance(module, nn.Module):
            raise UsageError(f"{self.text}: returned a {type(made).__name__}; {_RESULT}")
        if transform is not None and not callable(transform):
            raise UsageError(
                f"{self.text}: returned a {type(transform).__name__} as the transform; {_RESULT}"
            )
        return Made(module, (example,) if isinstance(example, torch.Tensor) else example, transform)

    def _import(self) -> Any:
        try:
            if self.path is not None:
                return _import_file(self.path.resolve(), self.text)
            return importlib.import_module(self.place)
        except ModuleNotFoundError as error:
            if not self.file and error.name and self.place.startswith(error.name):
                raise UsageError(
                    f"{self.text}: there is no Python module {error.name!r}; run awqc in the "
                    "folder that holds it, put that folder on PYTHONPATH, or give the path of the "
                    "file: path/to/file.py:factory"
                ) from error
            raise CaptureError(_blame(f"{self.text}: import failed", error)) from error
        except UsageError:
            raise
        except Exception as error:
            raise CaptureError(_blame(f"{self.text}: import failed", error)) from error


def _import_file(path: Path, text: str) -> Any:
    """The module that ``path`` holds, under its own name where no other module has that."""
    if not path.is_file():
        raise UsageError(f"{text}: there is no file {path}")
    there = sys.modules.get(path.stem)
    free = there is None or getattr(there, "__file__", None) == str(path)
    spec = importlib.util.spec_from_file_location(path.stem if free else str(path), path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _taken(kind: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``arguments`` that ``kind`` takes by name."""
    parameters = inspect.signature(kind).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
        return dict(arguments)
    names = {each.name for each in parameters if each.kind is not inspect.Parameter.POSITIONAL_ONLY}
    return {name: value for name, value in arguments.items() if name in names}


def _blame(what: str, error: Exception) -> str:
    line = model_line(error)
    return f"{what}: {type(error).__name__}: {error}" + (f"\n  at {line}" if line else "")
