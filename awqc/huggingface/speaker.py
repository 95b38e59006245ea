"""A model that speaks: texts go in, sound (or its spectrogram) comes out, by its own code.

How a text becomes inputs is transformers' own pipeline for the task. What runs is the model's
`generate`, or its forward where it has none, and behind it a vocoder, where the folder has one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from awqc.errors import CaptureError
from awqc.huggingface.folder import reporting

SOUND = ("waveform", "audio", "audio_values", "sequences", "spectrogram")
"""What a result calls the sound in it, the best name first."""
AS_SOUND = "output_audio"
"""The argument of a `generate` that gives codes, unless it is asked for what they sound like."""


class Speaker:
    """A model with what makes its inputs, and the vocoder that makes sound of what it gives.

    Attributes:
        model: the model itself.
        vocoder: a module that makes sound of spectrograms, or None.
        rate: samples a second, as far as the folder says.
    """

    def __init__(self, where: str, model: Any, processing: Mapping[str, Any], vocoder: Any) -> None:
        """Of the folder at ``where``; ``processing`` are its tokenizer, and processor, if any."""
        from transformers import TextToAudioPipeline

        self._where, self.model, self.vocoder = where, model, vocoder
        rate = getattr(getattr(vocoder, "config", None), "sampling_rate", None)
        stand_in = SimpleNamespace(config=SimpleNamespace(sampling_rate=rate))
        with reporting(f"{where}: what makes the model's inputs could not be set up"):
            pipeline = TextToAudioPipeline(model=model, vocoder=stand_in, **processing)
        self._preprocess: Callable[[str], Any] = pipeline.preprocess
        self.rate: int | None = rate or pipeline.sampling_rate

    @property
    def entry(self) -> Callable[..., Any]:
        """What makes sound of what a text becomes."""
        found: Callable[..., Any] = (
            self.model.generate if self.model.can_generate() else self.model.forward
        )
        return found

    @property
    def taken(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of `entry`."""
        return inspect.signature(self.entry).parameters

    def takes(self, name: str) -> bool:
        """Whether `entry` takes an argument of that name; a `generate` may hand on any."""
        known = self.taken
        anything = any(each.kind is each.VAR_KEYWORD for each in known.values())
        return name in known or (anything and self.model.can_generate())

    def __call__(self, text: str, given: Mapping[str, Any]) -> Tensor:
        """The sound of ``text``, or its spectrogram; ``given`` goes to the model beside the text.

        Raises:
            CaptureError: the model fails.
        """
        with reporting(f"{self._where}: the processor fails on {text!r}"):
            inputs = dict(self._preprocess(text))
        inputs = {name: value for name, value in inputs.items() if self.takes(name)}
        asked = {AS_SOUND: True} if AS_SOUND in self.taken else {}
        run = self.model.generate if self.model.can_generate() else self.model
        with torch.no_grad():
            made = self._sound(run(**{**inputs, **asked, **given}))
            return made if self.vocoder is None else _plain(self.vocoder(made))

    def _sound(self, made: Any) -> Tensor:
        """The sound in what the model returned."""
        if isinstance(made, Mapping):
            name = next((each for each in SOUND if each in made), None)
            if name is None:
                raise CaptureError(
                    f"{self._where}: {type(self.model).__name__} returns {', '.join(made)}, in "
                    f"which nothing is called {' or '.join(SOUND)}"
                )
            return _plain(made[name])
        return _plain(made)


def _plain(made: Any) -> Tensor:
    """The first tensor of ``made``, which may be nested."""
    while isinstance(made, list | tuple):
        made = made[0]
    if not isinstance(made, Tensor):
        raise CaptureError(f"what the model returns is a {type(made).__name__}, and no sound")
    return made
