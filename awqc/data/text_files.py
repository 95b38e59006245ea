"""Text out of files: plain text, or one JSON object a line with ``text`` or chat ``messages``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from awqc.data.chat import render_chats
from awqc.data.json_lines import json_lines, read_text
from awqc.data.sample_tables import AT_ONCE, Table, is_table
from awqc.errors import CalibrationError

SUFFIXES = (".txt", ".jsonl", ".md")
"""Endings of the files that are read as text."""
MOST_ROWS = 2**16
"""Rows of a table that are read, where each is a sample; far more than are used."""


def is_text_file(path: str | Path) -> bool:
    """Whether ``path`` is a text file by its name, or a table."""
    return Path(path).suffix.lower() in SUFFIXES or is_table(Path(path))


@dataclass(frozen=True)
class Document:
    """A text; a chat has one that a template wrote, and is read as a whole."""

    text: str
    chat: bool = False


def read_documents(path: Path, tokenizer: Any) -> Iterable[Document]:
    """The documents in ``path``: a text file is one, so is each line of ``.jsonl``, row of a table.

    Those of a table are read as they are asked for.

    Raises:
        UsageError: there is no such file.
        CalibrationError: it is empty or binary, or a line of it is not as described.
    """
    if is_table(path):
        return _table_documents(Table.open(path), tokenizer)
    content = read_text(path)
    if path.suffix.lower() != ".jsonl":
        return [Document(content)]
    return _json_documents(path, content, tokenizer)


def read_lines(path: Path, tokenizer: Any) -> list[str]:
    """Samples for a model that reads one passage at a time: non-empty lines, or documents."""
    documents = islice(read_documents(path, tokenizer), MOST_ROWS)
    if path.suffix.lower() == ".jsonl" or is_table(path):
        return [document.text for document in documents if document.text.strip()]
    return [
        line.strip()
        for document in documents
        for line in document.text.splitlines()
        if line.strip()
    ]


def _json_documents(path: Path, content: str, tokenizer: Any) -> list[Document]:
    """The text of each line, chats in one go."""
    placed = ((where, record) for _, where, record in json_lines(path, content))
    return _documents(placed, tokenizer)


def _table_documents(table: Table, tokenizer: Any) -> Iterator[Document]:
    rows = ((f"{table.path}, row {number}", row) for number, row in enumerate(table))
    while some := list(islice(rows, AT_ONCE)):
        yield from _documents(some, tokenizer)


def _documents(placed: Iterable[tuple[str, Any]], tokenizer: Any) -> list[Document]:
    """The text of each record, which is somewhere, chats in one go."""
    documents: dict[int, Document] = {}
    chats: dict[int, tuple[str, list[Any]]] = {}
    for number, (where, record) in enumerate(placed):
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            documents[number] = Document(record["text"])
        elif isinstance(record, dict) and isinstance(record.get("messages"), list):
            chats[number] = (where, record["messages"])
        else:
            raise CalibrationError(f'{where}: needs "text" (a string) or "messages" (a list)')
    texts = zip(chats, render_chats(list(chats.values()), tokenizer), strict=True)
    documents |= {number: Document(text, chat=True) for number, text in texts}
    return [documents[number] for number in sorted(documents)]
