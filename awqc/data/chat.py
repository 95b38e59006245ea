"""Chats as text, by the template of the model's tokenizer, which may be anybody's program."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awqc.artifacts.json_files import Object
from awqc.errors import CalibrationError, UsageError

SECONDS = 10
"""Of a processor, for all chats of a file; `SECONDS_A_CHAT` more for each."""

SECONDS_A_CHAT = 0.05
MEMORY = 2**30
"""Bytes that rendering may take."""

CHARACTERS_A_CHAT = 2**20
"""The longest text that is expected of a chat, beside that of its messages."""

PATIENCE = 20
"""How many times longer than `SECONDS` is waited on a machine that is busy."""

TEMPLATE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
SPECIAL = "_token"
"""How the names of special tokens end in a tokenizer's settings."""

Messages = Sequence[Mapping[str, Any]]
"""What was said, in order: each with a ``role`` and a ``content``."""


class TemplateFault(Exception):  # noqa: N818 - the caller says whose fault it is
    """Why a chat has no text.

    Attributes:
        chat: its number among those that were given.
        reason: in words.
    """

    def __init__(self, chat: int, reason: str) -> None:
        super().__init__(reason)
        self.chat, self.reason = chat, reason


@dataclass(frozen=True)
class ChatTemplate:
    """A program that writes chats, in jinja's language.

    Attributes:
        text: of the program.
        special_tokens: what it may name, such as ``bos_token``.
    """

    text: str
    special_tokens: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> ChatTemplate:
        """That of the tokenizer whose files lie in ``folder``; transformers is not imported.

        Raises:
            UsageError: there is none, or a file is damaged.
        """
        settings = folder / SETTINGS
        content = Object.of(settings).content if settings.is_file() else {}
        text = content.get("chat_template")
        if (folder / TEMPLATE).is_file():
            text = (folder / TEMPLATE).read_text(encoding="utf-8", errors="replace")
        elif isinstance(text, list):
            named = {each.get("name"): each.get("template") for each in text}
            text = named.get("default")
        if not isinstance(text, str) or not text:
            raise UsageError(
                f"{folder}: the tokenizer has no chat template ({TEMPLATE}, or chat_template in "
                f"{SETTINGS}); awqc generate continues plain text"
            )
        found = {key: _token(value) for key, value in content.items() if key.endswith(SPECIAL)}
        return cls(text, {key: token for key, token in found.items() if token is not None})

    def render(self, chats: Sequence[Messages], answering: bool = False) -> list[str]:
        """The text of each chat; where ``answering``, with what begins an answer behind it.

        It takes bounded time and memory.

        Raises:
            TemplateFault: the template refuses a chat, takes too long, or writes too much.
        """
        seconds = SECONDS + int(SECONDS_A_CHAT * len(chats))
        said = len(json.dumps(chats))
        job = {
            "template": self.text,
            "special_tokens": dict(self.special_tokens),
            "chats": chats,
            "answering": answering,
            "seconds": seconds,
            "memory": MEMORY,
            "characters": said + CHARACTERS_A_CHAT * len(chats),
        }
        answer = _ask(job, seconds)
        if "too_large" in answer:
            raise TemplateFault(answer["too_large"], "the chat template writes more text than fits")
        if "error" in answer:
            raise TemplateFault(answer["chat"], f"the chat template refuses it: {answer['error']}")
        texts: list[str] = answer["texts"]
        return texts


def render_chats(chats: Sequence[tuple[str, list[Any]]], tokenizer: Any) -> list[str]:
    """The texts of ``chats``, pairs of a place for messages and the messages themselves.

    Raises:
        CalibrationError: the tokenizer has no template, or it refuses a chat, takes too long,
            or writes too much.
    """
    if not chats:
        return []
    if not getattr(tokenizer, "chat_template", None):
        raise CalibrationError(
            f"{chats[0][0]}: holds chat messages, but the tokenizer has no chat template; give "
            '"text"'
        )
    template = ChatTemplate(tokenizer.get_chat_template(), tokenizer.special_tokens_map)
    try:
        return template.render([messages for _, messages in chats])
    except TemplateFault as fault:
        raise CalibrationError(
            f'{chats[fault.chat][0]}: {fault.reason}; give "text" in place of "messages"'
        ) from fault


def _token(value: Any) -> str | None:
    """A special token, which may be written with how it is to be cut."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ask(job: dict[str, Any], seconds: int) -> dict[str, Any]:
    """The worker's answer to ``job``."""
    command = [sys.executable, "-P", "-m", "awqc.data.chat_worker"]  # -P: nothing of this folder
    endless = TemplateFault(0, f"the chat template did not end within {seconds} seconds of work")
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise endless from None
    if done.returncode < 0:
        raise endless
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise TemplateFault(0, f"the chat template could not be rendered: {last[0]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
