"""Write convolutions with a kernel for each sample as products of patches."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch.fx import Node

from awqc.graph.linears import conv_options
from awqc.graph.ops import argument, leading_arguments
from awqc.passes.base import Change
from awqc.program import Program

aten = torch.ops.aten


def unfold_own_kernels(program: Program) -> list[Change]:
    """``conv2d(x, w, groups=n)  ->  bmm(w, patches of x)`` where ``n`` may vary.

    Samples that have kernels of their own are convolved as groups of one sample, so that the
    batch becomes the number of groups. Formats such as ONNX fix that number; a batched product
    leaves it open. Left alone: images of a size that varies, padding that is given as text.
    """
    changes = []
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target is not aten.conv2d.default:
            continue
        options = conv_options(node)
        if isinstance(options["groups"], int) or not _is_plain(node, options):
            continue
        made = _product(program, node, options)
        node.replace_all_uses_with(made)
        program.graph.erase_node(node)
        changes.append(Change(node.name, "written as a product of patches"))
    return changes


def _is_plain(node: Node, options: dict[str, Any]) -> bool:
    """Whether groups of one sample come out with rows and sizes that do not vary."""
    x, weight = (operand.meta["val"] for operand in leading_arguments(node, 2))
    fixed = [*x.shape[2:], *weight.shape[1:], *node.meta["val"].shape[2:], x.shape[0]]
    if isinstance(options["padding"], str) or not all(isinstance(size, int) for size in fixed):
        return False
    return bool(x.shape[0] == 1 and _rows(node, options) is not None)


def _rows(node: Node, options: dict[str, Any]) -> int | None:
    """Output channels of each group."""
    groups, rows = options["groups"].meta["val"], argument(node, "weight").meta["val"].shape[0]
    expressions = [
        size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)
        for size in (rows, groups)
    ]
    share = sympy.simplify(expressions[0] / expressions[1])
    return int(share) if share.is_Integer else None


def _product(program: Program, node: Node, options: dict[str, Any]) -> Node:
    x, weight, bias = leading_arguments(node, 3)
    inside, *kernel = (int(size) for size in weight.meta["val"].shape[1:])
    columns = inside * kernel[0] * kernel[1]

    def call(target: Any, *args: Any) -> Node:
        return program.call_op(node, target, *args)

    samples = call(aten.reshape.default, x, [-1, inside, *x.meta["val"].shape[2:]])
    spacing = [list(options[key]) for key in ("dilation", "padding", "stride")]
    patches = call(aten.im2col.default, samples, kernel, *spacing)
    kernels = call(aten.reshape.default, weight, [-1, _rows(node, options), columns])
    made = call(aten.bmm.default, kernels, patches)
    made = call(aten.reshape.default, made, [1, -1, *node.meta["val"].shape[2:]])
    if bias is not None:
        made = call(aten.add.Tensor, made, call(aten.reshape.default, bias, [1, -1, 1, 1]))
    return made
