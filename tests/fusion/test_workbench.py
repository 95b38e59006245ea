"""What takes the place of a part must not be made of it."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from awqc.fusion.onnx_values import CircleError, ancestors
from awqc.fusion.workbench import Workbench
from awqc.targets.known import ORT_CPU
from tests.fusion.graphs import parsed


def test_what_reads_what_it_makes_is_refused() -> None:
    model = parsed("agraph (float[n] x) => (float[n] z) {\n  y = Relu(x)\n  z = Relu(y)\n}")
    bench = Workbench(ir.from_proto(model), ORT_CPU)
    first, last = bench.graph
    old = first.outputs[0]
    new = bench.add("Relu", [old], [old])  # the same numbers, of the old value
    assert bench.switch("any", {old: new}, []) == "what it reads is made of what it makes"
    assert last.inputs[0] is old
    assert not bench.found


def test_nodes_in_a_circle_have_no_order() -> None:
    first = ir.node("Relu", [ir.Value(name="x")])
    second = ir.node("Relu", [first.outputs[0]])
    first.replace_input_with(0, second.outputs[0])
    with pytest.raises(CircleError):
        list(ancestors([second.outputs[0]], set()))
