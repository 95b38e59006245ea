"""An encoder and a decoder as a bundle of graphs, found in what `generate` calls.

::

    encoder   what the processor makes            -> the encoder's states
    cross     the encoder's states                -> keys and values of attention to them
    decoder   tokens, the encoder's mask,         -> logits, keys and values of all tokens
              keys and values of both attentions

Nothing is known of an architecture: parts are modules that `generate` calls from outside, and a
value that flows from one call to another is known by its being the same tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from awqc.bundle.parts import Bundle, Wire
from awqc.capture.flat_capture import capture_flat
from awqc.errors import CaptureError
from awqc.huggingface.folder import reporting
from awqc.huggingface.generating import FEWEST_TOKENS, TOKENS, Followed, Generating
from awqc.huggingface.generating_run import Recorded
from awqc.huggingface.inner_generate import noting_inner
from awqc.huggingface.recorded import EXAMPLES, examples
from awqc.huggingface.whole_encoding import encoding_whole
from awqc.kv_cache import PAST, encoder_side, past_name, present_name
from awqc.machine.products import quick_products
from awqc.program import Batch, Program, Task
from awqc.recording.flat import FlatCall, flat_call
from awqc.recording.loop import Loop
from awqc.recording.remembered import remembering
from awqc.recording.spare import spare_arguments
from awqc.recording.structures import Leaves

ENCODER, CROSS, DECODER = "encoder", "cross", "decoder"
SIZES = ((5, 3), (4, 2))
"""For each of `EXAMPLES` the tokens of a decoder's first call, and of a later one."""
HEAD = "logits"
MASK = "attention_mask"
_CACHED = re.compile(r"(?:^|\.)layers\.(\d+)\.(key|value)s$")


@dataclass(frozen=True)
class GeneratingBundle:
    """The parts of a model that generates, and the names of what they take and give.

    Attributes:
        generating: the model.
        bundle: its parts.
        recorded: a run, which tells how the parts are called.
        given: names of what the decoder is given, by path in its arguments.
        settings: how the decoder generates, where `generate` of the whole tells that of the
            decoder: in the words of ``generation_config.json``.
    """

    generating: Generating
    bundle: Bundle
    recorded: Recorded
    given: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def follow(self, inputs: dict[str, Tensor], most: int) -> Followed:
        """What a run on ``inputs``, of ``most`` new tokens, gives to each part and makes.

        All tokens of the run are one call of the decoder, from no past.
        """
        paths = (self.recorded.encoder.path, self.recorded.loop.path)
        with remembering(self.generating.model.get_submodule(self.recorded.encoder.path)):
            recording = self.generating.record(inputs, most, paths)
        known = self.recorded
        where = str(self.generating.folder.path)
        run = Recorded.of(recording.calls, where, lambda _: known.spare)
        run = replace(run if known.alone else run.through(inputs), names=known.names)
        loop, made = run.loop, {}
        for path, result in run.wired.items():
            made[f"{ENCODER}.{result_name(run, result)}"] = loop.first.before[path]
        for path in loop.once:
            made[f"{CROSS}.{self.carried[path]}"] = loop.first.left[path]
        values = {f"{ENCODER}.{path}": value for path, value in run.encoder.before.items()}
        values |= {f"{DECODER}.{name}": loop.first.before[p] for p, name in self.given.items()}
        values[f"{DECODER}.{self.tokens}"] = run.tokens
        values |= {f"{DECODER}.{k}": v for k, v in self.empty_past(len(run.tokens)).items()}
        values |= {wire.target: made[wire.source] for wire in self.bundle.wiring}
        for path in loop.made:
            made[f"{DECODER}.{path}"] = torch.cat([call.result[path] for call in run.calls], dim=1)
        last = run.calls[-1].after
        made |= {f"{DECODER}.{self.carried[path]}": last[path] for path in loop.states}
        read = {
            part: {spec.name: values[f"{part}.{spec.name}"] for spec in program.inputs}
            for part, program in self.bundle.parts.items()
        }
        outputs = {name: made[name] for name in self.bundle.outputs}
        return Followed((read, outputs), recording.ids)

    @property
    def carried(self) -> dict[str, str]:
        """Names of what is carried from call to call, by its path, as outputs."""
        loop = self.recorded.loop
        sides = {ENCODER: loop.once, DECODER: loop.states}
        return {
            path: present_name(*_cached(path, side))
            for side, paths in sides.items()
            for path in paths
        }

    @property
    def tokens(self) -> str:
        """The decoder's input of tokens."""
        return _token_name(self.recorded.loop.fresh[0])

    def empty_past(self, rows: int) -> Batch:
        """The decoder's states before its first call."""
        program = self.bundle.parts[DECODER]
        carried = {name for name, _ in program.states}
        return {
            spec.name: torch.zeros(
                rows, *(0 if isinstance(size, str) else size for size in spec.shape[1:]),
                dtype=spec.dtype,
            )
            for spec in program.inputs
            if spec.name in carried
        }  # fmt: skip


