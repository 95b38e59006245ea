"""Text in, batches of a language model's inputs out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awqc.data.batches import samples_at_once
from awqc.data.calibration import CalibrationData, embedding_rows
from awqc.data.document_rows import Packed, pack_documents, prefix
from awqc.data.longest_text import longest_text
from awqc.data.text_files import read_documents, read_lines
from awqc.data.text_generated import GENERATED, generate_text
from awqc.errors import CalibrationError, UsageError, spelled
from awqc.huggingface.config_values import context_length
from awqc.huggingface.folder import HFFolder, reporting
from awqc.huggingface.tokens import token_batch
from awqc.program import Batch, Program

NUM_SAMPLES, SEQ_LEN = 128, 512
FEWEST_SAMPLES = 8
FORWARD_SECONDS = 150.0
"""How long the float model may take over the calibration text before samples are spared."""

CORE_FLOPS = 60e9
"""What one core of today does in float32, roughly."""

HELD_OUT_TOKENS = 512


@dataclass(frozen=True)
class TextModel:
    """What turning text into batches needs to know of a model.

    Attributes:
        tokenizer: a transformers tokenizer.
        context: the most tokens that the model takes, or None.
        vocabulary: number of token ids.
        cached: whether it is a decoder with a cache; such get packed text, others lines.
    """

    tokenizer: Any
    context: int | None
    vocabulary: int
    cached: bool

    @classmethod
    def of(cls, program: Program, folder: HFFolder) -> TextModel:
        """Of a program that was captured from ``folder``.

        Raises:
            UsageError: the folder has no tokenizer, or another model's.
        """
        rows = embedding_rows(program).get("input_ids")
        tokenizer = folder.tokenizer(rows)
        context = context_length(folder.config())
        return cls(tokenizer, context, rows or len(tokenizer), bool(program.states))

    def sequence_length(self, wanted: int | None) -> int:
        """``wanted``, or the default, within the model's context.

        Raises:
            UsageError: ``wanted`` is not positive or beyond the context.
        """
        if wanted is not None and wanted < 2:
            raise UsageError(f"{spelled('seq_len')} is {wanted}; give at least 2")
        if wanted is not None and self.context is not None and wanted > self.context:
            raise UsageError(
                f"{spelled('seq_len')} is {wanted}, but the model looks at {self.context} tokens "
                f"at most; give {spelled('seq_len', self.context)} or less"
            )
        return wanted or min(SEQ_LEN, self.context or SEQ_LEN)


def text_calibration(
    program: Program,
    folder: HFFolder,
    path: Path | None,
    *,
    num_samples: int | None = None,
    seq_len: int | None = None,
    seed: int = 0,
) -> CalibrationData:
    """Calibration data from a text file; None: text that the model makes up itself.

    A decoder gets its text packed: sequences of ``seq_len`` tokens cut out of all of it,
    without padding. Other models get a line a sample, padded within a batch.

    Raises:
        UsageError: ``num_samples`` or ``seq_len`` is unusable, or there is no tokenizer.
        CalibrationError: the text is empty, binary or too short.
    """
    if num_samples is not None and num_samples < 1:
        raise UsageError(f"{spelled('num_samples')} is {num_samples}; give a positive number")
    model = TextModel.of(program, folder)
    length = model.sequence_length(seq_len)
    if seq_len is None and length == model.context:
        length = longest_text(program, length, token=model.vocabulary - 1)
    if path is None:
        return _made_up(program, model, num_samples, seq_len or min(GENERATED[1], length), seed)
    count = num_samples or affordable_samples(program, length)
    cut = _packed if model.cached else _lines
    batches, held_out, notes = cut(program, model, path, count, length)
    if num_samples is None and count < NUM_SAMPLES:
        notes.insert(
            0,
            f"{count} of {NUM_SAMPLES} samples are used to save time on this machine; "
            f"{spelled('num_samples')} says otherwise",
        )
    return CalibrationData(tuple(batches), tuple(held_out), str(path), notes=tuple(notes))


def affordable_samples(program: Program, length: int) -> int:
    """Samples of ``length`` tokens that the float model reads within `FORWARD_SECONDS`."""
    weights = sum(tensor.numel() for tensor in program.parameters().values())
    seconds = 2.0 * weights * length * NUM_SAMPLES / (CORE_FLOPS * (os.cpu_count() or 1))
    count = NUM_SAMPLES
    while seconds > FORWARD_SECONDS and count > FEWEST_SAMPLES:
        count, seconds = count // 2, seconds / 2
    return count


def packed_sequences(model: TextModel, path: Path, count: int | None, length: int) -> Tensor:
    """The ids of `packed_text`: int64 ``(n, length)``."""
    return packed_text(model, path, count, length).ids


def packed_text(model: TextModel, path: Path, count: int | None, length: int) -> Packed:
    """The first ``count`` sequences (None: all) of ``length`` tokens.

    Where the tokenizer begins a text with a token of its own, so does each sequence. Text is
    cut where a sequence ends, chats are not.

    Raises:
        CalibrationError: the text has fewer than ``length`` tokens, or all chats have more.
    """
    packed = pack_documents(read_documents(path, model.tokenizer), model.tokenizer, count, length)
    if len(packed) == 0 and packed.dropped:
        shortest = min(packed.dropped) + len(prefix(model.tokenizer))
        raise CalibrationError(
            f"{path}: no chat fits into a sequence of {length} tokens, the shortest has "
            f"{shortest}; give {spelled('seq_len', shortest)} or more"
        )
    if len(packed) == 0:
        raise CalibrationError(
            f"{path}: has {packed.tokens} tokens, fewer than one sequence of {length}; give more "
            f"text, or {spelled('seq_len', max(packed.tokens, 2))} or less"
        )
    return packed


def _packed(
    program: Program, model: TextModel, path: Path, count: int, length: int
) -> tuple[list[Batch], list[Batch], list[str]]:
    kept = max(1, HELD_OUT_TOKENS // length)
    sequences = packed_text(model, path, count + kept, length)
    rest = slice(count, None) if len(sequences) > count else slice(-kept, None)
    notes = []
    if sequences.dropped:
        notes.append(
            f"{len(sequences.dropped)} chats are longer than {length} tokens and are left out, "
            f"since chats are not cut; {spelled('seq_len')} gives sequences more tokens"
        )
    if len(sequences) < count:
        notes.append(f"the text has {len(sequences)} sequences of {length} tokens, all are used")
    if len(sequences) <= count:
        notes.append("the text leaves nothing to hold out: verification uses what calibration saw")
    size = _batch_size(model, length)
    ids, mask = sequences.ids, sequences.mask
    parts = zip(ids[:count].split(size), mask[:count].split(size), strict=True)
    batches = [token_batch(program, *part) for part in parts]
    held_out = token_batch(program, *(rows[rest, :HELD_OUT_TOKENS] for rows in (ids, mask)))
    return batches, [held_out], notes


def _lines(
    program: Program, model: TextModel, path: Path, count: int, length: int
) -> tuple[list[Batch], list[Batch], list[str]]:
    tokenizer = model.tokenizer
    lines = read_lines(path, tokenizer)
    kept = max(1, count // 8)
    chosen = lines[: count + kept]
    with reporting("the tokenizer fails on the text"):
        encoded = tokenizer(chosen, truncation=True, max_length=length, verbose=False)["input_ids"]
    calibration, rest = encoded[:count], encoded[count:]
    notes = []
    if len(calibration) < count:
        notes.append(f"the text has {len(calibration)} lines, all are used")
    if not rest:
        notes.append("the text leaves nothing to hold out: verification uses what calibration saw")
        rest = calibration[-kept:]
    size = _batch_size(model, length)
    fill = tokenizer.pad_token_id or 0

    def batches(rows: Sequence[Sequence[int]]) -> list[Batch]:
        return [_padded(program, rows[at : at + size], fill) for at in range(0, len(rows), size)]

    return batches(calibration), batches(rest), notes


def _padded(program: Program, rows: Sequence[Sequence[int]], fill: int) -> Batch:
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), fill, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return token_batch(program, ids, mask)


def _made_up(
    program: Program, model: TextModel, num_samples: int | None, length: int, seed: int
) -> CalibrationData:
    count = num_samples or min(GENERATED[0], affordable_samples(program, GENERATED[1]))
    generator = torch.Generator().manual_seed(seed)
    if model.cached:
        ids = generate_text(
            program,
            prefix(model.tokenizer),
            vocabulary=model.vocabulary,
            shape=(count + 1, length),
            generator=generator,
        )
        what = f"text that the model made up itself, seed {seed}"
    else:
        ids = torch.randint(model.vocabulary, (count + 1, length), generator=generator)
        what = f"random tokens, seed {seed}"
    size = _batch_size(model, length)
    return CalibrationData(
        tuple(token_batch(program, part) for part in ids[:count].split(size)),
        (token_batch(program, ids[count:, :HELD_OUT_TOKENS]),),
        what,
        synthetic=True,
        notes=(
            f"no calibration text was given: {count} sequences of {length} tokens are {what}. "
            "Real text calibrates better, and the errors below hold for made-up text; "
            f"give some with {spelled('calib', 'text.txt')}",
        ),
    )


def _batch_size(model: TextModel, length: int) -> int:
    bytes_each = 4 * length * (model.vocabulary if model.cached else 4096)
    return samples_at_once(bytes_each, 16)
