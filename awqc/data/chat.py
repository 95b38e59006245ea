"""Chats as text, by the template of the model's tokenizer, which may be anybody's program."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from awqc.errors import CalibrationError

SECONDS = 10
"""Of a processor, for all chats of a file; `SECONDS_A_CHAT` more for each."""

SECONDS_A_CHAT = 0.05
MEMORY = 2**30
"""Bytes that rendering may take."""

CHARACTERS_A_CHAT = 2**20
"""The longest text that is expected of a chat, beside that of its messages."""

PATIENCE = 20
"""How many times longer than `SECONDS` is waited on a machine that is busy."""


def render_chats(chats: Sequence[tuple[str, list[Any]]], tokenizer: Any) -> list[str]:
    """The texts of ``chats``, pairs of a place for messages and the messages themselves.

    Rendering takes bounded time and memory.

    Raises:
        CalibrationError: the tokenizer has no template, or it refuses a chat, takes too long,
            or writes too much.
    """
    if not chats:
        return []
    where = chats[0][0]
    if not getattr(tokenizer, "chat_template", None):
        raise CalibrationError(
            f'{where}: holds chat messages, but the tokenizer has no chat template; give "text"'
        )
    messages = json.dumps([chat for _, chat in chats])
    seconds = SECONDS + int(SECONDS_A_CHAT * len(chats))
    job = {
        "template": tokenizer.get_chat_template(),
        "special_tokens": dict(tokenizer.special_tokens_map),
        "chats": [chat for _, chat in chats],
        "seconds": seconds,
        "memory": MEMORY,
        "characters": len(messages) + CHARACTERS_A_CHAT * len(chats),
    }
    answer = _ask(job, where, seconds)
    if "too_large" in answer:
        raise CalibrationError(
            f"{chats[answer['too_large']][0]}: the chat template writes more text than fits; "
            'give "text" in place of "messages"'
        )
    if "error" in answer:
        raise CalibrationError(
            f"{chats[answer['chat']][0]}: the chat template refuses it: {answer['error']}"
        )
    texts: list[str] = answer["texts"]
    return texts


def _ask(job: dict[str, Any], where: str, seconds: int) -> dict[str, Any]:
    """The worker's answer to ``job``."""
    command = [sys.executable, "-P", "-m", "awqc.data.chat_worker"]  # -P: nothing of this folder
    endless = CalibrationError(
        f"{where}: the chat template did not end within {seconds} seconds of work; "
        'give "text" in place of "messages"'
    )
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
        raise CalibrationError(f"{where}: the chat template could not be rendered: {last[0]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
