"""How models that generate become graphs, by what they are: an encoder and a decoder, a prompt that
a decoder continues, or a decoder that reads an image in front of its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from awqc.errors import CaptureError, UsageError
from awqc.huggingface.generating import Generating
from awqc.huggingface.generating_parts import GeneratingBundle, capture_parts
from awqc.huggingface.prefix_parts import PrefixBundle, capture_prefix
from awqc.huggingface.prompted_parts import PromptedBundle, capture_prompted
from awqc.huggingface.tasks import ways_of
from awqc.runtimes.encoder_decoder import FILES as TWO_FILES
from awqc.runtimes.encoder_decoder import EncoderDecoder
from awqc.runtimes.image_text import FILES as THREE_FILES
from awqc.runtimes.image_text import ImageText
from awqc.whole.folder_files import Models, write_encoder_decoder, write_image_text
from awqc.whole.swapped import swapped
from awqc.whole.swapped_prefix import swapped_prefix
from awqc.whole.swapped_prompt import swapped_prompt

Generate = Callable[[dict[str, Tensor], int], list[int]]
"""Tokens that are made of what a processor made of one sample, so many at most."""


@dataclass(frozen=True)
class Way:
    """How a model that generates becomes graphs and runs as them.

    Attributes:
        files: names of the models that its folder has.
        capture: its parts, with a ``bundle``, which ``follow`` a sample, and ``generating``.
        write: puts the models of one form into a folder.
        compiled: what generates with the parts that are in a folder.
    """

    files: tuple[str, ...]
    capture: Callable[[Generating], Any]
    write: Callable[[Any, Models, Path], None]
    compiled: Callable[[Any, Path], AbstractContextManager[Generate]]


def capture_generating(generating: Generating) -> tuple[Way, Any]:
    """The model, captured in the first way that it can go, and that way.

    Raises:
        UsageError: its processor or tokenizer is missing or another model's.
        CaptureError: it cannot be recorded or captured: what stops the first way.
    """
    task = generating.task
    stopped: list[CaptureError | UsageError] = []
    ways = [(each, PROMPT if each.prompted else ENCODER_DECODER) for each in ways_of(task)]
    if task.prompted and generating.processor.marks_images:  # no text is without one
        ways.append((task, IN_FRONT))
    else:
        ways += [(each, IN_FRONT) for each, _ in ways[1:] if not each.with_prompt]
    for each, way in ways:
        try:
            return way, way.capture(generating.doing(each))
        except (CaptureError, UsageError) as error:
            stopped.append(error)
    raise stopped[0]


@contextmanager
def _encoder_decoder(parts: GeneratingBundle, folder: Path) -> Iterator[Generate]:
    compiled = EncoderDecoder(folder)

    def generate(inputs: dict[str, Tensor], most: int) -> list[int]:
        with swapped(parts, compiled, inputs):
            return _ids(parts.generating, inputs, most)

    yield generate


@contextmanager
def _prompt(parts: PromptedBundle, folder: Path) -> Iterator[Generate]:
    compiled = ImageText(folder)

    def generate(inputs: dict[str, Tensor], most: int) -> list[int]:
        with swapped_prompt(parts, compiled, inputs) as left:
            return _ids(parts.generating, left, most)

    yield generate


@contextmanager
def _in_front(parts: PrefixBundle, folder: Path) -> Iterator[Generate]:
    compiled = EncoderDecoder(folder)

    def generate(inputs: dict[str, Tensor], most: int) -> list[int]:
        with swapped_prefix(parts, compiled):
            return _ids(parts.generating, inputs, most)

    yield generate


def _ids(generating: Generating, inputs: dict[str, Tensor], most: int) -> list[int]:
    return generating.without_prompt(generating.generate_to_follow(inputs, most), inputs)


def _write_image_text(parts: PromptedBundle, models: Models, target: Path) -> None:
    write_image_text(models, target, parts.told)


ENCODER_DECODER = Way(
    TWO_FILES,
    capture_parts,
    lambda parts, models, target: write_encoder_decoder(models, target, parts.settings),
    _encoder_decoder,
)
PROMPT = Way(
    THREE_FILES,
    capture_prompted,
    _write_image_text,
    _prompt,
)
IN_FRONT = Way(
    TWO_FILES,
    capture_prefix,
    lambda parts, models, target: write_encoder_decoder(models, target, parts.settings, parts.told),
    _in_front,
)
