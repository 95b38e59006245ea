"""Texts that are to be spoken, and what is said with each of how: such as a voice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from awqc.data.json_lines import json_lines, read_text
from awqc.data.text_files import read_lines
from awqc.errors import CalibrationError
from awqc.huggingface.speaker import Speaker


@dataclass(frozen=True)
class Spoken:
    """A text, and what goes to the model beside it.

    Attributes:
        text: that is spoken.
        given: arguments of the model, such as a voice.
    """

    text: str
    given: Mapping[str, Any] = field(default_factory=dict)


def read_spoken(path: Path, speaker: Speaker) -> list[Spoken]:
    """The lines of a text file, or of each line of JSON its ``text`` and what else it has.

    Raises:
        UsageError: the file cannot be read.
        CalibrationError: a line is not as described, or has what the model does not take.
    """
    if path.suffix.lower() != ".jsonl":
        return [Spoken(line) for line in read_lines(path, None)]
    return [_spoken(where, row, speaker) for _, where, row in json_lines(path, read_text(path))]


def _spoken(where: str, row: Any, speaker: Speaker) -> Spoken:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise CalibrationError(f'{where}: needs "text" (a string)')
    taken = speaker.taken
    given = {name: value for name, value in row.items() if name != "text"}
    if other := [name for name in given if not speaker.takes(name)]:
        raise CalibrationError(
            f"{where}: {type(speaker.model).__name__} takes no {other[0]}; beside a text it takes "
            f"{', '.join(name for name, each in taken.items() if each.default is not each.empty)}"
        )
    return Spoken(row["text"], {name: as_given(value) for name, value in given.items()})


def as_given(value: Any) -> Any:
    """A list of numbers as a tensor with an axis for samples before; other values as they are."""
    if not isinstance(value, list):
        return value
    made = torch.tensor(value)
    return made[None] if made.ndim == 1 else made
