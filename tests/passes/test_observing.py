"""insert-observers and calibrate: what they see, what they leave out, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.functional import linear as product

from awqc.errors import CalibrationError
from awqc.graph.linears import find_linears
from awqc.numerics.request import QuantizationSpec
from awqc.passes import insert_observers
from awqc.passes.pipeline import parse_pipeline
from awqc.program import Program, Task
from tests.tiny import calibration, capture, captured, inputs, model, relative, run

CALIBRATED = "canonicalize,insert-observers,calibrate"


def test_statistics_are_those_of_the_inputs() -> None:
    program = captured("mlp")
    x = torch.cat([batch[program.inputs[0].name] for batch in calibration(program)])
    run(program, CALIBRATED)
    statistics = program.findings.statistics["linear"]
    assert statistics.tokens == len(x)
    torch.testing.assert_close(statistics.abs_mean[0], x.abs().mean(0))
    factor = statistics.factor[0]
    torch.testing.assert_close(factor.T @ factor, x.T @ x / len(x), rtol=1e-4, atol=1e-4)


def test_every_product_to_be_quantized_has_statistics(program: Program) -> None:
    before = program.run(program.example)[0]
    run(program, CALIBRATED)
    wanted = {
        linear.node.name
        for linear in find_linears(program.graph)
        if linear.weight_name not in program.findings.skipped
    }
    assert set(program.findings.statistics) == wanted
    # canonicalize folds the batch norm; beyond that, nothing moves.
    assert relative(program.run(program.example)[0], before) < 1e-6


def test_products_that_read_one_value_share_one_observer() -> None:
    program = run(captured("attention"), "canonicalize,insert-observers")
    calls = [node for node in program.graph.nodes if node.op == "call_module"]
    assert len(calls) == 2


def test_excluded_and_depthwise_weights_are_skipped_with_the_reason() -> None:
    program = captured("conv")
    program.quantization = QuantizationSpec(exclude=("^11",))
    run(program, CALIBRATED)
    assert program.findings.skipped["11.weight"] == "excluded by the user (^11)"
    assert program.findings.skipped["3.weight"].startswith("depthwise")


class Masked(nn.Module):
    """A layer before and after something that is not per token."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.pooled = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(6, 4)
        self.conv = nn.Conv1d(5, 3, 3)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.relu(self.first(x * mask.unsqueeze(-1)))
        return self.second(h), self.pooled(h.mean(1)), self.conv(h)


def masked_program(mask: Tensor) -> Program:
    program = capture(Masked().eval(), torch.randn(3, 5, 6), mask)
    program.task = Task(mask_input=program.inputs[1].name)
    return program


