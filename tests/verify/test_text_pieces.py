"""Text in pieces with a carried cache gives what it gives as a whole, and smaller logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from awqc.export.formats import FORMATS
from awqc.passes.pipeline import DEFAULT
from awqc.program import Batch, Program
from awqc.verify import text_pieces
from awqc.verify.reference import take_reference
from awqc.verify.text_pieces import PieceReader, in_pieces
from awqc.verify.verification import Verification, verify
from tests.tiny import run
from tests.verify.test_steps import captured_decoder

VOCABULARY, TOKENS = 20, 9


def held_out() -> Batch:
    """Two texts, the first of which begins with padding."""
    ids = torch.randint(VOCABULARY, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    return {"input_ids": ids, "attention_mask": mask, "past": torch.zeros(2, 1, 0, 16)}


def few_tokens(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(text_pieces, "MOST_LOGITS", 2 * VOCABULARY * tokens)


@pytest.mark.parametrize(("tokens", "longest"), [(1, 1), (4, 3), (5, 5), (TOKENS, TOKENS)])
def test_pieces_give_what_the_whole_gives(
    tokens: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, batch = captured_decoder(), held_out()
    wanted = program.run(batch)
    few_tokens(monkeypatch, tokens)
    read = PieceReader(program, program.run)
    made = [read(piece) for piece in in_pieces(program, batch)]
    assert len(made) == -(-TOKENS // tokens)
    assert max(logits.shape[1] for logits, _ in made) == longest
    text = batch["attention_mask"].bool()  # padding sees nothing, and gives anything
    torch.testing.assert_close(torch.cat([logits for logits, _ in made], 1)[text], wanted[0][text])
    torch.testing.assert_close(made[-1][1], wanted[1])


def without_states(program: Program, batch: Batch) -> None:
    program.task = type(program.task)()


def with_a_wide_mask(program: Program, batch: Batch) -> None:
    batch["attention_mask"] = torch.ones(2, TOKENS + 2, dtype=torch.long)


@pytest.mark.parametrize("spoil", [without_states, with_a_wide_mask])
def test_what_cannot_read_on_is_read_whole(
    spoil: Callable[[Program, Batch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, batch = captured_decoder(), held_out()
    spoil(program, batch)
    few_tokens(monkeypatch, 2)
    assert [piece.batch is batch for piece in in_pieces(program, batch)] == [True]


def test_the_numbers_are_those_of_whole_texts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program, batches = captured_decoder(), [held_out(), held_out()]
    original = captured_decoder()
    run(program, DEFAULT, [program.example])
    FORMATS["onnx"](program, tmp_path, {})

    def verified() -> Verification:
        reference = take_reference(original, batches)
        assert [each["input_ids"].shape[1] for each in reference.batches] == [tokens] * 2
        return verify(program, reference, tmp_path, provider="cpu")

    tokens = TOKENS
    whole = verified()
    tokens = 3
    few_tokens(monkeypatch, tokens)
    made: list[Tensor] = []
    own = Program.run

    def listening(program: Program, batch: Batch) -> tuple[Tensor, ...]:
        made.append(batch["input_ids"])
        return own(program, batch)

    monkeypatch.setattr(Program, "run", listening)
    parts = verified()
    assert max(ids.shape[1] for ids in made[:-4]) <= tokens  # what follows are `step_trials`
    assert parts.batches == whole.batches == 2
    assert whole.original is not None
    assert parts.original is not None
    assert parts.original["rel"] == pytest.approx(whole.original["rel"], rel=1e-5)
    assert parts.original["argmax_agreement"] == whole.original["argmax_agreement"]
    (exact,) = parts.comparisons
    assert exact.exact["rel"] < 1e-5
    assert whole.text is not None
    assert parts.text is not None
    judged = [text["original"]["tokens"] for text in (whole.text, parts.text)]
    assert judged == [2 * (6 + 8), 2 * (6 + 8 - 4)]  # of each text one less at each cut
