"""A compiled diffusion pipeline that makes images of texts: its graphs in onnxruntime.

What stands around the graphs (tokenizer, scheduler, the loop) is diffusers' own code. Its modules
are made without weights, and each call of one goes to the graph that was compiled of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from awqc.errors import AwqcError, UsageError, VerificationError
from awqc.huggingface.diffusion import DiffusionFolder
from awqc.recording.entries import modules_of
from awqc.running.answers import Answer
from awqc.running.free_paths import free_path
from awqc.running.graphs import put_graphs, read_entries, shown_form

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
        entries = read_entries(
            folder,
            "the pipeline anew, or let Optimum run it: "
            f"ORTDiffusionPipeline.from_pretrained({str(folder)!r})",
        )
        self._pipeline, shapes = DiffusionFolder.at(folder).bare_pipeline()
        for name in shapes:
            for module in getattr(self._pipeline, name).modules():
                module.register_forward_pre_hook(_refuse(name))
        known = {
            f"{name}.{path}" if path else name: module
            for name, shape in shapes.items()
            for path, module in shape.named_modules()
        }
        modules = modules_of(self._pipeline)
        for owner in put_graphs(folder, entries, modules, shown_form(known), provider):
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
        path = free_path(self._target, text, f"image-{number}", ".png")
        try:
            self._target.mkdir(parents=True, exist_ok=True)
            image.save(path)
        except OSError as error:
            raise UsageError(f"{path}: the image cannot be written: {error.strerror}") from error
        return Answer(str(path), str(path))


def _refuse(name: str) -> Callable[..., None]:
    def refuse(module: nn.Module, _: Any) -> None:
        raise VerificationError(
            f"{name}: is called, which was not compiled: it has no weights here. Optimum, or "
            "diffusers with the original's folder, runs such calls"
        )

    return refuse
