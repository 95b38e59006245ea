"""Generate text with a compiled folder: onnxruntime and the tokenizer, without torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from awqc.artifacts.json_files import Object
from awqc.errors import UsageError, spelled
from awqc.kv_cache import LOGITS_START, PAST
from awqc.runtimes.ort_model import OrtModel
from awqc.runtimes.session_file import find_model
from awqc.runtimes.session_settings import read_settings

Array = np.ndarray[Any, Any]
Step = Callable[[dict[str, Array]], Array]
TOKENIZER = "tokenizer.json"
CHUNK = 512
"""Tokens of a prompt that are read at once: attention takes memory by their number times all."""
ENDS = "eos_token_id"
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")


@dataclass
class Speed:
    """How fast text was generated.

    Attributes:
        prompt_tokens: tokens of the prompt, and ``prompt_seconds`` that they took.
        new_tokens: tokens generated, the first of which the prompt's run gave.
        decode_seconds: time that the others took.
        ended: why generation ended: ``eos``, ``length`` or ``context``.
    """

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    decode_seconds: float = 0.0
    ended: str = "length"

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed; 0 where fewer than two tokens were generated."""
        return (self.new_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0

    def __str__(self) -> str:
        return (
            f"{self.prompt_tokens} prompt tokens in {self.prompt_seconds:.2f} s, "
            f"{self.new_tokens} new tokens at {self.tokens_per_second:.1f} tokens/s"
        )


class TextGenerator:
    """A compiled causal LM that is ready to generate.

    Attributes:
        speed: of the latest call.
    """

    def __init__(
        self, folder: Path, *, provider: str = "cpu", level: str | None = None, threads: int = 0
    ) -> None:
        """Load the model of ``folder``, that in ``ort/`` where there is one, and its tokenizer.

        Args:
            folder: what ``awqc compile`` wrote for a causal LM.
            provider: ``cpu`` or ``cuda``.
            level: accuracy level of low-bit products; None: as the model and
                ``session.json`` say, else onnxruntime's default.
            threads: of the session; 0: onnxruntime's choice.

        Raises:
            UsageError: a file is missing, the model has no cache, or the provider does
                not run here.
            VerificationError: onnxruntime does not load the model.
        """
        self.speed = Speed()
        self._tokenizer = _load_tokenizer(folder)
        self._config = _read_config(folder)
        model = find_model(folder)
        settings = read_settings(model, provider)
        self._model = OrtModel(
            model, provider, settings, level=level, threads=threads, fixed={LOGITS_START: -1}
        )
        if not self._model.states:
            raise UsageError(
                f"{model}: carries no cache ({PAST}N.key); only causal language "
                "models generate text"
            )

    def stream(
        self, prompt: str, *, max_new_tokens: int = 128, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[str]:
        """Pieces of text that continue ``prompt``, as soon as each is known.

        Args:
            prompt: taken as it is; no chat template is put around it.
            max_new_tokens: where to stop at the latest.
            temperature: 0 takes the likeliest token; above 0, tokens are drawn.
            seed: of the draws.

        Raises:
            UsageError: an argument is out of range, or the prompt is beyond the context.
        """
        yield from self.text(
            self.encode(prompt), max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )

    def text(
        self, ids: Sequence[int], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[str]:
        """As `stream`, of tokens; special ones among those that are made are left out."""
        from tokenizers.decoders import DecodeStream

        decoder = DecodeStream(skip_special_tokens=True)
        for token in self.tokens(
            ids, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        ):
            piece = decoder.step(self._tokenizer, token)
            if piece:
                yield piece

    def encode(self, prompt: str, *, whole: bool = False) -> list[int]:
        """Token ids of ``prompt``, with what the tokenizer puts around a text.

        A ``whole`` text has that already, as a chat that a template wrote.

        Raises:
            UsageError: the prompt is empty and the tokenizer adds nothing.
        """
        try:
            ids: list[int] = self._tokenizer.encode(prompt, add_special_tokens=not whole).ids
        except Exception as error:  # the tokenizers package has no class of its own
            raise UsageError(f"the tokenizer fails on the prompt: {error}") from error
        if not ids:
            raise UsageError("the prompt is empty; give some text to continue")
        return ids

    def tokens(
        self, ids: Sequence[int], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[int]:
        """Ids of the tokens that continue ``ids``; the end-of-text token is not among them."""
        if max_new_tokens < 1:
            raise UsageError(
                f"{spelled('max_new_tokens')} is {max_new_tokens}; give a positive number"
            )
        if not temperature >= 0:
            raise UsageError(f"{spelled('temperature')} is {temperature}; give 0 or more")
        context = _context(self._config)
        if context is not None and len(ids) > context:
            raise UsageError(f"the prompt has {len(ids)} tokens; the model looks at {context}")
        rng = np.random.default_rng(seed)
        ends = _end_tokens(self._config)
        self.speed = Speed(prompt_tokens=len(ids))
        step = self._steps(min(len(ids) + max_new_tokens, context or sys.maxsize))
        start = time.perf_counter()
        read = max(0, len(ids) - 1) // CHUNK * CHUNK  # the rest is the last chunk
        for place in range(0, read, CHUNK):
            step(_inputs(list(ids[place : place + CHUNK]), place + CHUNK))
        self.speed.prompt_seconds = time.perf_counter() - start
        fresh, total = list(ids[read:]), len(ids)
        for index in range(max_new_tokens):
            start = time.perf_counter()
            logits = step(_inputs(fresh, total))
            token = choose(logits, temperature, rng)
            self._clock(index, time.perf_counter() - start)
            if token in ends:
                self.speed.ended = "eos"
                return
            self.speed.new_tokens += 1
            yield token
            if context is not None and total >= context:
                self.speed.ended = "context"
                return
            fresh, total = [token], total + 1

    def _clock(self, index: int, seconds: float) -> None:
        if index == 0:
            self.speed.prompt_seconds += seconds
        else:
            self.speed.decode_seconds += seconds

    def _steps(self, tokens: int) -> Step:
        """What reads tokens and gives the logits ``(vocabulary,)`` behind the last of them.

        The past stays inside onnxruntime: it is never copied to NumPy. Where the model can, it
        stays where it is, in buffers for as many as ``tokens``; else each step makes a new one.
        """
        model = self._model
        if model.shares_cache:
            cache = model.shared_cache(tokens)
            return lambda made: _last(cache.step(made)["logits"])
        past = model.empty_states()

        def step(made: dict[str, Array]) -> Array:
            nonlocal past
            outputs, past = model.step(model.hold(made) | past)
            return _last(outputs["logits"].numpy())

        return step


def _inputs(fresh: list[int], total: int) -> dict[str, Array]:
    """Of a model that reads ``fresh``, the last of ``total`` tokens."""
    return {
        "input_ids": np.array([fresh], dtype=np.int64),
        "attention_mask": np.ones((1, total), dtype=np.int64),
        "position_ids": np.arange(total - len(fresh), total, dtype=np.int64)[None],
    }


def _last(logits: Array) -> Array:
    """Those of the last token of the first row."""
    last: Array = logits[0, -1].astype(np.float32)
    return last


def choose(logits: np.ndarray[Any, Any], temperature: float, rng: np.random.Generator) -> int:
    """The likeliest token, or one drawn from ``softmax(logits / temperature)``."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits.astype(np.float64) - logits.max()) / temperature
    weights = np.exp(scaled)
    return int(rng.choice(len(weights), p=weights / weights.sum()))


def generate(
    folder: str | Path,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[str]:
    """Continue ``prompt`` with the model in ``folder``; see `TextGenerator.stream`."""
    yield from TextGenerator(Path(folder)).stream(
        prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )


def _load_tokenizer(folder: Path) -> Any:
    path = folder / TOKENIZER
    if not path.is_file():
        raise UsageError(f"{folder}: there is no {TOKENIZER}; copy the model's tokenizer into it")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UsageError(
            "the package tokenizers is not installed: pip install 'awqc[hf]'"
        ) from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        raise UsageError(f"{path}: is no tokenizer: {error}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json with the others over it; what is missing is left out."""
    merged: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json", "genai_config.json"):
        path = folder / name
        if path.is_file():
            content = Object.of(path)
            content.listed(ENDS, int)
            parts = (content.optional("text_config", dict) or {}, content.content)
            merged |= {k: v for part in parts for k, v in part.items() if v is not None}
    return merged


def _end_tokens(config: dict[str, Any]) -> set[int]:
    return set(Object(config, "config.json").listed(ENDS, int))


def _context(config: dict[str, Any]) -> int | None:
    """The most tokens that the model takes, if that is known.

    ``genai_config.json`` may say less than the model's own files, and has a number where they
    have none.
    """
    stated = [config[key] for key in CONTEXT_KEYS if isinstance(config.get(key), int)][:1]
    written = config.get("model")
    compiled = written.get("context_length") if isinstance(written, dict) else None
    return min([*stated, compiled] if isinstance(compiled, int) else stated) if stated else None
