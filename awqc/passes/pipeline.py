"""The pipeline: passes in order, with everything around them."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from awqc.errors import UsageError, spelled
from awqc.machine.memory import give_back, trim
from awqc.numerics.request import QuantizationSpec
from awqc.passes.allocate_bits import AllocateBits
from awqc.passes.base import Change, Pass
from awqc.passes.calibrate import Calibrate
from awqc.passes.canonicalize import Canonicalize
from awqc.passes.fold_scales import FoldScales
from awqc.passes.insert_observers import InsertObservers
from awqc.passes.invariants import check_invariants
from awqc.passes.load_scales import LoadScales
from awqc.passes.quantize_weights import QuantizeWeights
from awqc.passes.search_scales import SearchScales
from awqc.passes.tune_scales import TuneScales
from awqc.program import Program

PASSES: dict[str, type[Any]] = {
    cls.name: cls
    for cls in (
        Canonicalize,
        InsertObservers,
        Calibrate,
        SearchScales,
        LoadScales,
        FoldScales,
        AllocateBits,
        QuantizeWeights,
        TuneScales,
    )
}
DEFAULT = (
    "canonicalize,insert-observers,calibrate,search-scales,fold-scales,quantize-weights"
)

LEARNING = (InsertObservers.name, Calibrate.name, AllocateBits.name, TuneScales.name)
"""Passes that need calibration data; a recipe holds what they found."""

Observe = Callable[[Pass, Program, Program, list[Change]], None]
"""Called after each pass with the pass, the program before and after, and the changes."""


@dataclass
class Pipeline:
    """Passes to run in order.

    Attributes:
        passes: the passes.
        timing: seconds by pass name, after `run`.
    """

    passes: Sequence[Pass]
    timing: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """The one line that `parse_pipeline` reads back."""
        return ",".join(_spell(step) for step in self.passes)

    def files(self) -> tuple[Path, ...]:
        """Files that the passes read or write; a folder where the user gave one."""
        return tuple(
            path
            for step in self.passes
            for option in fields(step)  # type: ignore[arg-type]
            if (files := option.metadata.get("files")) and getattr(step, option.name)
            for path in files(Path(getattr(step, option.name)))
        )

    def run(
        self,
        program: Program,
        observe: Observe | None = None,
        before_quantization: Callable[[Program], None] = lambda program: None,
    ) -> list[Change]:
        """Run all passes on ``program``, which they edit; checks invariants after each.

        ``before_quantization`` is called with the last program that is still float.

        Raises:
            InvariantError: a pass broke one; the message names both.
        """
        for step in self.passes:
            if isinstance(step, QuantizationSpec):
                program.quantization = step
        if program.reference is None:
            program.reference = program.run(program.check_batch())
        changes: list[Change] = []
        still_float = True
        give_back()
        for step in self.passes:
            if still_float and not step.keeps_output:
                still_float = False
                before_quantization(program)
            started = time.perf_counter()
            before = program.clone() if observe is not None else None
            made = step.apply(program)
            program.tidy()
            trim()
            check_invariants(program, step)
            give_back()
            self.timing[step.name] = time.perf_counter() - started
            if observe is not None and before is not None:
                observe(step, before, program, made)
            changes += made
        return changes


def parse_pipeline(spec: str, **options: dict[str, Any]) -> Pipeline:
    """Read ``pass-a,pass-b{option=1,other-option=x}``.

    ``options`` are defaults for passes by name with underscores
    (``quantize_weights={"bits": 8}``); what ``spec`` says wins.  In a value, ``%2C`` is a comma.

    Raises:
        UsageError: a pass or option that does not exist, or a value that does not fit.

    >>> str(parse_pipeline("canonicalize,search-scales{grid=5}"))
    'canonicalize,search-scales{grid=5}'
    """
    steps = []
    for name, text in _split(spec):
        if name not in PASSES:
            raise UsageError(f"no pass is called {name!r}; passes: {', '.join(PASSES)}")
        cls = PASSES[name]
        given = dict(options.get(name.replace("-", "_"), {}))
        given |= _parse_options(cls, text)
        steps.append(cls(**given))
    return Pipeline(steps)


def without_search(spec: str) -> str:
    """The pipeline ``spec`` with ``load-scales`` in place of what finds scales from data.

    >>> without_search("canonicalize,insert-observers,calibrate,search-scales{grid=5},fold-scales")
    'canonicalize,load-scales,fold-scales'
    """
    kept = []
    for name, text in _split(spec):
        if name == SearchScales.name:
            kept.append(LoadScales.name)
        elif name not in LEARNING:
            kept.append(f"{name}{{{text}}}" if text else name)
    return ",".join(kept)


def _split(spec: str) -> list[tuple[str, str]]:
    """Names and option texts of a pipeline's text."""
    found = []
    position = 0
    pattern = re.compile(r"\s*([a-z0-9-]+)\s*(?:\{([^{}]*)\})?\s*(,|$)")
    while position < len(spec):
        match = pattern.match(spec, position)
        if match is None:
            raise UsageError(
                f"cannot read the pipeline at {spec[position:position + 20]!r}; "
                "write pass-a,pass-b{option=1,other-option=x}"
            )
        found.append((match[1], match[2] or ""))
        position = match.end()
    if not found:
        raise UsageError(f"the pipeline is empty; leave {spelled('pipeline')} out for the default")
    return found


def _parse_options(cls: type[Any], text: str) -> dict[str, Any]:
    fields = {f.name.replace("_", "-"): f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = item.partition("=")
        if key not in fields:
            raise UsageError(
                f"{cls.name} has no option {key!r}; options: {', '.join(fields) or 'none'}"
            )
        option = fields[key]
        values[option.name] = _convert(cls.name, key, value, _default(option))
    return values


def _default(option: Any) -> Any:
    return option.default


def _convert(owner: str, key: str, value: str, default: Any) -> Any:
    """``value`` in the type of the option's default."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False, "": True}[value.lower()]
        if isinstance(default, tuple):
            return tuple(unquote(item) for item in value.split("|") if item)
        if isinstance(default, int):
            return int(value)
        if isinstance(default, float):
            return float(value)
        return int(value) if re.fullmatch(r"-?\d+", value) else unquote(value)
    except (KeyError, ValueError):
        raise UsageError(
            f"{owner}{{{key}={value}}}: a {type(default).__name__} is needed"
        ) from None


def _escape(text: str) -> str:
    """``text`` with what the pipeline's own grammar uses written as ``%2C``."""
    return re.sub(r"[%,{}|\s]", lambda match: f"%{ord(match[0]):02X}", text)


def _spell(step: Pass) -> str:
    """A pass with the options that differ from their defaults, but for paths on this machine."""
    assert dataclasses.is_dataclass(step)
    shown = []
    for option in dataclasses.fields(step):
        value = getattr(step, option.name)
        if value != _default(option) and not option.metadata.get("local"):
            text = "|".join(map(_escape, value)) if isinstance(value, tuple) else str(value)
            if isinstance(value, str | bool):
                text = _escape(value) if isinstance(value, str) else text.lower()
            shown.append(f"{option.name.replace('_', '-')}={text}")
    return step.name + (f"{{{','.join(shown)}}}" if shown else "")
