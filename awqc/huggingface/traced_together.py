"""Runs of `generate` on several samples at once, taken apart into what each sample would give.

A step of a decoder on four rows takes little longer than one on a single row: it reads the same
weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from awqc.bundle.parts import Bundle, Trace
from awqc.program import Batch, InputSpec

TOGETHER = 4
"""Samples that are generated for at once: what all calls read and made of them is in memory."""


def groups_of_equal_sizes(samples: Sequence[Batch]) -> Iterator[list[Batch]]:
    """``samples`` in their order, some at a time, each group of equal sizes and no padding."""
    group: list[Batch] = []
    for sample in samples:
        if group and (len(group) == TOGETHER or _sizes(sample) != _sizes(group[0])):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _sizes(sample: Batch) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in sample.items()}


def joined(group: Sequence[Batch]) -> Batch:
    """One batch of ``group``."""
    return {name: torch.cat([each[name] for each in group]) for name in group[0]}


def own_length(tokens: Tensor, prompt: int, ends: Collection[int]) -> int:
    """How many of ``tokens``, which a decoder read of one sample among others, are its own.

    The first token behind the ``prompt`` that ends a text would not have been read any more; what
    follows it fills the row up.
    """
    for place, token in enumerate(tokens.tolist()):
        if place >= prompt and token in ends:
            return place
    return len(tokens)


def rows_of(
    trace: Trace, bundle: Bundle, tokens: tuple[str, str], own: Sequence[int]
) -> Iterator[Trace]:
    """What each row of ``trace`` would be alone.

    Of ``tokens``, an input of a part, a row has as many as ``own`` says, and of what the part makes
    of them.
    """
    read, made = trace
    decoder, name = tokens
    program = bundle.parts[decoder]
    specs = {spec.name: spec for spec in program.inputs}
    axes = dict.fromkeys(program.outputs, 1)
    axes |= {output: _growing_axis(specs[state]) for state, output in program.states}
    for row, count in enumerate(own):
        mine = {
            part: _row_of(values, row, bundle.parts[part].inputs) for part, values in read.items()
        }
        mine[decoder][name] = mine[decoder][name][:, :count]
        results = {key: value[row : row + 1] for key, value in made.items()}
        for output, axis in axes.items():
            key = f"{decoder}.{output}"
            length = min(count, results[key].shape[axis])
            results[key] = results[key].narrow(axis, 0, length)
        yield mine, results


def _row_of(values: Batch, row: int, specs: Sequence[InputSpec]) -> Batch:
    """Inputs of one sample; those that have no axis for samples are the same for all."""
    free: Mapping[str, bool] = {
        spec.name: bool(spec.shape) and isinstance(spec.shape[0], str) for spec in specs
    }
    return {name: value[row : row + 1] if free[name] else value for name, value in values.items()}


def _growing_axis(state: InputSpec) -> int:
    """The axis of a state, behind that of samples, along which tokens are added."""
    return next(axis for axis, size in enumerate(state.shape) if axis and isinstance(size, str))


def same_trace(one: Trace, other: Trace) -> bool:
    """Whether both read the same tokens and, as good as, the same numbers."""
    (read, made), (also_read, also_made) = one, other
    pairs = [
        (value, also_read[part][name])
        for part, values in read.items()
        for name, value in values.items()
    ]
    return all(_same(*pair) for pair in [*pairs, *((made[name], also_made[name]) for name in made)])


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return float((one - other).norm()) <= 1e-3 * float(other.norm())
