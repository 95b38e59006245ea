"""Write a `Program` as a ``.pt2`` archive that torch alone loads and runs."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import sympy
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from awqc.calling import dynamic_shapes, example_call, in_plain_containers, restore_calls
from awqc.errors import ExportError
from awqc.export.torch_scans import scans_instead
from awqc.graph.trace_module import trace_module
from awqc.machine.process import quiet_libraries
from awqc.program import Program

_BOUNDS = (sympy.Le, sympy.Lt, sympy.Ge, sympy.Gt)


@dataclass(frozen=True)
class ExportedPt2:
    """What `export_pt2` wrote: ``path``, and the names of its ``quantized`` weights."""

    path: Path
    quantized: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Size on disk."""
        return self.path.stat().st_size


def export_pt2(program: Program, path: Path) -> ExportedPt2:
    """Write ``program`` to ``path``, called as the caller's module was.

    Who loads it may know tensors, lists and dicts alone: they stand for objects of other classes
    among arguments and results.

    Dequantizing is traced into plain aten operations on the packed codes: the archive
    needs no awqc, and holds no float copy of a quantized weight. Dynamic axes stay so. Weights
    are written one after the other.

    Raises:
        ExportError: torch cannot export the graph.
        OSError: ``path`` cannot be written.
    """
    plain = replace(program, interface=in_plain_containers(program.interface))
    args, kwargs = example_call(plain)
    module, shapes = restore_calls(plain), dynamic_shapes(plain)
    try:
        with torch.no_grad(), quiet_libraries(), scans_instead(program.graph_module):
            exported = trace_module(module, args, kwargs, shapes)
            _let_go_of_inequalities(exported)
            _let_go_of_bounds(exported)
            _let_go_of_origins(exported.graph_module)
            _let_go_of_memory(exported)
            with path.open("wb") as file:
                written = _Patient(file)
                torch.export.save(exported, written)  # type: ignore[arg-type]  # IO enough
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"{program.name}: torch.export could not write the quantized graph: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    if written.failure is not None:
        raise written.failure
    return ExportedPt2(path, tuple(program.findings.quantized))


def _let_go_of_origins(graph_module: GraphModule) -> None:
    """Leave values alone of what nodes know, also in graphs of loops.

    The rest is for debugging: it is large, and holds paths of this machine.
    """
    for module in graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}


def _let_go_of_inequalities(exported: ExportedProgram) -> None:
    """Take away that sizes must differ, as the example's height and width did, or not be 1.

    Such a condition says that the example was no special case where torch had one, such as that of
    a tensor which need not be reshaped. The graph calls whole operations, which know such cases
    themselves, and ``program`` was compared with the original at sizes that are equal.
    """
    conditions = exported._guards_code
    exported._guards_code = [each for each in conditions if not _is_inequality(each)]


def _is_inequality(condition: str) -> bool:
    tree = ast.parse(condition, mode="eval").body
    return isinstance(tree, ast.Compare) and [type(sign) for sign in tree.ops] == [ast.NotEq]


def _let_go_of_bounds(exported: ExportedProgram) -> None:
    """Take away the largest sizes that follow from a condition on several, which stays.

    ``past + tokens <= 128`` makes each 126 at most in torch, for which no size is below 2; where
    the past is empty, there may be 128 tokens.
    """
    sizes = (n.meta["val"].shape for n in exported.graph.nodes if _is_tensor_input(n))
    symbols = [size for shape in sizes for size in shape if isinstance(size, torch.SymInt)]
    if not symbols:
        return
    conditions = [guard.expr for guard in symbols[0].node.shape_env.guards]
    shared = {
        symbol
        for condition in conditions
        if isinstance(condition, _BOUNDS) and len(condition.free_symbols) > 1
        for symbol in condition.free_symbols
    }
    ranges = exported.range_constraints
    for symbol in shared & ranges.keys():
        ranges[symbol] = ValueRanges(ranges[symbol].lower, int_oo)


def _is_tensor_input(node: Node) -> bool:
    return node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor)


def _let_go_of_memory(exported: ExportedProgram) -> None:
    """Give tensors of no elements no memory: torch's writer counts what of it they leave out."""
    for name, value in exported.state_dict.items():
        if value.numel() == 0:
            empty = torch.empty(value.shape, dtype=value.dtype)
            trained = isinstance(value, nn.Parameter)
            exported.state_dict[name] = nn.Parameter(empty, False) if trained else empty


class _Patient(io.RawIOBase):
    """A file to which writing never fails; what went wrong is kept, and nothing is written then.

    torch's writer ends the whole process where a file that it writes to raises.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def writable(self) -> bool:
        """As files have it."""
        return True

    def seekable(self) -> bool:
        """As files have it."""
        return True

    def write(self, content: Any) -> int:
        """All of ``content``, or nothing."""
        return self._unless_failed(lambda: self._file.write(content), len(content))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As files have it."""
        return self._unless_failed(lambda: self._file.seek(offset, whence), offset)

    def flush(self) -> None:
        """As files have it."""
        self._unless_failed(lambda: self._file.flush() or 0, 0)

    def _unless_failed(self, act: Callable[[], int], otherwise: int) -> int:
        if self.failure is None:
            try:
                return act()
            except OSError as error:
                self.failure = error
        return otherwise
