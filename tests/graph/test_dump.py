"""The canonical text: stable names, symbols and values, and the diff of two."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awqc.capture.module import capture_module
from awqc.graph.dump import compare_weights, diff, dump
from tests.tiny import captured, run


class Two(nn.Module):
    """Two dynamic axes, a list argument, a number and a dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -2.0]))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.cat([x * self.weight, x + 0.25], -1)
        return z.to(torch.float16), y.sum(1)


def text(values: bool = True) -> str:
    program = capture_module(
        Two(), (torch.randn(3, 2), torch.randn(4, 7)),
        dynamic={"x": {0: "rows"}, "y": {0: "others", 1: "tokens"}},
    )  # fmt: skip
    return dump(program.graph_module, values)


def test_every_line_is_canonical() -> None:
    lines = [line for line in text().splitlines() if "assert" not in line]
    assert lines == [
        "%x: f32[s0, 2]",
        "%y: f32[s1, s2]",
        "%mul_0: f32[s0, 2] = mul(%x, weight)  |weight| max 2",
        "%add_0: f32[s0, 2] = add(%x, 0.25)",
        "%cat_0: f32[s0, 4] = cat([%mul_0, %add_0], -1)",
        "%to_0: f16[s0, 4] = to(%cat_0, f16)",
        "%sum_0: f32[s1] = sum(%y, [1])",
        "return [%to_0, %sum_0]",
    ]


def test_graphs_inside_are_shown() -> None:
    """Else two models that differ in a branch alone would look the same."""

    class Branches(nn.Module):
        def __init__(self, added: float) -> None:
            super().__init__()
            self.added = added

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = torch.cond(
                x.sum() > 0, lambda y: y + self.added, lambda y: y - 1.0, (x,)
            )
            return made

    first, second = (
        dump(capture_module(Branches(added), (torch.randn(3, 2),)).graph_module)
        for added in (1.0, 2.0)
    )
    assert "true_graph_0:\n    %" in first
    changed = [line for line in diff(first, second, 0).splitlines() if line[1:2] == " "]
    assert [line.split(", ")[-1] for line in changed] == ["1)", "2)"]


def test_the_text_does_not_depend_on_the_run() -> None:
    assert text() == text()
    assert dump(captured("attention").graph_module) == dump(captured("attention").graph_module)


def test_no_machine_shows() -> None:
    for name in ("attention", "postnorm", "conv"):
        shown = dump(captured(name).graph_module)
        assert "/" not in shown
        assert "0x" not in shown


def test_values_can_be_left_out() -> None:
    assert "max" not in text(values=False)
    assert text(values=False).count("\n") == text().count("\n")


def test_equal_graphs_have_no_diff() -> None:
    assert diff(text(), text()) == ""


def test_a_fold_shows_in_the_values_alone() -> None:
    program = captured("gated")
    before = program.clone()
    program.set_weight("up.weight", program.weight("up.weight") * 2)
    old, new = (dump(p.graph_module) for p in (before, program))
    changed = [line for line in diff(old, new, context=0).splitlines()[3:] if line[0] in "+-"]
    assert len(changed) == 2
    assert "|up.weight| max" in changed[0]
    assert dump(before.graph_module, False) == dump(program.graph_module, False)
    (line,) = compare_weights(before.graph_module, program.graph_module)
    assert line.startswith("~ up.weight  f32[64, 32]  max ")


def test_tensors_that_come_and_go_are_listed() -> None:
    program = captured("mlp")
    before = program.clone()
    run(program, "canonicalize,quantize-weights{exclude=^2|^4}")
    assert compare_weights(before.graph_module, program.graph_module) == [
        "- 0.weight  f32[32, 16]",
        "+ 0.weight.packed  u8[32, 8]",
        "+ 0.weight.scale  f32[32, 1]",
        "+ 0.weight.zero_point  u8[32, 1]",
    ]
