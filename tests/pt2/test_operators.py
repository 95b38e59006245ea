"""What a graph may call."""

from __future__ import annotations

import pytest
import torch

from awqc.pt2.failures import NotAllowedError
from awqc.pt2.operators import check_operator


def core_operators() -> list[str]:
    """Names of the operators that torch calls its core, as archives have them."""
    found = []
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        if isinstance(packet, torch._ops.OpOverloadPacket):
            overloads = [getattr(packet, overload) for overload in packet.overloads()]
            found += [str(op) for op in overloads if torch.Tag.core in op.tags]
    return [f"torch.ops.{name}" for name in found]


def test_the_core_of_torch_is_on_the_list() -> None:
    torch.ones(1).relu()
    operators = core_operators()
    assert len(operators) > 100
    for operator in operators:
        assert check_operator(operator) == operator


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.linear.default",
        "torch.ops.aten.einsum.default",
        "torch.ops.aten.gelu.default",
        "torch.ops.aten.div.Tensor_mode",
        "torch.ops.aten.pad.default",
        "torch.ops.aten.conv2d.padding",
        "torch.ops.aten.scaled_dot_product_attention.default",
        "torch.ops.aten.index.Tensor",
        "torch.ops.aten.lstm.input",
        "torch.ops.aten.randn.generator",
        "torch.ops.aten._assert_scalar.default",
        "torch.ops.aten.sym_size.int",
        "torch.ops.higher_order.cond",
        "torch.ops.higher_order.wrap_with_autocast",
        "_operator.floordiv",
        "math.trunc",
        "torch.sym_max",
    ],
)
def test_what_models_call(target: str) -> None:
    assert check_operator(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.from_file.out",
        "torch.ops.aten.save.default",
        "torch.ops.aten.warn.default",
        "torch.ops.aten._print.default",
        "torch.ops.aten.append.t",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.record_stream.default",
        "torch.ops.prim.Print.default",
        "torch.ops.prim.RaiseException.default",
        "torch.ops.image.write_file.default",
        "torch.ops.c10d.send.default",
        "torch.ops.symm_mem.one_shot_all_reduce.default",
        "torch.ops.profiler._record_function_enter.default",
        "torch.ops.load_library",
        "torch.ops.aten.__class__.mro",
        "torch.ops.aten.relu.__call__",
        "torch.ops.aten.relu.op",
        "torch.ops.aten.no_such_operator.default",
        "torch.ops.aten.relu",
        "torch.ops.higher_order.aoti_call_delegate",
        "torch.ops.higher_order.executorch_call_delegate",
        "torch.ops.higher_order.triton_kernel_wrapper_functional",
        "torch.ops.higher_order.inline_asm_elementwise",
        "torch.ops.higher_order.call_torchbind",
        "torch.ops.higher_order.print",
        "torch.ops.higher_order.cond.__class__",
        "torch.serialization.os.system",
        "torch.hub.load",
        "torch.load",
        "torch.classes.load_library",
        "torch.utils.cpp_extension.load_inline",
        "torch._C._set_grad_enabled",
        "_operator.call",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "_operator.setitem",
        "_operator.add.__class__",
        "math.factorial",
        "builtins.exec",
        "#namespace:name",
        "",
    ],
)
def test_what_no_archive_may_call(target: str) -> None:
    with pytest.raises(NotAllowedError, match="a call of"):
        check_operator(target)
