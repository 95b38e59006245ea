"""A model that awqc runs itself to find its parts, opened: what `open_run` gives of each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awqc.whole.compiling import CompiledBundle
from awqc.whole.recorded_parts import Naming, usual_names
from awqc.whole.recorded_run import RecordedRun, Run

Write = Callable[[CompiledBundle, RecordedRun, Path], None]
"""Writes the folder of what was compiled."""


@dataclass(frozen=True)
class OpenedRun:
    """A model of a folder, loaded, and what runs it.

    Attributes:
        name: of the model.
        task: what it is for.
        model: what ``run`` runs.
        run: on some samples.
        samples: how many.
        usual: how many these are where no number is asked for.
        write: writes the folder of what was compiled.
        naming: names its parts.
        told: what the report says of it besides.
    """

    name: str
    task: str
    model: Any
    run: Run
    samples: int
    usual: int
    write: Write
    naming: Naming = usual_names
    told: dict[str, Any] | None = None