def test_padding_is_left_out() -> None:
    mask = torch.tensor([[1.0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    program = masked_program(mask)
    x = program.example[program.inputs[0].name]
    run(program, CALIBRATED, [program.example])
    first, second, pooled, conv = find_linears(program.graph)
    assert program.findings.statistics[first.node.name].tokens == 9
    torch.testing.assert_close(
        program.findings.statistics[first.node.name].abs_mean[0], x[mask.bool()].abs().mean(0)
    )
    assert program.findings.statistics[second.node.name].tokens == 9
    # One row a sample, and a convolution's patches, are no tokens that the mask tells apart.
    assert program.findings.statistics[pooled.node.name].tokens == 3
    assert program.findings.statistics[conv.node.name].tokens == 3 * 4


def test_a_layer_that_sees_only_padding_is_reported() -> None:
    program = masked_program(torch.zeros(3, 5))
    run(program, CALIBRATED, [program.example])
    assert set(program.findings.statistics) == {"linear_2", "conv1d"}
    run(program, "search-scales,fold-scales,quantize-weights")
    assert "first.weight" in program.findings.quantized


@pytest.mark.parametrize(("bad", "name"), [(float("nan"), "nan"), (float("inf"), "beyond")])
def test_bad_activations_name_the_layer_and_the_batch(bad: float, name: str) -> None:
    module = model("mlp")
    program = capture(module, inputs("mlp"))
    program.set_weight("2.bias", torch.full((64,), bad))
    with pytest.raises(CalibrationError, match=rf"^4: .*{name}.* batch 0"):
        run(program, CALIBRATED)


def test_float16_like_overflow_inside_is_found() -> None:
    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(torch.exp(self.a(x)))
            return out

    program = capture(Overflowing(), torch.randn(2, 4))
    spoiled = {name: x + 1e4 for name, x in program.example.items()}
    with pytest.raises(CalibrationError, match=r"^b: .* batch 1"):
        run(program, CALIBRATED, [program.example, spoiled])


class Tied(nn.Module):
    """An embedding whose table is the head's weight, and one weight in two products."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(words, 16) / 4)
        self.shared = nn.Parameter(torch.randn(16, 16) / 4)

    def forward(self, ids: Tensor) -> Tensor:
        h = embedding(ids, self.table)
        h = h + product(torch.tanh(product(h, self.shared)), self.shared)
        return product(h, self.table)


def test_a_small_table_that_is_also_the_head_stays_float() -> None:
    program = capture(Tied(32).eval(), torch.randint(0, 32, (2, 5)))
    program.quantization = replace(program.quantization, embed_bits=0)
    run(program, f"{CALIBRATED},search-scales,fold-scales,quantize-weights{{embed-bits=0}}")
    assert "embedding" in program.findings.skipped["table"]
    assert set(program.findings.quantized) == {"shared"}


def test_a_weight_in_two_products_is_quantized_once() -> None:
    program = capture(Tied(32).eval(), torch.randint(0, 32, (2, 5)))
    wanted = program.run(program.example)[0]
    run(program, f"{CALIBRATED},search-scales,fold-scales,quantize-weights{{bits=8}}")
    readers = [linear for linear in program.findings.statistics if linear]
    assert len(readers) >= 2
    calls = [node for node in program.graph.nodes if "dequantize" in str(node.target)]
    assert [len(node.users) for node in calls if "shared" in str(node.args[0])] == [2]
    found = program.run(program.example)[0]
    # 8 bits: half a step of 1/255 of the range each, sums of 16; well below 1 %.
    assert float((found - wanted).norm() / wanted.norm()) < 0.01


class AlsoMultiplied(nn.Module):
    """A weight that is also an ordinary operand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(product(x, self.weight)) @ (x.mT * self.weight)


def test_a_weight_with_another_reader_is_refused() -> None:
    program = capture(AlsoMultiplied(), torch.randn(2, 6, 6))
    run(program, f"{CALIBRATED},search-scales,fold-scales,quantize-weights")
    assert program.findings.quantized == {}
    assert program.findings.skipped["weight"] == "the weight is also read by mul"


def test_moments_of_very_wide_products_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads few columns is compensated; what reads more is rounded to nearest, and said."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 320), nn.ReLU(), nn.Linear(320, 8))
    monkeypatch.setattr(insert_observers, "MOST_COLUMNS", 310)
    spec = "canonicalize,insert-observers{gram=true}"
    before = capture(net, torch.randn(4, 300))
    changes = parse_pipeline(spec).run(before, [])
    (told,) = (str(each) for each in changes if "too many moments" in str(each))
    assert told == "2.weight: 320 columns have too many moments; it is rounded to nearest"
    data = [{"input": torch.randn(64, 300)}]

    def run_all(end: str) -> Program:
        program = capture(net, torch.randn(4, 300))
        parse_pipeline(f"{spec},calibrate{end}").run(program, data)
        return program

    statistics = run_all("").findings.statistics
    assert [each.gram is None for each in statistics.values()] == [False, True]
    nearest, learned = (
        run_all(f",search-scales,fold-scales,quantize-weights{{rounding={how}}}").findings.quantized
        for how in ("nearest", "gptq")
    )
    same = {
        name: torch.equal(nearest[name].dequantize(), learned[name].dequantize())
        for name in ("0.weight", "2.weight")
    }
    assert same == {"0.weight": False, "2.weight": True}
