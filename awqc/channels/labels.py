"""Label tensors: which scale multiplies or divides each element of a value.

A label tensor is int64, has the rank of its value and is broadcastable to its shape: axes
along which all labels are equal have size 1. ``+k`` means multiplied by scale k, ``-k``
divided by it, 0 unscaled. A scale has a second index for its square root, which is what goes
into a square. Scales are merged with a union-find; the class `PINNED` is the scale that is 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PINNED = 1


class ScaleClasses:
    """Union-find over scale indices; merging with `PINNED` fixes a scale at 1.

    Attributes:
        conflicts: how many pairs were pinned because a scale met an inverse or a power.
        version: changes whenever a class does.
    """

    def __init__(self, count: int) -> None:
        """Make scales ``PINNED + 1 … PINNED + count``, each in a class of its own.

        ``count`` further on stands the square root of each.
        """
        self.count = count
        self._roots = torch.arange(PINNED + 1 + 2 * count)
        self._update_signed()
        self.conflicts = 0
        self.version = 0

    def copy(self) -> ScaleClasses:
        """An independent copy."""
        other = ScaleClasses(0)
        other.count = self.count
        other._roots = self._roots.clone()
        other._update_signed()
        other.conflicts = self.conflicts
        return other

    def equal(self, other: ScaleClasses) -> bool:
        """Whether both hold the same classes."""
        return torch.equal(self._roots, other._roots)

    def canonical(self, labels: Tensor) -> Tensor:
        """``labels`` with each scale replaced by the representative of its class."""
        return self._signed[labels + self._roots.numel() - 1]

    def active(self, labels: Tensor) -> Tensor:
        """`canonical` labels, with pinned ones as 0."""
        labels = self.canonical(labels)
        return torch.where(labels.abs() == PINNED, 0, labels)

    def merge(self, first: Tensor, second: Tensor) -> bool:
        """Make the scales of two label tensors of one shape equal where both are labelled.

        A scale that must equal an inverse, or a square root, is pinned. Returns
        whether any class changed.
        """
        both = (first != 0) & (second != 0)
        a, b = self.canonical(first[both]), self.canonical(second[both])
        differ = a != b
        if not bool(differ.any()):
            return False
        a, b = a[differ], b[differ]
        left, right = a.abs(), b.abs()
        fixed = (left == PINNED) | (right == PINNED)
        inverse = ((a < 0) != (b < 0)) | (self.are_roots(a) != self.are_roots(b))
        inverse &= ~fixed
        left, right = self._whole(left), self._whole(right)
        self.conflicts += int(inverse.sum())
        pinned = torch.full_like(left, PINNED)
        self._join(
            torch.cat([left, right[inverse]]),
            torch.cat([torch.where(inverse, pinned, right), pinned[inverse]]),
        )
        return True

    def pin(self, labels: Tensor) -> int:
        """Fix all scales in ``labels`` at 1; returns how many classes that newly pinned."""
        classes = self._whole(self.active(labels).abs()).unique()
        classes = classes[classes != 0]
        if classes.numel():
            self._roots[torch.isin(self._roots, classes)] = PINNED
            self._update_square_roots()
        return int(classes.numel())

    def free(self) -> int:
        """How many different scales are not pinned."""
        whole = self._roots[PINNED + 1 : PINNED + 1 + self.count].unique()
        return int((whole != PINNED).sum())

    def are_roots(self, labels: Tensor) -> Tensor:
        """Where ``labels`` are of square roots."""
        return labels.abs() > PINNED + self.count

    def shift(self, labels: Tensor, step: int) -> Tensor:
        """Labels of the square roots (``step`` 1) of whole scales, or back (-1)."""
        return torch.where(labels != 0, labels + labels.sign() * step * self.count, 0)

    def _whole(self, indices: Tensor) -> Tensor:
        """Indices of scales for those of their square roots."""
        return torch.where(self.are_roots(indices), indices - self.count, indices)

    def _update_square_roots(self) -> None:
        whole = self._roots[PINNED + 1 : PINNED + 1 + self.count]
        halves = torch.where(whole == PINNED, PINNED, whole + self.count)
        self._roots[PINNED + 1 + self.count :] = halves
        self.version += 1
        self._update_signed()

    def _update_signed(self) -> None:
        """Representatives of the labels from the most negative on."""
        self._signed = torch.cat([-self._roots.flip(0), self._roots[1:]])

    def _join(self, left: Tensor, right: Tensor) -> None:
        """Make one class of each pair: all take the smallest index that they are joined to."""
        parent = torch.arange(self._roots.numel())
        ends = torch.cat([left, right])
        while True:
            low = torch.minimum(parent[left], parent[right])
            lower = parent.scatter_reduce(0, ends, torch.cat([low, low]), "amin")
            lower = lower[lower]
            if torch.equal(lower, parent):
                break
            parent = lower
        self._roots = parent[self._roots]
        self._update_square_roots()


def compress(labels: Tensor) -> Tensor:
    """Reduce to size 1 each axis along which all labels are equal."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            first = labels.narrow(axis, 0, 1)
            if torch.equal(labels, first.expand_as(labels)):
                labels = first
    return labels


def strongest(labels: Tensor, axis: int) -> Tensor:
    """One label along ``axis``, which stays with size 1: a labelled one where there is any."""
    return labels.gather(axis, labels.abs().argmax(axis, keepdim=True))


def fit(classes: ScaleClasses, labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels for a value of ``shape`` that is broadcast to where ``labels`` stand.

    Labels that meet on one element are merged.
    """
    while labels.ndim > len(shape):
        labels = merge_axes(classes, labels, [0]).squeeze(0)
    for _ in range(len(shape) - labels.ndim):
        labels = labels.unsqueeze(0)
    narrow = [axis for axis, size in enumerate(shape) if size == 1 and labels.shape[axis] > 1]
    return merge_axes(classes, labels, narrow)


def merge_axes(classes: ScaleClasses, labels: Tensor, axes: Sequence[int]) -> Tensor:
    """Merge all labels along each of ``axes``, which end with size 1."""
    for axis in axes:
        if labels.shape[axis] != 1:
            one = strongest(labels, axis)
            classes.merge(labels, one.expand_as(labels))
            labels = one
    return labels
