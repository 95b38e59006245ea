"""The graphs of a compiled folder in place of methods of modules, as its report tells.

Their modules are made without weights. What form a result has is told by the report, or by the same
method of a copy of which only shapes are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from awqc.artifacts.json_files import Object
from awqc.artifacts.names import MODEL, REPORT, TUNED
from awqc.errors import UsageError, VerificationError
from awqc.recording.calls import bind_given
from awqc.recording.described import of_form
from awqc.recording.instead import FORWARD
from awqc.recording.structures import constants, leaves, rebuilt
from awqc.runtimes.ort_model import OrtModel
from awqc.runtimes.session_settings import read_settings

PACKAGES = ("transformers",)
"""Whose classes results are made of."""


@dataclass(frozen=True)
class PartEntry:
    """What the report tells of a part: ``module.method``, and tensors' names by path in a call.

    Attributes:
        numbers: by path what tells its calls from those of other parts of the same method.
        form: of its results, where the report has words for it.
    """

    module: str
    method: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    form: Any = None


Formed = Callable[[dict[str, Tensor]], Any]
"""Makes a result of its tensors by path."""
Forming = Callable[[PartEntry, Mapping[str, Any]], Formed]
"""How the results of a part are formed, whose arguments are given."""


def read_entries(folder: Path, instead: str) -> dict[str, PartEntry]:
    """Of each part of a folder; ``instead`` is what to do where its report does not tell.

    Raises:
        UsageError: the report does not tell, or tells something else.
    """
    report = Object.of(folder / REPORT)
    if "entries" not in report.content:
        raise UsageError(
            f"{folder / REPORT}: does not tell how the parts are called; compile {instead}"
        )
    found, entries = dict[str, PartEntry](), report.inside("entries")
    for name in entries.content:
        told = entries.inside(name)
        if Path(name).name != name:
            raise UsageError(f"{told.where}: {name!r} is no name of a folder in it")
        called = told.get("module", str), told.get("method", str)
        inputs, outputs = (told.inside(key).values(str) for key in ("inputs", "outputs"))
        numbers = told.get("numbers", dict, {})
        found[name] = PartEntry(*called, inputs, outputs, numbers, told.content.get("form"))
    return found


def put_graphs(
    folder: Path,
    entries: Mapping[str, PartEntry],
    modules: Mapping[str, nn.Module],
    forming: Forming,
    provider: str,
) -> Iterator[nn.Module]:
    """Let ``modules`` call the graphs in ``folder``, whose results are formed by ``forming``.

    Gives each module whose forward is a graph from then on.

    Raises:
        UsageError: a file, or a module, is missing.
        VerificationError: onnxruntime does not load a graph.
    """
    by_place: dict[tuple[str, str], list[Graph]] = {}
    for part, entry in entries.items():
        graph = Graph(folder, part, entry, provider)
        by_place.setdefault((entry.module, entry.method), []).append(graph)
    for (path, method), graphs in by_place.items():
        try:
            owner, own = modules[path], getattr(modules[path], method)
        except (AttributeError, KeyError) as error:
            raise UsageError(
                f"{folder / REPORT}: {graphs[0].name} is {path}.{method}, which the model does not "
                "have; give the folder as it was written"
            ) from error
        setattr(owner, method, _calling(graphs, own, forming))
        if method == FORWARD:
            yield owner


class Graph:
    """A part: a graph, and where in a call its tensors are."""

    def __init__(self, folder: Path, name: str, entry: PartEntry, provider: str) -> None:
        files = (folder / name / TUNED / MODEL, folder / name / MODEL)
        file = next((each for each in files if each.is_file()), None)
        if file is None:
            raise UsageError(f"{folder}: has no {name}/{MODEL}; give the folder as it was written")
        self.name = name
        self.entry, self.inputs = entry, entry.inputs
        self._model = OrtModel(file, provider, read_settings(file, provider))

    def fits(self, taken: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> bool:
        """Whether it is made for a call with these tensors and numbers."""
        if any(numbers.get(path) != value for path, value in self.entry.numbers.items()):
            return False
        kinds = {spec.name: (spec.dtype, len(spec.shape)) for spec in self._model.inputs}
        return all(
            path in taken and kinds.get(name) in (None, (_dtype(taken[path]), taken[path].ndim))
            for path, name in self.inputs.items()
        )

    def run(self, taken: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What it makes of the tensors of a call, by path in its result."""
        feeds = {
            name: taken[path].detach().contiguous().numpy() for path, name in self.inputs.items()
        }
        made = dict(zip(self._model.outputs, self._model.run(feeds), strict=True))
        return {path: torch.from_numpy(made[name]) for path, name in self.entry.outputs.items()}


def _calling(
    graphs: Sequence[Graph], own: Callable[..., Any], forming: Forming
) -> Callable[..., Any]:
    """A method that runs one of ``graphs`` in place of ``own``."""

    @wraps(own)
    def method(*args: Any, **kwargs: Any) -> Any:
        arguments = bind_given(own, args, kwargs)
        taken, numbers = leaves(arguments), constants(arguments)
        fitting = [graph for graph in graphs if graph.fits(taken, numbers)]
        if not fitting:
            lacking = [path for path in graphs[0].inputs if path not in taken]
            found = lacking[0] if lacking else "numbers that it was compiled with"
            raise VerificationError(f"{graphs[0].name}: is called without {found}")
        chosen = max(fitting, key=lambda graph: len(graph.inputs))
        return forming(chosen.entry, arguments)(chosen.run(taken))

    return method


def _dtype(value: Tensor) -> str:
    """The dtype of ``value`` as NumPy calls it."""
    return str(value.dtype).removeprefix("torch.")


def described_form(entry: PartEntry, _: Mapping[str, Any]) -> Formed:
    """As the report describes it.

    Raises:
        VerificationError: it does not.
    """
    if entry.form is None:
        raise VerificationError(
            f"{entry.module}.{entry.method}: the report has no words for the form of its result; "
            "in Python its graph runs in onnxruntime"
        )
    return lambda made: of_form(entry.form, made, PACKAGES)


def shown_form(shapes: Mapping[str, nn.Module]) -> Forming:
    """As the same method of ``shapes``, which have no values, returns it."""

    def forming(entry: PartEntry, arguments: Mapping[str, Any]) -> Formed:
        bare = getattr(shapes[entry.module], entry.method)
        meta = {path: value.to("meta") for path, value in leaves(arguments).items()}
        with torch.no_grad():
            result = bare(**rebuilt(arguments, meta))
        return lambda made: rebuilt(result, made)

    return forming
