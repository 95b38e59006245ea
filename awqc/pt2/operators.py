"""Which operators a graph of an archive may call: those whose arguments are data.

Tensors, numbers, types and a few words; so no operator on the list can open a file, import a
module or call a Python object that the archive chose.
"""

from __future__ import annotations

import re

import torch

from awqc.pt2.failures import NotAllowedError

NAMESPACES = ("aten", "prims", "quantized_decomposed", "torchvision")
HIGHER_ORDER = (
    *("cond", "while_loop", "scan", "associative_scan", "map_impl", "out_dtype"),
    *("wrap_with_set_grad_enabled", "wrap_with_autocast"),
)
"""They call graphs of the archive and operators on the list, and nothing else."""

_ON_SIZES = frozenset({
    *("_operator.eq", "_operator.ne", "_operator.le", "_operator.ge", "_operator.lt"),
    *("_operator.gt", "_operator.neg", "_operator.pos", "_operator.mul", "_operator.add"),
    *("_operator.sub", "_operator.floordiv", "_operator.mod", "_operator.pow"),
    *("_operator.truediv", "_operator.and_", "_operator.or_", "_operator.lshift"),
    *("_operator.rshift", "math.trunc", "torch.sym_not", "torch.sym_int", "torch.sym_float"),
    *("torch.sym_ite", "torch.sym_max", "torch.sym_min", "torch._sym_sqrt", "torch.sym_sqrt"),
})  # fmt: skip
_TARGET = re.compile(r"torch\.ops\.([A-Za-z]\w*)\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)", re.ASCII)
_WRAPPER = re.compile(r"torch\.ops\.higher_order\.([a-z_]+)")
_WRAPPED = re.compile(r"(?:Optional|List)\[")
_PLAIN = frozenset({"Tensor", "int", "float", "bool", "number", "complex", "Device", "Generator"})
_WORDS = frozenset({
    *("UPLO", "activation", "approximate", "assert_msg", "driver", "equation", "indexing"),
    *("interpolation", "mode", "norm", "ord", "p", "pad_mode", "padding", "padding_mode"),
    *("padding_side", "reduce", "rounding_mode", "side"),
})  # fmt: skip
"""Arguments that are words: how to round, what to sum, what to say when an assertion fails."""


def check_operator(target: str) -> str:
    """``target`` if a graph may call it.

    Raises:
        NotAllowedError: it may not, or no operator of that name is registered here.
    """
    wrapper = _WRAPPER.fullmatch(target)
    if target in _ON_SIZES or (wrapper and wrapper[1] in HIGHER_ORDER):
        return target
    match = _TARGET.fullmatch(target)
    if match is None or match[1] not in NAMESPACES:
        raise NotAllowedError(f"a call of {target[:80]!r}, which is not on the list of operators")
    operator = _look_up(*match.groups())
    if operator is None:
        raise NotAllowedError(f"a call of {target!r}, which is not registered here")
    for argument in operator._schema.arguments:
        kind = _WRAPPED.sub("", str(argument.type)).rstrip("]")
        if kind not in _PLAIN and not (kind == "str" and argument.name in _WORDS):
            raise NotAllowedError(f"a call of {target!r}, which takes a {argument.type}")
    return target


def _look_up(namespace: str, name: str, overload: str) -> torch._ops.OpOverload | None:
    packet = getattr(getattr(torch.ops, namespace), name, None)
    operator = getattr(packet, overload, None)
    return operator if isinstance(operator, torch._ops.OpOverload) else None
