"""How much work a compile spends on accuracy, in terms of its passes and their options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from awqc.passes.pipeline import DEFAULT_PASSES
from awqc.passes.tune_scales import TuneScales

PassOptions = dict[str, dict[str, Any]]
"""Options by pass, with underscores in its name."""

ROUNDINGS: dict[str, PassOptions] = {
    "nearest": {
        "insert_observers": {"gram": False},
        "quantize_weights": {"rounding": "nearest", "clip": False},
    },
    "gptq": {
        "insert_observers": {"gram": True},
        "quantize_weights": {"rounding": "gptq", "clip": True},
    },
}


@dataclass(frozen=True)
class Effort:
    """What one level of effort does.

    Attributes:
        rounding: one of `ROUNDINGS`.
        sweeps: of coordinate descent on codes, where rounding is not to nearest.
        tuning: options of tune-scales, which runs afterwards; None: it does not.
    """

    rounding: str
    sweeps: int = 0
    tuning: dict[str, Any] | None = None

    @property
    def passes(self) -> tuple[type[Any], ...]:
        """The passes, in order."""
        return DEFAULT_PASSES if self.tuning is None else (*DEFAULT_PASSES, TuneScales)

    def options(self, rounding: str = "auto") -> PassOptions:
        """Options of the passes; ``rounding`` replaces this effort's own unless ``auto``."""
        method = self.rounding if rounding == "auto" else rounding
        sweeps = 0 if method == "nearest" else self.sweeps
        return merged(
            ROUNDINGS[method],
            {
                "quantize_weights": {"sweeps": sweeps, "keep_float": self.tuning is not None},
                "tune_scales": self.tuning or {},
            },
        )


EFFORTS = {
    "fast": Effort("nearest"),
    "default": Effort("gptq", tuning={"share": 0.1}),
    "best": Effort("gptq", sweeps=1, tuning={"step": 2}),
}


def merged(*layers: PassOptions) -> PassOptions:
    """Options of all ``layers``; later ones win.

    >>> merged({"a": {"x": 1, "y": 1}}, {"a": {"y": 2}})
    {'a': {'x': 1, 'y': 2}}
    """
    result: PassOptions = {}
    for layer in layers:
        for name, options in layer.items():
            result[name] = {**result.get(name, {}), **options}
    return result
