"""Made-up values that look like an example's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FLIPPED = 1 / 16
"""The share of flags that are turned over where those of the example are all alike."""


def draw_like(
    example: Tensor, shape: list[int], rows: int | None, generator: torch.Generator
) -> Tensor:
    """Values of ``shape``, which differs from the example's on the first axis at most.

    Indices lie below ``rows``, where it is known. Else, by the example:

        flags that differ, integers 0 and 1,
        floats some of which are infinite         some of its samples as they are
        flags that are all alike                  these, `FLIPPED` of them turned over
        other integers                            within its range
        other floats                              normal with its mean and deviation
    """
    if 0 in shape or example.numel() == 0:
        return example.new_zeros(shape)
    if example.dtype == torch.bool and bool((example == example.flatten()[0]).all()):
        return _flipped(bool(example.flatten()[0]), shape, generator)
    if example.dtype == torch.bool or (rows is None and _is_pattern(example)):
        return _samples(example, shape, generator)
    if example.is_complex():
        return torch.randn(shape, generator=generator, dtype=example.dtype)
    if not example.is_floating_point():
        low, high = (0, rows) if rows else (int(example.min()), int(example.max()) + 1)
        return torch.randint(low, high, shape, generator=generator).to(example.dtype)
    normal = torch.randn(shape, generator=generator)
    values = example.float()
    deviation = values.std().item() if values.numel() > 1 else 0.0
    if deviation > 0:
        normal = normal * deviation + values.mean()
    return normal.to(example.dtype)


def describe_drawing(example: Mapping[str, Tensor], rows: Mapping[str, int]) -> str:
    """What `draw_like` does for the inputs of ``example``, in a few words."""
    kinds: dict[str, list[str]] = {}
    for name, value in example.items():
        kinds.setdefault(_describe(value, rows.get(name)), []).append(name)
    return "; ".join(f"{', '.join(names)}: {kind}" for kind, names in kinds.items())


def _describe(example: Tensor, rows: int | None) -> str:
    if example.dtype == torch.bool and bool((example == example.flatten()[:1]).all()):
        return "flags as in the example, few turned over"
    if example.dtype == torch.bool or (rows is None and _is_pattern(example)):
        return "samples of the example"
    if not example.is_floating_point() and not example.is_complex():
        return "indices of the table" if rows else "integers within the example's range"
    return "normal, spread as the example"


def _is_pattern(example: Tensor) -> bool:
    """Whether the values are a mask: zeros and ones, or numbers and infinities."""
    if example.is_floating_point():
        return not bool(example.isfinite().all())
    return not example.is_complex() and set(example.unique().tolist()) == {0, 1}


def _flipped(value: bool, shape: list[int], generator: torch.Generator) -> Tensor:
    """Flags ``value``, few of them turned over; the first of each row stays, so that no row is.

    A row that is masked as a whole gives NaN in most models.
    """
    turned = torch.rand(shape, generator=generator) < FLIPPED
    if turned.ndim:
        turned[..., 0] = False
    return turned ^ value


def _samples(example: Tensor, shape: list[int], generator: torch.Generator) -> Tensor:
    """``example``, with samples of it drawn anew where the first axis is to be another."""
    if list(example.shape) == shape:
        return example.clone()
    chosen = torch.randint(example.shape[0], (shape[0],), generator=generator)
    return example[chosen]
