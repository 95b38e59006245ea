"""Boxes of words, which models of documents read beside tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CanineConfig,
    CanineForSequenceClassification,
    LiltConfig,
    LiltForTokenClassification,
    TapasConfig,
    TapasForSequenceClassification,
)

from awqc.errors import UsageError
from awqc.huggingface.boxes import BOXES, PAGE, boxes_example, made_up_boxes
from awqc.huggingface.capture import load_folder
from awqc.huggingface.tokens import token_batch

_SMALL: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip


def test_boxes_are_on_the_page_and_none_is_empty() -> None:
    boxes = made_up_boxes(2, 500)
    assert boxes.shape == (2, 500, 4)
    left, top, right, bottom = boxes.unbind(-1)
    assert bool((left < right).all())
    assert bool((top < bottom).all())
    assert 0 <= int(boxes.min()) < int(boxes.max()) <= PAGE
    assert len({tuple(box) for box in boxes[0, :300].tolist()}) == 300
    parts = made_up_boxes(1, 9, torch.float32)
    torch.testing.assert_close(parts * PAGE, boxes[:1, :9].float())


class Whole(nn.Module):
    def forward(self, input_ids: Tensor, bbox: Tensor) -> Tensor:
        return nn.functional.embedding(bbox, torch.ones(PAGE + 1, 2))


class Parts(nn.Module):
    def forward(self, input_ids: Tensor, bbox: Tensor) -> Tensor:
        return bbox @ torch.ones(4, 2)


class Blind(nn.Module):
    def forward(self, input_ids: Tensor) -> Tensor:
        return input_ids


@pytest.mark.parametrize(
    ("model", "dtype"), [(Whole(), torch.int64), (Parts(), torch.float32), (Blind(), None)]
)
def test_numbers_are_of_the_kind_that_the_model_takes(
    model: nn.Module, dtype: torch.dtype | None
) -> None:
    found = boxes_example(model, {"input_ids": torch.ones(2, 3, dtype=torch.long)})
    assert {name: value.dtype for name, value in found.items()} == ({BOXES: dtype} if dtype else {})


def test_a_model_of_documents_takes_boxes_and_says_so(tmp_path: Path) -> None:
    config = LiltConfig(**_SMALL, vocab_size=64, max_2d_position_embeddings=1024)
    model = LiltForTokenClassification(config).eval()
    model.save_pretrained(tmp_path)
    program = load_folder(tmp_path)
    assert "bbox=int64[batch,sequence,4]" in {str(spec) for spec in program.inputs}
    assert any("where words stand on a page" in note for note in program.notes)
    batch = token_batch(program, torch.randint(2, 64, (1, 7)))
    torch.testing.assert_close(batch[BOXES], made_up_boxes(1, 7))
    with torch.no_grad():
        wanted = model(**batch).logits
    torch.testing.assert_close(program.run(batch)[0], wanted, rtol=1e-4, atol=1e-5)


def test_several_types_of_a_token_are_an_axis(tmp_path: Path) -> None:
    config = TapasConfig(**_SMALL, vocab_size=64, type_vocab_sizes=[3, 5, 5, 2, 5, 5, 5])
    TapasForSequenceClassification(config).save_pretrained(tmp_path)
    program = load_folder(tmp_path)
    assert "token_type_ids=int64[batch,sequence,7]" in {str(spec) for spec in program.inputs}
    batch = token_batch(program, torch.randint(2, 64, (1, 7)))
    assert batch["token_type_ids"].shape == (1, 7, 7)


def test_tokens_without_a_table_are_no_lack_of_text(tmp_path: Path) -> None:
    config = CanineConfig(**_SMALL, num_hash_buckets=16, num_hash_functions=4)
    CanineForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"without a table of them.*its tokenizer read"):
        load_folder(tmp_path)
