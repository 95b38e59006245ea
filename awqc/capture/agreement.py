"""Whether a captured graph computes what the module does: on the example, and at other sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
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
SMALLEST = 2
"""Below it torch.export always makes a case of its own."""
LARGEST = 2**22
"""Elements of inputs up to which other sizes are tried."""


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
    """Whether both agree at other sizes; yes where that cannot be told.

    Tried are each dynamic axis one longer, and sizes beyond those that torch.export found the
    graph to hold for: where the model takes them nevertheless, it does something else there.
    """
    tolerance = _tolerance(program)
    return all(_difference(module, program, b) <= tolerance for b in _other_sizes(program))


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


def _other_sizes(program: Program) -> Iterator[Batch]:
    """The example at other sizes, its elements repeated.

    None where no axis is dynamic, or where one depends on others in a way that no axis shows.
    """
    examples = [program.example[spec.name] for spec in program.inputs]
    shapes = [[_expression(size) for size in spec.shape] for spec in program.inputs]
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    longer: dict[sympy.Symbol, int] = {}
    beyond: dict[sympy.Symbol, set[int]] = {}
    for shape, example, node in zip(shapes, examples, placeholders, strict=True):
        for axis, size in enumerate(shape):
            if size.is_Symbol:
                longer[size] = example.shape[axis] + 1
                beyond[size] = _beyond_range(node.meta["val"].shape[axis])
    symbols = {symbol for shape in shapes for size in shape for symbol in size.free_symbols}
    if not symbols <= set(longer):
        return
    edges = [{**longer, symbol: size} for symbol, sizes in beyond.items() for size in sizes]
    for sizes in [longer, *edges] if longer else []:
        wanted = [[int(size.subs(sizes)) for size in shape] for shape in shapes]
        if sum(map(math.prod, wanted)) <= LARGEST:
            yield {
                spec.name: _resized(example, shape)
                for spec, example, shape in zip(program.inputs, examples, wanted, strict=True)
            }


def _beyond_range(size: torch.SymInt) -> set[int]:
    """The sizes next to the range that a condition of the model confines ``size`` to."""
    bounds = size.node.shape_env.var_to_range.get(size.node.expr)
    edges = set()
    if bounds is not None and bounds.lower.is_Integer and bounds.lower > SMALLEST:
        edges.add(int(bounds.lower) - 1)
    if bounds is not None and bounds.upper.is_Integer:
        edges.add(int(bounds.upper) + 1)
    return edges


def _expression(size: int | str) -> sympy.Expr:
    names = re.findall(r"[A-Za-z_]\w*", str(size))
    return sympy.sympify(size, locals={name: sympy.Symbol(name) for name in names})


def _resized(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """``value`` with ``sizes``, its elements repeated from the start along each longer axis."""
    for axis, size in enumerate(sizes):
        if size != value.shape[axis] > 0:
            value = value.index_select(axis, torch.arange(size) % value.shape[axis])
    return value
