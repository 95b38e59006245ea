"""How a model is to generate, as the files beside it say; torch is not imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from awqc.artifacts.json_files import Object
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
        merged: dict[str, Any] = {}
        for name in FILES:
            if (folder / name).is_file():
                content = Object.of(folder / name)
                text = content.optional(TEXT_PART, dict) if prompted else None
                for part in (text or {}, content.content):
                    merged |= {k: v for k, v in part.items() if v is not None}
        found = Object(merged, f"{folder}: {' or '.join(FILES)}")
        keys, most = (CONTEXT, sys.maxsize) if prompted else (LENGTHS, LONGEST)
        return cls(
            NO_START if prompted else _start(found, folder),
            frozenset(found.listed("eos_token_id", int)),
            (*found.listed("suppress_tokens", int), *_banned(found)),
            tuple(found.listed("begin_suppress_tokens", int)),
            found.optional("forced_bos_token_id", int),
            found.optional("forced_eos_token_id", int),
            found.get("no_repeat_ngram_size", int, 0),
            min([most, *(merged[key] for key in keys if isinstance(merged.get(key), int))]),
            tuple(_tokens(found, "lang_to_id")),
            tuple(_tokens(found, "task_to_id")),
            found.optional("no_timestamps_token_id", int),
            tuple(_forced(found)),
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


def _start(found: Object, folder: Path) -> int:
    first = found.optional("decoder_start_token_id", int)
    start: int | None = found.optional("bos_token_id", int) if first is None else first
    if start is None:
        raise UsageError(
            f"{folder}: {' and '.join(FILES)} name no decoder_start_token_id, the token that "
            "the decoder begins with; add it"
        )
    return start


def _banned(found: Object) -> Iterator[int]:
    """Tokens that are never made: words of one token."""
    for place, ids in enumerate(found.listed("bad_words_ids", list)):
        word = Object({"ids": ids}, f"{found.where}, bad_words_ids[{place}]").items("ids", int)
        if len(word) == 1:
            yield word[0]


def _forced(found: Object) -> Iterator[int]:
    """Tokens that a text begins with: pairs of a place and a token, which may be null."""
    for place, pair in enumerate(found.listed("forced_decoder_ids", list)):
        where = f"{found.where}, forced_decoder_ids[{place}]"
        ids = Object({"pair": pair}, where).items("pair", (int, type(None)))
        if len(ids) != 2:
            raise UsageError(f"{where}: has {len(ids)} numbers; a place and a token are needed")
        if ids[1] is not None:
            yield ids[1]


def _tokens(found: Object, key: str) -> Iterator[tuple[str, int]]:
    if found.optional(key, dict) is not None:
        for name, token in found.inside(key).values(int).items():
            yield name.strip("<|>"), token


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
