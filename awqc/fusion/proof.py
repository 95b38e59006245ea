"""Whether what takes the place of a part of a graph computes the same, on made-up inputs.

Both are run in onnxruntime on prompts and single tokens, with and without a past, in one row and
in two, and with padding anywhere, of which some tokens see nothing at all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from awqc.fusion.onnx_values import Value, dims, size_in
from awqc.fusion.region import Array, Region, run_model
from awqc.kv_cache import PAST, PRESENT, present_of
from awqc.runtimes.session_file import ORT_ERRORS

TOLERANCE = 2e-5
"""Largest difference, relative to the largest magnitude of an output: other orders of adding make
up to a tenth of it in sums of a few hundred numbers."""
ROUNDINGS = 4
"""How often a result in half precision may be rounded more, or elsewhere, than what it was."""
MORE = 4
"""Tokens of an encoder, whose keys and values do not grow, beyond those of the decoder."""
SMALL_NUMBERS = 8
"""Ids and positions are below this: tables have that many rows."""


@dataclass(frozen=True)
class Regime:
    """Sizes of one trial."""

    batch: int
    sequence: int
    past: int
    padded: bool
    shift: int = 0
    """How many places before the first token of the first row positions are counted from; of the
    next one more."""

    def __str__(self) -> str:
        padding = ", padded" if self.padded else ""
        counted = f", counted {self.shift} later" if self.shift else ""
        return f"{self.batch} x {self.sequence} tokens behind {self.past}{padding}{counted}"

    def positions(self) -> Array:
        """``(batch, sequence)``."""
        places = np.arange(self.past, self.past + self.sequence)
        return places - np.arange(self.shift, self.shift + self.batch)[:, None] * bool(self.shift)


REGIMES = (
    Regime(1, 5, 0, False),
    Regime(2, 6, 0, True),
    Regime(2, 1, 0, False),
    Regime(1, 1, 7, False),
    Regime(2, 1, 7, True),
    Regime(1, 3, 7, True),
    Regime(1, 67, 131, True),
)
SHIFTED = tuple(replace(each, shift=3) for each in REGIMES if not each.past)
"""Without a past, whose keys were turned by other positions."""


@dataclass
class Prover:
    """Compares parts of one model.

    Parts that are alike but for names and codes of weights, as those of a model's layers are, are
    compared once.
    """

    graph: Any
    _known: dict[tuple[bytes, bool, bool], str | None] = field(default_factory=dict)

    def why_not(
        self,
        before: Sequence[Value],
        after: Sequence[Value],
        stops: Sequence[Value],
        positions: Value | None = None,
        *,
        padding: bool = True,
    ) -> str | None:
        """Why ``after`` are not the same values as ``before``, or None if they are.

        Args:
            before: values of the graph, and ``after`` those that are to take their places.
            stops: values whose own making is not in question.
            positions: an input that has the places of tokens. All values must be the same then,
                and the first also where positions are counted from elsewhere in each row.
            padding: whether the first value counts at tokens that are padding themselves.
        """
        old, new = (Region.between(stops, outputs) for outputs in (before, after))
        if any(value.dtype is None for value in (*old.inputs, *new.inputs)):
            return "the type of a value is not known"
        content = hashlib.sha256(old.model(whole=False))
        content.update(new.model(whole=False))
        key = (content.digest(), positions is not None, padding)
        if key not in self._known:
            models = (old.model(), new.model())
            why = self._compare(old, new, models, REGIMES, positions, padding)
            if why is None and positions is not None:
                first = replace(old, outputs=old.outputs[:1])
                why = self._compare(first, new, models, SHIFTED, positions, padding)
            self._known[key] = why
        return self._known[key]

    def _compare(
        self,
        old: Region,
        new: Region,
        models: tuple[bytes, bytes],
        regimes: Sequence[Regime],
        positions: Value | None,
        padding: bool,
    ) -> str | None:
        """How the outputs of ``old`` differ from the first of ``new``."""
        inputs = list(dict.fromkeys((*old.inputs, *new.inputs)))
        made = [self._feeds(inputs, regime, positions) for regime in regimes]
        feeds = [feed for feed in made if feed is not None]
        if len(feeds) < len(regimes):
            return "the sizes of a value are not known"
        try:
            try:
                first = _run(models[0], old, feeds)
            except ORT_ERRORS:  # a table of the model may end before the longest
                regimes, feeds = regimes[:-1], feeds[:-1]
                first = _run(models[0], old, feeds)
            second = _run(models[1], new, feeds)
        except ORT_ERRORS as error:
            return str(error).strip().splitlines()[-1].rpartition("Status Message: ")[2]
        for regime, feed, wanted, found in zip(regimes, feeds, first, second, strict=True):
            if not padding:
                tokens = self._tokens(feed, regime)
                wanted[0], found[0] = (_at(each[0], tokens) for each in (wanted, found))
            for value, reference, now in zip(old.outputs, wanted, found, strict=False):
                if (why := _differ(reference, now)) is not None:
                    return f"{value.name} {why} ({regime})"
        return None

    def _tokens(self, feed: Mapping[Value, Array], regime: Regime) -> Array:
        """``(batch, sequence)``, which tokens are no padding, by the flags in ``feed``."""
        flags = np.ones((regime.batch, regime.past + regime.sequence), bool)
        for value, array in feed.items():
            if array.shape == flags.shape and (dims(value) or [""])[-1] in self._flagged():
                flags &= array > 0
        return flags[:, regime.past :]

    def _feeds(
        self, inputs: Sequence[Value], regime: Regime, positions: Value | None
    ) -> dict[Value, Array] | None:
        rng = np.random.default_rng(0)
        symbols = self._symbols(regime)
        feeds = {}
        for value in inputs:
            sizes = dims(value)
            shape = [None] if sizes is None else [size_in(size, symbols) for size in sizes]
            if None in shape:
                return None
            flags = sizes is not None and len(sizes) == 2 and sizes[1] in self._flagged()
            if positions is not None and value is positions:
                feeds[value] = regime.positions().astype(value.dtype.numpy())
            else:
                feeds[value] = _made_up(value, shape, regime, flags, rng)
        return feeds

    def _symbols(self, regime: Regime) -> dict[str, int]:
        """Sizes of the axes that the model's inputs name."""
        found: dict[str, int] = {}
        made = {str(value.name) for value in self.graph.outputs}
        for value in self.graph.inputs:
            sizes = [size for size in dims(value) or [] if isinstance(size, str)]
            name = str(value.name)
            if name.startswith(PAST):
                grows = present_of(name) in made
                tokens = regime.past if grows else regime.sequence + MORE
                found |= dict(zip(sizes, (regime.batch, tokens), strict=False))
        found |= {
            size: regime.past + regime.sequence for size in self._covering() if size.isidentifier()
        }
        for value in self.graph.inputs:
            every = dims(value) or []
            for axis, size in enumerate(every):
                if isinstance(size, str) and size.isidentifier() and size not in found:
                    rows = axis == 0 and len(every) > 1
                    found[size] = regime.batch if rows else regime.sequence
        named = {name for value in self.graph.inputs for name in _names(value)}
        behind = named - found.keys()  # a number of tokens that no axis has alone
        return found | dict.fromkeys(behind, regime.past)

    def _flagged(self) -> set[str]:
        """Sizes of inputs that say which tokens are no padding: all that count tokens, of a model
        without a cache, where no size tells a mask from ids."""
        if self._covering():
            return self._covering()
        flat = (dims(value) or [] for value in self.graph.inputs)
        return {str(sizes[1]) for sizes in flat if len(sizes) == 2}

    def _covering(self) -> set[str]:
        """Sizes of past and new tokens together, which a cache has when it comes out."""
        out = [value for value in self.graph.outputs if str(value.name).startswith(PRESENT)]
        return {str(sizes[2]) for value in out if (sizes := dims(value)) and len(sizes) == 4}


