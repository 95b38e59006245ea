"""How a model is to generate, as the files beside it say; torch is not imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from awqc.artifacts.json_files import read_json
from awqc.errors import UsageError

Array = np.ndarray[Any, Any]
FILES = ("config.json", "generation_config.json")
LENGTHS = ("max_length", "max_target_positions", "max_position_embeddings")
CONTEXT = LENGTHS[-1:]
LONGEST = 1024
"""Tokens at most."""
TEXT_PART = "text_config"
NO_START = -1


@dataclass(frozen=True)
class GenerationSettings:
    """Which tokens a decoder begins with, which it must not or has to make, and where it ends.

    Attributes:
        start: the token that it begins with; `NO_START` where it is given a prompt.
        ends: tokens that end a text.
        suppressed: tokens that are never made.
        suppressed_first: tokens that are not made first.
        forced_first: the token that is made first, such as a language; None: any.
        forced_last: the token that is made where the length ends; None: any.
        repeat: tokens in a row that must not come twice; 0: any may.
        longest: tokens at most, those that it begins with included.
        languages: tokens of languages by their code, of models that are told one.
        tasks: tokens of tasks, of models that are told one.
        plain: the token that asks for text without times; None: there is none.
        prompt: other tokens that it begins with.
    """

    start: int
    ends: frozenset[int] = frozenset()
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    forced_first: int | None = None
    forced_last: int | None = None
    repeat: int = 0
    longest: int = LONGEST
    languages: tuple[tuple[str, int], ...] = ()
    tasks: tuple[tuple[str, int], ...] = ()
    plain: int | None = None
    prompt: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path, prompted: bool = False) -> GenerationSettings:
        """What the files in ``folder`` say, the later one first.

        A model that is ``prompted`` continues what it is given: it begins with no token of its
        own, and its text may be as long as the part of its configuration on text says.

        Raises:
            UsageError: they name no token to begin with, or a file is damaged.
        """
        found: dict[str, Any] = {}
        for name in FILES:
            if (folder / name).is_file():
                content = read_json(folder / name)
                for part in (content.get(TEXT_PART, {}) if prompted else {}, content):
                    found |= {k: v for k, v in part.items() if v is not None}
        start = NO_START if prompted else _start(found, folder)
        banned = [ids[0] for ids in found.get("bad_words_ids", []) if len(ids) == 1]
        ends = found.get("eos_token_id", [])
        keys, most = (CONTEXT, sys.maxsize) if prompted else (LENGTHS, LONGEST)
        return cls(
            start,
            frozenset(ends if isinstance(ends, list) else [ends]),
            (*found.get("suppress_tokens", []), *banned),
            tuple(found.get("begin_suppress_tokens", [])),
            found.get("forced_bos_token_id"),
            found.get("forced_eos_token_id"),
            found.get("no_repeat_ngram_size", 0),
            min([most, *(found[key] for key in keys if isinstance(found.get(key), int))]),
            tuple(_tokens(found.get("lang_to_id", {}))),
            tuple(_tokens(found.get("task_to_id", {}))),
            found.get("no_timestamps_token_id"),
            tuple(token for _, token in found.get("forced_decoder_ids", []) if token is not None),
        )

    def allowed(self, logits: Array, made: Sequence[int], prompt: int) -> Array:
        """``logits`` ``(vocabulary,)`` with -inf for what may not come after ``made``.

        The first ``prompt`` of ``made`` were given.
        """
        count = len(made) - prompt
        forced = self.forced_first if count == 0 else None
        if len(made) == self.longest - 1:
            forced = self.forced_last if forced is None else forced
        if forced is not None:
            return _only(logits, forced)
        out = logits.copy()
        out[list(self.suppressed)] = -np.inf
        if count == 0:
            out[list(self.suppressed_first)] = -np.inf
        out[_repeated(made, self.repeat)] = -np.inf
        return out


def _start(found: dict[str, Any], folder: Path) -> int:
    start = found.get("decoder_start_token_id", found.get("bos_token_id"))
    if not isinstance(start, int):
        raise UsageError(
            f"{folder}: {' and '.join(FILES)} name no decoder_start_token_id, the token that "
            "the decoder begins with; add it"
        )
    return start


def _tokens(table: dict[str, int]) -> list[tuple[str, int]]:
    return [(name.strip("<|>"), token) for name, token in table.items()]


def _only(logits: Array, token: int) -> Array:
    out = np.full_like(logits, -np.inf)
    out[token] = 0
    return out


def _repeated(made: Sequence[int], size: int) -> list[int]:
    """Tokens that would make a row of ``size`` tokens come again."""
    if size < 1 or len(made) < size:
        return []
    last = tuple(made[len(made) - size + 1 :])
    rows = (tuple(made[at : at + size]) for at in range(len(made) - size + 1))
    return [row[-1] for row in rows if row[:-1] == last]
