"""The axes of a module's inputs that are dynamic, read from the sizes in its calls."""

from __future__ import annotations

from collections.abc import Sequence

from awqc.recording.calls import SeenCall

Axis = tuple[str, int]
"""A tensor argument and one of its axes."""


def varying_axes(calls: Sequence[SeenCall]) -> dict[str, dict[int, str]]:
    """For each tensor argument the axes whose sizes differ between calls, with names.

    Axes that have equal sizes in every call are one and have one name: ``batch`` for first axes,
    else that of the first argument with the axis, as in ``pixel_values_axis_2``::

        call 1: x (2, 7), mask (2, 7)    call 2: x (3, 9), mask (3, 9)
            -> x and mask: {0: "batch", 1: "x_axis_1"}

    Where first axes differ from each other, each is named after its argument: ``x_batch``.
    """
    groups: dict[tuple[int, ...], list[Axis]] = {}
    first, *others = (call.tensors for call in calls)
    for name, value in first.items():
        for axis, size in enumerate(value.shape):
            sizes = (size, *(other[name].shape[axis] for other in others))
            if len(set(sizes)) > 1:
                groups.setdefault(sizes, []).append((name, axis))
    batches = sum(any(axis == 0 for _, axis in group) for group in groups.values())
    found: dict[str, dict[int, str]] = {}
    for group in groups.values():
        label = _label(group, several=batches > 1)
        for name, axis in group:
            found.setdefault(name, {})[axis] = label
    return found


def _label(group: Sequence[Axis], several: bool) -> str:
    batched = next((name for name, axis in group if axis == 0), None)
    if batched is not None:
        return f"{batched}_batch" if several else "batch"
    name, axis = group[0]
    return f"{name}_axis_{axis}"
