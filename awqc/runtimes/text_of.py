"""Text that a compiled encoder-decoder makes of what its encoder reads; torch is not imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from awqc.errors import UsageError, spelled
from awqc.runtimes.encoder_decoder import TOKENS, EncoderDecoder
from awqc.runtimes.generation_settings import GenerationSettings
from awqc.runtimes.ort_model import Array

USUAL_TASK = "transcribe"
USUAL_TOKENS = 256
"""Tokens that are made at most behind a prompt, where no number is asked for."""


class TextOf:
    """A compiled encoder-decoder that is ready to run.

    Attributes:
        settings: what its folder says of generating.
        model: its two graphs.
    """

    def __init__(self, folder: Path, *, provider: str = "cpu", threads: int = 0) -> None:
        """Load the models of ``folder``.

        Raises:
            UsageError: a file is missing or damaged, or the provider does not run here.
            VerificationError: onnxruntime does not load a model.
        """
        self.model = EncoderDecoder(folder, provider, threads)
        self._prompted = self.model.prompt_rows is not None
        self.settings = GenerationSettings.read(folder, prompted=self._prompted)

    def tokens(
        self,
        feeds: Mapping[str, Array],
        *,
        max_new_tokens: int | None = None,
        language: str | None = None,
        task: str | None = None,
    ) -> Iterator[int]:
        """The likeliest tokens for one sample, as soon as each is known.

        Args:
            feeds: what the model's processor makes, one sample.
            max_new_tokens: where to stop at the latest; None: where the model must.
            language: code of the language that is spoken or to be written; None: the likeliest.
            task: what to do with it, such as ``translate``; None: the first that there is.

        Raises:
            UsageError: the model knows no such language or task.
        """
        settings, seen = self.settings, 0
        encoded = self.model.encode(feeds)
        given, states = self.model.given({**feeds, **encoded}), self.model.begun(encoded)

        def step(fresh: list[int]) -> Array:
            nonlocal states, seen
            rows = self.model.following(feeds, seen, len(fresh))
            tokens = np.array([fresh], dtype=np.int64)
            outputs, states = self.model.step(tokens, {**given, **rows}, states)
            seen += len(fresh)
            return last_logits(outputs)

        if self._prompted:
            prompt = [int(token) for token in feeds[TOKENS][0]]
            max_new_tokens = max_new_tokens or USUAL_TOKENS
        else:
            prompt = self._prompt(given, language, task)
        yield from likeliest(settings, step, prompt, max_new_tokens)

    def _prompt(
        self, given: Mapping[str, Any], language: str | None, task: str | None
    ) -> list[int]:
        """The tokens that a text begins with."""
        settings = self.settings
        plain = [] if settings.plain is None else [settings.plain]
        if not settings.languages:
            return [settings.start, *(settings.prompt or plain)]
        languages, tasks = dict(settings.languages), dict(settings.tasks)
        spoken = (
            self._spoken(given) if language is None else _known("language", language, languages)
        )
        usual = USUAL_TASK if USUAL_TASK in tasks else next(iter(tasks), "")
        chosen = [_known("task", task or usual, tasks)] if task or tasks else []
        return [settings.start, spoken, *chosen, *plain]

    def _spoken(self, given: Mapping[str, Any]) -> int:
        """The token of the likeliest language."""
        first = np.array([[self.settings.start]], dtype=np.int64)
        outputs, _ = self.model.step(first, given, {})
        tokens = [token for _, token in self.settings.languages]
        return tokens[int(outputs["logits"].numpy()[0, -1][tokens].argmax())]


def likeliest(
    settings: GenerationSettings,
    step: Callable[[list[int]], Array],
    prompt: list[int],
    max_new_tokens: int | None,
) -> Iterator[int]:
    """The likeliest tokens behind ``prompt``, as soon as each is known.

    ``step`` reads tokens behind those that it has read and gives logits ``(vocabulary,)`` of what
    follows.
    """
    made, fresh = list(prompt), list(prompt)
    longest = min(settings.longest, len(prompt) + (max_new_tokens or settings.longest))
    while len(made) < longest:
        token = int(settings.allowed(step(fresh), made, len(prompt)).argmax())
        if token in settings.ends:
            return
        made.append(token)
        fresh = [token]
        yield token


def last_logits(outputs: Mapping[str, Any]) -> Array:
    """Those of the last token of the first row."""
    logits: Array = outputs["logits"].numpy()[0, -1].astype(np.float32)
    return logits


def _known(what: str, name: str, table: Mapping[str, int]) -> int:
    if name not in table:
        raise UsageError(f"{spelled(what)} is {name!r}; the model knows {', '.join(sorted(table))}")
    return table[name]
