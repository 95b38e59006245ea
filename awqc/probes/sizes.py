"""Which other sizes are tried: few, and such that a dependence on a size shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product

import sympy

from awqc.probes.axes import SMALLEST, FreeAxes, breaks

LONG = 256
"""Sizes of which a quarter more and less is tried: what is made of few elements of such an axis, as
by a convolution with a stride, is not always another where one element is more."""
MOST_CONDITIONS = 6
"""Conditions of capture that are broken in turn."""
MOST_CHOICES = 100
"""Combinations of sizes that are looked at for one that is wanted."""
BOUNDS = (sympy.Le, sympy.Lt, sympy.Ge, sympy.Gt)


@dataclass(frozen=True)
class Attempt:
    """Sizes to be tried, one for each free axis.

    Attributes:
        sizes: the sizes.
        beyond: whether they are chosen for being beyond the range that capture found.
    """

    sizes: dict[sympy.Symbol, int]
    beyond: bool = False


def attempts(axes: FreeAxes) -> Iterator[tuple[Attempt, ...]]:
    """What to try, each with what to try instead where the model fails on it.

    These are: one sample, the other axes at smaller primes; all axes at larger primes; one element
    along all axes but the first.
    """
    first = {symbol for symbol, (_, axis) in axes.places.items() if axis == 0}
    if first:
        yield _ways(axes, dict.fromkeys(first, 1), larger=False)
    yield _ways(axes, {}, larger=True)
    if first and len(first) < len(axes.example):
        yield (
            Attempt({s: size if s in first else one(axes, s) for s, size in axes.example.items()}),
        )


def one(axes: FreeAxes, symbol: sympy.Symbol) -> int:
    """The smallest size of an axis."""
    return axes.steps.get(symbol, 1)


def breaking(axes: FreeAxes, tried: Sequence[Mapping[sympy.Symbol, int]]) -> Iterator[Attempt]:
    """Sizes that break what capture took for granted, and what was ``tried`` did not break.

    Such conditions are "not 17", "a multiple of 4", "height and width differ", "at most 50".
    """
    seen = list(tried)
    for condition in axes.conditions:
        if any(breaks(condition, sizes) for sizes in seen):
            continue
        if (sizes := _break(axes, condition)) is not None:
            seen.append(sizes)
            yield Attempt(sizes, isinstance(condition, BOUNDS))
        if len(seen) >= len(tried) + MOST_CONDITIONS:
            return


def _ways(axes: FreeAxes, fixed: Mapping[sympy.Symbol, int], larger: bool) -> tuple[Attempt, ...]:
    """Primes; sizes that capture allows; and ``fixed`` alone, the others as in the example."""
    primes = {**_primes(axes, larger), **fixed}
    choices = {
        symbol: [fixed[symbol]] if symbol in fixed else _choices(size, primes[symbol], larger)
        for symbol, size in axes.example.items()
    }
    every = (dict(zip(choices, sizes, strict=True)) for sizes in product(*choices.values()))
    allowed = (
        sizes
        for sizes in islice(every, MOST_CHOICES)
        if not axes.broken({s: max(size, SMALLEST) for s, size in sizes.items()})
    )
    ways = [primes, next(allowed, primes), {**axes.example, **fixed}]
    distinct = [
        way
        for i, way in enumerate(ways)
        if way not in (axes.example, *ways[:i]) and axes.allowed(way)
    ]
    return tuple(Attempt(way) for way in distinct)


def _choices(size: int, prime: int, larger: bool) -> list[int]:
    """``prime``, then multiples or a part of ``size``, for models that take no others."""
    return [prime, *([2 * size, 3 * size] if larger else [max(size // 2, SMALLEST)]), size]


def _primes(axes: FreeAxes, larger: bool) -> dict[sympy.Symbol, int]:
    """For each axis the prime next to the example's size that stands nowhere in the graph; next to
    a quarter more, or less, where that is `LONG`."""
    taken = axes.constants | set(axes.example.values())
    chosen: dict[sympy.Symbol, int] = {}
    for symbol, size in axes.example.items():
        step = one(axes, symbol)
        if step > 1:
            chosen[symbol] = step * _other_count(size // step, larger)
            continue
        if size >= LONG:
            size += size // 4 if larger else -(size // 4)
        below = [] if larger else [*sympy.primerange(SMALLEST, size)]
        near = [p for p in reversed(below) if p not in taken]
        while not near:
            size = int(sympy.nextprime(size))
            near = [size] if size not in taken else []
        chosen[symbol] = near[0]
        taken = taken | {near[0]}
    return chosen


def _other_count(count: int, larger: bool) -> int:
    """The prime next to ``count``; 1 below the first of them."""
    return int(sympy.nextprime(count) if larger else sympy.prevprime(count) if count > 2 else 1)


def _break(axes: FreeAxes, condition: sympy.Basic) -> dict[sympy.Symbol, int] | None:
    """The example with one or two sizes changed so that ``condition`` fails, if any are found."""
    symbols = sorted(condition.free_symbols & set(axes.example), key=str)
    numbers = {int(n) for n in condition.atoms(sympy.Integer)} | set(axes.example.values())
    near = sorted({n + step for n in numbers for step in (-1, 0, 1) if n + step >= SMALLEST})
    for changed in [*((s,) for s in symbols), *pairwise(symbols)]:
        for values in islice(product(near, repeat=len(changed)), MOST_CHOICES):
            sizes = {**axes.example, **dict(zip(changed, values, strict=True))}
            if breaks(condition, sizes) and axes.allowed(sizes):
                return sizes
    return None