def capture_parts(generating: Generating) -> GeneratingBundle:
    """The parts of ``generating``, captured.

    Raises:
        CaptureError: `generate` is no loop of one decoder behind one encoder, or a part cannot
            be captured.
    """
    runs: list[Recorded] = []
    model = generating.model
    for each in EXAMPLES:
        inputs = generating.inputs(examples(generating.processor, *each))
        encoder = model.get_submodule(runs[0].encoder.path) if runs else None
        known = remembering(encoder) if encoder is not None else nullcontext()
        with known, noting_inner(model) as inner, quick_products():
            calls = generating.record(inputs, FEWEST_TOKENS).calls
        run = Recorded.of(calls, str(generating.folder.path), partial(_spare, model))
        runs.append(run if run.alone else run.through(inputs))
    settings = _settings(runs[0], inner)
    encode = _forward(model, runs[0].encoder.path)
    if not runs[0].alone:
        encode, names = encoding_whole(generating, runs)
        runs = [replace(each, names=names) for each in runs]
    run = runs[0]
    given = {path: _given_name(path, run) for path in run.loop.given}
    cached = {
        **{path: _cached(path, ENCODER) for path in run.loop.once},
        **{path: _cached(path, DECODER) for path in run.loop.states},
    }
    calls_of = {ENCODER: _encoder_call, CROSS: _cross_call, DECODER: _decoder_call}
    names = {**given, **{path: past_name(*name) for path, name in cached.items()}}
    names[run.loop.fresh[0]] = _token_name(run.loop.fresh[0])
    parts: dict[str, Program] = {}
    for part, describe in calls_of.items():
        if part == CROSS and not run.loop.once:
            continue
        path, arguments, outputs, tensors = describe(model, runs)
        forward = encode if part == ENCODER else _forward(model, path)
        flat, read = flat_call(forward, arguments, outputs, tensors)
        own = {each: each if part == ENCODER else names[each] for each in read}
        made = {
            each: present_name(*cached[each])
            if each in cached
            else result_name(run, each)
            if part == ENCODER
            else each
            for each in outputs
        }
        parts[part] = capture_flat(
            model.get_submodule(path), flat, tensors, own, made, f"{generating.name}-{part}", _label
        )
        mask = MASK if MASK in own.values() else None
        parts[part].task = Task(mask, (HEAD,) if HEAD in made.values() else ())
    _check_read(generating, parts[ENCODER])
    return GeneratingBundle(
        generating,
        Bundle(parts, tuple(_wires(parts, run, given, cached))),
        run,
        {path: name for path, name in given.items() if path not in run.wired},
        settings,
    )


def _check_read(generating: Generating, encoder: Program) -> None:
    """Refuse an encoder that does not read the texts that the model is given beside images.

    Raises:
        CaptureError: it is one.
    """
    if generating.task.with_prompt and TOKENS not in {spec.name for spec in encoder.inputs}:
        raise CaptureError(
            f"{generating.folder.path}: the encoder reads no text, which the decoder is given to "
            "begin with; runners have no way to do that"
        )


