"""What follows for a compile from what will run the model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from awqc.errors import UsageError, spelled
from awqc.targets.base import ONNX, ORT, Target
from awqc.targets.known import AUTO, TWO_BIT, find_target

if TYPE_CHECKING:
    from awqc.options.compile_options import Options

A_ROW = -1
"""The group of all weights of a row."""


def fitted(options: Options) -> Options:
    """``options`` with what their target needs where nothing else was asked for.

    Its form is among the formats; weights are symmetric where it knows no zero points; ``auto``
    groups are those that it is fastest with.

    Raises:
        UsageError: it cannot run what was asked for.
    """
    if options.target == AUTO:
        return options
    target = find_target(options.target)
    _check(options, target)
    changed: dict[str, Any] = {}
    if target.form not in options.formats:
        formats = (*options.formats, target.form)
        changed["formats"] = tuple(sorted(formats, key=lambda name: (name != ONNX, name != ORT)))
    if not target.zero_points:
        changed["symmetric"] = True
    best = target.block_sizes[0]
    if options.group_size == AUTO and best != max(best, *target.block_sizes[1:3]):
        changed["group_size"] = best
    return replace(options, **changed)


def _check(options: Options, target: Target) -> None:
    asked = {name: getattr(options, name) for name in ("bits", "head_bits")}
    for name, width in asked.items():
        if width not in (0, AUTO, *target.widths):
            raise _refusal(target, name, width, f"weights of {_either(target.widths)} bits")
    if asked["bits"] == 2 and target.opset < TWO_BIT:
        raise _refusal(target, "bits", 2, f"opset {target.opset}, which has no codes of 2 bits")
    size = options.group_size
    if isinstance(size, int) and size != A_ROW and all(size % each for each in target.block_sizes):
        sizes = _either(sorted(target.block_sizes))
        raise _refusal(target, "group_size", size, f"groups of {sizes}, or multiples of them")
    if options.dtype not in (AUTO, *target.dtypes):
        raise _refusal(target, "dtype", options.dtype, f"computing in {_either(target.dtypes)}")


def _refusal(target: Target, name: str, value: object, takes: str) -> UsageError:
    return UsageError(
        f"{spelled(name, value)}: {target.about} ({spelled('target', target.name)}) takes {takes}"
    )


def _either(values: Any) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
