"""Turn a `torch.export.ExportedProgram` into a `Program`."""

from __future__ import annotations

import builtins
import keyword
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from awqc.calling import path_name, plain_tree
from awqc.capture.attribute_names import with_attribute_names, write_paths
from awqc.capture.regions import check_flat, has_contexts
from awqc.capture.token_scans import write_linear_attention
from awqc.errors import CaptureError, UnsupportedGraphError
from awqc.graph.nodes import results_of, set_results
from awqc.graph.ops import argument
from awqc.machine.process import quiet_libraries
from awqc.program import CallSpec, InputSpec, Interface, Program


def without_writing(exported: ExportedProgram) -> ExportedProgram:
    """``exported`` with operations that write into what they read as ones that do not."""
    exported = with_attribute_names(exported)
    if _mutates(exported) or has_contexts(exported):
        exported = exported.run_decompositions({})
    return exported


def program_from_exported(
    exported: ExportedProgram,
    *,
    name: str = "model",
    example: tuple[tuple[Any, ...], dict[str, Any]] | None = None,
    states: Sequence[tuple[str, str]] = (),
    output_names: Sequence[str] | None = None,
    axis_names: Mapping[str, Mapping[int, str]] | None = None,
    copy: bool = True,
) -> Program:
    """A `Program` of a `torch.export.ExportedProgram`; ``exported`` is not changed later.

    With ``copy=False`` the program takes over the weights of ``exported``.
    ``example`` is ``(args, kwargs)``; where it is missing, the archive's own is used.
    ``axis_names`` names dynamic axes by input; others are called ``batch`` (axis 0) or
    after the input and axis.

    Raises:
        CaptureError: there are no example inputs.
        UnsupportedGraphError: the model writes to its own buffers or parameters, or calls a
            function on a graph of its own.
    """
    example = example if example is not None else exported.example_inputs
    if example is None:
        raise CaptureError(
            f"{name}: the archive holds no example inputs; "
            "save it with them (torch.export.save of a program fresh from torch.export.export)"
        )
    with quiet_libraries():
        exported = without_writing(exported)
        check_flat(exported, name)
        module = exported.module(check_guards=False)
        assert isinstance(module, GraphModule)
        module.graph.set_codegen(CodeGen())
        write_linear_attention(module)
        write_paths(module.graph)
        _value_all(module.graph)
        module = GraphModule(module, module.graph)
        module = deepcopy(module) if copy else module
    _check_stateless(exported, name)
    in_spec, out_spec = exported.call_spec.in_spec, exported.call_spec.out_spec
    assert in_spec is not None
    assert out_spec is not None
    leaves = in_spec.flatten_up_to(_reorder(example, in_spec))
    constants = _flatten_inputs(module, leaves)
    kept, out_constants = _flatten_output(module, name)
    tensors = [leaf.detach().clone() for i, leaf in enumerate(leaves) if i not in constants]
    inputs = _input_specs(module, tensors, axis_names or {})
    outputs = list(output_names or _pick(_output_names(out_spec), kept))
    return Program(
        name=name,
        graph_module=module,
        interface=Interface(
            inputs=inputs,
            outputs=tuple(_distinct(outputs, taken=[spec.name for spec in inputs])),
            call=CallSpec(in_spec, out_spec, constants, out_constants),
            example={spec.name: value for spec, value in zip(inputs, tensors, strict=True)},
            states=tuple(states),
        ),
        source_dtype=_source_dtype(module, tensors),
    )


def _value_all(graph: Graph) -> None:
    """Note of calls that give nothing, such as checks, that they do: torch may leave that out."""
    for node in graph.nodes:
        if node.op == "call_function":
            node.meta.setdefault("val", None)


def _check_stateless(exported: ExportedProgram, name: str) -> None:
    written = exported.graph_signature.parameters_to_mutate
    if written:
        raise UnsupportedGraphError(
            f"{name}: forward writes to the parameter {sorted(set(written.values()))[0]!r}, as an "
            "embedding with max_norm does; a compiled model keeps its weights. Let forward "
            "compute with a copy, or apply the change to the weight once, before it is compiled"
        )
    mutated = exported.graph_signature.buffers_to_mutate
    if mutated:
        raise UnsupportedGraphError(
            f"{name}: forward writes to the buffer {sorted(set(mutated.values()))[0]!r}; a "
            "compiled model keeps no state. Export it in eval mode if this is a batch norm's "
            "statistic; else pass the state in as an input and return it as an output"
        )


def _reorder(example: tuple[tuple[Any, ...], dict[str, Any]], in_spec: pytree.TreeSpec) -> Any:
    """``example`` with keyword arguments in the order that the graph has them."""
    args, kwargs = example
    order = in_spec.child(1).context
    return args, {key: kwargs[key] for key in order}


def _mutates(exported: ExportedProgram) -> bool:
    """Whether an operation of the graph writes into one of its arguments."""
    return any(
        isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        for node in exported.graph.nodes
        if node.op == "call_function"
    )


