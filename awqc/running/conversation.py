"""`Conversation`: turns with a compiled causal language model, in its own chat template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from awqc.data.chat import ChatTemplate, TemplateFault
from awqc.errors import UsageError
from awqc.runtimes.generate import Speed, TextGenerator


class Conversation:
    """What was said so far, and a model that answers to it.

    Attributes:
        messages: in order, each with a ``role`` and a ``content``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        system: str | None = None,
        provider: str = "cpu",
        level: str | None = None,
    ) -> None:
        """Load the model of ``folder`` and its chat template; ``system`` is said before all else.

        Raises:
            UsageError: a file is missing, the tokenizer has no chat template, the model has no
                cache, or the provider does not run here.
            VerificationError: onnxruntime does not load the model.
        """
        self._where = folder
        self._template = ChatTemplate.read(folder)
        self._generator = TextGenerator(folder, provider=provider, level=level)
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._first)

    @property
    def speed(self) -> Speed:
        """Of the latest answer."""
        return self._generator.speed

    def begin_anew(self) -> None:
        """Forget what was said."""
        self.messages = list(self._first)

    def say(
        self, text: str, *, max_new_tokens: int = 512, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[str]:
        """Pieces of the answer to ``text``, as soon as each is known; both are remembered then.

        The whole conversation is read anew for each answer.

        Raises:
            UsageError: the template refuses the conversation, or it is beyond the context.
        """
        turns = [*self.messages, {"role": "user", "content": text}]
        try:
            (prompt,) = self._template.render([turns], answering=True)
        except TemplateFault as fault:
            raise UsageError(f"{self._where}: {fault.reason}") from fault
        pieces = []
        for piece in self._generator.text(
            self._generator.encode(prompt, whole=True),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        ):
            pieces.append(piece)
            yield piece
        self.messages = [*turns, {"role": "assistant", "content": "".join(pieces)}]
