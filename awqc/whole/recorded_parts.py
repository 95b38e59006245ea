"""Parts of a model as they were called from outside of all modules, each as one graph.

::

    run(model):  text_encoder(ids) ─> unet(noise, step, states) ─> … ─> vae.decode(latents)
    parts:       text_encoder         unet                              vae_decode

Nothing is known of an architecture. A part takes the tensors that reach it and gives those that
it returns; axes whose sizes differ between its calls are free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from awqc.bundle.parts import Wire
from awqc.capture.flat_capture import capture_flat
from awqc.errors import CaptureError, UsageError, spelled
from awqc.program import Batch, Program
from awqc.recording.calls import SeenCall
from awqc.recording.described import described
from awqc.recording.entries import EntryPoint
from awqc.recording.flat import FlatCall, flat_call
from awqc.recording.outermost import OutsideCall
from awqc.recording.structures import Leaves, constants
from awqc.recording.varying import varying_axes
from awqc.whole.seeded import seeded

REPEATED = 1e-3
"""What a call that is made again may give otherwise, over its largest value: rounding of sums."""
OTHER_SEED = 271828
"""Of what a call draws when it is made again; no run of the caller's draws the same."""
EXAMPLES = 6
"""Calls of different sizes that tell which axes are free."""


class NoGraphError(CaptureError):
    """A part is no graph, since it draws random numbers or cannot be captured; pieces may be."""


@dataclass(frozen=True)
class RecordedPart:
    """A method of a module, its calls, and the graph that computes the same.

    Attributes:
        name: of the part.
        entry: what is called.
        calls: all of them, in order.
        program: the graph.
        inputs: names of its inputs, by the paths of tensors in the arguments.
        outputs: names of its outputs, by the paths of tensors in the result; of one tensor that is
            at several the same.
    """

    name: str
    entry: EntryPoint
    calls: tuple[OutsideCall, ...]
    program: Program
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def described(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """What of the model it stands for, for a report: tensors of a call by path, with names.

        ``numbers`` in its calls tell it from other parts of the same method.
        """
        return {
            "module": self.entry.path,
            "method": self.entry.method,
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "numbers": dict(numbers),
            "form": _form(self.calls[0].answer),
        }

    def batches(self) -> list[Batch]:
        """What the graph reads in each call."""
        return [
            {name: call.before[path] for path, name in self.inputs.items()} for call in self.calls
        ]


@dataclass(frozen=True)
class Names:
    """Of a part, and of its inputs and outputs by the paths of tensors."""

    part: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


Naming = Callable[[EntryPoint, Leaves, Leaves], Names]
"""Names for an entry, the tensors that it takes and those that it returns."""


def usual_names(entry: EntryPoint, taken: Leaves, made: Leaves) -> Names:
    """The last word of a path where no other one ends so, else the path.

    A result that is called as an argument is gets ``out_`` before its name.
    """
    inputs = _short(taken)
    outputs = {
        path: name if not name[:1].isdigit() else f"output_{name}"
        for path, name in _short(made).items()
    }
    if len(made) == 1 and not _is_word(next(iter(made))):
        outputs = dict.fromkeys(made, "output")
    known = set(inputs.values())
    outputs = {path: f"out_{name}" if name in known else name for path, name in outputs.items()}
    return Names(str(entry).replace(".", "_") or "model", inputs, outputs)


def _short(values: Leaves) -> dict[str, str]:
    last = [path.rpartition(".")[2] for path in values]
    return {
        path: word if _is_word(word) and last.count(word) == 1 else path
        for path, word in zip(values, last, strict=True)
    }


def _is_word(name: str) -> bool:
    return bool(name) and not name[0].isdigit()


def capture_part(
    names: Names, entry: EntryPoint, module: nn.Module, calls: Sequence[OutsideCall]
) -> RecordedPart:
    """The part that ``calls`` are the calls of.

    Raises:
        CaptureError: it is called in several ways.
        NoGraphError: it is no function of the tensors that it is given, or cannot be captured.
    """
    name, same = names.part, _same_results(calls)
    outputs = {path: names.outputs[same[path]] for path in names.outputs}
    own = {path: output for path, output in outputs.items() if same[path] == path}
    check_one_form(name, calls)
    examples = _examples(calls)
    first = examples[0]
    if not outputs:
        raise CaptureError(f"{name}: returns no tensor, so there is nothing to compile")
    method: Callable[..., Any] = getattr(module, entry.method)
    leaves = [call.before for call in examples]
    if not leaves[0]:
        raise CaptureError(f"{name}: is given no tensor, so it is a constant; leave it out")
    flat, read = flat_call(method, first.arguments, tuple(own), leaves)
    _check_repeats(name, flat, calls)
    inputs = {path: names.inputs[path] for path in read}
    try:
        program = capture_flat(module, flat, leaves, inputs, own, name, lambda _: None)
    except (CaptureError, UsageError) as error:  # inputs are those that were recorded
        raise NoGraphError(error.text) from error
    part = RecordedPart(name, entry, tuple(calls), program, inputs, outputs)
    _check_sizes(part, examples)
    return part


def _form(answer: Any) -> Any:
    """The form of ``answer``; None where there are no words for it."""
    try:
        return described(answer)
    except CaptureError:
        return None


def _same_results(calls: Sequence[OutsideCall]) -> dict[str, str]:
    """For each path in the results the first one that has the same tensor in all of ``calls``."""
    paths = list(calls[0].result)
    return {
        path: next(
            first
            for first in paths
            if all(call.result.get(first) is call.result.get(path) for call in calls)
        )
        for path in paths
    }


def wires(parts: Sequence[RecordedPart]) -> list[Wire]:
    """What a part made and a later call was given, as the same tensor; also of the part itself."""
    made: dict[int, str] = {}
    found: dict[Wire, None] = {}
    calls = [(part, call) for part in parts for call in part.calls]
    for part, call in calls:
        for path, value in call.result.items():
            made.setdefault(id(value), f"{part.name}.{part.outputs[path]}")
    for part, call in calls:
        for path, name in part.inputs.items():
            if (source := made.get(id(call.before[path]))) is not None:
                found[Wire(source, f"{part.name}.{name}")] = None
    return list(found)


def check_one_form(name: str, calls: Sequence[OutsideCall]) -> None:
    """Refuse calls that one graph cannot be: with other tensors, or other numbers.

    Raises:
        CaptureError: two calls differ so.
    """
    first, *others = calls
    fixed = constants(first.arguments)
    for place, call in enumerate(others, 2):
        known = constants(call.arguments)
        for path in (*fixed, *(path for path in known if path not in fixed)):
            if fixed.get(path) != known.get(path):
                raise CaptureError(
                    f"{name}: the argument {path} is {fixed.get(path)!r} in call 1 and "
                    f"{known.get(path)!r} in call {place}; what changes from call to call must be "
                    f"a tensor. {_other_parts()}"
                )
        for what, one, two in (
            ("is given", first.before, call.before),
            ("returns", first.result, call.result),
        ):
            if differing := one.keys() ^ two.keys():
                path = min(differing)
                there, not_there = (1, place) if path in one else (place, 1)
                raise CaptureError(
                    f"{name}: {what} the tensor {path or 'that is its result'} in call {there} "
                    f"and not in call {not_there}; one graph takes and gives the same in every "
                    f"call. {_other_parts()}"
                )
            for path, value in one.items():
                if (value.ndim, value.dtype) != (two[path].ndim, two[path].dtype):
                    raise CaptureError(
                        f"{name}: {what} {path or 'a result'} as {_kind(value)} in call 1 and as "
                        f"{_kind(two[path])} in call {place}; one graph has one. {_other_parts()}"
                    )


def _other_parts() -> str:
    return (
        "Let run call it in one way only, or in each way twice at least, or name modules inside of "
        f"it with {spelled('part')}"
    )


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} of {value.ndim} axes"