def _flatten_inputs(module: GraphModule, leaves: Sequence[Any]) -> dict[int, Any]:
    """Make ``module`` take flat tensors; returns the inputs that are no tensors, by index.

    What forward writes into its inputs is dropped: its outputs do not depend on it, and
    the caller's tensors stay as they are.
    """
    constants: dict[int, Any] = {}
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    for node in list(module.graph.nodes):
        copied = node.target is torch.ops.aten.copy_.default
        if copied and argument(node, "self") in placeholders:
            node.replace_all_uses_with(argument(node, "src"))
            module.graph.erase_node(node)
    for index, (node, leaf) in enumerate(zip(placeholders, leaves, strict=True)):
        if not isinstance(leaf, Tensor):
            constants[index] = leaf
            for user in list(node.users):
                user.replace_input_with(node, leaf)
            module.graph.erase_node(node)
    return constants


def _flatten_output(module: GraphModule, name: str) -> tuple[list[int], dict[int, Any]]:
    """Make ``module`` return a flat tuple of tensors.

    Returns the indices of the leaves that it still returns, and the other leaves (None,
    numbers) by index.
    """
    leaves = pytree.tree_leaves(results_of(module.graph))
    kept = [i for i, leaf in enumerate(leaves) if _is_tensor(leaf)]
    sizes = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Node) and i not in kept]
    if sizes:
        raise UnsupportedGraphError(
            f"{name}: output {sizes[0]} is a number computed by forward; "
            "return it as a tensor, or leave it out"
        )
    if not kept:
        raise UnsupportedGraphError(f"{name}: forward returns no tensor; nothing can be compared")
    set_results(module.graph, tuple(leaves[i] for i in kept))
    module.recompile()
    return kept, {i: leaf for i, leaf in enumerate(leaves) if i not in kept}


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Node) and isinstance(leaf.meta.get("val"), Tensor)


def _input_specs(
    module: GraphModule, tensors: Sequence[Tensor], axis_names: Mapping[str, Mapping[int, str]]
) -> tuple[InputSpec, ...]:
    """Specs with readable names for dynamic axes.

    Axes that were asked for under one name share it, and so do first axes of one size in
    the example: torch gives them symbols of their own where the graph would broadcast.
    """
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    names = [_unescaped(node.name) for node in placeholders]
    axes = [
        (name, axis, symbolic_size(size), example.shape[axis])
        for name, node, example in zip(names, placeholders, tensors, strict=True)
        for axis, size in enumerate(node.meta["val"].shape)
    ]
    symbols: dict[str, str] = {}
    batches: dict[int, str] = {}
    for name, axis, symbol, _ in axes:
        if isinstance(symbol, str) and symbol.isidentifier() and axis in axis_names.get(name, {}):
            symbols.setdefault(symbol, axis_names[name][axis])
    for name, axis, symbol, size in axes:
        if isinstance(symbol, str) and symbol.isidentifier() and axis == 0:
            fresh = _distinct(["batch"], taken=[*symbols.values(), *batches.values()])[0]
            batches.setdefault(size, symbols.get(symbol, fresh))
            symbols.setdefault(symbol, batches[size])
        elif isinstance(symbol, str) and symbol.isidentifier():
            symbols.setdefault(symbol, f"{name}_axis_{axis}")
    return tuple(
        InputSpec(name, node.meta["val"].dtype, _named_shape(node.meta["val"].shape, symbols))
        for name, node in zip(names, placeholders, strict=True)
    )


def _named_shape(shape: Iterable[Any], symbols: Mapping[str, str]) -> tuple[int | str, ...]:
    def rename(match: re.Match[str]) -> str:
        return symbols.get(match[0], match[0])

    sizes = [symbolic_size(size) for size in shape]
    return tuple(s if isinstance(s, int) else re.sub(r"\b[a-z]\w*", rename, s) for s in sizes)


def symbolic_size(size: Any) -> int | str:
    """``size`` as an int where it is fixed, else the text of its symbolic expression."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression) if expression.is_number else str(expression)


def _unescaped(name: str) -> str:
    """The parameter's own name, where fx added a suffix to a Python word: ``input_1``."""
    stem = name.removesuffix("_1")
    escaped = stem != name and (hasattr(builtins, stem) or keyword.iskeyword(stem))
    return stem if escaped else name


def _output_names(out_spec: pytree.TreeSpec) -> list[str]:
    """Readable names for the outputs, from the tree that the model returns."""
    tree = pytree.tree_unflatten(range(out_spec.num_leaves), plain_tree(out_spec))
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    names = [path_name(path) for path in paths]
    names = [name if name and not name[0].isdigit() else f"output_{name}" for name in names]
    return ["output"] if names == ["output_"] else names


def _pick(names: Sequence[str], kept: Sequence[int]) -> list[str]:
    picked = [names[index] for index in kept]
    return ["output"] if picked == ["output_0"] else picked


def _distinct(names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """``names`` with a number appended to each that is in use already."""
    used = set(taken)
    distinct = []
    for name in names:
        candidate, count = name, 0
        while candidate in used:
            count += 1
            candidate = f"{name}_{count}"
        used.add(candidate)
        distinct.append(candidate)
    return distinct


def _source_dtype(module: GraphModule, inputs: Sequence[Tensor]) -> torch.dtype:
    """The floating dtype that most of the parameters have; of the inputs if there are none."""
    counts: Counter[torch.dtype] = Counter()
    tensors: list[Tensor] = [*module.parameters()] or [*inputs]
    for tensor in tensors:
        if tensor.is_floating_point():
            counts[tensor.dtype] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else torch.float32
