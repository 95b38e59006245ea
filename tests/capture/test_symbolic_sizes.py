"""Sizes that a model's code makes plain numbers of stay free."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.capture.symbolic_sizes import symbolic_sizes

FILE = sys.modules[__name__]


class Halves(nn.Module):
    """Looks at as many steps as half a signal has, worked out in floats."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(4, 4)

    def forward(self, x: Tensor, more: int | None = None) -> Tensor:
        assert more is None or isinstance(more, int)
        assert type(len([1, 2])) == int  # noqa: E721 - as models have it
        steps = int((x.shape[1] - 1) / 2 + 1)
        rows: Tensor = self.line(x)[:, :steps]
        return rows + torch.zeros(len(x), int("1"), int(4.7))


def test_axes_stay_free_and_graphs_hold_at_other_sizes() -> None:
    model = Halves().eval()
    program = capture_module(model, (torch.randn(3, 11, 4),), dynamic={"x": {0: "b", 1: "n"}})
    assert [spec.shape for spec in program.inputs] == [("b", "n", 4)]
    for rows, count in ((3, 11), (2, 8), (5, 23), (4, 6)):
        x = torch.randn(rows, count, 4)
        (made,) = program.run({"x": x})
        torch.testing.assert_close(made, model(x))


@pytest.mark.parametrize("fails", [False, True])
def test_names_mean_afterwards_what_they_did(fails: bool) -> None:
    before: dict[str, Any] = dict(vars(FILE))
    with suppress(KeyError), symbolic_sizes(Halves()):
        assert {"len", "int"} <= vars(FILE).keys()
        if fails:
            raise KeyError
    assert vars(FILE).keys() == before.keys()
    assert "int" not in vars(nn.modules.linear)


def test_a_name_of_the_models_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FILE, "int", float, raising=False)
    with symbolic_sizes(Halves()):
        assert vars(FILE)["int"] is float
    assert vars(FILE)["int"] is float


def test_whole_numbers_are_made_as_ever() -> None:
    with symbolic_sizes(Halves()):
        whole = vars(FILE)["int"]
        assert (whole("12"), whole(-3.7), whole("ff", 16), whole()) == (12, -3, 255, 0)
        assert type(whole("12")) == int  # noqa: E721 - as models have it
        assert isinstance(3, whole)
        assert not isinstance(3.0, whole)
        assert issubclass(bool, whole)
        assert {int: 1}[whole] == 1
        with pytest.raises(ValueError, match="invalid literal"):
            whole("a")
