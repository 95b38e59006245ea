"""`generate` of a model whose parts are those that were compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from awqc.huggingface.generating_parts import GeneratingBundle, result_name
from awqc.kv_cache import past_of
from awqc.recording.calls import bind
from awqc.recording.instead import forward_instead
from awqc.recording.remembered import LastCall
from awqc.recording.structures import Leaves, leaves, rebuilt
from awqc.runtimes.encoder_decoder import EncoderDecoder


@contextmanager
def swapped(
    parts: GeneratingBundle, compiled: EncoderDecoder, inputs: Leaves | None = None
) -> Iterator[None]:
    """Let the model of ``parts`` call ``compiled`` in place of its own encoder and decoder.

    An encoder that is one with what stands before it is given ``inputs``, those of the whole.
    What the model does around them stays: what it begins with, which tokens it allows, when it
    ends.
    """
    calls = _Calls(parts, compiled, None if parts.recorded.alone else inputs)
    model = parts.generating.model
    ways = {parts.recorded.encoder.path: calls.encode, parts.recorded.loop.path: calls.step}
    with ExitStack() as stack:
        for path, way in ways.items():
            module = model.get_submodule(path)
            stack.enter_context(forward_instead(module, _taking(module, way)))
        yield


def _taking(module: Any, way: Any) -> Any:
    """A forward of ``module`` that calls ``way`` with the tensors of the arguments by path."""

    @wraps(module.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return way(leaves(bind(module, args, kwargs)))

    return forward


class _Calls:
    def __init__(
        self, parts: GeneratingBundle, compiled: EncoderDecoder, inputs: Leaves | None
    ) -> None:
        self._parts, self._compiled, self._inputs = parts, compiled, inputs
        self._carried = {
            id(parts.recorded.loop.later.after[path]): name for path, name in parts.carried.items()
        }
        self._encoded = LastCall()
        self._given: dict[str, Any] = {}
        self._states: dict[str, Any] = {}

    def encode(self, taken: Leaves) -> Any:
        """The encoder's result, in the form of the recorded one."""
        if self._encoded.knows(taken):
            return self._encoded.answer()
        read = taken if self._inputs is None else self._inputs
        made = self._compiled.encode({name: value.numpy() for name, value in read.items()})
        self._given = self._compiled.given(made)
        answer = self._parts.recorded.encoder.answer
        recorded = self._parts.recorded
        values = {
            path: torch.from_numpy(made[name])
            for path in recorded.encoder.result
            if (name := result_name(recorded, path)) in made
        }
        self._encoded.keep(taken, rebuilt(answer, values))
        return self._encoded.answer()

    def step(self, taken: Leaves) -> Any:
        """The decoder's result; in place of the states, which stay where they are, their sizes."""
        loop, parts = self._parts.recorded.loop, self._parts
        reads = parts.recorded.encoder.before
        if reads.keys() <= taken.keys() and parts.recorded.wired.keys().isdisjoint(taken):
            self.encode({name: taken[name] for name in reads})  # by the whole, as for a language
        tokens = taken[loop.fresh[0]].numpy()
        named = {name: taken[path].numpy() for path, name in parts.given.items() if path in taken}
        given = self._given | self._compiled.decoder.hold(named)
        states = self._states if any(path in taken for path in loop.states) else {}
        made, self._states = self._compiled.step(tokens, given, states)
        return rebuilt(loop.later.answer, self._answer(made))

    def _answer(self, made: Mapping[str, Any]) -> Leaves:
        found: Leaves = {}
        for path, value in self._parts.recorded.loop.later.result.items():
            if path in made:
                found[path] = torch.from_numpy(np.array(made[path].numpy()))
            elif (name := self._carried.get(id(value))) is not None:
                found[path] = sized(self._states[past_of(name)].shape())
        return found


def sized(shape: list[int]) -> Tensor:
    """A tensor of ``shape`` that takes no room."""
    return torch.zeros(()).expand(shape)