def _settings(run: Recorded, inner: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `generate` of the decoder is told, with the tokens that it begins with."""
    if run.loop.path not in inner:
        return {}
    start, *more = run.loop.first.before[run.loop.fresh[0]][0].tolist()
    forced = {"forced_decoder_ids": [[at, token] for at, token in enumerate(more, 1)]}
    return {"decoder_start_token_id": start, **inner[run.loop.path], **(forced if more else {})}


_Described = tuple[str, dict[str, Any], tuple[str, ...], list[Leaves]]
"""The module that is called, its arguments, what is looked at, and examples of its tensors."""


def _encoder_call(model: Any, runs: Sequence[Recorded]) -> _Described:
    call = runs[0].encoder
    wired = tuple(dict.fromkeys(runs[0].wired.values()))
    path = call.path if runs[0].alone else ""
    return path, call.arguments, wired, [run.encoder.before for run in runs]


def _spare(model: Any, loop: Loop) -> tuple[str, ...]:
    return spare_arguments(_forward(model, loop.path), loop)


def _cross_call(model: Any, runs: Sequence[Recorded]) -> _Described:
    loop = runs[0].loop
    return loop.path, loop.first.arguments, loop.once, [run.loop.first.before for run in runs]


def _decoder_call(model: Any, runs: Sequence[Recorded]) -> _Described:
    """A later call, of several tokens behind a past of several."""
    loop = runs[0].loop
    forward, examples_of = _forward(model, loop.path), []
    for run, (past, count) in zip(runs, SIZES, strict=True):
        first = dict(run.loop.first.before)
        drawn = torch.Generator().manual_seed(0)
        rows, vocabulary = len(run.tokens), run.loop.later.result[loop.made[0]].shape[-1]
        tokens = torch.randint(vocabulary, (rows, past + count), generator=drawn)
        first[loop.fresh[0]] = tokens[:, :past]
        call = FlatCall(forward, loop.first.arguments, (*loop.once, *loop.states), {})
        with torch.no_grad():
            made = call(first)
        kept = {path: first[path] for path in loop.given}
        examples_of.append({**kept, loop.fresh[0]: tokens[:, past:], **made})
    what = (
        f"{loop.path or type(model).__name__} does not read {SIZES[0][1]} tokens at once behind "
        f"{SIZES[0][0]} others, and one graph has to, for any numbers of them"
    )
    with torch.no_grad(), reporting(what):
        FlatCall(forward, loop.later.arguments, loop.made, {})(examples_of[0])
    arguments = _for_all_tokens(forward, loop, examples_of[0])
    return loop.path, arguments, (*loop.made, *loop.states), examples_of


def _for_all_tokens(forward: Callable[..., Any], loop: Loop, given: Leaves) -> dict[str, Any]:
    """The arguments of a later call, without a number that has results of the last token only.

    `generate` needs no others, and a graph that reads several tokens at once gives one for each.
    """
    recorded = loop.later.arguments
    numbers = [name for name, value in recorded.items() if type(value) is int]
    ways = [recorded, *({k: v for k, v in recorded.items() if k != name} for name in numbers)]
    wanted = given[loop.fresh[0]].shape[1]
    for arguments in ways if len(ways) > 1 else ():
        with torch.no_grad():
            made = FlatCall(forward, arguments, loop.made[:1], {})(given)
        if made[loop.made[0]].shape[1] == wanted:
            return arguments
    return recorded


def _label(name: str) -> str | None:
    """What the free axes of an input are called: of tokens, of states, of what the encoder read."""
    if name == TOKENS:
        return "sequence"
    if name.startswith(PAST) and f".{DECODER}." in name:
        return "past"
    return "source" if name.startswith((PAST, f"{ENCODER}_")) else None


def _forward(model: Any, path: str) -> Callable[..., Any]:
    forward: Callable[..., Any] = model.get_submodule(path).forward
    return forward


def _wires(
    parts: Mapping[str, Program],
    run: Recorded,
    given: Mapping[str, str],
    cached: Mapping[str, tuple[str, str]],
) -> list[Wire]:
    wires = [
        Wire(f"{ENCODER}.{result_name(run, result)}", f"{part}.{given[path]}")
        for part in (CROSS, DECODER)
        if part in parts
        for path, result in run.wired.items()
        if given[path] in {spec.name for spec in parts[part].inputs}
    ]
    return wires + [
        Wire(f"{CROSS}.{present_name(*cached[path])}", f"{DECODER}.{past_name(*cached[path])}")
        for path in run.loop.once
    ]


def result_name(run: Recorded, path: str) -> str:
    """What the encoder's result at ``path`` is called: not as one of its own inputs, such as a mask
    that it makes shorter."""
    return encoder_side(path) if path in run.encoder.before else run.names.get(path, path)


def _token_name(path: str) -> str:
    return path.removeprefix("decoder_")


def _given_name(path: str, run: Recorded) -> str:
    """As the ecosystem calls what an encoder makes, and what it was given itself."""
    made = run.wired.get(path, path)
    return encoder_side(run.names.get(made, made))


def _cached(path: str, side: str) -> tuple[str, str]:
    """Layer and part of a tensor of a cache: ``("3", "decoder.key")``.

    Raises:
        CaptureError: it is no layer's keys or values.
    """
    found = layer_and_part(path)
    if found is None:
        raise CaptureError(
            f"{path} is carried from call to call, which is no layer's keys or values; the names "
            "that runners know have no place for it"
        )
    return found[0], f"{side}.{found[1]}"


def layer_and_part(path: str) -> tuple[str, str] | None:
    """Layer and part of a tensor of a cache by its path: ``("3", "key")``; None: it is none."""
    found = _CACHED.search(path)
    return None if found is None else (found[1], found[2])
