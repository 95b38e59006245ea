"""Check batches against the inputs of a program, cut them and split them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import torch
from torch import Tensor

from awqc.errors import CalibrationError
from awqc.program import Batch, InputSpec

LARGEST_OUTPUT = 128 * 2**20
"""Bytes of logits that a batch may cause."""


def batched_inputs(specs: Sequence[InputSpec]) -> tuple[str, ...]:
    """Names of the inputs whose first axis is the batch.

    That axis is the first dynamic first axis; where none is dynamic, the first fixed one
    and those of the same size. Other inputs are the same for every batch.
    """
    firsts = [spec.shape[0] for spec in specs if spec.shape]
    batch = next((size for size in firsts if isinstance(size, str)), firsts[0] if firsts else None)
    return tuple(spec.name for spec in specs if spec.shape and spec.shape[0] == batch)


def batch_axes(specs: Sequence[InputSpec]) -> dict[str, int]:
    """The axis of samples of each input that has one: the first, or another of its name.

    As of positions, of which each token has several: ``(3, batch, tokens)``.
    """
    found = dict.fromkeys(batched_inputs(specs), 0)
    firsts = (spec.shape[0] for spec in specs if spec.name in found)
    names = {size for size in firsts if isinstance(size, str)}
    for spec in specs:
        places = [axis for axis, size in enumerate(spec.shape) if size in names]
        if spec.name not in found and places:
            found[spec.name] = places[0]
    return found


def fixed_batch_size(specs: Sequence[InputSpec]) -> int | None:
    """The batch size where the graph fixes it, else None."""
    names = batched_inputs(specs)
    size = next((spec.shape[0] for spec in specs if spec.name in names), 1)
    return size if isinstance(size, int) else None


def count_samples(batch: Batch, specs: Sequence[InputSpec]) -> int:
    """Samples in ``batch``."""
    names = batched_inputs(specs)
    return batch[names[0]].shape[0] if names else 1


def samples_at_once(output: int, most: int) -> int:
    """Samples of a batch, ``most`` or fewer, where each causes logits of ``output`` bytes."""
    return max(1, min(most, LARGEST_OUTPUT // max(output, 1)))


def match_names(
    given: Mapping[str, Tensor], specs: Sequence[InputSpec], where: str
) -> dict[str, Tensor]:
    """``given`` in the order of ``specs``.

    Raises:
        CalibrationError: a name is unknown, or missing.
    """
    names = [spec.name for spec in specs]
    expected = "the model's inputs are " + ", ".join(map(str, specs))
    unknown = [name for name in given if name not in names]
    missing = [name for name in names if name not in given]
    if unknown:
        raise CalibrationError(f"{where}: {unknown[0]!r} is no input; {expected}")
    if missing:
        raise CalibrationError(f"{where}: there is no array for {missing[0]!r}; {expected}")
    return {name: given[name] for name in names}


def check_batch(
    batch: Mapping[str, Tensor],
    specs: Sequence[InputSpec],
    rows: Mapping[str, int],
    where: str,
    free_batch: bool = False,
) -> tuple[Batch, list[str]]:
    """``batch`` in the dtypes of ``specs``, and a note for each cast.

    ``rows`` bounds index inputs. ``free_batch`` lets a fixed batch axis have any size.

    Raises:
        CalibrationError: wrong shape or dtype, no samples, NaN, inf, or an index beyond its
            table.
    """
    notes: list[str] = []
    checked: Batch = {}
    sizes: dict[str, tuple[int, str]] = {}
    free = batched_inputs(specs) if free_batch else ()
    for spec in specs:
        tensor, at = batch[spec.name], f"{where}: {spec.name!r}"
        _check_shape(tensor, spec, sizes, at, spec.name in free)
        checked[spec.name] = cast(tensor, spec.dtype, at)
        if tensor.dtype != spec.dtype:
            notes.append(f"{spec.name}: cast from {_short(tensor.dtype)} to {_short(spec.dtype)}")
        if spec.name in rows:
            _check_indices(tensor, rows[spec.name], at)
    _check_counts(checked, batched_inputs(specs), where)
    return checked, notes


def _check_shape(
    tensor: Tensor, spec: InputSpec, sizes: dict[str, tuple[int, str]], at: str, free: bool
) -> None:
    shape = list(tensor.shape)
    if tensor.ndim != len(spec.shape):
        raise CalibrationError(
            f"{at} has {tensor.ndim} axes, the shape {shape}; the model takes {spec}"
        )
    if shape[:1] == [0]:
        raise CalibrationError(f"{at} is empty, the shape {shape}; give at least one sample")
    for axis, (size, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
        if axis == 0 and free:
            continue
        if isinstance(wanted, int):
            if size != wanted:
                raise CalibrationError(
                    f"{at} has the size {size} on axis {axis}, the shape {shape}; "
                    f"the model takes {spec}"
                )
        elif wanted.isidentifier():
            first, owner = sizes.setdefault(wanted, (size, spec.name))
            if size != first:
                raise CalibrationError(
                    f"{at} has the size {size} on its axis {axis} ({wanted}), "
                    f"but {owner!r} has {first}; they must be equal"
                )


def _check_counts(batch: Batch, names: Sequence[str], where: str) -> None:
    counts = {name: batch[name].shape[0] for name in names}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise CalibrationError(f"{where}: the inputs differ in their samples ({listed})")


def cast(tensor: Tensor, dtype: torch.dtype, at: str) -> Tensor:
    """``tensor`` in ``dtype``: between float widths, or between integer widths if it fits.

    Raises:
        CalibrationError: the dtypes are of different kinds, a value does not fit, or a
            float is NaN or infinite.
    """
    floats = tensor.is_floating_point()
    kinds = [(d.is_floating_point, d.is_complex, d == torch.bool) for d in (tensor.dtype, dtype)]
    if kinds[0] != kinds[1]:
        raise CalibrationError(
            f"{at} is {_short(tensor.dtype)}; the model takes {_short(dtype)}. "
            "Convert the array before it is saved"
        )
    if floats and not torch.isfinite(tensor).all():
        bad = "NaN" if torch.isnan(tensor).any() else "inf"
        raise CalibrationError(f"{at} holds {bad}; calibration data must be finite")
    converted = tensor.to(dtype)
    if floats and not torch.isfinite(converted).all():
        raise CalibrationError(f"{at} holds values too large for {_short(dtype)}")
    if not floats and not torch.equal(converted.to(tensor.dtype), tensor):
        raise CalibrationError(f"{at} holds values that do not fit {_short(dtype)}")
    return converted


def _check_indices(tensor: Tensor, rows: int, at: str) -> None:
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= rows:
        raise CalibrationError(
            f"{at} holds the index {low if low < 0 else high}; "
            f"its embedding table has the rows 0 to {rows - 1}"
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def take(batch: Batch, specs: Sequence[InputSpec], indices: Tensor | slice) -> Batch:
    """The samples ``indices`` of ``batch``; inputs without a batch axis stay whole."""
    axes = batch_axes(specs)
    return {
        name: t[(slice(None),) * axes[name] + (indices,)] if name in axes else t
        for name, t in batch.items()
    }


def cut_batch(batch: Batch, specs: Sequence[InputSpec], size: int) -> list[Batch]:
    """``batch`` in pieces of ``size`` samples; the last may be smaller."""
    count = count_samples(batch, specs)
    return [take(batch, specs, slice(at, at + size)) for at in range(0, count, size)]


def split(
    batches: Sequence[Batch], specs: Sequence[InputSpec], fraction: float
) -> tuple[list[Batch], list[Batch]]:
    """``(calibration, held_out)``: about ``fraction`` of the data is held out, evenly spread.

    Whole batches are held out; of a single batch, samples. Of a single sample nothing can
    be: the second list is then empty.
    """
    if len(batches) == 1:
        count = count_samples(batches[0], specs)
        if count < 2 or fixed_batch_size(specs) is not None:
            return list(batches), []
        held = _spread(count, fraction)
        rest = [index for index in range(count) if index not in held]
        whole = batches[0]
        return (
            [take(whole, specs, torch.tensor(rest))],
            [take(whole, specs, torch.tensor(sorted(held)))],
        )
    held = _spread(len(batches), fraction)
    kept = [batch for index, batch in enumerate(batches) if index not in held]
    return kept, [batch for index, batch in enumerate(batches) if index in held]


def _spread(count: int, fraction: float) -> set[int]:
    """About ``fraction`` of ``range(count)``, evenly spread: at least one, never all."""
    held = min(max(1, ceil(count * fraction)), count - 1)
    return {(2 * index + 1) * count // (2 * held) for index in range(held)}
