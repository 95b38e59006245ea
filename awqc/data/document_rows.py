"""Documents as rows of tokens: text is cut where a row ends, a chat never."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from awqc.data.text_files import Document
from awqc.huggingface.folder import reporting

CHARACTERS = 16
"""A token is rarely longer: what is not needed is not tokenized."""


@dataclass(frozen=True)
class Packed:
    """Rows of tokens.

    Attributes:
        ids: int64 ``(rows, length)``.
        mask: int64 of the same shape, 0 on padding, which follows the last chat of a row.
        tokens: all that the documents gave.
        dropped: lengths of the chats that no row holds.
    """

    ids: Tensor
    mask: Tensor
    tokens: int
    dropped: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


def pack_documents(
    documents: Iterable[Document], tokenizer: Any, count: int | None, length: int
) -> Packed:
    """The first ``count`` rows (None: all) of ``length`` tokens.

    A row begins as the tokenizer begins a text: where a document's template wrote that token
    already it is not put there again. A chat that does not fit into what is left of a row begins
    the next one; the one before is padded.
    """
    rows = _Rows(length, prefix(tokenizer), tokenizer.pad_token_id or 0)
    end = tokenizer.eos_token_id
    tokens, dropped = 0, []
    for document in documents:
        if count is not None and len(rows.full) >= count:
            break
        needed = None if count is None else (count - len(rows.full)) * length
        text = document.text
        if needed is not None and not document.chat:
            text = text[: CHARACTERS * needed]
        with reporting("the tokenizer fails on the text"):
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        separator = [] if end is None or tokens == 0 else [end]
        if not document.chat:
            rows.add([*separator, *ids])
        elif not rows.add_whole(ids, separator):
            dropped.append(len(ids))
            continue
        tokens += len(separator) + len(ids)
    full = [*rows.full, *([rows.padded()] if rows.holds_chat else [])][:count]
    ids = torch.tensor([ids for ids, _ in full], dtype=torch.long).reshape(-1, length)
    used = torch.tensor([used for _, used in full], dtype=torch.long).reshape(-1, 1)
    return Packed(ids, (torch.arange(length) < used).long(), tokens, tuple(dropped))


def prefix(tokenizer: Any) -> list[int]:
    """The token that the tokenizer puts before every text, if it does."""
    with reporting("the tokenizer fails on an empty text"):
        ids = tokenizer("")["input_ids"]
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


@dataclass
class _Rows:
    """Rows that are filled one after another.

    Attributes:
        length: tokens of a row.
        prefix: with which a row begins.
        fill: the token of padding.
        full: rows that are done, each with the number of its tokens that are no padding.
        row: the present one.
        holds_chat: whether it holds a whole chat.
    """

    length: int
    prefix: Sequence[int]
    fill: int
    full: list[tuple[list[int], int]] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    holds_chat: bool = False

    def add(self, ids: Sequence[int]) -> None:
        """Fill up rows with ``ids``, which are cut where a row ends."""
        at = 0
        while at < len(ids):
            if not self.row:
                self.row = self._begin(ids[at])
            fresh = ids[at : at + self.length - len(self.row)]
            self.row += fresh
            at += len(fresh)
            if len(self.row) == self.length:
                self._next()

    def add_whole(self, ids: Sequence[int], separator: Sequence[int]) -> bool:
        """Put ``ids`` into one row, after ``separator`` if not first; False if none holds it."""
        if not ids or len(self._begin(ids[0])) + len(ids) > self.length:
            return False
        if self.row and len(self.row) + len(separator) + len(ids) > self.length:
            self._next()
        self.add([*(separator if self.row else ()), *ids])
        self.holds_chat = bool(self.row)
        return True

    def padded(self) -> tuple[list[int], int]:
        """The present row, filled up."""
        used = len(self.row)
        return self.row + [self.fill] * (self.length - used), used

    def _begin(self, first: int) -> list[int]:
        return [] if [first] == list(self.prefix) else list(self.prefix)

    def _next(self) -> None:
        self.full.append(self.padded())
        self.row, self.holds_chat = [], False
