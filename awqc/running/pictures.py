"""A compiled diffusion pipeline that makes images of texts: its graphs in onnxruntime.

What stands around the graphs (tokenizer, scheduler, the loop) is diffusers' own code. Its modules
are made without weights, and each call of one goes to the graph that was compiled of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from awqc.artifacts.json_files import Object
from awqc.artifacts.names import MODEL, REPORT, TUNED
from awqc.errors import AwqcError, UsageError, VerificationError
from awqc.huggingface.diffusion import DiffusionFolder
from awqc.recording.calls import bind
from awqc.recording.instead import FORWARD
from awqc.recording.structures import leaves, rebuilt
from awqc.running.answers import Answer
from awqc.runtimes.ort_model import OrtModel
from awqc.runtimes.session_settings import read_settings

PROMPT, LABELS = "prompt", "class_labels"


class Pictures:
    """The pipeline of a compiled folder, ready to be used."""

    def __init__(
        self, folder: Path, target: Path, provider: str = "cpu", steps: int | None = None
    ) -> None:
        """Load the graphs in ``folder``; images are to be written into ``target``.

        ``steps`` of denoising; None: as many as the pipeline takes by itself.

        Raises:
            UsageError: a file is missing, or diffusers is not installed.
            CaptureError: diffusers cannot make the pipeline.
            VerificationError: onnxruntime does not load a graph.
        """
        self._folder, self._target, self._steps = folder, target, steps
        entries = _entries(folder)
        self._pipeline, shapes = DiffusionFolder.at(folder).bare_pipeline()
        for name in shapes:
            for module in getattr(self._pipeline, name).modules():
                module.register_forward_pre_hook(_refuse(name))
        by_entry: dict[tuple[str, str], list[_Graph]] = {}
        for part, entry in entries.items():
            graph = _Graph(folder, part, entry, provider)
            by_entry.setdefault((entry.module, entry.method), []).append(graph)
        for (path, method), graphs in by_entry.items():
            component, _, inner = path.partition(".")
            try:
                owner = getattr(self._pipeline, component).get_submodule(inner)
                bare = getattr(shapes[component].get_submodule(inner), method)
            except (AttributeError, KeyError) as error:
                raise UsageError(
                    f"{folder / REPORT}: {graphs[0].name} is {path}.{method}, which the pipeline "
                    "does not have; give the folder as it was written"
                ) from error
            setattr(owner, method, _calling(graphs, getattr(owner, method), bare))
            if method == FORWARD:
                owner._forward_pre_hooks.clear()

    def answer(self, given: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """An image of each text (or class number) that is ``given``, as a file.

        Raises:
            UsageError: the pipeline takes no text, or an image cannot be written.
            VerificationError: it fails.
        """
        taken = inspect.signature(self._pipeline.__call__).parameters
        for number, text in enumerate(given, 1):
            call: dict[str, Any] = {PROMPT: text} if PROMPT in taken else {}
            if not call and LABELS in taken:
                if not text.isdecimal():
                    raise UsageError(f"{text!r}: the pipeline takes the number of a class")
                call = {LABELS: [int(text)]}
            if not call:
                raise UsageError(
                    f"{self._folder}: {type(self._pipeline).__name__} makes images of nothing but "
                    "noise; in Python it is run by diffusers"
                )
            if self._steps is not None:
                call["num_inference_steps"] = self._steps
            call["generator"] = torch.Generator().manual_seed(0)
            yield text, self._written(self._image(call), text, number)

    def _image(self, call: Mapping[str, Any]) -> Any:
        try:
            with torch.no_grad():
                return self._pipeline(**call).images[0]
        except AwqcError:
            raise
        except Exception as error:
            raise VerificationError(
                f"{self._folder}: {type(self._pipeline).__name__} fails: {type(error).__name__}: "
                f"{error}"
            ) from error

    def _written(self, image: Any, text: str, number: int) -> Answer:
        words = "".join(c if c.isalnum() else " " for c in text).split()
        stem = "-".join(words)[:40] or f"image-{number}"
        path, more = self._target / f"{stem}.png", 1
        while path.exists():
            more += 1
            path = self._target / f"{stem}-{more}.png"
        try:
            self._target.mkdir(parents=True, exist_ok=True)
            image.save(path)
        except OSError as error:
            raise UsageError(f"{path}: the image cannot be written: {error.strerror}") from error
        return Answer(str(path), str(path))


@dataclass(frozen=True)
class _Entry:
    """What the report tells of a part: ``module.method``, and tensors' names by path in a call."""

    module: str
    method: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def _entries(folder: Path) -> dict[str, _Entry]:
    """Of each part of a compiled pipeline.

    Raises:
        UsageError: the report does not tell, or tells something else.
    """
    report = Object.of(folder / REPORT)
    if "entries" not in report.content:
        raise UsageError(
            f"{folder / REPORT}: does not tell how the parts are called; compile the pipeline "
            f"anew, or let Optimum run it: ORTDiffusionPipeline.from_pretrained({str(folder)!r})"
        )
    found, entries = dict[str, _Entry](), report.inside("entries")
    for name in entries.content:
        told = entries.inside(name)
        if Path(name).name != name:
            raise UsageError(f"{told.where}: {name!r} is no name of a folder in it")
        places = (told.inside(key).values(str) for key in ("inputs", "outputs"))
        found[name] = _Entry(told.get("module", str), told.get("method", str), *places)
    return found


class _Graph:
    """A part: a graph, and where in a call its tensors are."""

    def __init__(self, folder: Path, name: str, entry: _Entry, provider: str) -> None:
        files = (folder / name / TUNED / MODEL, folder / name / MODEL)
        file = next((each for each in files if each.is_file()), None)
        if file is None:
            raise UsageError(f"{folder}: has no {name}/{MODEL}; give the folder as it was written")
        self.name = name
        self.inputs, self._outputs = entry.inputs, entry.outputs
        self._model = OrtModel(file, provider, read_settings(file, provider))

    def run(self, taken: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What it makes of the tensors of a call, by path in its result."""
        feeds = {
            name: taken[path].detach().contiguous().numpy() for path, name in self.inputs.items()
        }
        made = dict(zip(self._model.outputs, self._model.run(feeds), strict=True))
        return {path: torch.from_numpy(made[name]) for path, name in self._outputs.items()}


def _calling(
    graphs: Sequence[_Graph], own: Callable[..., Any], bare: Callable[..., Any]
) -> Callable[..., Any]:
    """A method that runs one of ``graphs``; the form of its result is that of ``bare``."""

    @wraps(own)
    def method(*args: Any, **kwargs: Any) -> Any:
        arguments = bind(own, args, kwargs)
        taken = leaves(arguments)
        fitting = [graph for graph in graphs if graph.inputs.keys() <= taken.keys()]
        if not fitting:
            lacking = next(path for path in graphs[0].inputs if path not in taken)
            raise VerificationError(f"{graphs[0].name}: is called without {lacking}")
        made = max(fitting, key=lambda graph: len(graph.inputs)).run(taken)
        shown = rebuilt(arguments, {path: value.to("meta") for path, value in taken.items()})
        return rebuilt(bare(**shown), made)

    return method


def _refuse(name: str) -> Callable[..., None]:
    def refuse(module: nn.Module, _: Any) -> None:
        raise VerificationError(
            f"{name}: is called, which was not compiled: it has no weights here. Optimum, or "
            "diffusers with the original's folder, runs such calls"
        )

    return refuse
