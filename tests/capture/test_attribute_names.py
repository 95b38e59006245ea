"""Modules with names that are no attributes in source get names that are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import awqc
from awqc.capture.attribute_names import with_attribute_names
from awqc.capture.module import capture_module


class Heads(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleDict({name: nn.Linear(16, 16) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        for head in self.heads.values():
            x = head(x)
        return x


def test_words_of_python_and_of_several_words_are_compiled() -> None:
    x = torch.randn(4, 16)
    module = Heads("class", "from", "two words", 'a"b', "1st", "plain")
    compiled = awqc.compile(
        module, (x,), calib=[(x,)], effort="fast", formats=("onnx", "pt2"), provider="cpu", bits=8
    )
    found = {layer["name"].split(".")[1] for layer in compiled.report["layers"]}
    assert found == {"class_", "from_", "two_words", "a_b", "_1st", "plain"}
    torch.testing.assert_close(compiled.graph_module(x), module(x), atol=0.05, rtol=0.05)


class HeadsInHalf(Heads):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (HeadsInHalf("class", "plain"), ("class_.weight", "plain.weight")),
        (Heads("class", "class_"), ("class_.weight", "class_.weight_")),
    ],
    ids=["before a context is opened up", "two that would become one"],
)
def test_names_are_written(module: Heads, names: tuple[str, ...]) -> None:
    x = torch.randn(4, 16)
    program = capture_module(module, (x,))
    assert {f"heads.{name}" for name in names} <= set(program.parameters())
    torch.testing.assert_close(program.run({"x": x})[0], module(x))


def test_nothing_is_copied_where_all_names_are_good() -> None:
    exported = torch.export.export(Heads("a", "b"), (torch.randn(4, 16),))
    assert with_attribute_names(exported) is exported
