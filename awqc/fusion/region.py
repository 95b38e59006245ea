"""A part of a graph that is run by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from awqc.fusion.onnx_values import Node, Value, ancestors
from awqc.runtimes.session_file import LEVEL, LEVELLED

Array = np.ndarray[Any, Any]
EXACT = 1
"""Low-bit products compute in float32 here, whatever they do in the model."""


@dataclass(frozen=True)
class Region:
    """What makes ``outputs`` of ``inputs``.

    Attributes:
        inputs: values at which the part begins, and inputs of the model that it reads.
        outputs: values that it makes.
        nodes: in order.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]

    @staticmethod
    def between(stops: Sequence[Value], outputs: Sequence[Value]) -> Region:
        """The part that makes ``outputs``, looking no further back than ``stops``."""
        nodes = tuple(ancestors(list(outputs), set(stops)))
        made = {value for node in nodes for value in node.outputs}
        read = [value for node in nodes for value in node.inputs if value is not None]
        free = (v for v in read if v in stops or (v not in made and v.const_value is None))
        inputs = dict.fromkeys(free)
        return Region(tuple(inputs), tuple(outputs), nodes)

    def model(self, *, whole: bool = True) -> bytes:
        """The part as a model of its own, whose names follow from its structure alone.

        Unless it is the ``whole``, what low-bit products read is there by types and sizes only.
        """
        names: dict[Value | None, str] = {None: ""}
        constants: list[onnx.TensorProto] = []
        for value in self.inputs:
            names[value] = f"v{len(names)}"
        nodes = []
        for node in self.nodes:
            for value in (*node.inputs, *node.outputs):
                if value not in names:
                    names[value] = f"v{len(names)}"
                    if value.const_value is not None:
                        numbers = whole or node.op_type not in LEVELLED
                        constants.append(_constant(value.const_value, names[value], numbers))
            proto = ir.serde.serialize_node(node)
            proto.ClearField("name")
            proto.ClearField("metadata_props")
            for attribute in proto.attribute:
                if attribute.name == LEVEL:
                    attribute.i = EXACT
            proto.input[:] = [names[value] for value in node.inputs]
            proto.output[:] = [
                f"unread_{names[value]}" if value in self.inputs else names[value]
                for value in node.outputs
            ]
            nodes.append(proto)
        graph = onnx.helper.make_graph(
            nodes,
            "region",
            [onnx.helper.make_tensor_value_info(names[v], int(v.dtype), None) for v in self.inputs],
            [onnx.ValueInfoProto(name=names[value]) for value in self.outputs],
            constants,
        )
        sets = [*self.nodes[0].graph.opset_imports.items()]
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in sets]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return bytes(model.SerializeToString(deterministic=True))


def _constant(tensor: Any, name: str, numbers: bool) -> onnx.TensorProto:
    if numbers:
        return onnx.numpy_helper.from_array(tensor.numpy(), name)
    return onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())


def run_model(model: bytes, feeds: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Outputs of what `Region.model` gave, for each of ``feeds``, in the order of its inputs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return [session.run(None, dict(zip(names, feed, strict=True))) for feed in feeds]
