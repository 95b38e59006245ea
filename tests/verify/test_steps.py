"""A decoder continues a text from its cache as if it had read all of it at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.errors import VerificationError
from awqc.export.formats import FORMATS
from awqc.passes.pipeline import DEFAULT
from awqc.program import Program, Task
from awqc.verify.limits import check_limits
from awqc.verify.reference import take_reference
from awqc.verify.steps import step_trials
from awqc.verify.verification import verify
from tests.tiny import run


class Decoder(nn.Module):
    """One layer of attention over itself and a past ``(batch, 1, tokens, width)``."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fault = fault
        self.table, self.key = nn.Embedding(20, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 20)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        query = self.table(input_ids).unsqueeze(1)
        keys = torch.cat([past * 0 if self.fault == "past unread" else past, self.key(query)], 2)
        queries, count = query.shape[2], keys.shape[2]
        last = torch.arange(queries).unsqueeze(-1) + count - queries
        sees = (torch.arange(count) <= last) & attention_mask.bool()[:, None, None, :]
        scores = (query @ keys.transpose(2, 3)).masked_fill(~sees, -1e4)
        mixed = (scores.softmax(-1) @ keys).squeeze(1)
        present = keys + 1 if self.fault == "present wrong" else keys
        return self.head(mixed + query.squeeze(1)), present


def captured_decoder(fault: str = "") -> Program:
    ids = torch.tensor([[3, 7, 11], [2, 5, 13]])
    program = capture_module(
        Decoder(fault),
        (ids, torch.ones(2, 8, dtype=torch.long), torch.randn(2, 1, 5, 16)),
        dynamic={
            "input_ids": {0: "batch", 1: "sequence"},
            "attention_mask": {0: "batch", 1: "past + sequence"},
            "past": {0: "batch", 2: "past"},
        },
        states=[("past", "present")],
        output_names=["logits", "present"],
    )
    program.task = Task("attention_mask", ("logits",))
    return program


def test_a_prefill_and_steps_with_a_real_past_are_tried() -> None:
    trials = step_trials(captured_decoder(), "the original")
    assert [trial.where for trial in trials] == [
        "4 tokens", "one token behind 4", "one token behind 5",
    ]  # fmt: skip
    assert [tuple(trial.batch["past"].shape) for trial in trials] == [
        (2, 1, 0, 16), (2, 1, 4, 16), (2, 1, 5, 16),
    ]  # fmt: skip
    mask = trials[-1].batch["attention_mask"]
    assert mask.tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1]]


@pytest.mark.parametrize("fault", ["past unread", "present wrong"])
def test_a_cache_that_does_not_hold_what_was_read_is_found(fault: str) -> None:
    with pytest.raises(VerificationError, match="the cache does not hold what was read"):
        step_trials(captured_decoder(fault), "the original")


def test_what_is_no_decoder_is_not_run_in_steps() -> None:
    program = captured_decoder()
    program.task = Task()
    assert step_trials(program, "the original") == ()


def test_a_form_that_ignores_its_past_is_found(tmp_path: Path) -> None:
    program = captured_decoder()
    fresh = {**program.example, "past": program.example["past"][:, :, :0]}
    fresh["attention_mask"] = fresh["attention_mask"][:, :3]
    reference = take_reference(program, [fresh])
    run(program, DEFAULT, [program.example])
    FORMATS["onnx"](program, tmp_path, {})

    def check() -> None:
        found = verify(program, reference, tmp_path, provider="cpu")
        check_limits(found, torch.float32, None, "model")

    check()
    model = onnx.load(tmp_path / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["unread" if name == "past" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    model.graph.node.insert(0, helper.make_node("Mul", ["past", "zero"], ["unread"]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(VerificationError, match=r"with one token behind 4 the onnx form"):
        check()