def _names(value: Value) -> set[str]:
    """The symbols in sizes of ``value``, sums of them included."""
    return set(re.findall(r"[A-Za-z_]\w*", " ".join(map(str, dims(value) or []))))


def _run(model: bytes, region: Region, feeds: Sequence[Mapping[Value, Array]]) -> list[list[Array]]:
    return run_model(model, [[feed[value] for value in region.inputs] for feed in feeds])


def _at(result: Array, tokens: Array) -> Array:
    """``result`` at ``tokens``, which come first or behind heads in it."""
    first = result if result.shape[:2] == tokens.shape else np.moveaxis(result, 2, 1)
    return first[tokens]


def _made_up(value: Value, shape: list[Any], regime: Regime, flagged: bool, rng: Any) -> Array:
    """Numbers for ``value``; ``flagged`` whole ones are flags of what is no padding."""
    kind = value.dtype.numpy()
    if value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return np.asarray(rng.standard_normal(shape, np.float32), kind)
    if value.dtype == ir.DataType.BOOL:
        return np.asarray(rng.random(shape) < 0.7, kind)
    if not flagged:
        return np.asarray(rng.integers(0, SMALL_NUMBERS, shape), kind)
    flags = np.ones(shape, kind)
    if regime.padded:
        flags[:] = rng.random(shape) < 0.7
        flags[0, : 1 + shape[1] // 3] = 0
        flags[-1, -1] = 1
    return flags


def _differ(reference: Array, now: Array) -> str | None:
    """How two arrays differ by more than rounding, in words."""
    if reference.shape != now.shape:
        return f"has shape {now.shape}, not {reference.shape}"
    finite = np.isfinite(reference)
    if not np.array_equal(finite, np.isfinite(now)):
        return "is not finite everywhere"
    if not finite.all():
        reference, now = reference[finite], now[finite]
    if not reference.size:
        return None
    kind = np.float32 if reference.dtype == np.float32 else np.float64
    largest = _largest(reference.astype(kind, copy=False))
    gap = _largest(np.subtract(reference, now, dtype=kind))
    half = ROUNDINGS * float(np.finfo(np.float16).eps) if reference.dtype == np.float16 else 0.0
    if gap <= max(TOLERANCE, half) * largest:
        return None
    return f"differs by {gap / largest if largest else gap:.1e}"


def _largest(array: Array) -> float:
    return float(max(array.max(), -array.min()))
