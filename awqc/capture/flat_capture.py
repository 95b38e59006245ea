"""A recorded call as a program, with nothing in it that its outputs do not need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from awqc.capture.module import capture_module
from awqc.capture.renamed import rename_inputs
from awqc.graph.families import ASSERTS
from awqc.kv_cache import present_of
from awqc.program import Program
from awqc.recording.calls import SeenCall
from awqc.recording.flat import FlatCall
from awqc.recording.instead import forward_instead
from awqc.recording.structures import Leaves
from awqc.recording.varying import varying_axes


def capture_flat(
    module: Any,
    flat: FlatCall,
    leaves: Sequence[Leaves],
    names: Mapping[str, str],
    outputs: Mapping[str, str],
    name: str,
    label: Callable[[str], str | None],
    fixed: bool = False,
) -> Program:
    """``flat``, a call of ``module``, as a program.

    Args:
        leaves: examples of the tensors in its arguments, by path, at different sizes.
        names: of the inputs, by the paths of tensors.
        outputs: names of the outputs, by path.
        name: of the program.
        label: what the axes of an input that vary are called, but the first; None: after itself.
        fixed: whether first axes are fixed as well.

    Raises:
        CaptureError: it cannot be captured.
    """
    plain = {path.replace(".", "_"): path for path in names}
    seen = [SeenCall({key: each[path] for key, path in plain.items()}) for each in leaves]
    labels = {key: label(names[path]) for key, path in plain.items()}

    def forward(**inputs: Tensor) -> dict[str, Tensor]:
        made = flat({plain[key]: value for key, value in inputs.items()})
        return {outputs[path].replace(".", "_"): value for path, value in made.items()}

    known = set(outputs.values())
    states = [(past, present_of(past)) for past in names.values() if present_of(past) in known]
    with forward_instead(module, forward):
        program = capture_module(
            module,
            seen[0].arguments,
            name=name,
            dynamic=_labelled(varying_axes(seen), labels),
            states=states,
            output_names=list(outputs.values()),
            steps=_steps(seen),
            fixed=[(key, 0) for key in plain] if fixed else (),
            insist=False,
            copy=False,
        )
    _drop_unread(program)
    return rename_inputs(program, list(names.values()))


def _labelled(
    axes: Mapping[str, Mapping[int, str]], labels: Mapping[str, str | None]
) -> dict[str, dict[int, str]]:
    """``axes`` with the ``labels`` of inputs; equal axes keep equal labels."""
    known: dict[str, str] = {}
    for key, found in axes.items():
        for axis, old in found.items():
            if axis and (new := labels[key]) is not None:
                known.setdefault(old, new)
    return {
        key: {axis: known.get(old, old) for axis, old in found.items()}
        for key, found in axes.items()
    }


def _steps(seen: Sequence[SeenCall]) -> dict[str, dict[int, int]]:
    """What the sizes of each axis that varies are multiples of, where that is not 1."""
    found: dict[str, dict[int, int]] = {}
    for key, axes in varying_axes(seen).items():
        for axis in axes:
            step = math.gcd(*(call.tensors[key].shape[axis] for call in seen))
            if axis and step > 1:
                found.setdefault(key, {})[axis] = step
    return found


def _drop_unread(program: Program) -> None:
    """Drop what no output reads: most of a decoder, where its first call is asked for little."""
    program.graph.eliminate_dead_code(_writes)
    program.tidy()


def _writes(node: Node) -> bool:
    """Whether ``node`` does something besides its result; checks and random numbers do not."""
    if node.op in ("placeholder", "output"):
        return True
    if not isinstance(node.target, OpOverload) or node.target in ASSERTS:
        return False
    return bool(node.target._schema.is_mutable)
