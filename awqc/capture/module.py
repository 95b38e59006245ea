"""Turn an `nn.Module` into a `Program`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from awqc.calling import path_name, unflatten_call
from awqc.capture.agreement import check_agreement
from awqc.capture.exported import program_from_exported, without_writing
from awqc.capture.failure import explain_failure, model_line
from awqc.capture.known_buffers import known_buffers
from awqc.capture.other_sizes import Axis, Disagreement, find_disagreement
from awqc.capture.outputs import UNKNOWN, return_plain_outputs
from awqc.capture.padding import write_padding_as_called
from awqc.capture.second_trace import hidden_constant
from awqc.capture.sizes_in_tensors import SizesInTensors
from awqc.capture.stand_ins import has_narrow, put_back, stand_ins
from awqc.capture.symbolic_sizes import symbolic_sizes
from awqc.capture.taken_over import taken_over, unwrap
from awqc.errors import UsageError, spelled
from awqc.graph.trace_module import trace_module
from awqc.machine.process import quiet_libraries
from awqc.program import Program

ExampleInputs = tuple[Any, ...] | Mapping[str, Any]
"""Example inputs: positional ones in a tuple, or keyword ones in a mapping."""

DynamicAxes = Mapping[str, Sequence[int] | Mapping[int, str]]
"""Extra dynamic axes of inputs by name: axes, or axes with the names they shall have."""

Steps = Mapping[str, Mapping[int, int]]
"""What sizes are multiples of, by input and axis."""

_Call = tuple[tuple[Any, ...], dict[str, Any]]


def capture_module(
    module: nn.Module,
    example_inputs: ExampleInputs,
    *,
    name: str = "model",
    dynamic: DynamicAxes | None = None,
    states: Sequence[tuple[str, str]] = (),
    output_names: Sequence[str] | None = None,
    steps: Steps | None = None,
    fixed: Collection[Axis] = (),
    insist: bool = True,
    copy: bool = True,
) -> Program:
    """Capture a copy of ``module``, in eval mode, as one flat graph.

    With ``copy=False`` the module itself is taken over: its weights are the program's, and
    the caller must not use it again.

    The first axis of every tensor input that is not among ``fixed`` is dynamic where the model
    allows it; an axis named in ``dynamic`` must come out dynamic; where not ``insist``, one that
    does not is told in ``Program.notes``. The graph is compared with the module on the example,
    with other masks, and at other sizes; an axis for which it only holds at the example's size is
    fixed, and ``Program.notes`` says why. Before that it is tried whether it holds for all
    multiples of what ``steps`` has for the axis.
    Wrappers (``DataParallel``, ``torch.compile``) are taken off. An object among the outputs
    that torch has no flattening for, such as a dataclass or a cache, comes out as a dict of
    what it holds.

    Raises:
        CaptureError: ``torch.export`` refused the model, with its reason and the line, or
            captured something else than the model computes.
        UsageError: the example inputs do not fit; or ``dynamic`` names an input or axis that
            is not there, or one that the model fixes.
    """
    with quiet_libraries():
        module = taken_over(unwrap(module), copy)
        write_padding_as_called(module)
    call = pytree.tree_map_only(Tensor, lambda t: t.detach(), split_example(example_inputs))
    axes = {key: _axes_by_number(value) for key, value in (dynamic or {}).items()}

    def capture(fixed: frozenset[Axis]) -> Program:
        exported, example = _export_any(module, call, axes, fixed)
        program = program_from_exported(
            exported,
            name=name,
            example=example,
            states=states,
            output_names=output_names,
            axis_names={k: {a: n for a, n in v.items() if n} for k, v in axes.items()},
            copy=copy and not has_narrow(module),
        )
        put_back(module, program)
        return program

    with quiet_libraries():
        program = capture(frozenset(fixed))
        check_agreement(module, program)
        program = _keep_what_agrees(module, program, axes, steps or {}, capture, frozenset(fixed))
    _check_dynamic(program, axes, insist)
    return program


def _keep_what_agrees(
    module: nn.Module,
    program: Program,
    asked: Mapping[str, Mapping[int, str | None]],
    steps: Steps,
    capture: Callable[[frozenset[Axis]], Program],
    fixed: frozenset[Axis],
) -> Program:
    """``program``, captured anew with axes fixed until both agree at all sizes that are tried.

    Where they differ beyond the range of an axis that was asked for, the axis stays free and
    the program is told. That is a question of how long data is, not of multiples.
    """
    while (other := find_disagreement(module, program)) is not None:
        if not other.beyond and _take_steps(program, other.axes, steps):
            continue
        stays = other.beyond and any(axis in asked.get(name, ()) for name, axis in other.axes)
        note = _explain_sizes(module, program, other, stays)
        if stays:
            program.tell(note)
            break
        fixed |= other.axes
        notes = (*program.notes, note)
        known = program.interface.steps
        program = capture(fixed)
        program.notes = notes
        program.interface = replace(program.interface, steps=known)
    return program


def _take_steps(program: Program, axes: Collection[Axis], steps: Steps) -> bool:
    """Let ``axes`` have multiples of ``steps`` only; whether that is something new."""
    shapes = {spec.name: spec.shape for spec in program.inputs}
    found = {
        str(shapes[name][axis]): steps[name][axis]
        for name, axis in axes
        if axis in steps.get(name, ())
    }
    new = {label: step for label, step in found.items() if label not in program.interface.steps}
    if not new:
        return False
    program.interface = replace(program.interface, steps={**program.interface.steps, **new})
    for label, step in new.items():
        program.tell(
            f"sizes of the axis {label} must be multiples of {step}, as all that were seen are: at "
            "others the model takes another way, which the graph does not have"
        )
    return True


def _explain_sizes(module: nn.Module, program: Program, other: Disagreement, stays: bool) -> str:
    kept = " and ".join(f"axis {axis} of {name}" for name, axis in sorted(other.axes))
    outcome = (
        "what is compiled is wrong there" if stays else f"{kept} is fixed at the example's size"
    )
    constant = _constant_at(module, program, other)
    return (
        f"with {other.where} the model computes something else than the graph that torch.export "
        f"made of the example inputs{constant}: {outcome}"
    )


def _constant_at(module: nn.Module, program: Program, other: Disagreement) -> str:
    """What differs in a graph that is traced at the other sizes, in brackets."""
    call = unflatten_call(program, [other.batch[spec.name] for spec in program.inputs])
    try:
        second = without_writing(_export(module, call, None, strict=False))
    except Exception:  # noqa: BLE001 - that it cannot be captured there says nothing more
        return ""
    found = hidden_constant(program.graph, second.graph)
    return f" ({found})" if found else ""


def split_example(example_inputs: ExampleInputs | Tensor) -> _Call:
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


def _axes_by_number(axes: Sequence[int] | Mapping[int, str]) -> dict[int, str | None]:
    return dict(axes) if isinstance(axes, Mapping) else dict.fromkeys(axes)


def _widen_batch(call: _Call) -> _Call | None:
    """``call`` with its batch of 1 doubled, or None if its batch is something else.

    ``torch.export`` treats an axis of size 1 as fixed; with 2 it can stay dynamic.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor)]
    if not tensors:
        raise UsageError("the example inputs hold no tensor: nothing can be calibrated")
    batched = [t for t in tensors if t.ndim]
    if not batched or any(t.shape[0] != 1 for t in batched):
        return None
    doubled: _Call = pytree.tree_map_only(
        Tensor, lambda t: torch.cat([t, t]) if t.ndim else t, call
    )
    return doubled


