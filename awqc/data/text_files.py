"""Text out of files: plain text, or one JSON object a line with ``text`` or chat ``messages``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awqc.data.chat import render_chats
from awqc.errors import CalibrationError, UsageError

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
    content = _read(path)
    if path.suffix.lower() != ".jsonl":
        return [Document(content)]
    return _json_documents(path, content, tokenizer)


def read_lines(path: Path, tokenizer: Any) -> list[str]:
    """Samples for a model that reads one passage at a time: non-empty lines, or documents."""
    documents = read_documents(path, tokenizer)
    if path.suffix.lower() == ".jsonl":
        return [document.text for document in documents]
    return [line.strip() for line in documents[0].text.splitlines() if line.strip()]


def _read(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path}: is no UTF-8 text (byte {error.start}); give plain text or JSON lines"
        ) from error
    if "\0" in content:
        raise CalibrationError(f"{path}: holds zero bytes: a binary file; give plain text")
    if not content.strip():
        raise CalibrationError(f"{path}: is empty; give text like that which the model will see")
    return content


def _json_documents(path: Path, content: str, tokenizer: Any) -> list[Document]:
    """The text of each line, chats in one go."""
    documents: dict[int, Document] = {}
    chats: dict[int, list[Any]] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{where}: is not JSON: {error}") from error
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
