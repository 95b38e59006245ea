"""The search for the scales of one site, on statistics alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from awqc.machine.devices import CPU, moved
from awqc.machine.in_rows import LARGE
from awqc.numerics.formats.base import WeightFormat, from_groups, to_groups
from awqc.numerics.ort_int8 import input_loss, kernel_block
from awqc.numerics.quantizing import fake_quantize, rows_at_once
from awqc.numerics.statistics import Statistics

FLOOR = 1e-4
SCALE_LIMIT = 256.0
FINALISTS = 2


@dataclass(frozen=True)
class Part:
    """One product of a site.

    Attributes:
        weight: ``(blocks, rows, columns)``, some of which at a time are made float32.
        classes: int64 ``(blocks, columns)``, the scale of each column, -1 for none.
        statistics: of the input matrix.
        format: how the weight will be quantized.
        dtype: of the scales that will be stored.
        int8_inputs: whether the product will round its input too, see `awqc.numerics.ort_int8`.
        share: of the site's tokens that the product sees, where experts see some each.
        device: where the loss is computed; all that does not lie there is copied for that.
    """

    weight: Tensor
    classes: Tensor
    statistics: Statistics
    format: WeightFormat
    dtype: torch.dtype = torch.float32
    int8_inputs: bool = False
    share: float = 1.0
    device: torch.device = CPU

    def column_scale(self, scale: Tensor) -> Tensor:
        """The factor on each column: float32 ``(blocks, 1, columns)``, on the device."""
        padded = torch.cat([scale, torch.ones(1)])
        return moved(padded[self.classes].unsqueeze(1), self.device)

    def rows(self, count: int) -> Part:
        """This part with at most ``count`` evenly spaced rows of each block, on the device."""
        total, weight = self.weight.shape[1], self.weight
        if total > count:
            weight = weight[:, torch.linspace(0, total - 1, count).round().long()].float()
        return replace(self, weight=moved(weight, self.device))

    def loss(self, scale: Tensor | None) -> float:
        """``|| (Q(W s) / s - W) F^T ||^2``, `numerics.statistics`, times the share of tokens."""
        factor = None if scale is None else self.column_scale(scale)
        parts = self.weight.split(rows_at_once(self.weight, self.device), dim=1)
        return self.share * sum(
            self._loss(moved(weight, self.device).float(), factor) for weight in parts
        )

    def _loss(self, weight: Tensor, factor: Tensor | None) -> float:
        if factor is None:
            error = fake_quantize(weight, self.format, self.dtype) - weight
        else:
            quantized = fake_quantize(weight * factor, self.format, self.dtype)
            error = quantized.div_(factor).sub_(weight)
        loss = float((error @ self.statistics.factor.transpose(1, 2)).square().sum())
        if self.int8_inputs and self.statistics.sample is not None:
            width = kernel_block(self.format, weight.shape[-1])
            loss += input_loss(weight, self.statistics.sample, factor, width)
        return loss


@dataclass(frozen=True)
class Candidate:
    """Scales that were tried.

    Attributes:
        name: how they were made.
        scale: float32 ``(scales,)``.
        loss: on the calibration statistics.
    """

    name: str
    scale: Tensor
    loss: float


class Search:
    """Grid, then refinement; the identity is always among the finalists."""

    def __init__(self, parts: Sequence[Part], scales: int, sample_rows: int) -> None:
        self._parts = parts
        self._sampled = [part.rows(max(sample_rows // len(parts), 1)) for part in parts]
        self._scales = scales

    @cached_property
    def nearest(self) -> float:
        """Loss without scaling: what rounding to nearest costs."""
        return sum(part.loss(None) for part in self._parts)

    def run(self, grid: int) -> Candidate:
        """The best scales found."""
        pairs = {
            (alpha, beta): None
            for alpha in (step / grid for step in range(grid + 1))
            for beta in (0.0, (1 - alpha) / 2, 1 - alpha)
        }
        coarse = self._try(pairs)
        fine = self._try(_around(coarse[:FINALISTS], 1 / grid))
        best = sorted(coarse + fine)[:FINALISTS]
        candidates = [self._judge(alpha, beta) for _, alpha, beta in best]
        candidates.append(Candidate("identity", torch.ones(self._scales), self.nearest))
        return min(candidates, key=lambda candidate: candidate.loss)

    def _try(self, pairs: Iterable[tuple[float, float]]) -> list[tuple[float, float, float]]:
        """``(loss, alpha, beta)`` on the sampled rows, best first."""
        tried = []
        for alpha, beta in pairs:
            scale = self._scale(alpha, beta)
            tried.append((sum(part.loss(scale) for part in self._sampled), alpha, beta))
        return sorted(tried)

    def _judge(self, alpha: float, beta: float) -> Candidate:
        scale = self._scale(alpha, beta)
        loss = sum(part.loss(scale) for part in self._parts)
        return Candidate(f"x^{alpha:.3g}/w^{beta:.3g}", scale, loss)

    def _scale(self, alpha: float, beta: float) -> Tensor:
        """``mean|x|^alpha / mean|w|^beta`` with geometric mean 1, within `SCALE_LIMIT`."""
        log_scale = alpha * self._log_x - beta * self._log_w
        log_scale = log_scale - log_scale.mean()
        limit = torch.tensor(SCALE_LIMIT).log()
        return log_scale.clamp(-limit, limit).exp()

    @cached_property
    def _log_x(self) -> Tensor:
        """Logarithm of the mean magnitude of the activation, for each scale."""
        magnitudes = [part.statistics.abs_mean for part in self._parts]
        return self._by_class(magnitudes, [part.share for part in self._parts])

    @cached_property
    def _log_w(self) -> Tensor:
        """Logarithm of the mean magnitude of the weights, each relative to its row's group."""
        magnitudes = [_relative_weight(part) for part in self._parts]
        return self._by_class(magnitudes, [1.0] * len(self._parts))

    def _by_class(self, columns: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Mean of ``(blocks, columns)`` values over the columns that share a scale, as log."""
        total, count = torch.zeros(self._scales), torch.zeros(self._scales)
        for part, values, share in zip(self._parts, columns, shares, strict=True):
            scaled = part.classes >= 0
            total.index_add_(0, part.classes[scaled], values[scaled] * share)
            count.index_add_(0, part.classes[scaled], torch.full((int(scaled.sum()),), share))
        mean = torch.where(count > 0, total / count, 0)
        floor = mean.max().clamp(min=torch.finfo(torch.float32).tiny) * FLOOR
        return torch.maximum(mean, floor).log()


def _relative_weight(part: Part) -> Tensor:
    """Mean of |w| over rows, relative to the largest in its group: ``(blocks, columns)``."""
    rows = max(1, LARGE // part.weight.shape[-1])
    total = sum(
        _relative(moved(weight, part.device).float(), part.format)
        for weight in part.weight.split(rows, dim=1)
    )
    assert isinstance(total, Tensor)
    return moved(total / part.weight.shape[1], CPU)


def _relative(weight: Tensor, form: WeightFormat) -> Tensor:
    """The sum over some rows."""
    grouped = to_groups(weight.abs(), form)
    peak = grouped.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return from_groups(grouped / peak, weight.shape[-1]).sum(dim=1)


def _around(
    best: Sequence[tuple[float, float, float]], step: float
) -> Iterable[tuple[float, float]]:
    """Pairs around the best ones, half a step away."""
    seen = {(alpha, beta) for _, alpha, beta in best}
    for _, alpha, beta in best:
        for da in (-step / 2, 0.0, step / 2):
            for db in (-0.15, 0.0, 0.15):
                pair = (max(alpha + da, 0.0), max(beta + db, 0.0))
                if pair not in seen:
                    seen.add(pair)
                    yield pair
