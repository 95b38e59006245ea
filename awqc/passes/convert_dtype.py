"""The pass ``convert-dtype``."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.utils import _pytree as pytree

from awqc.errors import UsageError
from awqc.executor.run import NO_DATA, Run
from awqc.findings import NO_FACTS, Fact, Facts
from awqc.graph.families import CONVOLUTIONS, MATMULS, TRANSPOSED
from awqc.graph.nodes import fake_like, fake_mode_of
from awqc.graph.ops import argument, change_arguments, evaluate_call, given_arguments
from awqc.passes.base import Change, Pass
from awqc.program import Program
from awqc.weights.stored import is_dequantizing

aten = torch.ops.aten
HALVES = (torch.float16, torch.bfloat16)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LOWER = {
    aten.linear.default,
    *MATMULS,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.einsum.default,
    aten.scaled_dot_product_attention.default,
    *TRANSPOSED,
    *CONVOLUTIONS,
}
RAISE = {
    "pow", "rsqrt", "sqrt", "exp", "expm1", "log", "log1p", "softmax", "_softmax", "log_softmax",
    "_log_softmax", "mean", "sum", "var", "var_mean", "std", "norm", "linalg_vector_norm",
    "cumsum", "cumprod", "prod", "logsumexp", "layer_norm", "native_layer_norm", "rms_norm",
    "group_norm", "native_group_norm", "batch_norm", "instance_norm", "sin", "cos", "reciprocal",
    "square", "softplus", "_native_batch_norm_legit_no_training",
}  # fmt: skip


@dataclass(frozen=True)
class ConvertDtype(Pass):
    """Compute in another floating dtype, keeping in float32 what would overflow or cancel.

        before:  linear(x, W)             softmax(x)
        after:   linear(half(x), half(W))  softmax(float(x))

    To float16 or bfloat16, products run in half, and powers, roots, exponentials, sums and
    norms in float32; other operations take the wider dtype of what they read.  To float32,
    everything does, also in a float64 model.  Inputs and outputs take the dtype as well.
    Options: ``dtype``, float32, float16 or bfloat16.
    """

    dtype: str = "float32"
    name: ClassVar[str] = "convert-dtype"
    keeps_output: ClassVar[bool] = False

    @property
    def bars(self) -> Facts:
        """Codes stay as they are where half becomes float32; half comes last, and once."""
        return frozenset({Fact.OBSERVERS, Fact.HALF if self._narrows else Fact.CODES})

    @property
    def gives(self) -> Facts:
        """That casts were put in."""
        return frozenset({Fact.HALF}) if self._narrows else NO_FACTS

    @property
    def ends(self) -> Facts:
        """That casts were put in."""
        return NO_FACTS if self._narrows else frozenset({Fact.HALF})

    @property
    def _narrows(self) -> bool:
        return DTYPES[self.dtype] in HALVES

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")

    def apply(self, program: Program, run: Run = NO_DATA) -> list[Change]:
        """Convert tensors, inputs and calls."""
        dtype = DTYPES[self.dtype]
        if dtype is torch.float32:
            return _widen(program)
        return _Narrowing(program, dtype).run()


def is_mixed(program: Program) -> bool:
    """Whether a part of ``program`` is in half precision, and most of it is not."""
    if program.source_dtype in HALVES:
        return False
    reads = (node.meta.get("val") for node in program.graph.nodes if node.op == "get_attr")
    found = [getattr(value, "dtype", None) for value in reads]
    for node in program.graph.nodes:
        if isinstance(node.target, OpOverload):
            found += given_arguments(node).values()
    return any(each in HALVES for each in found if isinstance(each, torch.dtype))


def _widen(program: Program) -> list[Change]:
    """All half tensors, inputs and casts become float32; in a float64 model, float64 ones too."""
    others = {*HALVES, program.source_dtype}
    others.discard(torch.float32)
    changes = []
    for name, value in program.parameters().items():
        if value.dtype in others:
            program.set_weight(name, value.float())
            changes.append(Change(name, f"{value.dtype} -> float32"))

    replaced: list[torch.dtype] = []

    def widened(argument: Any) -> Any:
        if not isinstance(argument, torch.dtype) or argument not in others:
            return argument
        replaced.append(argument)
        return torch.float32

    for node in program.graph.nodes:
        before = len(replaced)
        change_arguments(node, widened)
        if len(replaced) > before:
            changes.append(Change(node.name, "computes in float32"))
    _retype_inputs(program, widened)
    if changes:
        _propagate(program)
    if program.source_dtype == torch.float64:
        program.tell(
            "the model came in float64: it is compiled, and takes its inputs, in float32, which "
            "is what runtimes have fast kernels for"
        )
    return changes


def _retype_inputs(program: Program, convert: Any) -> None:
    program.interface = replace(
        program.interface,
        inputs=tuple(replace(s, dtype=convert(s.dtype)) for s in program.inputs),
        example={name: value.to(convert(value.dtype)) for name, value in program.example.items()},
    )
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    for node in placeholders:
        node.meta["val"] = node.meta["val"].to(convert(node.meta["val"].dtype))


def _propagate(program: Program) -> None:
    """Shapes and dtypes of all calls anew."""
    first = next(iter(program.graph.nodes))
    for node in program.graph.nodes:
        if node.op == "get_attr":
            node.meta["val"] = fake_like(program.weight(str(node.target)), first)
        elif node.op == "call_function":
            node.meta["val"] = _retyped(node)


def _retyped(node: Node) -> Any:
    """The fake value of ``node`` with the dtypes that its operands give it now.

    The sizes stay as they are: to work them out again would fix symbolic ones, each time
    that an operation compares two of them.
    """
    former = node.meta["val"]
    if not any(_is_floating(leaf) for leaf in pytree.tree_leaves(former)):
        return former

    def value(read: Node) -> Any:
        return read.meta["val"]

    mode = fake_mode_of([value(read) for read in node.all_input_nodes])
    if mode is None:
        return evaluate_call(node, value)
    symbols = mode.shape_env
    with mode, symbols.suppress_guards() if symbols else nullcontext():
        values = evaluate_call(node, value)
    return pytree.tree_map(
        lambda was, now: was.to(now.dtype) if isinstance(was, Tensor) else was,
        former,
        values,
    )


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point


class _Narrowing:
    """Casts before each call, as its operation needs them."""

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        self._program = program
        self._dtype = dtype
        self._casts: dict[tuple[Node, torch.dtype], Node] = {}
        self._count = 0

    def run(self) -> list[Change]:
        program, dtype = self._program, self._dtype
        for name, value in program.parameters().items():
            if value.dtype == torch.float32 and self._fits(value):
                program.set_weight(name, value.to(dtype))
        program.learn(
            quantized={
                name: quantized.to(dtype) for name, quantized in program.findings.quantized.items()
            }
        )
        first = next(iter(program.graph.nodes))
        for node in program.graph.nodes:
            if node.op == "get_attr":
                node.meta["val"] = fake_like(program.weight(str(node.target)), first)
        _retype_inputs(program, lambda old: dtype if old == torch.float32 else old)
        for node in list(program.graph.nodes):
            if node.op == "call_function":
                self._convert(node)
            elif node.op == "output":
                self._cast_inputs(node, dtype)
        return [Change(program.name, f"computes in {dtype}, {self._count} casts")]

    def _fits(self, value: Tensor) -> bool:
        """Whether no finite element becomes infinite."""
        limit = torch.finfo(self._dtype).max
        finite = value[torch.isfinite(value)]
        return finite.numel() == 0 or float(finite.abs().max()) <= limit

    def _convert(self, node: Node) -> None:
        if is_dequantizing(node):
            pass
        elif node.target in LOWER:
            self._cast_inputs(node, self._dtype)
        else:
            name = getattr(node.target, "__name__", "").split(".")[0]
            operands = [n for n in node.all_input_nodes if _is_float(n)]
            dtypes = {n.meta["val"].dtype for n in operands}
            mixed = len(dtypes & {torch.float32, self._dtype}) > 1
            if name in RAISE or mixed or self._has_large_number(node):
                self._cast_inputs(node, torch.float32)
        node.meta["val"] = _retyped(node)

    def _has_large_number(self, node: Node) -> bool:
        """Whether ``node`` computes with a finite number that the dtype cannot hold."""
        limit = torch.finfo(self._dtype).max
        numbers = [a for a in given_arguments(node).values() if isinstance(a, int | float)]
        return any(math.isfinite(number) and abs(number) > limit for number in numbers)

    def _cast_inputs(self, node: Node, dtype: torch.dtype) -> None:
        for operand in node.all_input_nodes:
            if _is_float(operand) and operand.meta["val"].dtype in (torch.float32, self._dtype):
                node.replace_input_with(operand, self._cast(node, operand, dtype))

    def _cast(self, before: Node, value: Node, dtype: torch.dtype) -> Node:
        if value.meta["val"].dtype == dtype:
            return value
        key = (value, dtype)
        if key not in self._casts:
            self._count += 1
            source = value
            if dtype == self._dtype and _is_mask(before, value):
                # The lowest float32, a usual mask value, would become -inf in float16, and
                # the softmax of a row that is all -inf is NaN. Half of the lowest leaves
                # room for the scores that are added.
                low = torch.finfo(dtype).min / 2
                source = self._program.call_op(before, aten.clamp.default, value, low)
            self._casts[key] = self._program.call_op(
                before, aten._to_copy.default, source, dtype=dtype
            )
        return self._casts[key]


def _is_float(node: Node) -> bool:
    return _is_floating(node.meta.get("val"))


def _is_mask(node: Node, value: Node) -> bool:
    attends = node.target is aten.scaled_dot_product_attention.default
    return attends and argument(node, "attn_mask") is value
