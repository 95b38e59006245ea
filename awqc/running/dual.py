"""A model that compares texts with images, used: which text fits, or the embedding of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from awqc.artifacts.names import IMAGE_TOWER, TEXT_TOWER
from awqc.data.media_files import kind_of
from awqc.data.sample_reader import SampleReader
from awqc.errors import UsageError
from awqc.huggingface.processor import Processor
from awqc.huggingface.samples import Sample
from awqc.program import AUDIO, IMAGE
from awqc.running import answers
from awqc.running.answers import Answer
from awqc.runtimes.ort_model import Array, OrtModel
from awqc.runtimes.session_file import find_model
from awqc.runtimes.session_settings import read_settings

LOGITS, EMBEDDING = "logits_per_image", "_embeds"
"""What an output with a row an image and a column a text is called, and how names of embeddings
end."""


class Dual:
    """A compiled dual encoder.

    Both kinds are compared by the whole; one alone is embedded by its tower.

    Attributes:
        notes: what was done to the inputs, once they are read.
    """

    def __init__(self, folder: Path, processor: Processor, provider: str) -> None:
        """Take what is in ``folder``; nothing is loaded yet."""
        self._folder, self._processor, self._provider = folder, processor, provider
        self.notes: list[str] = []

    def answer(self, given: Sequence[str]) -> Iterator[tuple[str, Answer]]:
        """Of each image which of the texts fits; or an embedding of each of ``given``.

        Raises:
            UsageError: a file is none of an image, or the folder lacks a tower.
            CalibrationError: an image is damaged.
        """
        kinds = [kind_of(Path(one)) for one in given]
        if AUDIO in kinds or IMAGE not in self._processor.reads:
            raise UsageError(
                f"{self._folder}: reads {' and '.join(self._processor.reads)} together; awqc run "
                "takes images and texts. Load the folder with onnxruntime"
            )
        images = [one for one, kind in zip(given, kinds, strict=True) if kind == IMAGE]
        texts = [one for one, kind in zip(given, kinds, strict=True) if kind != IMAGE]
        reader = SampleReader(self._processor, self._processor.maker(), np.random.default_rng(0))
        samples = [Sample(one, image=reader.image(Path(one))) for one in images]
        samples += [Sample(text, text) for text in texts]
        self.notes = reader.notes()
        if images and texts:
            yield from self._compared(images, texts, samples)
            return
        model = self._open(self._tower(IMAGE_TOWER if images else TEXT_TOWER))
        for sample in samples:
            outputs = self._run(model, [sample])
            row = next(value for name, value in outputs.items() if name.endswith(EMBEDDING))
            yield sample.source, answers.embedding({"pooler_output": row}, None)

    def _compared(
        self, images: Sequence[str], texts: Sequence[str], samples: Sequence[Sample]
    ) -> Iterator[tuple[str, Answer]]:
        model, shown = self._whole, samples[: len(images)]
        if LOGITS not in model.outputs:
            raise UsageError(
                f"{self._folder}: gives no output {LOGITS} with a row an image and a column a "
                "text; load the folder with onnxruntime"
            )
        # Text by text, so that none is padded, which processors do in ways of their own.
        columns = [self._run(model, [*shown, text])[LOGITS] for text in samples[len(images) :]]
        logits = np.concatenate(columns, axis=1)
        for image, row in zip(images, logits, strict=True):
            yield image, answers.classes({"logits": row}, dict(enumerate(texts)))

    def _tower(self, name: str) -> Path:
        path = find_model(self._folder).with_name(name)
        if not path.is_file():
            raise UsageError(
                f"{self._folder}: has no {name}, which embeds by itself; give an image and texts"
            )
        return path

    def _open(self, path: Path) -> OrtModel:
        return OrtModel(path, self._provider, read_settings(path, self._provider))

    @cached_property
    def _whole(self) -> OrtModel:
        return self._open(find_model(self._folder))

    def outputs(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """What the whole gives for what the processor made, by name."""
        return self._fed(self._whole, inputs)

    def _run(self, model: OrtModel, samples: Sequence[Sample]) -> dict[str, Array]:
        return self._fed(model, self._processor.inputs(samples))

    def _fed(self, model: OrtModel, made: Mapping[str, Any]) -> dict[str, Array]:
        taken = {spec.name for spec in model.inputs}
        feeds = {name: np.asarray(value) for name, value in made.items() if name in taken}
        return dict(zip(model.outputs, model.run(feeds), strict=True))