def _dynamic_shapes(
    module: nn.Module,
    call: _Call,
    dynamic: dict[str, dict[int, str | None]],
    fixed: Collection[Axis],
) -> Any:
    """The ``dynamic_shapes`` tree: axis 0 and the asked-for axes dynamic, but those ``fixed``."""
    unknown = set(dynamic)

    def axes(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        wanted = {0} if leaf.ndim else set()
        key = path_name(path)
        if key in dynamic:
            unknown.discard(key)
            beyond = [axis for axis in dynamic[key] if not 0 <= axis < leaf.ndim]
            if beyond:
                raise UsageError(
                    f"input {key!r} has the axes 0 to {leaf.ndim - 1}; "
                    f"axis {beyond[0]} cannot be dynamic"
                )
            wanted |= set(dynamic[key])
        return dict.fromkeys((axis for axis in wanted if (key, axis) not in fixed), Dim.AUTO)

    named = _bind(module, call)
    shapes = pytree.tree_map_with_path(axes, named)
    if unknown:
        raise UsageError(f"no input is called {sorted(unknown)[0]!r}; inputs: {sorted(named)}")
    return shapes


def _bind(module: nn.Module, call: _Call) -> dict[str, Any]:
    """Inputs by forward's parameters, as ``dynamic_shapes`` wants them."""
    try:
        return dict(inspect.signature(module.forward).bind(*call[0], **call[1]).arguments)
    except TypeError as error:
        raise UsageError(
            f"the example inputs do not fit {type(module).__name__}.forward: {error}"
        ) from error


def _name_keywords(module: nn.Module, call: _Call) -> None:
    """Give each input that forward takes by ``**kwargs`` a parameter of its own.

    ``torch.export`` cannot make the axes of such inputs dynamic otherwise.
    """
    forward = module.forward
    signature = inspect.signature(forward)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    more = [name for name in call[1] if name not in {p.name for p in named}]
    if not more or len(named) == len(signature.parameters):
        return

    def explicit(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    named += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in more]
    explicit.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]  # functions may have it, which mypy does not know
    module.forward = explicit


