"""Chat templates are programs of others: they render, or end with a message."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from awqc.data import chat
from awqc.data.chat import render_chats
from awqc.data.text_files import Document, read_documents
from awqc.errors import CalibrationError
from tests.tiny_language_models import save_tokenizer

CHATS: list[tuple[str, list[Any]]] = [
    ("f.jsonl, line 1", [{"role": "user", "content": "hällo"}]),
    ("f.jsonl, line 7", [{"role": "user", "content": "w1"}, {"role": "assistant", "name": None}]),
]


def tokenizer(folder: Path, template: str | None) -> Any:
    save_tokenizer(folder)
    made = AutoTokenizer.from_pretrained(folder)
    made.chat_template = template
    return made


def test_texts_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}{{ m.content }}{{ 'name' in m }}"
        "{{ eos_token }}{% endfor %}{{ messages | tojson }}"
    )
    made = tokenizer(tmp_path, template)
    expected = [made.apply_chat_template(messages, tokenize=False) for _, messages in CHATS]
    assert render_chats(CHATS, made) == expected
    assert expected[0].startswith("<s>userhälloFalse</s>")
    assert render_chats([], made) == []


def test_documents_keep_their_order(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, "chat {{ messages[0].content }}")
    lines = [{"text": "a"}, {"messages": [{"content": "b"}]}, {"text": "c"},
             {"messages": [{"content": "d"}]}]  # fmt: skip
    path = tmp_path / "x.jsonl"
    path.write_text("\n\n".join(map(json.dumps, lines)))
    texts = ("a", "chat b", "c", "chat d")
    assert list(read_documents(path, made)) == [Document(text, "chat" in text) for text in texts]


ENDLESS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in "
    "range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "powers": "{% for a in range(99999) %}{{ ((a % 9 + 2) ** (9 ** 7)) % 10 }}{% endfor %}",
}
LARGE = {
    "product": "{{ 'a' * 10 ** 10 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(50) %}{% set n.x = n.x + n.x %}"
    "{% endfor %}{{ n.x }}",
    "just text": "{{ 'a' * 10 ** 7 }}",
}
REFUSED = {
    "range": ("{% for a in range(10 ** 9) %}{% endfor %}", "Range too big"),
    "python": ("{{ ''.__class__.__mro__ }}", "SecurityError|unsafe|access to attribute"),
    "own words": ("{{ raise_exception('no \x1b[31m') }}", "no "),
    "syntax": ("{% for %}", "TemplateSyntaxError"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_work_is_bounded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(CalibrationError, match=r"^f\.jsonl, line 1: the chat template did not end"):
        render_chats(CHATS, tokenizer(tmp_path, ENDLESS[name]))
    assert time.monotonic() - started < chat.PATIENCE


@pytest.mark.parametrize("name", LARGE)
def test_text_is_bounded(name: str, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="line 1: the chat template writes more text"):
        render_chats(CHATS, tokenizer(tmp_path, LARGE[name]))


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_template_refuses_is_told(name: str, tmp_path: Path) -> None:
    template, message = REFUSED[name]
    message = f"line 1: the chat template refuses it.*({message})"
    with pytest.raises(CalibrationError, match=message):
        render_chats(CHATS, tokenizer(tmp_path, template))


def test_without_a_template_text_is_needed(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match='no chat template; give "text"'):
        render_chats(CHATS, tokenizer(tmp_path, None))
