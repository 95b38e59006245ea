"""Norms of a sum, with the sum as their second result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from awqc.fusion.onnx_values import Node, Value, dims, maker, readers, scalar, with_scalar
from awqc.fusion.workbench import CONTRIB, Workbench
from awqc.targets.base import SKIP_LAYER, SKIP_RMS

STEPS = 8
"""Operations between the mean square of an RMS norm and its result, at the most."""


@dataclass(frozen=True)
class Norm:
    """A norm over the last axis.

    Attributes:
        source: what is normalized.
        result: ``norm(source) * weight + bias``.
        bias: None for an RMS norm.
    """

    source: Value
    result: Value
    weight: Value
    bias: Value | None
    epsilon: float

    @property
    def kind(self) -> str:
        """The operation that adds and normalizes so."""
        return SKIP_RMS if self.bias is None else SKIP_LAYER


def fuse_skip_norms(bench: Workbench) -> None:
    """A sum and its norm in one, the sum being read by others too.

    before:  s = x + y;  n = s / sqrt(mean(s^2) + e) * w    (or layer_norm(s))
    after:   n, s = SkipSimplifiedLayerNormalization(x, y, w)    (or SkipLayerNormalization)

    An RMS norm is known by the mean of squares over the last axis, in whatever way its root,
    its weight and the casts around them are written; the proof says whether it is one. Between
    a cast of the sum to float32 and one of the result back, the kernel does the same.
    """
    for node in list(bench.graph):
        norm = _layer_norm(node) or _rms_norm(node)
        if norm is None:
            continue
        norm = _in_half(norm)
        fused = norm.kind in bench.target.fused
        why = _why_not(norm) or (_fuse(bench, norm) if fused else _keep_sum(bench, norm))
        if why is not None:
            bench.apart[str(norm.result.name)] = why


def _keep_sum(bench: Workbench, norm: Norm) -> str | None:
    """A sum that onnxruntime does not fuse with its norm when it loads the model.

    before:  s = Add(x, y);  n = layer_norm(s)
    after:   s = Sum(x, y);  n = layer_norm(s)

    The same numbers. For a target whose kernel for both is slower than the two: on the CPU
    SkipLayerNormalization takes five times as long as they do.
    """
    node = norm.source.producer()
    total = bench.add("Sum", node.inputs, (norm.source,), at=node)
    return bench.switch("Sum", {norm.source: total}, node.inputs)


def _fuse(bench: Workbench, norm: Norm) -> str | None:
    added = norm.source.producer()
    kind = norm.kind
    vectors = [norm.weight] if norm.bias is None else [norm.weight, norm.bias]
    type_ = norm.source.dtype
    weights = [
        each if each.dtype == type_ else bench.add("Cast", [each], to=int(type_))
        for each in vectors
    ]
    result, *unread, total = bench.add(
        kind,
        [*added.inputs, *weights],
        (norm.result, None, None, norm.source),
        domain=CONTRIB,
        at=added,
        epsilon=norm.epsilon,
    )
    for each in unread:  # where they have a name, the kernel makes them
        each.name = ""
    places = {norm.result: result, norm.source: total}
    return bench.switch(kind, places, [*added.inputs, *vectors])


def _in_half(norm: Norm) -> Norm:
    """The norm of what is cast to float32, up to where its result is cast back; or as it is."""
    cast, after = maker(norm.source, "Cast"), readers(norm.result)
    if cast is None or norm.result.is_graph_output() or not after:
        return norm
    source = cast.inputs[0]
    if any(node.op_type != "Cast" or node.outputs[0].dtype != source.dtype for node in after):
        return norm
    return replace(norm, source=source, result=after[0].outputs[0])


def _why_not(norm: Norm) -> str | None:
    """Why a norm has no sum to be fused with."""
    added = maker(norm.source, "Add")
    if added is None:
        return "what it normalizes is no sum"
    sizes = dims(norm.source)
    if sizes is None or len(sizes) != 3 or any(dims(each) != sizes for each in added.inputs):
        return "what is added is not of the same sizes"
    if any(dims(value) != sizes[-1:] for value in (norm.weight, norm.bias) if value is not None):
        return "its weight is no vector over the last axis"
    return None


def _layer_norm(node: Node) -> Norm | None:
    if node.op_type != "LayerNormalization" or len(node.inputs) < 2:
        return None
    rank = len(dims(node.inputs[0]) or [])
    if node.attributes.get_int("axis", -1) not in (-1, rank - 1):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return None
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return Norm(node.inputs[0], node.outputs[0], node.inputs[1], bias, epsilon)


def _rms_norm(node: Node) -> Norm | None:
    """The norm that begins with ``node``, the mean of squares."""
    if node.op_type != "ReduceMean":
        return None
    source = _squared(node.inputs[0])
    plus: Node = next(iter(readers(node.outputs[0])), None)
    found = with_scalar(plus) if plus is not None and plus.op_type == "Add" else None
    if source is None or found is None:
        return None
    value, weight = plus.outputs[0], None
    for _ in range(STEPS):
        reader = next(iter(readers(value)), None)
        if reader is None or reader.op_type not in ("Sqrt", "Reciprocal", "Div", "Mul", "Cast"):
            return None
        others = [each for each in reader.inputs if each is not value and scalar(each) is None]
        value = reader.outputs[0]
        weight = next((each for each in others if each.const_value is not None), None)
        if weight is not None:
            return Norm(source, value, weight, None, found[1])
    return None


def _squared(value: Value) -> Value | None:
    """``x`` of ``x ** 2`` or ``x * x``."""
    if (power := maker(value, "Pow")) is not None:
        return power.inputs[0] if scalar(power.inputs[1]) == 2 else None
    product = maker(value, "Mul")
    same = product is not None and product.inputs[0] is product.inputs[1]
    return product.inputs[0] if same else None