def _export_any(
    module: nn.Module,
    call: _Call,
    dynamic: dict[str, dict[int, str | None]],
    fixed: Collection[Axis],
) -> tuple[ExportedProgram, _Call]:
    """``torch.export``, non-strict then strict, with a batch that can be dynamic or as given.

    ``fixed`` axes keep their sizes. Returns the example that fitted as well.
    """
    _name_keywords(module, call)
    widened = None if any(axis == 0 for _, axis in fixed) else _widen_batch(call)
    calls = [call] if widened is None else [widened, call]
    failures: list[Exception] = []
    for attempt in calls:
        shapes = _dynamic_shapes(module, attempt, dynamic, fixed)
        for strict in (False, True):
            try:
                return _export(module, attempt, shapes, strict), attempt
            except Exception as error:  # noqa: BLE001 - any failure means: the next way
                failures.append(error)
        _check_runs(module, call)
    raise explain_failure(type(module).__name__, failures[0]) from failures[0]


def _export(module: nn.Module, call: _Call, shapes: Any, strict: bool) -> ExportedProgram:
    symbols = nullcontext() if strict else symbolic_sizes(module)
    in_tensors = nullcontext() if strict else SizesInTensors()
    with torch.no_grad(), stand_ins(module), known_buffers(module), symbols, in_tensors:
        try:
            return trace_module(module, *call, shapes, strict=strict)
        except RuntimeError as error:
            if UNKNOWN not in str(error):
                raise
            return_plain_outputs(module)
            return trace_module(module, *call, shapes, strict=strict)


def _check_runs(module: nn.Module, call: _Call) -> None:
    """Refuse inputs on which the model itself fails, before the graph is blamed."""
    args, kwargs = deepcopy(call)
    try:
        with torch.no_grad():
            deepcopy(module)(*args, **kwargs)
    except Exception as error:
        line = model_line(error)
        tensors = [leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, Tensor)]
        shapes = ", ".join(
            f"{str(each.dtype).removeprefix('torch.')}{list(each.shape)}" for each in tensors
        )
        raise UsageError(
            f"{type(module).__name__} fails on the example inputs ({shapes or 'none'}): "
            f"{type(error).__name__}: {error}"
            + (f"\n  at {line}" if line else "")
            + f"\nGive inputs that the model takes: its own sizes ({spelled('inputs')}), where a "
            f"name stands for 2 or 16, or data ({spelled('calib')}), of which samples are taken"
        ) from error


def _check_dynamic(
    program: Program, dynamic: dict[str, dict[int, str | None]], insist: bool
) -> None:
    """Refuse, or tell, where an axis that was asked to be dynamic came out fixed."""
    by_name = {spec.name: spec for spec in program.inputs}
    for name, axes in dynamic.items():
        for axis in axes:
            size = by_name[name].shape[axis] if name in by_name else ""
            if isinstance(size, int) and not insist:
                program.tell(f"input {name!r}: the model fixes axis {axis} at {size}")
            elif isinstance(size, int):
                notes = [n for n in program.notes if f"axis {axis} of {name}" in n]
                why = f" ({notes[-1]})" if notes else ""
                raise UsageError(
                    f"input {name!r}: the model fixes axis {axis} at {size}; it cannot be "
                    f"dynamic{why}. Leave it out of the dynamic axes, or change the model"
                )
