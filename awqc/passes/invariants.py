"""What must hold after each pass, one named check each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from awqc.errors import InvariantError, spelled
from awqc.executor.run import NO_DATA, Run
from awqc.graph.linears import find_linears
from awqc.machine.in_rows import AT_ONCE, steps
from awqc.numerics.formats.base import QuantizedWeight
from awqc.passes.base import Pass
from awqc.passes.insert_observers import OBSERVERS
from awqc.program import Program

ULPS = 16
"""Units of the last place of an output's magnitude that correct computations may differ by."""
TOLERANCE = 1e-4
"""Largest change of an output, relative to its variation, that counts as rounding in float32.

A fold multiplies and divides by the same factors, an error of about 1e-7 a tensor, which a
deep network amplifies: 2e-6 was seen on a 30-layer decoder. A wrong fold changes outputs by
the size of the scales themselves, four orders of magnitude above the limit.
"""
ROUNDINGS = 4
"""What a model that amplifies rounding more may move: so often what one rounding of every weight
moves it."""
LARGEST = 1e-2
"""What no rounding excuses."""

Check = Callable[[Program, Pass, Run], None]


def check_invariants(program: Program, step: Pass, run: Run = NO_DATA) -> None:
    """Run all checks.

    Raises:
        InvariantError: names the check, the pass, and the node.
    """
    for check in CHECKS:
        check(program, step, run)


def _graph_is_well_formed(program: Program, step: Pass, run: Run) -> None:
    try:
        program.graph.lint()
    except RuntimeError as error:
        raise InvariantError(f"after {step.name}: the graph is malformed: {error}") from error


def _calls_are_known(program: Program, step: Pass, run: Run) -> None:
    for node in program.graph.nodes:
        observer = node.op == "call_module" and str(node.target).startswith(OBSERVERS)
        if node.op in ("call_method", "call_module") and not observer:
            raise InvariantError(
                f"after {step.name}: {node.name} is a {node.op}; only calls of functions are known"
            )


def _values_have_shapes(program: Program, step: Pass, run: Run) -> None:
    for node in program.graph.nodes:
        if node.op != "output" and "val" not in node.meta:
            raise InvariantError(f"after {step.name}: {node.name} has no shape and dtype")


def _observers_are_gone(program: Program, step: Pass, run: Run) -> None:
    if step.name == "insert-observers":
        return
    for node in program.graph.nodes:
        if node.op == "call_module":
            raise InvariantError(f"after {step.name}: the observer {node.name} is still there")


def _qparams_fit(program: Program, step: Pass, run: Run) -> None:
    for name, quantized in program.findings.quantized.items():
        form, tensors = quantized.format, quantized.tensors
        for role, expected in form.layout(quantized.rows, quantized.columns).items():
            found = tuple(tensors[role].shape)
            if found != expected:
                raise InvariantError(
                    f"after {step.name}: {name} has {role} {found}, needs {expected}"
                )
        fresh = step.name == "quantize-weights"
        if fresh and _largest_code(quantized) >= form.levels:
            raise InvariantError(f"after {step.name}: {name} has a code beyond its bits")
        if (fault := form.fault(tensors)) is not None:
            raise InvariantError(f"after {step.name}: {name} has {fault}")


def _largest_code(quantized: QuantizedWeight) -> int:
    """The largest code, or what no code can pass where every pattern of bits is one."""
    bits = 8 * quantized.tensors[quantized.format.roles[0]].shape[1] // max(1, quantized.columns)
    if 2**bits <= quantized.format.levels:
        return quantized.format.levels - 1
    starts = steps(quantized.rows, quantized.columns)
    parts = (quantized.part(start, start + starts.step) for start in starts)
    return max(int(part.codes.max()) for part in parts)


def _outputs_are_unchanged(program: Program, step: Pass, run: Run) -> None:
    """The heart: until weights are quantized, every pass keeps the model's function."""
    if not step.keeps_output:
        return
    outputs = run.outputs(program)
    for name, now, before in zip(program.outputs, outputs, run.reference, strict=True):
        if name in program.scaled_outputs() or not isinstance(before, Tensor):
            continue  # a size, which one segment gives to the next
        change = relative_change(now, before)
        if not change <= TOLERANCE and not change <= (limit := _explained(program, run, name)):
            raise InvariantError(
                f"after {step.name}: the output {name!r} moved by {change:.2g} (relative), "
                f"rounding explains {limit:.2g}. A fold changed the function; report the "
                f"model, or leave the pass out with {spelled('pipeline')}"
            )


def _explained(program: Program, run: Run, output: str) -> float:
    """How much rounding alone may move ``output``: measured, since networks amplify it."""
    rounded = program.clone()
    generator = torch.Generator().manual_seed(0)
    for name in {linear.weight_name: None for linear in find_linears(program.graph)}:
        weight = program.weight(name)
        noise = torch.rand(weight.shape, generator=generator).to(weight) * 2 - 1
        rounded.set_weight(name, weight + weight * noise * torch.finfo(weight.dtype).eps)
    place = program.outputs.index(output)
    moved = relative_change(run.outputs(rounded)[place], run.outputs(program)[place])
    return min(max(TOLERANCE, ROUNDINGS * moved), LARGEST)


def relative_change(now: Tensor, before: Tensor) -> float:
    """``(|now - before| - 16 ulp |before|) / |before - its mean|`` in the L2 norm, or 0 if less.

    A constant under the output hides no change, and its rounding is none. What does not vary is
    taken with its mean; equal non-finite elements do not count.
    """
    if now.shape != before.shape:
        return float("inf")
    if torch.equal(now, before):
        return 0.0
    ulps = ULPS * torch.finfo(before.dtype).eps if before.is_floating_point() else 0.0
    pairs = list(zip(_pieces(now), _pieces(before), strict=True))
    difference = _norm(_moved(*(each.double() for each in pair)) for pair in pairs)
    finite = [_finite(piece) for _, piece in pairs]
    mean = sum(float(piece.double().sum()) for piece in finite) / max(1, sum(map(len, finite)))
    size = _norm(piece.double() for piece in finite)
    varied = _norm(piece.double() - mean for piece in finite)
    if not varied > ulps * size:
        varied = size
    beyond = difference - ulps * size
    return 0.0 if beyond <= 0 else beyond / max(varied, 1e-12)


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """All elements, as many at a time as stay in the processor's cache."""
    pieces: tuple[Tensor, ...] = tensor.reshape(-1).split(AT_ONCE)
    return pieces


def _finite(piece: Tensor) -> Tensor:
    return piece if piece.isfinite().all() else piece[piece.isfinite()]


def _moved(now: Tensor, before: Tensor) -> Tensor:
    same = (now == before) | (torch.isnan(now) & torch.isnan(before))
    return torch.where(same, 0, now - before)


def _norm(pieces: Iterable[Tensor]) -> float:
    """The L2 norm of all ``pieces`` together; not a number if an element is none."""
    return math.sqrt(sum(float(piece.square().sum()) for piece in pieces))


CHECKS: tuple[Check, ...] = (
    _graph_is_well_formed,
    _calls_are_known,
    _values_have_shapes,
    _observers_are_gone,
    _qparams_fit,
    _outputs_are_unchanged,
)
