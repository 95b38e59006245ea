"""An image that a decoder reads at its first call, and remembers: as two graphs.

::

    encoder   what the processor makes of an image     -> keys and values of its rows
    decoder   tokens, keys and values of all before    -> logits, keys and values of all

What the first call takes and no other one is the encoder's. What comes of it stands in front of the
text, in the past that the decoder begins with; or layers of their own look at it, whose keys and
values stay as they are.
"""

from __future__ import annotations

import json
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
from awqc.huggingface.prefix_run import WHOLE, PrefixRun, begun
from awqc.huggingface.recorded import EXAMPLES, examples
from awqc.kv_cache import PAST, POSITIONS, PRESENT, PROMPT_ROWS, past_name, present_name
from awqc.program import Batch, Program, Task
from awqc.recording.flat import FlatCall, flat_call
from awqc.recording.loop import Loop
from awqc.recording.near import near
from awqc.recording.structures import Leaves, leaves

AGREE = 1e-3
"""How far logits may be from those of `generate`, relative to their norm."""


@dataclass(frozen=True)
class PrefixBundle:
    """The parts of a model that reads an image at its first call.

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
        known = begun(run, first.left)
        named = {**names, **self.constant}
        tokens, *others = (
            torch.cat([call.before[name] for call in run.calls], dim=1)
            for name in (TOKENS, *run.repeated)
        )
        past = {past_name(*named[path]): value for path, value in known.items()}
        read = {
            ENCODER: {path: first.before[path] for path in self._read(run.opening)},
            DECODER: {TOKENS: tokens, **dict(zip(run.repeated, others, strict=True)), **past},
        }
        made = {f"{ENCODER}.{present_name(*named[path])}": known[path] for path in run.kept}
        made[f"{DECODER}.{HEAD}"] = self._logits(read[DECODER], run)
        for path, name in names.items():
            made[f"{DECODER}.{present_name(*name)}"] = last.after[path]
        return Followed((read, made), recording.ids)

    def _read(self, opening: Sequence[str]) -> list[str]:
        """What of it the encoder reads."""
        known = {spec.name for spec in self.bundle.parts[ENCODER].inputs}
        return [path for path in opening if path in known]

    def _logits(self, read: Batch, run: PrefixRun) -> Tensor:
        """Those of all tokens; the model's own, where it makes all of them.

        Raises:
            CaptureError: it makes those of the last token, and the graph makes others.
        """
        made = [call.result[HEAD][:, -call.before[TOKENS].shape[1] :] for call in run.calls]
        own = torch.cat(made, dim=1)
        if own.shape[1] == read[TOKENS].shape[1]:
            return own
        program = self.bundle.parts[DECODER]
        inputs = {spec.name: read[spec.name] for spec in program.inputs}
        whole = program.run(inputs)[list(program.outputs).index(HEAD)]
        if not near(whole[:, -len(made) :], own[:, -len(made) :], AGREE):
            raise CaptureError(
                f"{self.generating.folder.path}: of all tokens at once the decoder makes other "
                f"{HEAD} than generate does, token by token; one graph has to do both"
            )
        return whole

    @property
    def carried(self) -> dict[str, tuple[str, str]]:
        """Layer and part of each state, by its path."""
        return _named(self.recorded.loop.states, DECODER, str(self.generating.folder.path))

    @property
    def constant(self) -> dict[str, tuple[str, str]]:
        """The same of what the first call makes and all others take as it is."""
        return _named(self.recorded.loop.once, ENCODER, str(self.generating.folder.path))

    @property
    def told(self) -> dict[str, str]:
        """What a runner must know, for the metadata of the encoder."""
        if not self.generating.task.prompted:
            return {}
        return {PROMPT_ROWS: json.dumps(self.recorded.repeated)}


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
    names = {**_named(loop.states, DECODER, where), **_named(loop.once, ENCODER, where)}
    present = {path: present_name(*name) for path, name in names.items()}
    past = {path: past_name(*name) for path, name in names.items()}
    opens, before = _opens(model.forward, run), [each.loop.first.before for each in runs]
    flat, read = flat_call(opens, loop.first.arguments, run.kept, before)
    if not set(read) <= set(run.opening):
        raise CaptureError(f"{where}: rows of an image are made of {', '.join(read)}")
    own = {path: path for path in read}
    made = {path: present[path] for path in run.kept}
    encoder = capture_flat(model, flat, before, own, made, f"{generating.name}-encoder", _label)
    steps = _steps(model.forward, run)
    later = [_later(model.forward, each, *sizes) for each, sizes in zip(runs, SIZES, strict=True)]
    arguments = _of_all_tokens(steps, loop, later[0])
    outputs = (HEAD, *loop.states)
    flat, read = flat_call(steps, arguments, outputs, later)
    taken = {path: past.get(path, path) for path in read}
    given = {path: present.get(path, path) for path in outputs}
    decoder = capture_flat(model, flat, later, taken, given, f"{generating.name}-decoder", _label)
    decoder.task = Task(None, (HEAD,))
    wires = [Wire(f"{ENCODER}.{present[path]}", f"{DECODER}.{past[path]}") for path in run.kept]
    start = int(loop.first.before[TOKENS][0, 0])
    parts: dict[str, Program] = {ENCODER: encoder, DECODER: decoder}
    settings = {} if generating.task.prompted else {"decoder_start_token_id": start}
    return PrefixBundle(generating, Bundle(parts, tuple(wires)), run, settings)


def _named(paths: Sequence[str], side: str, where: str) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for path in paths:
        place = layer_and_part(path)
        if place is None:
            raise CaptureError(
                f"{where}: {path} is carried from call to call, which is no layer's keys or values"
            )
        found[path] = place[0], f"{side}.{place[1]}"
    return found


def _opens(whole: Callable[..., Any], run: PrefixRun) -> Callable[..., Leaves]:
    """What of it there is any."""

    def forward(**arguments: Any) -> Leaves:
        result = whole(**arguments)
        known = begun(run, {**leaves(arguments), **leaves(result)})
        return {path: known[path] for path in run.kept}

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
    told = {TOKENS: torch.randint(vocabulary, (rows, past + count), generator=drawn)}
    for name in run.repeated:
        told[name] = first[name][:, -1:].expand(-1, past + count, *first[name].shape[2:])
    first |= {name: value[:, :past] for name, value in told.items()}
    more = {POSITIONS: torch.arange(past).unsqueeze(0)} if run.places else {}
    carried = (*run.loop.states, *run.loop.once)
    call = FlatCall(whole, {**run.loop.first.arguments, **more}, carried, {})
    with torch.no_grad():
        made = call({**first, **more})
    return {**{name: value[:, past:] for name, value in told.items()}, **made}


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
    if not name.startswith((PAST, PRESENT)):
        return None
    return "past" if f".{DECODER}." in name else "source"
