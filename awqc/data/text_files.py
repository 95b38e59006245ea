"""Text out of files: plain text, or one JSON object a line with ``text`` or chat ``messages``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from awqc.errors import CalibrationError, UsageError

SUFFIXES = (".txt", ".jsonl", ".md")
"""Endings of the files that are read as text."""


def is_text_file(path: str | Path) -> bool:
    """Whether ``path`` is a text file by its name."""
    return Path(path).suffix.lower() in SUFFIXES


def read_documents(path: Path, tokenizer: Any) -> list[str]:
    """The documents in ``path``: a text file is one, each line of a ``.jsonl`` file is one.

    Raises:
        UsageError: there is no such file.
        CalibrationError: it is empty or binary, or a line of it is not as described.
    """
    content = _read(path)
    if path.suffix.lower() != ".jsonl":
        return [content]
    return list(_json_documents(path, content, tokenizer))


def read_lines(path: Path, tokenizer: Any) -> list[str]:
    """Samples for a model that reads one passage at a time: non-empty lines, or documents."""
    documents = read_documents(path, tokenizer)
    if path.suffix.lower() == ".jsonl":
        return documents
    return [line.strip() for line in documents[0].splitlines() if line.strip()]


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


def _json_documents(path: Path, content: str, tokenizer: Any) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CalibrationError(f"{where}: is not JSON: {error}") from error
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            yield record["text"]
        elif isinstance(record, dict) and isinstance(record.get("messages"), list):
            yield _render(record["messages"], tokenizer, where)
        else:
            raise CalibrationError(f'{where}: needs "text" (a string) or "messages" (a list)')


def _render(messages: list[Any], tokenizer: Any, where: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise CalibrationError(
            f'{where}: holds chat messages, but the tokenizer has no chat template; give "text"'
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template is a program: any error
        raise CalibrationError(f"{where}: the chat template refuses it: {error}") from error
