"""A model of several graphs that makes as many tokens each time it is run, to measure its speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from awqc.huggingface.folder import HFFolder
from awqc.huggingface.processor import Processor
from awqc.running.runner import task_in
from awqc.runtimes.base import ArraySpec
from awqc.runtimes.image_text import ImageText
from awqc.runtimes.ort_model import Array
from awqc.runtimes.text_of import TextOf


class Paced:
    """The model of a folder, and one made-up sample.

    Attributes:
        inputs: none: the sample is what it reads.
        states: none between two runs.
    """

    inputs: tuple[ArraySpec, ...] = ()
    states: tuple[tuple[str, str], ...] = ()

    def __init__(self, folder: Path, provider: str, threads: int, tokens: int) -> None:
        """Load the model in ``folder``, which makes so many ``tokens``, whatever they are.

        Raises:
            UsageError: a file is missing or damaged.
            VerificationError: onnxruntime does not load a model.
        """
        task = task_in(HFFolder(folder), None)
        processor = Processor.of(HFFolder(folder), task.reads, task.with_prompt)
        self._model: TextOf | ImageText
        if task.prompted:
            self._model = ImageText(folder, provider, threads)
            processor = replace(processor, image_size=self._model.image_size)
        else:
            self._model = TextOf(folder, provider=provider, threads=threads)
        sample = processor.maker().sample(np.random.default_rng(0))
        made = processor.inputs([sample])
        self._feeds = {name: value.numpy() for name, value in made.items()}
        settings = self._model.settings
        self._model.settings = replace(
            settings, suppressed=(*settings.suppressed, *settings.ends), forced_last=None
        )
        self._tokens = tokens

    def hold(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """It takes nothing."""
        return {}

    def step(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tokens for the sample."""
        return {"tokens": list(self._model.tokens(self._feeds, max_new_tokens=self._tokens))}, {}
