"""Whether a captured graph computes what the module does: on the example, and at other sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from awqc.calling import unflatten_call
from awqc.errors import CaptureError
from awqc.graph.nodes import module_path
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
        CaptureError: ``program`` gives something else than ``module``, or something else each
            time, since it draws random numbers.
    """
    change = max(_difference(module, program, program.example) for _ in range(2))
    if change > _tolerance(program):
        raise CaptureError(
            f"{program.name}: the captured graph gives something else than the model on the "
            f"example inputs (relative difference {change:.2g}). The model computes outside of "
            "torch (numbers, NumPy, state that it keeps between calls): torch.export fixed what "
            "came of that. Make it depend on its inputs alone"
        )
    if drawn := _random_nodes(program):
        call: _Call = ([program.example[spec.name] for spec in program.inputs], {})
        first, second = (_run(program.graph_module, call, seed) or [] for seed in (0, 1))
        if max(map(_change, first, second), default=0.0) > _tolerance(program):
            raise CaptureError(
                f"{program.name}: the outputs differ from run to run, since the model draws random "
                f"numbers in eval mode ({drawn[0].name}, in {module_path(drawn[0]) or 'forward'}): "
                "nothing could be verified. Let it take the numbers as an input"
            )


@dataclass(frozen=True)
class OtherSize:
    """A batch of other sizes than the example.

    Attributes:
        batch: the inputs.
        axis: the input and the axis that were changed; empty where all were.
        size: what it was changed to.
        claimed: whether torch.export says that the graph holds for these sizes.
    """

    batch: Batch
    axis: str = ""
    size: int = 0
    claimed: bool = True

    def __str__(self) -> str:
        return f"{self.axis} = {self.size}" if self.axis else "each dynamic axis one longer"


def differing_size(module: nn.Module, program: Program) -> OtherSize | None:
    """Sizes at which both differ; None where none was found.

    Tried are each dynamic axis one longer, and sizes beyond those that torch.export found the
    graph to hold for: where the model takes them nevertheless, it does something else there.
    """
    tolerance = _tolerance(program)
    tried = _other_sizes(program)
    return next((o for o in tried if _difference(module, program, o.batch) > tolerance), None)


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


def _random_nodes(program: Program) -> list[Node]:
    """Calls that may draw random numbers."""
    return [
        node
        for node in program.graph.nodes
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    ]


def _run(module: nn.Module, call: _Call, seed: int = 0) -> list[Tensor] | None:
    """The tensors that ``module`` returns; None where it fails."""
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, call)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
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


def _other_sizes(program: Program) -> Iterator[OtherSize]:
    """The example at other sizes, its elements repeated.

    None where no axis is dynamic, or where one depends on others in a way that no axis shows.
    """
    shapes = {spec.name: [_expression(size) for size in spec.shape] for spec in program.inputs}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    longer: dict[sympy.Symbol, int] = {}
    beyond: dict[sympy.Symbol, tuple[str, set[int]]] = {}
    for (name, shape), node in zip(shapes.items(), placeholders, strict=True):
        for axis, size in enumerate(shape):
            if size.is_Symbol and size not in longer:
                longer[size] = program.example[name].shape[axis] + 1
                edges = _beyond_range(node.meta["val"].shape[axis])
                beyond[size] = (f"axis {axis} of {name}", edges)
    symbols = {
        symbol for shape in shapes.values() for size in shape for symbol in size.free_symbols
    }
    if not longer or not symbols <= set(longer):
        return
    if (batch := _resized_batch(program, shapes, longer)) is not None:
        yield OtherSize(batch)
    for symbol, (axis_name, edges) in beyond.items():
        for size in sorted(edges):
            if (batch := _resized_batch(program, shapes, {**longer, symbol: size})) is not None:
                yield OtherSize(batch, axis_name, size, claimed=False)


def _resized_batch(
    program: Program,
    shapes: Mapping[str, Sequence[sympy.Expr]],
    sizes: Mapping[sympy.Symbol, int],
) -> Batch | None:
    """The example with ``sizes`` for its axes; None where that is too much to run."""
    wanted = {n: [int(size.subs(sizes)) for size in shape] for n, shape in shapes.items()}
    if sum(map(math.prod, wanted.values())) > LARGEST:
        return None
    return {name: _resized(program.example[name], shape) for name, shape in wanted.items()}


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
