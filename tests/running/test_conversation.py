"""Turns with a model: in the template's words, with all that was said before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from awqc.errors import UsageError
from awqc.export.onnx import export_onnx
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.runner_files import write_runner_files
from awqc.running.conversation import Conversation
from awqc.runtimes.generate import TextGenerator
from tests.tiny_language_models import save_decoder, save_tokenizer

TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}{{ {'system': 'w5', 'user': 'w6', 'assistant': 'w7'}"
    "[m.role] }} {{ m.content }} </s> {% endfor %}{% if add_generation_prompt %}w7 {% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float decoder, exported; its tokenizer puts ``<s>`` before a text, as its template does."""
    target = tmp_path_factory.mktemp("exported")
    source = target / "source"
    save_decoder("llama", source, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    save_tokenizer(source, bos=True)
    settings = source / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": TEMPLATE}))
    program = load_folder(source)
    export_onnx(program, target / "model.onnx")
    write_runner_files(program, HFFolder.at(source), target)
    return target


def asked(folder: Path, messages: list[dict[str, str]]) -> list[int]:
    """What the model reads, as transformers makes it."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def test_each_turn_is_read_as_transformers_writes_it(folder: Path) -> None:
    talk = Conversation(folder, system="w9")
    messages = [{"role": "system", "content": "w9"}]
    generator = TextGenerator(folder)
    for text in ("w20 w21", "w30"):
        messages.append({"role": "user", "content": text})
        ids = asked(folder, messages)
        assert ids.count(1) == 1
        wanted = "".join(generator.text(ids, max_new_tokens=6))
        assert "".join(talk.say(text, max_new_tokens=6)) == wanted
        assert talk.speed.prompt_tokens == len(ids)
        messages.append({"role": "assistant", "content": wanted})
        assert talk.messages == messages
    talk.begin_anew()
    assert talk.messages == messages[:1]


def test_what_cannot_be_asked_is_said_and_not_remembered(folder: Path, tmp_path: Path) -> None:
    talk = Conversation(folder)
    with pytest.raises(UsageError, match=r"the prompt has 8\d tokens; the model looks at 64"):
        list(talk.say("w8 " * 80))
    assert talk.messages == []
    shutil.copytree(folder, tmp_path / "copy")
    refuses = tmp_path / "copy" / "chat_template.jinja"
    refuses.write_text("{{ raise_exception('not that') }}")
    with pytest.raises(UsageError, match=r"the chat template refuses it: .*not that"):
        list(Conversation(tmp_path / "copy").say("w8"))
    refuses.unlink()
    settings = tmp_path / "copy" / "tokenizer_config.json"
    settings.write_text(json.dumps({"bos_token": "<s>"}))
    with pytest.raises(UsageError, match=r"has no chat template .*awqc generate continues"):
        Conversation(tmp_path / "copy")


def test_the_command_answers_line_by_line(folder: Path) -> None:
    code = "from awqc.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "chat", str(folder), "--max-new-tokens", "5"],
        input="w20 w21\n\n/new\nw20 w21\n",
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == second == "".join(Conversation(folder).say("w20 w21", max_new_tokens=5))
    assert done.stderr.count("new tokens at") == 2
