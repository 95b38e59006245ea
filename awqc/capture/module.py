"""Turn an `nn.Module` or an `ExportedProgram` into a `Program`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from awqc.errors import CaptureError, UnsupportedGraphError, UsageError
from awqc.program import CallSpec, InputSpec, Program

ExampleInputs = tuple[Any, ...] | Mapping[str, Any]
"""Example inputs: positional ones in a tuple, or keyword ones in a mapping."""

DynamicAxes = Mapping[str, Sequence[int] | Mapping[int, str]]
"""Extra dynamic axes of inputs by name: axes, or axes with the names they shall have."""


def capture_module(
    module: nn.Module,
    example_inputs: ExampleInputs,
    *,
    name: str = "model",
    dynamic: DynamicAxes | None = None,
    states: Sequence[tuple[str, str]] = (),
    output_names: Sequence[str] | None = None,
) -> Program:
    """Capture a copy of ``module``, in eval mode, as one flat graph.

    The first axis of every tensor input is dynamic where the model allows it; an axis
    named in ``dynamic`` must come out dynamic.

    Raises:
        CaptureError: ``torch.export`` refused the model, with its reason.
        UsageError: ``dynamic`` names an input or axis that is not there, or one that the
            model fixes.
    """
    args, kwargs = split_example(example_inputs)
    module = _clone(module)
    args, kwargs = pytree.tree_map_only(Tensor, _widen_batch(args, kwargs), (args, kwargs))
    shapes = _dynamic_shapes(module, args, kwargs, dynamic or {})
    exported = _export(module, args, kwargs, shapes)
    program = program_from_exported(
        exported, name=name, example=(args, kwargs), states=states, output_names=output_names
    )
    _check_dynamic(program, dynamic or {})
    return program


def split_example(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``(args, kwargs)`` of example inputs in any accepted form."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, list | tuple):
        return tuple(example_inputs), {}
    raise UsageError(
        f"example inputs are a {type(example_inputs).__name__}; "
        "give a tuple of positional inputs or a dict of keyword inputs"
    )


def _clone(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise UsageError(f"the model is a {type(module).__name__}; an nn.Module is needed")
    with torch.no_grad():
        clone = copy.deepcopy(module)
    return clone.eval().requires_grad_(False)


def _widen_batch(args: Any, kwargs: Any) -> Any:
    """A function that doubles the batch axis of an example whose batch is 1.

    ``torch.export`` treats an axis of size 1 as fixed; with 2 it can stay dynamic.
    """
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not tensors:
        raise UsageError("the example inputs hold no tensor: nothing can be calibrated")
    single = all(t.ndim > 0 and t.shape[0] == 1 for t in tensors)
    return lambda tensor: torch.cat([tensor, tensor]) if single else tensor


def _dynamic_shapes(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: DynamicAxes
) -> Any:
    """The ``dynamic_shapes`` tree: axis 0 and the asked-for axes dynamic where possible."""
    unknown = set(dynamic)

    def axes(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        wanted = {0} if leaf.ndim else set()
        key = _path_name(path)
        if key in dynamic:
            unknown.discard(key)
            wanted |= set(dynamic[key])
            beyond = [axis for axis in wanted if axis >= leaf.ndim]
            if beyond:
                raise UsageError(
                    f"input {key!r} has {leaf.ndim} axes; axis {beyond[0]} cannot be dynamic"
                )
        return {axis: Dim.AUTO for axis in wanted}

    named = _bind(module, args, kwargs)
    shapes = pytree.tree_map_with_path(axes, named)
    if unknown:
        raise UsageError(f"no input is called {sorted(unknown)[0]!r}; inputs: {sorted(named)}")
    return shapes


def _bind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Inputs by the names of forward's parameters, as ``dynamic_shapes`` wants them."""
    import inspect

    forward = module.forward
    try:
        bound = inspect.signature(forward).bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(
            f"the example inputs do not fit {type(module).__name__}.forward: {error}"
        ) from error
    named: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        kind = bound.signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[key] = value
    return named


