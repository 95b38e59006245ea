"""Whether a captured graph computes what the module does: on the example, with any mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from awqc.calling import unflatten_call
from awqc.errors import CaptureError
from awqc.graph.nodes import module_path
from awqc.graph.ops import argument, parameters
from awqc.probes.resized import padded_batches
from awqc.program import Batch, Program

_Call = tuple[Sequence[Any], dict[str, Any]]

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
EXACT = 1e-3
"""Relative differences beyond these are no rounding: both run the same operations."""
SWITCHES = ("train", "training", "dropout_p", "dropout")
"""Arguments of operations that draw random numbers, without which they draw none."""


def check_agreement(module: nn.Module, program: Program) -> None:
    """Compare both on the example inputs, twice: a module may remember the first call.

    Raises:
        CaptureError: ``program`` gives something else than ``module``, or something else each
            time, since it draws random numbers.
    """
    tensors = [program.example[spec.name] for spec in program.inputs]
    call: _Call = (tensors, {})
    found = _run(program.graph_module, call)
    again = (_run(module, unflatten_call(program, tensors)) for _ in range(2))
    change = max(_apart(found, wanted) or 0.0 for wanted in again)
    if change > tolerance(program):
        raise CaptureError(
            f"{program.name}: the captured graph gives something else than the model on the "
            f"example inputs (relative difference {change:.2g}). The model computes outside of "
            "torch (numbers, NumPy, state that it keeps between calls): torch.export fixed what "
            "came of that. Make it depend on its inputs alone"
        )
    _check_padding(module, program)
    if drawn := _random_nodes(program):
        first, second = (_run(program.graph_module, call, seed) or [] for seed in (0, 1))
        if max(map(_change, first, second), default=0.0) > tolerance(program):
            raise CaptureError(
                f"{program.name}: the outputs differ from run to run, since the model draws random "
                f"numbers in eval mode ({drawn[0].name}, in {module_path(drawn[0]) or 'forward'}): "
                "nothing could be verified. Let it take the numbers as an input"
            )


def _check_padding(module: nn.Module, program: Program) -> None:
    """Compare both where flags of the example differ: a mask that hides something.

    Raises:
        CaptureError: they differ.
    """
    for side, name, batch in padded_batches(program):
        change = difference(module, program, batch)
        if change is not None and change > tolerance(program):
            raise CaptureError(
                f"{program.name}: with another flag {side} of {name} than in the example the "
                "captured graph gives something else than the model (relative difference "
                f"{change:.2g}): the model goes another way there. Let it go one way, with "
                "torch.where in place of Python's if"
            )


def tolerance(program: Program) -> float:
    """The largest relative difference that is rounding."""
    return TOLERANCE.get(program.source_dtype, EXACT)


def difference(module: nn.Module, program: Program, batch: Batch) -> float | None:
    """Largest relative difference of an output; None where the module fails on ``batch``.

    It is infinite where the graph fails and the module does not.
    """
    tensors = [batch[spec.name] for spec in program.inputs]
    wanted = _run(module, unflatten_call(program, tensors))
    return None if wanted is None else _apart(_run(program.graph_module, (tensors, {})), wanted)


def _apart(found: list[Tensor] | None, wanted: list[Tensor] | None) -> float | None:
    """What `difference` says of what both gave."""
    if wanted is None:
        return None
    if found is None or len(found) != len(wanted):
        return float("inf")
    return max(map(_change, found, wanted), default=0.0)


def _random_nodes(program: Program) -> list[Node]:
    """Calls that may draw random numbers."""
    return [node for node in program.graph.nodes if _draws(node)]


def _draws(node: Node) -> bool:
    """Whether the call may draw random numbers; dropout in inference, or of none, does not."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = {each.name: argument(node, each.name) for each in parameters(node.target)}
    return all(given.get(name, True) for name in SWITCHES)


def _run(module: nn.Module, call: _Call, seed: int = 0) -> list[Tensor] | None:
    """The tensors that ``module`` returns; None where it fails.

    What is wrapped in ``torch.compile`` inside of it runs as it is: compiling takes seconds a size.
    """
    args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, call)
    plain = torch.compiler.set_stance("force_eager")  # type: ignore[no-untyped-call]  # torch's own has no types
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), plain:
            torch.manual_seed(seed)
            result = module(*args, **kwargs)
    except Exception:  # noqa: BLE001 - inputs of a size that was not asked for may be refused
        return None
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _change(found: Tensor, wanted: Tensor) -> float:
    """``|found - wanted| / |wanted|`` in the L2 norm; equal non-finite elements do not count."""
    if found.shape != wanted.shape:
        return float("inf")
    if torch.equal(found, wanted):
        return 0.0
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    found, wanted = found.to(wide), wanted.to(wide)
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    size = torch.where(wanted.isfinite(), wanted, 0).norm()
    return float(torch.where(same, 0, found - wanted).norm() / size.clamp(min=1e-12))
