"""Turn a local Hugging Face folder, or a GGUF file, into a `Program`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awqc.capture.module import capture_module
from awqc.capture.renamed import rename_inputs
from awqc.errors import CaptureError, UsageError, spelled
from awqc.huggingface.boxes import BOXES
from awqc.huggingface.carried import accepts, cache_shapes
from awqc.huggingface.config_values import config_value
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.forwards import (
    cache_axes,
    cached_example,
    cached_forward,
    encoder_example,
    plain_forward,
    sentence_forward,
)
from awqc.huggingface.opened import open_for_task
from awqc.huggingface.processor import Processor
from awqc.huggingface.recorded import capture_recorded
from awqc.huggingface.sentence_modules import sentence_modules
from awqc.huggingface.task_table import TASKS
from awqc.huggingface.tasks import FIRST_READ, listed_for
from awqc.kv_cache import past_name, present_name
from awqc.machine.memory import release_behind
from awqc.program import TEXT, Program, Task
from awqc.recording.last_chosen import taking_the_last

TOKENS = ("batch", "sequence")
"""Axes of an input that has one number a token."""


def load_folder(
    folder: Path,
    *,
    task: str | None = None,
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
) -> Program:
    """Capture the model in ``folder``; ``folder`` may also be a GGUF file.

    A causal LM becomes one graph for prefill and decode::

        input_ids, attention_mask, position_ids, past_key_values.N.key/.value
            -> logits, present.N.key/.value

    with batch, sequence and past dynamic, the past possibly empty; what layers carry besides, as
    ``past_conv.N``, is zeros at first. Other models of text become
    ``input_ids, attention_mask[, token_type_ids] -> the model's own outputs``. Models of images
    and audio take what the folder's processor makes, see `awqc.huggingface.recorded`.

    Args:
        folder: config.json, weights and tokenizer, or one ``.gguf`` file.
        task: one of `awqc.huggingface.task_table.TASKS` by name; None recognises it.
        trust_remote_code: whether Python files in the folder may run.
        gguf_file: name of a GGUF file in ``folder`` to load instead of safetensors.

    Raises:
        UsageError: a file is missing or is none of this model's, or transformers is missing.
        CaptureError: the model cannot be loaded or captured.
    """
    source = HFFolder.at(folder, gguf_file=gguf_file, trust_remote_code=trust_remote_code)
    opened = open_for_task(source, task)
    model, chosen = opened.model, opened.task
    left_out = [name for name in FIRST_READ if chosen.reads == (TEXT,) and accepts(model, name)]
    if chosen.media:
        processor = Processor.of(source, chosen.reads, chosen.with_prompt)
        program = capture_recorded(model, processor, source.name)
    else:
        forward = plain_forward(model)
        if chosen.pooled:
            forward = sentence_forward(model, sentence_modules(source.path))
        program = (
            _capture_cached(model, source.name)
            if chosen.cached
            else _capture_encoder(model, forward, source.name)
        )
    program.task = Task(
        None if chosen.media else "attention_mask",
        ("logits",) if chosen.vocabulary else (),
        source,
        chosen.reads,
        paired=chosen.paired,
    )
    _tell_of_the_rest(program, type(model).__name__, left_out)
    program.source_dtype = _dtype(opened.config)
    program.files = (folder,)
    if opened.limit is not None:
        program.tell(
            f"beyond {opened.limit} tokens the model's rotary embeddings take other frequencies: "
            f"what is compiled holds for at most {opened.limit} tokens"
        )
    if extra := opened.extra:
        program.tell(
            f"{len(extra)} tensors of the weights have no place in {type(model).__name__} and are "
            f"left out: {', '.join(extra[:3])}{', …' if len(extra) > 3 else ''}"
        )
    held = sum(value.nbytes for value in model.state_dict().values())
    del model, opened
    release_behind(held)
    return program


def _tell_of_the_rest(program: Program, own: str, left_out: Sequence[str]) -> None:
    """Say what a model of class ``own`` reads beside text that is left out, or made up."""
    if left_out:
        keeps = [each for each in TASKS if each.media and own in each.architectures()]
        name = next((each.name for each in keeps if each.prompted), keeps[0].name if keeps else "")
        way = f": {spelled('task', name)} keeps it" if name else ""
        program.tell(
            f"{own} can read {left_out[0]} beside text, which is left out: what is compiled reads "
            f"text alone{way}"
        )
    if any(spec.name == BOXES for spec in program.inputs):
        program.tell(
            f"the model reads where words stand on a page ({BOXES}): for texts that is made up, "
            "line by line. Arrays (.npz) with the real boxes calibrate better"
        )


def _capture_cached(model: Any, name: str) -> Program:
    shapes = cache_shapes(model, name)
    example = cached_example(model, shapes)
    model.forward = cached_forward(model)
    past, present = ([name(*each) for each in shapes] for name in (past_name, present_name))
    flat = [key for key in example if key != "past_key_values"]
    axes = {key: dict(enumerate(TOKENS)) for key in flat}
    axes["attention_mask"] = {0: "batch", 1: "past + sequence"}
    program = capture_module(
        model,
        example,
        name=name,
        dynamic=axes | cache_axes(shapes),
        states=list(zip(past, present, strict=True)),
        output_names=["logits", *present],
        copy=False,
    )
    return rename_inputs(program, [*flat, *past])


def _capture_encoder(model: Any, forward: Callable[..., dict[str, Tensor]], name: str) -> Program:
    model.config.use_cache = False
    example = encoder_example(model)
    model.forward = taking_the_last(forward, _with_ends(model, example))
    dynamic = {key: dict(enumerate(TOKENS)) for key in example}
    try:
        program = capture_module(model, example, name=name, dynamic=dynamic, copy=False)
    except UsageError as error:  # inputs are made here: nothing that a user gave is wrong
        listed = listed_for(type(model).__name__)
        known = f" (transformers lists it for {' and '.join(listed)})" if listed else ""
        raise CaptureError(
            f"{name}{known}: cannot be captured for texts of any length: {error.text}.\n"
            "Where it takes texts of one length only, or more than text, compile it for that in "
            f"Python: awqc.compile(model, example_inputs, calib), with {', '.join(example)} "
            "(samples, tokens) in each"
        ) from error
    return rename_inputs(program, list(example))


def _with_ends(model: Any, example: dict[str, Any]) -> dict[str, Any]:
    """``example`` with the token that ends a text at the first and the last place of each."""
    end = config_value(model.config, "eos_token_id")
    if not isinstance(end, int):
        return example
    ids = example["input_ids"].clone()
    ids[:, 0] = ids[:, -1] = end
    return {**example, "input_ids": ids}


def _dtype(config: Any) -> torch.dtype:
    """The floating dtype that the checkpoint was made in; float32 where it does not say."""
    dtype = config_value(config, "dtype")
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
