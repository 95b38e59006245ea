"""How a model is called: names of what goes in, and a graph called as its module was."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from awqc.graph.nodes import results_of
from awqc.program import Interface, Program


def restore_calls(program: Program) -> GraphModule:
    """A module that runs ``program`` and is called as the caller's module was.

    Positional and keyword arguments and nested outputs are as they were. An argument that
    is no tensor must be passed and is not looked at: its value was fixed when the
    graph was captured. The tensors are shared with ``program``.
    """
    call = program.interface.call
    graph = Graph()
    made: dict[Node, Node] = {}
    sources = iter([n for n in program.graph.nodes if n.op == "placeholder"])
    for index in range(call.in_spec.num_leaves):
        if index in call.constants:
            graph.placeholder(f"constant_{index}")
        else:
            source = next(sources)
            made[source] = graph.node_copy(source)
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "output"):
            made[node] = graph.node_copy(node, made.__getitem__)
    graph.output(_output_leaves(program, made))
    graph.set_codegen(
        _PyTreeCodeGen(_PyTreeInfo(_argument_names(program), call.in_spec, call.out_spec))
    )
    return GraphModule(program.graph_module, graph, class_name="GraphModule")


def _output_leaves(program: Program, made: dict[Node, Node]) -> list[Any]:
    """The leaves of the result, constants included."""
    results = iter(results_of(program.graph))
    call = program.interface.call
    leaves = [
        call.out_constants[index] if index in call.out_constants else next(results)
        for index in range(call.out_spec.num_leaves)
    ]
    return [made[leaf] if isinstance(leaf, Node) else leaf for leaf in leaves]


def _argument_names(program: Program) -> list[str]:
    """Names of the arguments of a call: inputs go by their names, nests are ``arg_0, …``."""
    call = program.interface.call
    args, kwargs = call.in_spec.child(0), call.in_spec.child(1)
    specs = iter(program.inputs)
    leaves = [
        None if index in call.constants else next(specs).name
        for index in range(call.in_spec.num_leaves)
    ]
    names, position = [], 0
    for index, child in enumerate(args.children()):
        name = leaves[position] if child.is_leaf() else None
        names.append(name if name and name.isidentifier() else f"arg_{index}")
        position += child.num_leaves
    return [*names, *kwargs.context]


def example_call(program: Program) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``(args, kwargs)`` of the example batch, constants included."""
    args, kwargs = unflatten_call(program, [program.example[s.name] for s in program.inputs])
    return args, kwargs


def dynamic_shapes(program: Program) -> Any:
    """The ``dynamic_shapes`` of torch.export for a module from `restore_calls`."""
    axes = [
        {i: torch.export.Dim.DYNAMIC for i, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in program.inputs
    ]
    args, kwargs = unflatten_call(program, axes, constant=lambda _: None)
    return {**dict(zip(_argument_names(program), args, strict=False)), **kwargs}


def unflatten_call(program: Program, tensors: list[Any], constant: Any = lambda c: c) -> Any:
    """``(args, kwargs)`` with ``tensors`` for the graph's inputs."""
    call, rest = program.interface.call, iter(tensors)
    leaves = [
        constant(call.constants[index]) if index in call.constants else next(rest)
        for index in range(call.in_spec.num_leaves)
    ]
    return pytree.tree_unflatten(leaves, call.in_spec)


def path_name(path: Any) -> str:
    """Name of an input leaf as its placeholder has it: ``past.0`` becomes ``past_0``."""
    parts = [str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", p)))) for p in path]
    return "_".join(parts)


def in_plain_containers(interface: Interface) -> Interface:
    """``interface`` with plain containers for arguments and results, leaf by leaf the same."""
    call = interface.call
    plain = replace(call, in_spec=plain_tree(call.in_spec), out_spec=plain_tree(call.out_spec))
    return replace(interface, call=plain)


def plain_tree(spec: pytree.TreeSpec) -> pytree.TreeSpec:
    """``spec`` with dicts for objects whose parts have names, named tuples among them.

    >>> from collections import namedtuple
    >>> spec = pytree.tree_structure([namedtuple("Point", "x y")(1, 2), 3])
    >>> plain_tree(spec) == pytree.tree_structure([{"x": 1, "y": 2}, 3])
    True
    """
    tree = pytree.tree_unflatten(range(spec.num_leaves), spec)
    return pytree.tree_structure(_plain(tree))


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is OrderedDict:
        return OrderedDict((key, _plain(child)) for key, child in value.items())
    if isinstance(value, dict):  # outputs of transformers and diffusers as well
        return {key: _plain(child) for key, child in value.items()}
    if hasattr(value, "_fields"):  # a named tuple
        return {name: _plain(child) for name, child in zip(value._fields, value, strict=True)}
    if isinstance(value, tuple | list):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    if kind not in pytree.SUPPORTED_NODES:
        return value
    node = pytree.SUPPORTED_NODES[kind]
    if node.flatten_with_keys_fn is None:
        return [_plain(child) for child in node.flatten_fn(value)[0]]
    parts, _ = node.flatten_with_keys_fn(value)
    if all(isinstance(key, pytree.SequenceKey) for key, _ in parts):
        return [_plain(child) for _, child in parts]
    return {_name(key): _plain(child) for key, child in parts}


def _name(key: Any) -> Any:
    """Of one part of an object."""
    return getattr(key, "key", getattr(key, "name", key))