def _path_name(path: Any) -> str:
    """Name of an input leaf as its placeholder has it: ``past.0`` becomes ``past_0``."""
    parts = [str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", p)))) for p in path]
    return "_".join(parts)


def _export(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> ExportedProgram:
    """``torch.export``: first non-strict, then strict."""
    first: Exception | None = None
    for strict in (False, True):
        try:
            with torch.no_grad():
                return torch.export.export(
                    module, args, kwargs, dynamic_shapes=shapes, strict=strict
                )
        except Exception as error:
            first = first or error
    assert first is not None
    reason = str(first).strip().splitlines()
    raise CaptureError(
        f"{type(module).__name__} could not be captured by torch.export: "
        f"{type(first).__name__}: {reason[0] if reason else 'no message'}"
    ) from first


def program_from_exported(
    exported: ExportedProgram,
    *,
    name: str = "model",
    example: tuple[tuple[Any, ...], dict[str, Any]] | None = None,
    states: Sequence[tuple[str, str]] = (),
    output_names: Sequence[str] | None = None,
) -> Program:
    """A `Program` of a `torch.export.ExportedProgram`; ``exported`` is not changed later.

    ``example`` is ``(args, kwargs)``; where it is missing, the archive's own is used.

    Raises:
        CaptureError: there are no example inputs.
        UnsupportedGraphError: the model writes to its own buffers.
    """
    example = example if example is not None else exported.example_inputs
    if example is None:
        raise CaptureError(
            f"{name}: the archive holds no example inputs; "
            "save it with them (torch.export.save of a program fresh from torch.export.export)"
        )
    mutated = exported.graph_signature.buffers_to_mutate
    if mutated:
        raise UnsupportedGraphError(
            f"{name}: forward writes to the buffer {sorted(set(mutated.values()))[0]!r}; "
            "a compiled model keeps no state: pass it in and return it instead"
        )
    if _mutates(exported):
        exported = exported.run_decompositions({})
    in_spec, out_spec = exported.call_spec.in_spec, exported.call_spec.out_spec
    assert in_spec is not None and out_spec is not None
    module = copy.deepcopy(exported.module(check_guards=False))
    assert isinstance(module, GraphModule)
    leaves = in_spec.flatten_up_to(_reorder(example, in_spec))
    constants = _flatten_calls(module, leaves)
    names = list(output_names or _output_names(out_spec))
    tensors = [leaf.detach() for i, leaf in enumerate(leaves) if i not in constants]
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    inputs = tuple(_input_spec(node) for node in placeholders)
    return Program(
        name=name,
        graph_module=module,
        inputs=inputs,
        outputs=tuple(names),
        call=CallSpec(in_spec, out_spec, constants),
        example={spec.name: value for spec, value in zip(inputs, tensors, strict=True)},
        states=tuple(states),
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


def _flatten_calls(module: GraphModule, leaves: Sequence[Any]) -> dict[int, Any]:
    """Make ``module`` take and return flat tensors; returns the inputs that are no tensors."""
    constants: dict[int, Any] = {}
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    for index, (node, leaf) in enumerate(zip(placeholders, leaves, strict=True)):
        if not isinstance(leaf, Tensor):
            constants[index] = leaf
            _drop_constant_input(node, leaf)
    for node in list(module.graph.nodes):
        if node.op == "output":
            node.args = (tuple(pytree.tree_leaves(node.args[0])),)
    module.graph.set_codegen(CodeGen())
    module.recompile()
    return constants


def _drop_constant_input(node: Node, leaf: Any) -> None:
    for user in list(node.users):
        user.replace_input_with(node, leaf)
    node.graph.erase_node(node)


def _input_spec(node: Node) -> InputSpec:
    value = node.meta["val"]
    return InputSpec(node.name, value.dtype, tuple(symbolic_size(size) for size in value.shape))


def symbolic_size(size: Any) -> int | str:
    """``size`` as an int, or the text of its symbolic expression."""
    return size if isinstance(size, int) else str(size)


def _output_names(out_spec: pytree.TreeSpec) -> list[str]:
    """Readable names for the outputs, from the tree that the model returns."""
    tree = pytree.tree_unflatten(list(range(out_spec.num_leaves)), out_spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    names = [_path_name(path) for path in paths]
    names = [name if name and not name[0].isdigit() else f"output_{name}" for name in names]
    return ["output"] if names == ["output_"] else names


def _check_dynamic(program: Program, dynamic: DynamicAxes) -> None:
    """Refuse where an axis that was asked to be dynamic came out fixed."""
    by_name = {spec.name: spec for spec in program.inputs}
    for name, axes in dynamic.items():
        for axis in axes:
            spec = by_name.get(name)
            if spec is not None and isinstance(spec.shape[axis], int):
                raise UsageError(
                    f"input {name!r}: the model fixes axis {axis} at {spec.shape[axis]}; "
                    "it cannot be dynamic. Leave it out of the dynamic axes, or change the model"
                )
