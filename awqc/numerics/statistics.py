"""What calibration learns about one activation: enough to judge any quantization of its readers.

The loss of replacing a weight W by W' on inputs X (tokens x K) is exactly::

    || (W' - W) X^T ||^2 / tokens  =  || (W' - W) F^T ||^2     with  F^T F = X^T X / tokens

so a factor F of the second moments is all that the search needs; the model never runs again.
Up to `EXACT_COLUMNS` columns X^T X itself is summed. Beyond, F is a sketch S = R X with a
random sign a token (a count sketch whose bucket is the token's position modulo ``rows``):
E[S^T S] = X^T X (Charikar, Chen, Farach-Colton 2002). An observer costs one pass over X.

Rounding that compensates errors solves with the moments, for which a factor of low rank will
not do: on request their full matrix, the gram, is summed as well. It needs no more samples
than some multiple of K: from `GRAM_TOKENS` times K tokens on, `GRAM_FOLD` tokens with random
signs are added up before their products are taken, by the same identity as above.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from awqc.machine.devices import moved
from awqc.machine.ranks import Ranks

EXACT_COLUMNS = 256
SAMPLES_A_BATCH = 8
GRAM_TOKENS = 2
GRAM_FOLD = 8
MOST_COLUMNS = 2**15
"""Columns beyond which no gram is kept: it would be 4 GB. The largest products of language models
have 29568; a kernel over 1024 channels and 64 places has 65536."""
SPAN = 512
"""Columns of a gram that are summed at once, from the diagonal on: half of it follows."""
RANK_SEEDS = 2**32
"""How far the seeds of two ranks lie apart."""
LARGEST = 1e16
"""Activations beyond this cannot be squared and summed in float32."""


@dataclass(frozen=True)
class Statistics:
    """Second moments and magnitudes of an activation seen as a matrix ``(blocks, tokens, K)``.

    Attributes:
        tokens: number of rows that were summed.
        abs_mean: float32 ``(blocks, K)``, mean of \\|x\\|.
        abs_max: float32 ``(blocks, K)``.
        factor: float32 ``(blocks, m, K)`` with ``factor^T factor = X^T X / tokens``, exactly or
            in expectation.
        gram: float32 ``(blocks, K, K)``, ``X^T X / tokens``, where it was asked for or is
            small.
        sample: float32 ``(blocks, n, K)``, some of the tokens themselves, where asked for.
    """

    tokens: int
    abs_mean: Tensor
    abs_max: Tensor
    factor: Tensor
    gram: Tensor | None = None
    sample: Tensor | None = None

    def for_search(self, device: torch.device) -> Statistics:
        """What losses are computed with, on ``device``; magnitudes stay, and the gram is left."""
        factor, sample = moved((self.factor, self.sample), device)
        return replace(self, factor=factor, sample=sample, gram=None)


@dataclass
class _Sums:
    """Over all tokens: magnitudes ``(blocks, K)``, and moments ``(blocks, K or rows, K)``."""

    exact: bool
    abs_sum: Tensor
    abs_max: Tensor
    moments: Tensor

    @classmethod
    def of(cls, blocks: int, columns: int, rows: int) -> _Sums:
        """Of no token; moments of many columns are a sketch of ``rows``."""
        exact = columns <= EXACT_COLUMNS
        return cls(
            exact,
            torch.zeros(blocks, columns, dtype=torch.float64),
            torch.zeros(blocks, columns),
            torch.zeros(blocks, columns if exact else rows, columns),
        )


class Accumulator:
    """Sums `Statistics` over batches of ``(blocks, tokens, K)`` matrices, in float32.

    Sums of squares of large activations are exact to float32 rounding; the running factor is
    kept unnormalised until `finish`.

    Attributes:
        gram: whether the gram is summed, however large it is.
        samples: tokens that are kept as they are.
    """

    def __init__(self, rows: int, seed: int, gram: bool = False, samples: int = 0) -> None:
        self._rows = rows
        self.gram = gram
        self._gram: Tensor | None = None
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._tokens = 0
        self._sums: _Sums | None = None
        self.samples = samples
        self._sample: list[Tensor] = []

    @property
    def tokens(self) -> int:
        """Rows seen so far."""
        return self._tokens

    def set_rank(self, ranks: Ranks) -> None:
        """Draw other signs than other ranks, which see other tokens."""
        if ranks.index:
            self._generator.manual_seed(self._seed + ranks.index * RANK_SEEDS)

    def add_up(self, ranks: Ranks) -> None:
        """Take in what the other ranks saw, as they take in what this one did."""
        if ranks.count == 1:
            return
        shapes = ranks.gather(None if self._sums is None else tuple(self._sums.abs_max.shape))
        shape = next((each for each in shapes if each is not None), None)
        if shape is None:
            return
        blocks, columns = shape
        sums = self._sums = self._sums or _Sums.of(blocks, columns, self._rows)
        ranks.total(sums.abs_sum)
        ranks.largest(sums.abs_max)
        ranks.total(sums.moments)
        if self.gram and not sums.exact:
            if self._gram is None:
                self._gram = torch.zeros(blocks, columns, columns)
            self._gram = ranks.total(self._gram.cpu())
        seen = ranks.gather((self._tokens, self._sample))
        self._tokens = sum(tokens for tokens, _ in seen)
        self._sample = [each for _, sample in seen for each in sample]

    def add(self, x: Tensor) -> bool:
        """Take in ``x``; returns whether it could be (no NaN, nothing beyond `LARGEST`)."""
        if x.shape[1] == 0:
            return True
        x = x.detach().float()
        magnitude = x.abs()
        peak = magnitude.amax(dim=1)
        if not bool((peak <= LARGEST).all()):
            return False
        sums = self._sums = self._sums or _Sums.of(x.shape[0], x.shape[2], self._rows)
        sums.abs_sum += magnitude.sum(dim=1).double().cpu()
        sums.abs_max = torch.maximum(sums.abs_max, peak.cpu())
        if sums.exact:
            sums.moments += (x.transpose(1, 2) @ x).cpu()
        else:
            signed = x * self._signs(x)
            sums.moments += self._sketch(signed).cpu()
            if self.gram:
                self._add_gram(signed)
        self._keep(x)
        self._tokens += x.shape[1]
        return True

    def _keep(self, x: Tensor) -> None:
        """Keep some evenly spaced tokens, as long as there is room."""
        wanted = min(SAMPLES_A_BATCH, self.samples - sum(x.shape[1] for x in self._sample))
        if wanted > 0:
            places = torch.linspace(0, x.shape[1] - 1, wanted).round().long().unique()
            self._sample.append(x[:, places.to(x.device)].cpu())

    def _signs(self, x: Tensor) -> Tensor:
        """A random sign for each token: ``(tokens, 1)``."""
        signs = torch.randint(0, 2, (x.shape[1], 1), generator=self._generator) * 2.0 - 1.0
        return signs.to(x.device)

    def _add_gram(self, signed: Tensor) -> None:
        """Add ``X^T X`` of tokens with signs, folded once there are many, to the lower half."""
        if self._tokens >= GRAM_TOKENS * signed.shape[2]:
            short = -signed.shape[1] % GRAM_FOLD
            padded = torch.nn.functional.pad(signed, (0, 0, 0, short))
            signed = padded.unflatten(1, (GRAM_FOLD, -1)).sum(1)
        if self._gram is None:
            self._gram = signed.new_zeros(len(signed), signed.shape[2], signed.shape[2])
        for gram, rows in zip(self._gram, signed, strict=True):
            for here in _spans(rows.shape[1]):
                gram[here.start :, here].addmm_(rows[:, here.start :].T, rows[:, here])

    def _sketch(self, signed: Tensor) -> Tensor:
        """Every ``rows``-th token with its sign into one bucket: ``(blocks, rows, K)``."""
        blocks, tokens, columns = signed.shape
        whole = tokens - tokens % self._rows
        sketch = signed[:, :whole].reshape(blocks, -1, self._rows, columns).sum(dim=1)
        if whole < tokens:
            # The short end goes to random buckets, else the first ones would fill up.
            buckets = torch.randperm(self._rows, generator=self._generator)[: tokens - whole]
            sketch = sketch.index_add(1, buckets.to(signed.device), signed[:, whole:])
        return sketch

    def finish(self) -> Statistics:
        """The statistics of everything that was added, to be taken once: nothing of it is held on.

        At least one token is needed.
        """
        sums, gram, sample = self._sums, self._gram, self._sample
        self._sums, self._gram, self._sample = None, None, []
        assert sums is not None
        if sums.exact:
            gram = sums.moments / self._tokens
            factor = _square_root(sums.moments / self._tokens)
        else:
            gram = None if gram is None else _mirrored(gram.cpu().div_(self._tokens))
            factor = sums.moments.div_(self._tokens**0.5)
        return Statistics(
            tokens=self._tokens,
            abs_mean=(sums.abs_sum / self._tokens).float(),
            abs_max=sums.abs_max,
            factor=factor,
            gram=gram,
            sample=torch.cat(sample, dim=1)[:, : self.samples] if sample else None,
        )


def _spans(columns: int) -> Iterator[slice]:
    for start in range(0, columns, SPAN):
        yield slice(start, min(start + SPAN, columns))


def _mirrored(gram: Tensor) -> Tensor:
    """``gram`` ``(blocks, K, K)``, of which the lower half was summed, with the other half."""
    for here in _spans(gram.shape[-1]):
        gram[:, here, here.stop :] = gram[:, here.stop :, here].mT
    return gram


def _square_root(moments: Tensor) -> Tensor:
    """``F`` with ``F^T F = moments`` for symmetric positive semidefinite ``(blocks, K, K)``."""
    values, vectors = torch.linalg.eigh(moments.double())
    root: Tensor = values.clamp(min=0).sqrt().unsqueeze(-1) * vectors.transpose(1, 2)
    return root.float()
