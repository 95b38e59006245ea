"""Arrays and batches as calibration data, and data that is made up; `load` is the way in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from awqc.calling import path_name
from awqc.data.array_files import to_tensor
from awqc.data.batches import (
    batch_axes,
    check_batch,
    count_samples,
    cut_batch,
    fixed_batch_size,
    match_names,
    samples_at_once,
    split,
    take,
)
from awqc.data.drawing import describe_drawing, draw_like
from awqc.errors import CalibrationError, UsageError, spelled
from awqc.graph.nodes import results_of, shape_of
from awqc.graph.ops import argument
from awqc.huggingface.tokens import complete_tokens
from awqc.program import Batch, InputSpec, Program

HELD_OUT = 0.2
"""The share of the data that verification keeps for itself."""

_LARGEST_BATCH = 32
_FEWEST_BATCHES = 5
_SHAPE_OPS = {
    "view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "expand", "permute", "transpose",
    "t", "flatten", "slice", "select", "split", "chunk", "clone", "contiguous", "to", "_to_copy",
    "alias", "detach", "detach_", "lift_fresh_copy", "type_as", "narrow", "repeat", "cat",
}  # fmt: skip


@dataclass(frozen=True)
class CalibrationData:
    """What calibration runs on, and what verification runs on.

    Attributes:
        batches: for calibration, in the dtypes of the program's inputs.
        held_out: for verification: data that calibration does not see, where there is any.
        source: where the data comes from, for messages and the report.
        synthetic: made up, so that the numbers say little about real data.
        notes: what was done to the data that the user should know.
    """

    batches: tuple[Batch, ...]
    held_out: tuple[Batch, ...]
    source: str
    synthetic: bool = False
    notes: tuple[str, ...] = ()


def from_arrays(
    arrays: Mapping[str, Tensor], program: Program, num_samples: int | None, source: str
) -> CalibrationData:
    """Data of arrays by input name (first axis = samples), cut into batches that the graph takes.

    An input without a batch axis has an array of just its shape, used for every batch. Long
    sequences go into batches of few samples, as those of a text do, since each token makes logits.

    Raises:
        UsageError: ``num_samples`` is not positive.
        CalibrationError: the arrays do not fit; see `awqc.data.batches`.
    """
    _check_num_samples(num_samples)
    specs = program.inputs
    complete = _completed(arrays, program)
    whole = match_names(complete, specs, source)
    whole, notes = check_batch(whole, specs, embedding_rows(program), source, free_batch=True)
    notes += _filled(arrays, complete)
    whole = take(whole, specs, slice(num_samples))
    count, size = count_samples(whole, specs), fixed_batch_size(specs)
    if size is None:
        most = min(_LARGEST_BATCH, count // _FEWEST_BATCHES)
        size = samples_at_once(_logit_bytes(program, whole), most)
    batches = cut_batch(whole, specs, size)
    if fixed_batch_size(specs) is not None and count % size:
        if count < size:
            raise CalibrationError(
                f"{source}: has {count} samples; the model takes them {size} at a time"
            )
        batches.pop()
        notes.append(f"the last {count % size} samples are left out: the batch is fixed at {size}")
    return _divided(batches, specs, source, notes)


def _logit_bytes(program: Program, batch: Batch) -> int:
    """Bytes of the logits that a sample of ``batch`` causes; 0 where it causes none."""
    if not program.head_outputs or "input_ids" not in batch:
        return 0
    made = dict(zip(program.outputs, results_of(program.graph), strict=True))
    vocabulary = shape_of(made[program.head_outputs[0]])[-1]
    return 4 * prod(batch["input_ids"].shape[1:]) * int(vocabulary)


def from_mapping(
    data: Mapping[str, Any], program: Program, num_samples: int | None = None
) -> CalibrationData:
    """Data of whole arrays by input name, nested as the model takes them; see `from_arrays`.

    Raises:
        UsageError: ``num_samples`` is not positive.
        CalibrationError: an array does not fit; see `awqc.data.batches`.
    """
    where = "the calibration data"
    return from_arrays(_by_name(data, program.inputs, where), program, num_samples, where)


def from_iterable(
    batches: Iterable[Any], program: Program, num_samples: int | None = None
) -> CalibrationData:
    """Data of an iterable of batches, which is gone through once.

    A batch is a tensor, a tuple of positional inputs, or a dict of inputs by name, nested as
    the model takes them; NumPy arrays do as well.

    Raises:
        UsageError: ``batches`` is no iterable, or ``num_samples`` is not positive.
        CalibrationError: there is no batch, or one does not fit; see `awqc.data.batches`.
    """
    _check_num_samples(num_samples)
    specs, rows = program.inputs, embedding_rows(program)
    if isinstance(batches, Tensor | Mapping) or not isinstance(batches, Iterable):
        raise UsageError(
            f"calib is a {type(batches).__name__}; give an iterable of batches, such as "
            "a list of tuples, or a dict of whole arrays by input name"
        )
    collected: list[Batch] = []
    notes: dict[str, None] = {}
    seen = 0
    for index, item in enumerate(batches):
        where = f"calibration batch {index}"
        batch, casts = check_batch(_named(item, program, where), specs, rows, where)
        left = None if num_samples is None else num_samples - seen
        if left is not None and count_samples(batch, specs) > left:
            if fixed_batch_size(specs) is not None and collected:
                break
            batch = batch if fixed_batch_size(specs) else take(batch, specs, slice(left))
        notes |= dict.fromkeys(casts)
        collected.append(batch)
        seen += count_samples(batch, specs)
        if num_samples is not None and seen >= num_samples:
            break
    if not collected:
        raise CalibrationError("the calibration data is empty; give at least one batch")
    return _divided(collected, specs, "an iterable of batches", list(notes))


def synthetic(program: Program, num_samples: int = 64, seed: int = 0) -> CalibrationData:
    """Made-up data that the program accepts, the same for the same seed.

    Values follow those of the example, see `awqc.data.drawing`.
    """
    _check_num_samples(num_samples)
    specs, rows = program.inputs, embedding_rows(program)
    fixed = fixed_batch_size(specs)
    samples = count_samples(program.example, specs)
    firsts = {spec.shape[0] for spec in specs if spec.shape}
    if samples in firsts or sum(isinstance(size, str) for size in firsts) > 1:
        # Some inputs fix the batch, or there is none: nodes and edges of a graph, for example.
        fixed = samples
    size = fixed or max(1, min(_LARGEST_BATCH, num_samples // _FEWEST_BATCHES))
    generator = torch.Generator().manual_seed(seed)
    axes = batch_axes(specs)
    batches = []
    for start in range(0, max(num_samples, 2 * size), size):
        count = size if fixed else min(size, max(num_samples - start, 1))
        batch: Batch = {}
        for spec in specs:
            shape = list(program.example[spec.name].shape)
            if spec.name in axes:
                shape[axes[spec.name]] = count
            example = program.example[spec.name]
            batch[spec.name] = draw_like(example, shape, rows.get(spec.name), generator)
        batches.append(batch)
    calibration, held_out = split(batches, specs, HELD_OUT)
    return CalibrationData(
        tuple(calibration),
        tuple(held_out),
        source=f"synthetic data, seed {seed}",
        synthetic=True,
        notes=(
            "no calibration data was given: random inputs were made up "
            f"({describe_drawing(program.example, rows)}). Scales and errors hold for random "
            f"inputs, not for real data; give real data with {spelled('calib')}",
        ),
    )


def embedding_rows(program: Program) -> dict[str, int]:
    """For each input that indexes embedding tables: the rows of the smallest of them."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    found = {
        spec.name: _rows_reached(node)
        for spec, node in zip(program.inputs, placeholders, strict=True)
        if not spec.dtype.is_floating_point
    }
    return {name: rows for name, rows in found.items() if rows is not None}


