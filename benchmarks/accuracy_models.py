"""The models of the accuracy table, and the tokens that they are calibrated and measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from awqc.data.text_batches import TextModel, packed_sequences
from awqc.data.text_files import read_lines
from awqc.huggingface.config_values import context_length
from awqc.huggingface.folder import HFFolder
from benchmarks.accuracy_measure import Tokens
from benchmarks.finetune import finetuned_smollm2
from benchmarks.models import minilm, smollm2

CALIB_SEQUENCES, TEXT_SEQUENCES, SEQ_LEN = 64, 32, 512
LINES = 256


@dataclass(frozen=True)
class Model:
    """A model of the table.

    Attributes:
        title: for the page.
        folder: where it is, made where it is missing.
        causal: whether it is a language model.
    """

    title: str
    folder: Callable[[], Path]
    causal: bool


@dataclass(frozen=True)
class Texts:
    """The file to calibrate on, and the file to measure on."""

    calib: Path | None
    text: Path | None


MODELS = {
    "smollm2": Model("SmolLM2-135M-Instruct", smollm2, True),
    "smollm2-finetuned": Model("SmolLM2-135M-Instruct, off its grid", finetuned_smollm2, True),
    "minilm": Model("all-MiniLM-L6-v2", minilm, False),
}


def tokens_of(model: Model, texts: Texts, which: str) -> Tokens:
    """Tokens of the text ``which``: packed for a language model, a line a row for an encoder."""
    path = texts.calib if which == "calib" else texts.text
    if path is None:
        raise SystemExit(f"--{which} is missing: a text file")
    folder = HFFolder.at(model.folder())
    tokenizer = folder.tokenizer()
    if not model.causal:
        lines = read_lines(path, tokenizer)[:LINES]
        made = tokenizer(lines, truncation=True, max_length=SEQ_LEN, padding=True)
        return Tokens(torch.tensor(made["input_ids"]), torch.tensor(made["attention_mask"]))
    text = TextModel(tokenizer, context_length(folder.config()), len(tokenizer), cached=True)
    count = CALIB_SEQUENCES if which == "calib" else TEXT_SEQUENCES
    ids = packed_sequences(text, path, count, SEQ_LEN)
    return Tokens(ids, torch.ones_like(ids))
