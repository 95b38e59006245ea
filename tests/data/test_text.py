"""Text files to batches of tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from awqc.data.text_batches import TextModel, packed_sequences, text_calibration
from awqc.errors import CalibrationError, UsageError
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.program import Program
from tests.tiny_language_models import VOCABULARY, save_decoder, save_encoder, save_tokenizer

WORDS = " ".join(f"w{4 + index % 100}" for index in range(400))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, HFFolder]:
    folder = tmp_path_factory.mktemp("decoder")
    save_decoder("llama", folder, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    save_tokenizer(folder)
    return load_folder(folder), HFFolder.at(folder)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(WORDS)
    return path


def test_sequences_are_packed_in_order_and_others_held_out(
    decoder: tuple[Program, HFFolder], text: Path
) -> None:
    program, folder = decoder
    data = text_calibration(program, folder, text, num_samples=3, seq_len=16)
    ids = torch.cat([batch["input_ids"] for batch in data.batches])
    assert ids.flatten().tolist() == list(range(4, 52))
    assert data.held_out[0]["input_ids"][0, 0] == 52
    assert data.batches[0]["past_key_values.0.key"].shape == (3, 2, 0, 8)
    assert not data.synthetic
    for batch in (*data.batches, *data.held_out):
        program.run(batch)


def test_what_is_used_by_default_is_within_the_context(
    decoder: tuple[Program, HFFolder], text: Path
) -> None:
    data = text_calibration(*decoder, text)
    assert data.batches[0]["input_ids"].shape[1] == 64
    assert any("all are used" in note for note in data.notes)


def test_a_tokenizer_that_begins_texts_begins_each_sequence(tmp_path: Path, text: Path) -> None:
    save_tokenizer(tmp_path, bos=True)
    from transformers import AutoTokenizer

    model = TextModel(AutoTokenizer.from_pretrained(tmp_path), None, VOCABULARY, cached=True)
    ids = packed_sequences(model, text, 2, 8)
    assert ids.tolist() == [[1, *range(4, 11)], [1, *range(11, 18)]]


def test_chats_go_through_the_template(decoder: tuple[Program, HFFolder], tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    chat = {"messages": [{"role": "user", "content": "w9 w8"}]}
    path.write_text(json.dumps(chat) + "\n\n" + json.dumps({"text": "w7 w6"}) + "\n")
    model = TextModel.of(*decoder)
    assert packed_sequences(model, path, None, 7).tolist() == [[1, 9, 8, 2, 2, 7, 6]]


def test_an_encoder_reads_lines_with_padding_masked(tmp_path: Path) -> None:
    save_encoder("bert", tmp_path)
    save_tokenizer(tmp_path)
    path = tmp_path / "lines.txt"
    path.write_text("w9 w8 w7\n\nw6\n" + "w5 w4 w6 w7 w8 w9 w9 w9 w9\n" * 4)
    program = load_folder(tmp_path)
    data = text_calibration(program, HFFolder.at(tmp_path), path, num_samples=3, seq_len=5)
    batch = data.batches[0]
    assert batch["input_ids"].tolist() == [[9, 8, 7, 0, 0], [6, 0, 0, 0, 0], [5, 4, 6, 7, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    program.run(batch)


@pytest.mark.parametrize("given", [True, False])
def test_a_text_is_as_long_as_the_model_takes_it(tmp_path: Path, text: Path, given: bool) -> None:
    """A table of 64 rows, of which the first two stand for padding."""
    save_encoder("roberta", tmp_path)
    save_tokenizer(tmp_path)
    program = load_folder(tmp_path)
    data = text_calibration(program, HFFolder.at(tmp_path), text if given else None, num_samples=2)
    assert data.batches[0]["input_ids"].shape[1] == 62
    for batch in (*data.batches, *data.held_out):
        program.run(batch)


def test_without_text_the_model_makes_up_its_own(decoder: tuple[Program, HFFolder]) -> None:
    first = text_calibration(*decoder, None, num_samples=2, seq_len=12)
    again = text_calibration(*decoder, None, num_samples=2, seq_len=12)
    other = text_calibration(*decoder, None, num_samples=2, seq_len=12, seed=1)
    assert first.synthetic
    assert "no calibration text was given" in first.notes[0]
    ids = first.batches[0]["input_ids"]
    assert ids.shape == (2, 12)
    assert torch.equal(ids, again.batches[0]["input_ids"])
    assert not torch.equal(ids, other.batches[0]["input_ids"])


UNUSABLE = {
    "empty": (b" \n", "is empty"),
    "zero bytes": (b"w4 \0 w5", "binary"),
    "not utf-8": (b"\xff\xfe\xfa", "is no UTF-8 text"),
    "too short": (b"w4 w5 w6", "has 3 tokens, fewer than one sequence of 16"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_unusable_text_is_refused(
    what: str, decoder: tuple[Program, HFFolder], tmp_path: Path
) -> None:
    content, message = UNUSABLE[what]
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=message):
        text_calibration(*decoder, path, seq_len=16)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 1: is not JSON"), ('{"body": 1}', 'needs "text"'), ("[]", 'needs "text"')],
)
def test_unusable_json_lines_are_refused(
    line: str, message: str, decoder: tuple[Program, HFFolder], tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(CalibrationError, match=message):
        text_calibration(*decoder, path)


def test_unusable_numbers_and_files_are_refused(
    decoder: tuple[Program, HFFolder], text: Path
) -> None:
    with pytest.raises(UsageError, match="looks at 64 tokens at most"):
        text_calibration(*decoder, text, seq_len=65)
    with pytest.raises(UsageError, match="seq_len is 1"):
        text_calibration(*decoder, text, seq_len=1)
    with pytest.raises(UsageError, match="num_samples is 0"):
        text_calibration(*decoder, text, num_samples=0)
    with pytest.raises(UsageError, match="cannot be read"):
        text_calibration(*decoder, text.with_name("nothing.txt"))
