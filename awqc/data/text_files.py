"""Text out of files: plain text, or one JSON object a line with ``text`` or chat ``messages``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awqc.data.chat import render_chats
from awqc.data.json_lines import json_lines, read_text
from awqc.errors import CalibrationError

SUFFIXES = (".txt", ".jsonl", ".md")
"""Endings of the files that are read as text."""


def is_text_file(path: str | Path) -> bool:
    """Whether ``path`` is a text file by its name."""
    return Path(path).suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Document:
    """A text; a chat has one that a template wrote, and is read as a whole."""

    text: str
    chat: bool = False


def read_documents(path: Path, tokenizer: Any) -> list[Document]:
    """The documents in ``path``: a text file is one, each line of a ``.jsonl`` file is one.

    Raises:
        UsageError: there is no such file.
        CalibrationError: it is empty or binary, or a line of it is not as described.
    """
    content = read_text(path)
    if path.suffix.lower() != ".jsonl":
        return [Document(content)]
    return _json_documents(path, content, tokenizer)


def read_lines(path: Path, tokenizer: Any) -> list[str]:
    """Samples for a model that reads one passage at a time: non-empty lines, or documents."""
    documents = read_documents(path, tokenizer)
    if path.suffix.lower() == ".jsonl":
        return [document.text for document in documents]
    return [line.strip() for line in documents[0].text.splitlines() if line.strip()]


def _json_documents(path: Path, content: str, tokenizer: Any) -> list[Document]:
    """The text of each line, chats in one go."""
    documents: dict[int, Document] = {}
    chats: dict[int, list[Any]] = {}
    for number, where, record in json_lines(path, content):
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            documents[number] = Document(record["text"])
        elif isinstance(record, dict) and isinstance(record.get("messages"), list):
            chats[number] = record["messages"]
        else:
            raise CalibrationError(f'{where}: needs "text" (a string) or "messages" (a list)')
    placed = [(f"{path}, line {number}", messages) for number, messages in chats.items()]
    texts = zip(chats, render_chats(placed, tokenizer), strict=True)
    documents |= {number: Document(text, chat=True) for number, text in texts}
    return [documents[number] for number in sorted(documents)]