def _examples(calls: Sequence[OutsideCall]) -> list[OutsideCall]:
    """Calls of different sizes, first the one to capture.

    torch.export fixes an axis of size 1, and takes axes of one size for one.
    """
    different: dict[tuple[tuple[int, ...], ...], OutsideCall] = {}
    for call in calls:
        different.setdefault(tuple(tuple(x.shape) for x in call.before.values()), call)
    chosen = list(different.values())
    axes = varying_axes([SeenCall(dict(call.before)) for call in chosen])

    def fitness(call: OutsideCall) -> tuple[int, int]:
        sizes = {
            label: call.before[path].shape[axis]
            for path, found in axes.items()
            for axis, label in found.items()
        }
        return sum(size > 1 for size in sizes.values()), len(set(sizes.values()))

    return _of_most_sizes(sorted(chosen, key=fitness, reverse=True))


def _of_most_sizes(calls: Sequence[OutsideCall]) -> list[OutsideCall]:
    """At most `EXAMPLES` of ``calls``, of which the first is one: others vary more axes first."""

    def varying(some: Sequence[OutsideCall]) -> int:
        axes = varying_axes([SeenCall(dict(call.before)) for call in some])
        return sum(map(len, axes.values()))

    found = list(calls[:1])
    for call in calls[1:]:
        if len(found) < EXAMPLES and varying([*found, call]) > varying(found):
            found.append(call)
    left = [call for call in calls if not any(call is one for one in found)]
    return [*found, *left][:EXAMPLES]


def _check_repeats(name: str, flat: FlatCall, calls: Sequence[OutsideCall]) -> None:
    """Refuse a part whose first or last call gives something else when it is made again.

    Raises:
        NoGraphError: it does.
    """
    for place, call in {1: calls[0], len(calls): calls[-1]}.items():
        with torch.no_grad(), seeded(OTHER_SEED):
            again = flat(_as_recorded(flat, call.before))
        for path, value in again.items():
            if not _alike(value, call.result[path]):
                raise NoGraphError(
                    f"{name}: call {place} gives another {path or 'result'} when it is made again "
                    "with the tensors that it was given: it draws random numbers, or reads what "
                    "is no argument of it. A part must be a function of its arguments"
                )


def _check_sizes(part: RecordedPart, examples: Sequence[OutsideCall]) -> None:
    """Refuse a graph that does not give for calls of other sizes what was recorded.

    As one that took a number of an example's values for its own.

    Raises:
        NoGraphError: it does not.
    """
    for call in examples[1:]:
        batch = {name: call.before[path] for path, name in part.inputs.items()}
        sizes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        try:
            with torch.no_grad():
                made = part.program.run(batch)
        except Exception as error:  # whatever an operation says of sizes
            raise NoGraphError(
                f"{part.name}: the captured graph fails where it is given {sizes}: "
                f"{type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
        named = dict(zip(part.program.outputs, made, strict=True))
        for path, name in part.outputs.items():
            if not _alike(named[name], call.result[path]):
                raise NoGraphError(
                    f"{part.name}: the captured graph gives another {name} than the model where it "
                    f"is given {sizes}"
                )


def _as_recorded(flat: FlatCall, given: Leaves) -> Leaves:
    return {path: value for path, value in given.items() if path not in flat.unread}


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    largest = float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=0, atol=REPEATED * largest, equal_nan=True)
