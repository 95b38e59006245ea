"""Rows of an image in front of a text, which the model reads at its first call: as two graphs.

::

    encoder   what the processor makes of an image     -> keys and values of its rows
    decoder   tokens, keys and values of all before    -> logits, keys and values of all

As an encoder-decoder without attention of its own to the encoder: what the first call takes and
no other one is the encoder's, and what comes of it is the decoder's past.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from awqc.bundle.parts import Bundle, Wire
from awqc.capture.flat_capture import capture_flat
from awqc.errors import CaptureError
from awqc.huggingface.generating import FEWEST_TOKENS, TOKENS, Followed, Generating
from awqc.huggingface.generating_parts import DECODER, ENCODER, HEAD, SIZES, layer_and_part
from awqc.huggingface.recorded import EXAMPLES, examples
from awqc.kv_cache import PAST, POSITIONS, past_name, present_name
from awqc.program import Program, Task
from awqc.recording.flat import FlatCall, flat_call
from awqc.recording.loop import Loop, longest_loop
from awqc.recording.outermost import OutsideCall
from awqc.recording.spare import without
from awqc.recording.structures import Leaves, leaves

WHOLE = ("",)
"""The path of the model itself."""


@dataclass(frozen=True)
class PrefixRun:
    """A run of `generate` that loops around the model itself.

    Attributes:
        loop: its calls, without positions.
        calls: the same, in order.
        opening: what the first call takes and no other one.
        places: whether the calls are given positions, which count the tokens.
        prefix: rows in front of the first token.
    """

    loop: Loop
    calls: tuple[OutsideCall, ...]
    opening: tuple[str, ...]
    places: bool
    prefix: int

    @classmethod
    def of(cls, calls: Sequence[OutsideCall], where: str) -> PrefixRun:
        """The run that made ``calls``.

        Raises:
            CaptureError: it is no loop around the model, or nothing stands in front of the text.
        """
        if not calls or any(call.path for call in calls):
            raise CaptureError(f"{where}: generate does not call the model as a whole in a loop")
        own = longest_loop(calls)
        loop = Loop.of(own)
        opening = [n for n in loop.first.before if n not in (*loop.later.before, *loop.fresh)]
        if not opening or loop.once or {TOKENS} != {*loop.fresh} - {POSITIONS}:
            raise CaptureError(
                f"{where}: at each call the model takes {', '.join(loop.fresh)}, and at the first "
                f"{', '.join(opening) or 'nothing'} besides; tokens alone, and an image, are needed"
            )
        tokens = loop.first.before[TOKENS].shape[1]
        places = POSITIONS in loop.fresh
        if places and int(loop.later.before[POSITIONS].max()) != tokens:
            raise CaptureError(f"{where}: {POSITIONS} do not count the tokens of the text")
        plain = without(own, (POSITIONS,))
        rows = loop.first.left[loop.states[0]].shape[2] - tokens
        return cls(Loop.of(plain), tuple(plain), tuple(opening), places, rows)


@dataclass(frozen=True)
class PrefixBundle:
    """The parts of a model that reads an image in front of its text.

    Attributes:
        generating: the model.
        bundle: its parts.
        recorded: a run, which tells how the model is called.
        settings: how it generates, in the words of ``generation_config.json``.
    """

    generating: Generating
    bundle: Bundle
    recorded: PrefixRun
    settings: dict[str, Any]

    def follow(self, inputs: dict[str, Tensor], most: int) -> Followed:
        """What a run on ``inputs``, of ``most`` new tokens, gives to each part and makes."""
        recording = self.generating.record(inputs, most, WHOLE)
        run = PrefixRun.of(recording.calls, str(self.generating.folder.path))
        first, last, names = run.loop.first, run.calls[-1], self.carried
        rows = {path: first.left[path][:, :, : run.prefix] for path in names}
        tokens = torch.cat([call.before[TOKENS] for call in run.calls], dim=1)
        read = {
            ENCODER: {path: first.before[path] for path in run.opening},
            DECODER: {TOKENS: tokens, **{past_name(*names[path]): x for path, x in rows.items()}},
        }
        made = {f"{ENCODER}.{present_name(*names[path])}": value for path, value in rows.items()}
        logits = [call.result[HEAD][:, -call.before[TOKENS].shape[1] :] for call in run.calls]
        made[f"{DECODER}.{HEAD}"] = torch.cat(logits, dim=1)
        for path, name in names.items():
            made[f"{DECODER}.{present_name(*name)}"] = last.after[path]
        return Followed((read, made), recording.ids)

    @property
    def carried(self) -> dict[str, tuple[str, str]]:
        """Layer and part of each state, by its path."""
        return _carried(self.recorded.loop, str(self.generating.folder.path))


def capture_prefix(generating: Generating) -> PrefixBundle:
    """The parts of ``generating``, captured.

    Raises:
        CaptureError: `generate` is no loop around a model that reads an image first, or a part
            cannot be captured.
    """
    model, where = generating.model, str(generating.folder.path)
    runs: list[PrefixRun] = []
    for each in EXAMPLES:
        inputs = generating.inputs(examples(generating.processor, *each))
        calls = generating.record(inputs, FEWEST_TOKENS).calls
        runs.append(PrefixRun.of(calls, where))
    run, loop = runs[0], runs[0].loop
    if len({each.prefix for each in runs}) > 1:
        raise CaptureError(
            f"{where}: images become {' and '.join(str(each.prefix) for each in runs)} rows in "
            "front of the text; as many of each image are needed"
        )
    names = _carried(loop, where)
    present = {path: present_name(*name) for path, name in names.items()}
    past = {path: past_name(*name) for path, name in names.items()}
    opens, before = _opens(model.forward, run), [each.loop.first.before for each in runs]
    flat, read = flat_call(opens, loop.first.arguments, loop.states, before)
    if set(read) != set(run.opening):
        raise CaptureError(f"{where}: rows of an image are made of {', '.join(read)}")
    own = {path: path for path in read}
    encoder = capture_flat(model, flat, before, own, present, f"{generating.name}-encoder", _label)
    steps = _steps(model.forward, run)
    later = [_later(model.forward, each, *sizes) for each, sizes in zip(runs, SIZES, strict=True)]
    arguments = _of_all_tokens(steps, loop, later[0])
    outputs = (HEAD, *loop.states)
    flat, read = flat_call(steps, arguments, outputs, later)
    taken = {path: TOKENS if path == TOKENS else past[path] for path in read}
    given = {path: present.get(path, path) for path in outputs}
    decoder = capture_flat(model, flat, later, taken, given, f"{generating.name}-decoder", _label)
    decoder.task = Task(None, (HEAD,))
    wires = [Wire(f"{ENCODER}.{present[path]}", f"{DECODER}.{past[path]}") for path in loop.states]
    start = int(loop.first.before[TOKENS][0, 0])
    parts: dict[str, Program] = {ENCODER: encoder, DECODER: decoder}
    return PrefixBundle(
        generating, Bundle(parts, tuple(wires)), run, {"decoder_start_token_id": start}
    )


def _carried(loop: Loop, where: str) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for path in loop.states:
        place = layer_and_part(path)
        if place is None:
            raise CaptureError(
                f"{where}: {path} is carried from call to call, which is no layer's keys or values"
            )
        found[path] = place[0], f"{DECODER}.{place[1]}"
    return found


def _opens(whole: Callable[..., Any], run: PrefixRun) -> Callable[..., Leaves]:
    """What the first call leaves of the rows in front of the text."""

    def forward(**arguments: Any) -> Leaves:
        result = whole(**arguments)
        made = {**leaves(arguments), **leaves(result)}
        return {path: made[path][:, :, : run.prefix] for path in run.loop.states}

    return forward


def _steps(whole: Callable[..., Any], run: PrefixRun) -> Callable[..., Any]:
    """A later call, which counts positions itself."""
    if not run.places:
        return whole

    def forward(**arguments: Any) -> Any:
        so_far = leaves(arguments)[run.loop.states[0]].shape[2] - run.prefix
        places = torch.arange(arguments[TOKENS].shape[1]) + so_far
        # A past that is shorter than the rows of an image is none, but sizes are tried.
        return whole(**arguments, **{POSITIONS: places.clamp(min=0).unsqueeze(0)})

    return forward


def _later(whole: Callable[..., Any], run: PrefixRun, past: int, count: int) -> Leaves:
    """Tensors of a call of ``count`` tokens behind an image and ``past`` others."""
    drawn, first = torch.Generator().manual_seed(0), dict(run.loop.first.before)
    rows, vocabulary = len(first[TOKENS]), run.loop.later.result[HEAD].shape[-1]
    tokens = torch.randint(vocabulary, (rows, past + count), generator=drawn)
    first[TOKENS] = tokens[:, :past]
    more = {POSITIONS: torch.arange(past).unsqueeze(0)} if run.places else {}
    call = FlatCall(whole, {**run.loop.first.arguments, **more}, run.loop.states, {})
    with torch.no_grad():
        made = call({**first, **more})
    return {TOKENS: tokens[:, past:], **made}


def _of_all_tokens(steps: Callable[..., Any], loop: Loop, given: Leaves) -> dict[str, Any]:
    """The arguments of a later call, without a number that has results of the last token only."""
    recorded = loop.later.arguments
    numbers = [name for name, value in recorded.items() if type(value) is int]
    for left in (None, *numbers):
        arguments = {name: value for name, value in recorded.items() if name != left}
        with torch.no_grad():
            made = FlatCall(steps, arguments, (HEAD,), {})(given)
        if made[HEAD].shape[1] == given[TOKENS].shape[1]:
            return arguments
    return recorded


def _label(name: str) -> str | None:
    if name == TOKENS:
        return "sequence"
    return "past" if name.startswith(PAST) else None
