"""Capture of a model whose inputs its folder's processor makes, recorded and never listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from awqc.capture.inputs import forward_parameters
from awqc.capture.module import capture_module
from awqc.errors import UsageError
from awqc.huggingface.folder import reporting
from awqc.huggingface.forwards import plain_forward
from awqc.huggingface.processor import Processor
from awqc.huggingface.samples import Sample, Sizes
from awqc.huggingface.tasks import listed_for
from awqc.program import TEXT, Program
from awqc.recording.calls import SeenCall, record_calls
from awqc.recording.varying import varying_axes

EXAMPLES = (
    (2, 3, Sizes(image=(96, 128), seconds=0.3997, words=4)),
    (3, 5, Sizes(image=(160, 112), seconds=0.6001, words=5)),
)
"""Two calls, each of so many samples, and so many texts beside images.

They differ in every size in which data may differ, and no two of these sizes are alike. Lengths of
texts and audio have no common divisor, whatever the rate: one would look like a multiple that the
model needs.
"""


def capture_recorded(model: Any, processor: Processor, name: str) -> Program:
    """``model``, called as it is called on what ``processor`` makes of samples.

    Its inputs are what its forward takes of that; axes whose sizes differ between two calls are
    dynamic where the model allows it. Its outputs have the model's own names.

    Raises:
        UsageError: the processor does not make what the model needs.
        CaptureError: the model fails on it, or cannot be captured.
    """
    calls = [model_inputs(model, processor, examples(processor, *each)) for each in EXAMPLES]
    seen = _record(model, processor, calls)
    model.forward = plain_forward(model)
    return capture_module(
        model,
        seen[0].arguments,
        name=name,
        dynamic=varying_axes(seen),
        insist=False,
        copy=False,
    )


def examples(processor: Processor, count: int, texts: int, sizes: Sizes) -> list[Sample]:
    """``count`` samples; beside images there are ``texts`` texts, of equal length.

    Prompts have an image and the same text each.
    """
    random = np.random.default_rng(0)
    maker = processor.maker()
    made = [maker.sample(random, sizes) for _ in range(count)]
    if processor.prompted:
        return [replace(sample, text=made[0].text) for sample in made]
    if processor.reads == (TEXT,) or TEXT not in processor.reads:
        return made
    return [
        *(replace(sample, text=None) for sample in made),
        *(Sample(made[0].source, made[0].text) for _ in range(texts)),
    ]


def model_inputs(
    model: Any, processor: Processor, samples: Sequence[Sample], tokens: int | None = None
) -> dict[str, Tensor]:
    """What the processor makes of ``samples`` and the model's forward takes.

    Raises:
        UsageError: it does not make what the model needs.
    """
    made = processor.inputs(samples, tokens)
    required, accepted, _ = forward_parameters(model)
    taken = {name: value for name, value in made.items() if name in accepted}
    missing = [name for name in required if name not in taken]
    if missing or not taken:
        raise UsageError(
            f"{processor.folder.path}: the processor ({processor.name}) makes {', '.join(made)}; "
            f"{type(model).__name__} needs {', '.join(missing or accepted[:1])}: it is another "
            "model's; copy the model's own processor files into the folder"
        )
    return taken


def _listed(model: Any) -> str:
    tasks = listed_for(type(model).__name__)
    return f"; transformers lists it for {' and '.join(tasks)}" if tasks else ""


def _record(model: Any, processor: Processor, calls: list[dict[str, Tensor]]) -> list[SeenCall]:
    shapes = ", ".join(f"{name}={list(value.shape)}" for name, value in calls[0].items())
    what = (
        f"{processor.folder.path}: {type(model).__name__} fails on what the folder's processor "
        f"({processor.name}) makes of example data ({shapes}){_listed(model)}; where it is another "
        "model's, copy the model's own processor files into the folder; where it needs more than "
        f"{' and '.join(processor.reads)}, compile it from Python: awqc.compile(model, "
        "example_inputs, calib)"
    )
    with reporting(what):
        return record_calls(model, model, [((), inputs) for inputs in calls], len(calls))