def _rows_reached(start: Node) -> int | None:
    pending, seen, rows = [start], {start}, []
    while pending:
        node = pending.pop()
        for user in node.users:
            if user.target is torch.ops.aten.embedding.default:
                table = argument(user, "weight")
                if argument(user, "indices") is node:
                    rows.append(int(table.meta["val"].shape[0]))
            elif _moves_values_only(user) and user not in seen:
                seen.add(user)
                pending.append(user)
    return min(rows, default=None)


def _moves_values_only(node: Node) -> bool:
    name = getattr(node.target, "overloadpacket", None)
    if name is None:
        return getattr(node.target, "__name__", "") == "getitem"
    return str(name).removeprefix("aten.") in _SHAPE_OPS


def _completed(given: Mapping[str, Tensor], program: Program) -> Mapping[str, Tensor]:
    """``given`` with what token ids tell, for a model that reads tokens."""
    return complete_tokens(program, given) if program.task.origin is not None else given


def _filled(given: Mapping[str, Tensor], complete: Mapping[str, Tensor]) -> list[str]:
    """What `_completed` added, in words."""
    added = [name for name in complete if name not in given]
    caches = [name for name in added if complete[name].numel() == 0]
    names = [name for name in added if name not in caches] + ["empty caches"] * bool(caches)
    return [f"{', '.join(names)}: filled in, since only token ids were given"] if names else []


def _named(item: Any, program: Program, where: str) -> dict[str, Tensor]:
    """Tensors of one batch by input name."""
    specs = program.inputs
    if isinstance(item, Mapping):
        return match_names(_completed(_by_name(item, specs, where), program), specs, where)
    if isinstance(item, Tensor) or _is_data(item):
        item = (item,)
    if not isinstance(item, tuple | list):
        raise CalibrationError(
            f"{where} is a {type(item).__name__}; give a tensor, a tuple of inputs, or a dict"
        )
    leaves = [to_tensor(leaf, where) for leaf in pytree.tree_leaves(item) if _is_data(leaf)]
    if len(leaves) != len(specs):
        expected = ", ".join(map(str, specs))
        raise CalibrationError(
            f"{where} has {len(leaves)} tensors; the model's inputs are {expected}"
        )
    return {spec.name: leaf for spec, leaf in zip(specs, leaves, strict=True)}


def _by_name(
    data: Mapping[str, Any], specs: tuple[InputSpec, ...], where: str
) -> dict[str, Tensor]:
    """The tensors of a nested dict, by the names that inputs go by."""
    flat = pytree.tree_flatten_with_path(dict(data))[0]
    given = {path_name(path): to_tensor(leaf, where) for path, leaf in flat if _is_data(leaf)}
    dotted = {spec.name.replace(".", "_"): spec.name for spec in specs}
    return {dotted.get(name, name): tensor for name, tensor in given.items()}


def _is_data(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) or type(leaf).__module__ == "numpy"


def _divided(
    batches: list[Batch], specs: tuple[InputSpec, ...], source: str, notes: list[str]
) -> CalibrationData:
    calibration, held_out = split(batches, specs, HELD_OUT)
    if not held_out:
        notes = [
            *notes,
            "there is too little data to hold any out: verification uses what calibration has seen",
        ]
        held_out = calibration
    return CalibrationData(tuple(calibration), tuple(held_out), source, notes=tuple(notes))


def _check_num_samples(num_samples: int | None) -> None:
    if num_samples is not None and num_samples < 1:
        raise UsageError(f"{spelled('num_samples')} is {num_samples}; give a positive number")
