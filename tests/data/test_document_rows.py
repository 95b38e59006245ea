"""Rows of tokens: text is cut where a row ends, chats are whole, and each row has one start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from awqc.data.document_rows import pack_documents
from awqc.data.text_batches import TextModel, packed_text
from awqc.data.text_files import Document
from awqc.errors import CalibrationError
from tests.tiny_language_models import VOCABULARY, save_tokenizer

BOS, END, PAD = 1, 2, 0


@pytest.fixture(scope="module", params=[True, False], ids=["adds bos", "adds nothing"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, bos=request.param)
    return AutoTokenizer.from_pretrained(folder)


def chat(*ids: int, bos: bool = True) -> Document:
    return Document(" ".join([*(["<s>"] if bos else []), *(f"w{each}" for each in ids)]), chat=True)


def words(first: int, count: int) -> Document:
    return Document(" ".join(f"w{each}" for each in range(first, first + count)))


def test_a_chat_has_one_start_whoever_writes_it(tokenizer: Any) -> None:
    rows = pack_documents([chat(7, 8, 9)] * 3, tokenizer, None, 6).ids
    assert rows.tolist() == [[BOS, 7, 8, 9, PAD, PAD]] * 3
    bare = pack_documents([chat(7, 8, 9, bos=False)], tokenizer, None, 5)
    start = [BOS] if tokenizer("")["input_ids"] else []
    assert bare.ids[0, : int(bare.mask.sum())].tolist() == [*start, 7, 8, 9]


def test_chats_are_not_cut_and_share_a_row_where_they_fit(tokenizer: Any) -> None:
    packed = pack_documents([chat(7, 8), chat(9), chat(10, 11, 12)], tokenizer, None, 7)
    assert packed.ids.tolist() == [
        [BOS, 7, 8, END, BOS, 9, PAD], [BOS, 10, 11, 12, PAD, PAD, PAD]
    ]  # fmt: skip
    assert packed.mask.tolist() == (packed.ids != PAD).long().tolist()


def test_a_chat_longer_than_a_row_is_left_out_and_counted(tokenizer: Any) -> None:
    packed = pack_documents([chat(*range(10, 20)), chat(7, 8)], tokenizer, None, 5)
    assert packed.ids.tolist() == [[BOS, 7, 8, PAD, PAD]]
    assert packed.dropped == (11,)


def test_text_is_cut_and_nothing_of_it_is_padded(tokenizer: Any) -> None:
    packed = pack_documents([words(10, 9), words(30, 9)], tokenizer, None, 5)
    start = [BOS] if tokenizer("")["input_ids"] else []
    stream = [*range(10, 19), END, *range(30, 39)]
    step = 5 - len(start)
    wanted = [start + stream[at : at + step] for at in range(0, len(stream) - step + 1, step)]
    assert packed.ids.tolist() == wanted
    assert torch.equal(packed.mask, torch.ones_like(packed.ids))
    assert pack_documents([words(10, 9), words(30, 9)], tokenizer, 2, 5).ids.tolist() == wanted[:2]


def test_where_no_chat_fits_the_length_that_is_needed_is_said(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    content = {"messages": [{"role": "user", "content": "w9 " * 12}]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(content) + "\n")
    model = TextModel(AutoTokenizer.from_pretrained(tmp_path), None, VOCABULARY, cached=True)
    with pytest.raises(CalibrationError, match="the shortest has 14; give seq_len=14 or more"):
        packed_text(model, tmp_path / "chat.jsonl", 4, 8)
    assert len(packed_text(model, tmp_path / "chat.jsonl", 4, 14)) == 1
