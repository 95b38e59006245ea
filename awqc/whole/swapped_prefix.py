"""`generate` of a model that reads an image in front of its text, with compiled parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch

from awqc.huggingface.generating import TOKENS
from awqc.huggingface.generating_parts import HEAD
from awqc.huggingface.prefix_parts import PrefixBundle
from awqc.kv_cache import past_name
from awqc.recording.calls import bind
from awqc.recording.instead import forward_instead
from awqc.recording.structures import Leaves, leaves, rebuilt
from awqc.runtimes.encoder_decoder import EncoderDecoder
from awqc.whole.swapped import sized


@contextmanager
def swapped_prefix(parts: PrefixBundle, compiled: EncoderDecoder) -> Iterator[None]:
    """Let the model of ``parts`` call ``compiled`` in place of itself.

    What `generate` does around stays: what a text begins with, which tokens it allows, when it
    ends.
    """
    model, run = parts.generating.model, parts.recorded
    answer = run.loop.later.answer
    states, given = dict[str, Any](), dict[str, Any]()

    @wraps(model.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal states, given
        taken = leaves(bind(model, args, kwargs))
        if all(path in taken for path in run.opening):
            feeds = {path: taken[path].numpy() for path in run.opening}
            encoded = compiled.encode(feeds)
            states, given = compiled.begun(encoded), compiled.given(encoded)
        rows = compiled.decoder.hold({name: taken[name].numpy() for name in run.repeated})
        made, states = compiled.step(taken[TOKENS].numpy(), {**given, **rows}, states)
        found: Leaves = {HEAD: torch.from_numpy(np.array(made[HEAD].numpy()))}
        for path, name in parts.carried.items():
            found[path] = sized(states[past_name(*name)].shape())
        return rebuilt(answer, found)

    with forward_instead(model, forward):
        yield
