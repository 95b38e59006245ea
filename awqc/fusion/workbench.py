"""Building what takes the place of a part beside it, proving it, and switching over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from awqc.fusion.onnx_values import Node, Value, ancestors, dims
from awqc.fusion.proof import Prover
from awqc.targets.base import Target

CONTRIB = "com.microsoft"
STATE_RANK = 4
"""Of a cache's tensors, whose sizes are those of a buffer where it is shared."""
PRODUCTS = frozenset({"MatMulNBits", "MatMul", "Gemm"})


class Workbench:
    """A graph that is being rewritten.

    Attributes:
        graph: of the model.
        target: what runs it.
        found: how often each fusion was made.
        apart: what stays as it is, by the name of a node or value, with the reason.
        shared: values that are made once for all places that need them, by a key.
        padding_differs: whether results at padding are others than they were.
        counts_places: whether positions are counted by places in the cache.
    """

    def __init__(self, model: Any, target: Target) -> None:
        self.model = model
        self.target = target
        self.graph = model.graph
        self.found: Counter[str] = Counter()
        self.apart: dict[str, str] = {}
        self.shared: dict[Any, Any] = {}
        self.padding_differs = False
        self.counts_places = False
        self._prover = Prover(self.graph)
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], Value] = {}
        self._count = 0
        self._hidden: set[Value] | None = None

    def add(
        self,
        op: str,
        inputs: Sequence[Value | None],
        like: Sequence[Value | None] = (None,),
        *,
        domain: str = "",
        at: Node | None = None,
        **attributes: Any,
    ) -> Any:
        """Append a node; its results have types and sizes of ``like``, where these are given.

        Returns:
            The result, or a tuple where there are several. The graph is brought in order when
            all is done.
        """
        node = ir.node(
            op, inputs, attributes=attributes, domain=domain, num_outputs=len(like)
        )  # fmt: skip
        self._count += 1
        node.name = f"{at.name if at is not None else 'fused'}/{op}_{self._count}"
        for result, model in zip(node.outputs, like, strict=True):
            result.name = f"{node.name}_{result.index()}"
            if model is not None:
                result.type, result.shape = model.type, model.shape
        self.graph.append(node)
        return node.outputs[0] if len(like) == 1 else tuple(node.outputs)

    def constant(self, array: Any, kind: Any = np.int64) -> Value:
        """A small constant; equal ones are one."""
        content = np.asarray(array, kind)
        key = (content.dtype.str, content.tobytes(), content.shape)
        if key not in self._constants:
            name = f"fused.constant_{len(self._constants)}"
            value = ir.Value(
                name=name,
                type=ir.TensorType(ir.DataType.from_numpy(content.dtype)),
                shape=ir.Shape(content.shape),
                const_value=ir.Tensor(content, name=name),
            )
            self._constants[key] = value
        value = self._constants[key]
        if value.name not in self.graph.initializers:  # new, or taken out as nothing read it
            self.graph.register_initializer(value)
        return value

    def size(self, like: Value, axis: int) -> Value:
        """``(1,)``, the size of ``like`` along ``axis``, off an input of the model if it has it."""
        like, axis = self.counting(like, axis) or (like, axis)
        key = ("size", like, axis)
        if key not in self.shared:
            self.shared[key] = self.add("Shape", [like], start=axis, end=axis + 1)
        return self.shared[key]

    def counting(self, like: Value, axis: int) -> tuple[Value, int] | None:
        """An input of the model, but a state, that is as large along the other's ``axis``."""
        symbol = (dims(like) or [])[axis]
        for value in self.graph.inputs:
            sizes = dims(value) or []
            if isinstance(symbol, str) and symbol in sizes and len(sizes) < STATE_RANK:
                return value, sizes.index(symbol)
        return None

    def switch(
        self, kind: str, places: Mapping[Value, Value], stops: Sequence[Value]
    ) -> str | None:
        """Let each value of ``places`` be what stands beside it, if both are equal.

        Args:
            kind: of the fusion, for the report.
            places: old values, and those that were built for them.
            stops: values whose own making is not in question.

        Returns:
            Why not, or None if it was done; what was built is then dead.
        """
        why = self.why_not(places, stops)
        if why is None:
            self.put(kind, places)
        return why

    def why_not(
        self,
        places: Mapping[Value, Value],
        stops: Sequence[Value],
        positions: Value | None = None,
        *,
        padding: bool = True,
    ) -> str | None:
        """Why values of ``places`` cannot be what stands beside them, or None if they can.

        ``positions`` and ``padding`` are as in `awqc.fusion.proof.Prover.why_not`.
        """
        if _circular(places):
            return "what it reads is made of what it makes"
        return self._prover.why_not(
            list(places), list(places.values()), stops, positions, padding=padding
        )

    def put(self, kind: str, places: Mapping[Value, Value]) -> None:
        """Let each value of ``places``, which are proved, be what stands beside it."""
        for old, new in places.items():
            self.replace(old, new)
        self.found[kind] += 1

    def is_hidden(self, value: Value) -> bool:
        """Whether ``value`` comes from a product with a weight, and not from positions alone."""
        if self._hidden is None:
            self._hidden = _hidden(self.graph)
        return value in self._hidden

    def replace(self, old: Value, new: Value) -> None:
        """Let ``new`` be read in place of ``old``; it takes over its name where that is seen."""
        new.type, new.shape = old.type, old.shape
        seen = old.is_graph_output()
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        if seen:
            name, old.name = old.name, f"{old.name}.before"
            new.name = name


def _circular(places: Mapping[Value, Value]) -> bool:
    """Whether a new value is made of an old one, in whose place it would then be read."""
    makers = ancestors(list(places.values()), set())
    return any(value in places for node in makers for value in node.inputs)


def _hidden(graph: Any) -> set[Value]:
    """Values that come from a product with a weight."""
    found: set[Value] = set()
    for node in graph:
        weight = node.inputs[1] if node.op_type in PRODUCTS else None
        product = weight is not None and weight.producer() is None and len(weight.shape) > 1
        if node.op_type != "Shape" and (product or any(each in found for each in node.inputs)):
            found.update(node.outputs)
    return found
