"""The numbers of a layer, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from awqc.findings import FloatLayer
from awqc.passes.pipeline import DEFAULT, parse_pipeline
from awqc.program import Batch, Program
from awqc.verify.layers import compare_layers, float_layers
from tests.tiny import calibration, captured, relative


def recorded(program: Program, spec: str = DEFAULT) -> tuple[Program, Program]:
    """The last float program, and the quantized one."""
    floats: list[Program] = []

    def take(last: Program, batch: Batch) -> dict[str, FloatLayer]:
        floats.append(last.clone())
        return float_layers(last, batch)

    pipeline = parse_pipeline(spec)
    pipeline.run(program, calibration(program), before_quantization=take, watched=program.example)
    return floats[0], program


def test_numbers_are_those_of_the_definition() -> None:
    program = captured("mlp")
    data = torch.cat([batch[program.inputs[0].name] for batch in calibration(program)])
    before, after = recorded(program)
    layers = compare_layers(after, after.example)
    assert [layer.name for layer in layers] == ["0.weight", "2.weight", "4.weight"]
    first, *_, last = layers
    old, new = before.weight("0.weight"), after.findings.quantized["0.weight"].dequantize()
    assert first.weight_error == pytest.approx(relative(new, old), rel=1e-5)
    assert (first.op, first.bits, first.group_size) == ("linear", 4, -1)
    assert first.bytes == after.findings.quantized["0.weight"].nbytes
    # Alone: the product of the calibration inputs, which the graph scales first.
    scaled = data * before.parameters().get("0.input_scale", torch.ones(16))
    sqnr = -20 * math.log10(relative(scaled @ new.T, scaled @ old.T))
    assert first.output_sqnr_db == pytest.approx(sqnr, abs=0.01)
    # Accumulated: the last layer's output is the model's.
    (now,), (wanted,) = (p.run(p.example) for p in (after, before))
    assert last.accumulated_sqnr_db == pytest.approx(
        -20 * math.log10(relative(now, wanted)), abs=0.01
    )


def test_every_quantized_weight_has_a_layer(program: Program) -> None:
    _, after = recorded(program)
    layers = compare_layers(after, after.example)
    assert [layer.name for layer in layers] == list(after.findings.quantized)
    for layer in layers:
        assert layer.output_sqnr_db is not None
        assert layer.output_sqnr_db > 5
        assert 0 < layer.weight_error < 0.3


def test_without_statistics_the_layers_own_error_is_unknown() -> None:
    _, after = recorded(captured("mlp"), "canonicalize,quantize-weights")
    for layer in compare_layers(after, after.example):
        assert layer.output_sqnr_db is None
        assert layer.accumulated_sqnr_db is not None
