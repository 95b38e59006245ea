"""Whether a captured graph computes what the module does: on the example, and at other sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from awqc.errors import CaptureError
from awqc.export.graph_module import unflatten_call
from awqc.program import Batch, Program

_Call = tuple[Sequence[Any], dict[str, Any]]

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
EXACT = 1e-3
"""Relative differences beyond these are no rounding: both run the same operations."""


def check_agreement(module: nn.Module, program: Program) -> None:
    """Compare both on the example inputs, twice: a module may remember the first call.

    Raises:
        CaptureError: ``program`` gives something else than ``module``.
    """
    change = max(_difference(module, program, program.example) for _ in range(2))
    if change > _tolerance(program):
        raise CaptureError(
            f"{program.name}: the captured graph gives something else than the model on the "
            f"example inputs (relative difference {change:.2g}). The model computes outside of "
            "torch (numbers, NumPy, state that it keeps between calls): torch.export fixed what "
            "came of that. Make it depend on its inputs alone"
        )


def holds_at_other_sizes(module: nn.Module, program: Program) -> bool:
    """Whether both agree with every dynamic axis one longer; yes where that cannot be told."""
    longer = _longer(program)
    return longer is None or _difference(module, program, longer) <= _tolerance(program)


def _tolerance(program: Program) -> float:
    return TOLERANCE.get(program.source_dtype, EXACT)


def _difference(module: nn.Module, program: Program, batch: Batch) -> float:
    """Largest relative difference of an output; 0 where one of both refuses the inputs."""
    tensors = [batch[spec.name] for spec in program.inputs]
    wanted = _run(module, unflatten_call(program, tensors))
    found = _run(program.graph_module, (tensors, {}))
    if wanted is None or found is None:
        return 0.0
    if len(found) != len(wanted):
        return float("inf")
    return max(map(_change, found, wanted), default=0.0)


def _run(module: nn.Module, call: _Call) -> list[Tensor] | None:
    """The tensors that ``module`` returns; None where it fails."""
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, call)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            result = module(*args, **kwargs)
    except Exception:  # noqa: BLE001 - inputs of a size that was not asked for may be refused
        return None
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _change(found: Tensor, wanted: Tensor) -> float:
    """``|found - wanted| / |wanted|`` in the L2 norm; equal non-finite elements do not count."""
    if found.shape != wanted.shape:
        return float("inf")
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    found, wanted = found.to(wide), wanted.to(wide)
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    size = torch.where(wanted.isfinite(), wanted, 0).norm()
    return float(torch.where(same, 0, found - wanted).norm() / size.clamp(min=1e-12))


def _longer(program: Program) -> Batch | None:
    """The example with each dynamic axis one longer, its elements repeated.

    None where no axis is dynamic, or where one depends on others in a way that no axis shows.
    """
    examples = [program.example[spec.name] for spec in program.inputs]
    shapes = [[_expression(size) for size in spec.shape] for spec in program.inputs]
    sizes = {
        size: example.shape[axis] + 1
        for shape, example in zip(shapes, examples, strict=True)
        for axis, size in enumerate(shape)
        if size.is_Symbol
    }
    symbols = {symbol for shape in shapes for size in shape for symbol in size.free_symbols}
    if not symbols or not symbols <= set(sizes):
        return None
    return {
        spec.name: _resized(example, [int(size.subs(sizes)) for size in shape])
        for spec, example, shape in zip(program.inputs, examples, shapes, strict=True)
    }


def _expression(size: int | str) -> sympy.Expr:
    names = re.findall(r"[A-Za-z_]\w*", str(size))
    return sympy.sympify(size, locals={name: sympy.Symbol(name) for name in names})


def _resized(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """``value`` with ``sizes``, its elements repeated from the start along each longer axis."""
    for axis, size in enumerate(sizes):
        if size != value.shape[axis] > 0:
            value = value.index_select(axis, torch.arange(size) % value.shape[axis])
    return value
