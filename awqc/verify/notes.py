"""What the user should know of a verified model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from awqc.runtimes.base import find_runtime
from awqc.verify.comparison import Comparison
from awqc.verify.gaps import Gaps

DEFAULT_WARNING = 0.05
"""Relative error of a session that sets nothing beyond which the user is told."""
LITTLE_LEFT = 0.5
"""Relative error of the quantized outputs beyond which the user is told."""


def notes_on(cost: Gaps, comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Sentences on large losses: ``cost`` is that of quantization."""
    for found in comparisons:
        rel = found.default["rel"]
        if rel > DEFAULT_WARNING:
            yield (
                f"the {found.form} form in {found.runtime}, in a session that sets nothing "
                f"({found.kernels.precision}), is off by {rel:.1%}; "
                f"{find_runtime(found.runtime).EXACT_ADVICE}"
            )
    if cost.rel > LITTLE_LEFT:
        yield (
            f"the quantized outputs differ from the original's by {cost.rel:.0%}: "
            "little is left of the model; use more bits or smaller groups"
        )
