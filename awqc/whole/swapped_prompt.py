"""`generate` of a model that continues a prompt, with what was compiled in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awqc.huggingface.generating import TOKENS
from awqc.huggingface.generating_parts import layer_and_part
from awqc.huggingface.prompted_parts import VISION, PromptedBundle
from awqc.huggingface.rows_decoder import HEAD
from awqc.kv_cache import past_name
from awqc.recording.calls import bind
from awqc.recording.instead import forward_instead
from awqc.recording.structures import Leaves, leaves, rebuilt
from awqc.runtimes.image_text import ImageText
from awqc.whole.swapped import sized


@contextmanager
def swapped_prompt(
    parts: PromptedBundle, compiled: ImageText, inputs: dict[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Let the model of ``parts`` call ``compiled`` in place of itself, for one prompt.

    What `generate` does around stays: which tokens it allows, when it ends. Gives what of
    ``inputs`` it takes then: images go to ``compiled`` alone, but where `generate` loops around a
    part of the model, which it gives rows first; it makes these for nothing then.
    """
    model = parts.generating.model.get_submodule(parts.looped)
    images = {spec.name for spec in parts.bundle.parts[VISION].inputs}
    numbers = () if parts.fixed is None else parts.fixed.numbers
    feeds = {name: inputs[name].numpy() for name in (*images, *numbers)}
    states, tokens = dict[str, Any](), list[Any]()

    @wraps(model.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal states
        fresh = bind(model, args, kwargs).get(TOKENS)
        tokens.append((inputs[TOKENS] if fresh is None else fresh).numpy())
        so_far = np.concatenate(tokens, axis=1)
        made, states = compiled.step(so_far, {} if states else feeds, states)
        return rebuilt(parts.answer, _answer(parts.answer, made, states))

    with forward_instead(model, forward):
        yield {name: v for name, v in inputs.items() if parts.looped or name not in images}


def _answer(recorded: Any, made: dict[str, Any], states: dict[str, Any]) -> Leaves:
    """By path in the recorded result: logits, and in place of the states their sizes."""
    found: Leaves = {HEAD: torch.from_numpy(made[HEAD].numpy())}
    for path in leaves(recorded):
        place = layer_and_part(path)
        if place is not None and past_name(*place) in states:
            found[path] = sized(states[past_name(*place)].shape())
    return found
