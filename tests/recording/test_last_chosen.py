"""The last of the rows that a mask chooses, in place of all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.recording.instead import forward_instead
from awqc.recording.last_chosen import taking_the_last

END = 2
WITH_ENDS = {"ids": torch.tensor([[END, 4, END], [END, 1, END]])}


class Judge(nn.Module):
    """A text is judged by what stands at its end tokens: at the last, or at one ``at``."""

    def __init__(self, at: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.at = nn.Embedding(8, 4), nn.Linear(4, 3), at

    def forward(self, *, ids: Tensor) -> dict[str, Tensor]:
        rows = self.table(ids).cumsum(dim=1)
        chosen = rows[ids == END, :].view(len(ids), -1, 4)[:, self.at]
        return {"logits": self.head(chosen)}


def test_what_is_captured_is_right_where_texts_have_any_number_of_ends() -> None:
    model = Judge()
    example = {"ids": torch.tensor([[3, 4, END], [5, 1, END]])}
    wanted = [
        (ids, model(ids=ids)["logits"])
        for ids in (
            torch.tensor([[1, END, 3, 4], [5, 6, 7, END], [END, 1, 1, 1]]),
            torch.tensor([[END, END, 1]]),
        )
    ]
    with forward_instead(model, taking_the_last(model.forward, WITH_ENDS)):
        program = capture_module(model, example, dynamic={"ids": {1: "count"}}, copy=False)
    for ids, logits in wanted:
        torch.testing.assert_close(program.run({"ids": ids})[0], logits)


def test_a_model_that_takes_another_of_them_stays_as_it_is() -> None:
    first = Judge(at=0).forward
    assert taking_the_last(first, WITH_ENDS) is first


def test_a_model_that_chooses_nothing_stays_as_it_is() -> None:
    def forward(ids: Tensor) -> dict[str, Tensor]:
        return {"logits": ids * 2.0}

    assert taking_the_last(forward, WITH_ENDS) is forward
