"""Capture of modules: what is called how, what comes back, and each refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.exported import program_from_exported
from awqc.capture.module import capture_module
from awqc.errors import CaptureError, UnsupportedGraphError, UsageError

Forward = Callable[..., Any]


class Net(nn.Module):
    """A linear layer with the forward that a test gives it."""

    count: Tensor

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.l = nn.Linear(8, 4)
        self.register_buffer("count", torch.zeros(1))
        self.body = forward

    def forward(self, x: Any, flag: Any = True, mask: Any = None) -> Any:
        return self.body(self, x, flag, mask)


def plain(net: Net, x: Tensor, flag: Any, mask: Any) -> Any:
    return net.l(x)


def test_batch_is_dynamic_and_named_even_for_one_sample() -> None:
    net = Net(plain)
    x = torch.randn(1, 8)
    program = capture_module(net, (x,))
    assert [str(spec) for spec in program.inputs] == ["x=float32[batch,8]"]
    assert program.outputs == ("output",)
    x5 = torch.randn(5, 8)
    torch.testing.assert_close(program.run({"x": x5})[0], net(x5))


def test_nested_and_dict_outputs_are_flat_and_named() -> None:
    net = Net(lambda n, x, flag, mask: {"logits": n.l(x), "hidden": (x, [n.l(x) + 1])})
    program = capture_module(net, (torch.randn(3, 8),))
    assert program.outputs == ("logits", "hidden_0", "hidden_1_0")
    assert program.interface.call.out_spec.num_leaves == 3


def test_outputs_that_are_no_tensors_are_kept_aside() -> None:
    net = Net(lambda n, x, flag, mask: (n.l(x), None, 3))
    program = capture_module(net, (torch.randn(3, 8),))
    assert program.outputs == ("output",)
    assert program.interface.call.out_constants == {1: None, 2: 3}
    assert len(program.clone().run(program.example)) == 1


def test_output_named_like_an_input_gets_another_name() -> None:
    net = Net(lambda n, x, flag, mask: {"x": n.l(x)})
    assert capture_module(net, (torch.randn(3, 8),)).outputs == ("x_1",)


def test_model_output_of_transformers() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    net = Net(lambda n, x, flag, mask: outputs.BaseModelOutput(last_hidden_state=n.l(x)))
    assert capture_module(net, (torch.randn(3, 8),)).outputs == ("last_hidden_state",)


def test_keyword_inputs_flags_and_none_are_fixed() -> None:
    net = Net(lambda n, x, flag, mask: n.l(x) if flag else x)
    x = torch.randn(3, 8)
    program = capture_module(net, {"mask": None, "flag": False, "x": x})
    assert [spec.name for spec in program.inputs] == ["x"]
    assert sorted(map(str, program.interface.call.constants.values())) == ["False", "None"]
    torch.testing.assert_close(program.run({"x": x})[0], x)


def test_keyword_inputs_in_any_order() -> None:
    net = Net(lambda n, x, flag, mask: n.l(x) * mask)
    x, mask = torch.randn(3, 8), torch.randn(3, 1)
    program = capture_module(net, {"mask": mask, "x": x})
    torch.testing.assert_close(program.run({"x": x, "mask": mask})[0], net(x, mask=mask))


def test_first_axes_of_one_size_are_one_batch() -> None:
    net = Net(lambda n, x, flag, mask: n.l(x) * (1 + mask.sum()))
    program = capture_module(net, (torch.randn(3, 8), True, torch.randn(3, 8)))
    assert [spec.shape[0] for spec in program.inputs] == ["batch", "batch"]
    program = capture_module(net, (torch.randn(3, 8), True, torch.randn(5, 8)))
    assert [spec.shape[0] for spec in program.inputs] == ["batch", "batch_1"]


def test_nested_inputs() -> None:
    net = Net(lambda n, x, flag, mask: n.l(x + mask[0]["k"]))
    program = capture_module(net, (torch.randn(2, 8), True, [{"k": torch.randn(2, 8)}]))
    assert [spec.name for spec in program.inputs] == ["x", "mask_0_k"]


def test_a_parameter_called_like_a_builtin_keeps_its_name() -> None:
    program = capture_module(nn.Sequential(nn.Linear(8, 4)), (torch.randn(3, 8),))
    assert [spec.name for spec in program.inputs] == ["input"]


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(8, 4)

    def forward(self, *xs: Tensor, **more: Tensor) -> Tensor:
        return self.l(sum(xs) + more.get("bias", torch.zeros(1)))  # type: ignore[no-any-return]  # a module's call is Any


def test_variable_arguments() -> None:
    x = torch.randn(2, 8)
    program = capture_module(Sum(), (x, x))
    assert [str(spec) for spec in program.inputs] == [
        "xs_0=float32[batch,8]",
        "xs_1=float32[batch,8]",
    ]
    assert capture_module(Sum(), {"bias": x}).inputs[0].name == "bias"


def test_dynamic_axes_take_the_names_asked_for() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = nn.Embedding(10, 8)
            self.head = nn.Linear(8, 10, bias=False)
            self.head.weight = self.e.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.e(ids))  # type: ignore[no-any-return]  # a module's call is Any

    net = Tied()
    program = capture_module(net, (torch.zeros(2, 5, dtype=torch.int64),), dynamic={"ids": [1]})
    assert program.inputs[0].shape == ("batch", "ids_axis_1")
    ids = torch.randint(0, 10, (2, 5))
    program = capture_module(net, (ids,), dynamic={"ids": {1: "seq"}})
    assert program.inputs[0].shape == ("batch", "seq")
    assert program.run({"ids": torch.randint(0, 10, (3, 9))})[0].shape == (3, 9, 10)
    tensors = list(program.parameters().values())
    assert len({t.data_ptr() for t in tensors}) == 1, "tied weights stay tied"
    assert tensors[0].data_ptr() != net.e.weight.data_ptr(), "the user's weights are not shared"


def test_user_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    program = capture_module(net, (torch.randn(3, 8, requires_grad=True),))
    for value in program.parameters().values():
        value.zero_()
    assert net.training
    assert net[0].weight.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_input_that_forward_writes_to_stays_as_it_is() -> None:
    net = Net(lambda n, x, flag, mask: n.l(x.mul_(2)).relu_())
    x = torch.ones(2, 8)
    program = capture_module(net, (x,))
    first = program.run(program.example)
    torch.testing.assert_close(first, program.run(program.example))
    torch.testing.assert_close(first[0], net.l(2 * torch.ones(2, 8)).relu())
    assert x.sum() == 16


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # torch.compile's own
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = Net(plain)
    program = capture_module(wrap(net), (torch.randn(3, 8),))
    assert [spec.name for spec in program.inputs] == ["x"]
    assert "l.weight" in program.parameters()


def test_graph_modules() -> None:
    x = torch.randn(3, 8)
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 4), nn.ReLU()))
    torch.testing.assert_close(capture_module(traced, (x,)).run({"input": x})[0], traced(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_source_dtype_is_the_parameters(dtype: torch.dtype) -> None:
    program = capture_module(nn.Linear(8, 4).to(dtype), (torch.randn(3, 8, dtype=dtype),))
    assert program.source_dtype == dtype


def test_a_batch_that_cannot_be_two_stays_one() -> None:
    net = Net(lambda n, x, flag, mask: n.l(x.reshape(1, 8)))
    assert capture_module(net, (torch.randn(1, 8),)).inputs[0].shape == (1, 8)


def test_a_fixed_batch_is_a_number() -> None:
    net = Net(lambda n, x, flag, mask: n.l(x.reshape(3, 8)))
    assert capture_module(net, (torch.randn(3, 8),)).inputs[0].shape == (3, 8)
    with pytest.raises(UsageError, match="'x': the model fixes axis 0 at 3"):
        capture_module(net, (torch.randn(3, 8),), dynamic={"x": [0]})
    told = capture_module(net, (torch.randn(3, 8),), dynamic={"x": [0]}, insist=False)
    assert told.notes == ("input 'x': the model fixes axis 0 at 3",)


def _data_dependent(net: Net, x: Tensor, flag: Any, mask: Any) -> Tensor:
    if net.l(x).sum() > 0:
        return x
    return -x


def test_data_dependent_control_flow_names_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture_module(Net(_data_dependent), (torch.randn(3, 8),))
    message = str(caught.value)
    assert "test_module.py:" in message
    assert "if net.l(x).sum() > 0:" in message
    assert "torch.where" in message
    assert "/" not in message.split(" at ")[1].split(":")[0], "no folder of this machine"
    assert capfd.readouterr() == ("", "")


@dataclass
class Pair:
    first: Tensor
    second: Tensor


class Cache:
    """An object that torch has no flattening for."""

    def __init__(self, keys: Tensor) -> None:
        self.layers = [Pair(keys, keys + 1)]
        self.filled = True


def test_objects_come_out_as_dicts() -> None:
    net = Net(lambda n, x, flag, mask: (Pair(n.l(x), x), Cache(x)))
    program = capture_module(net, (torch.randn(3, 8),))
    assert program.outputs == (
        "output_0_first",
        "output_0_second",
        "output_1_layers_0_first",
        "output_1_layers_0_second",
    )


def test_unknown_input_type_is_refused() -> None:
    with pytest.raises(CaptureError, match="could not be captured"):
        capture_module(Net(_data_dependent), (torch.randn(3, 8), Cache(torch.randn(2))))


def _in_a_set(net: Net, x: Tensor, flag: Any, mask: Any) -> Tensor:
    """Whether rows have as many positive elements each, by Python's own means."""
    counts = (x > 0).sum(dim=1).tolist()
    return net.l(x) if len(set(counts)) > 1 else x  # type: ignore[no-any-return]  # as below


def test_numbers_of_a_graph_in_a_set_are_refused_with_advice() -> None:
    with pytest.raises(CaptureError, match=r"unhashable type.*\n.*in _in_a_set.*\n.*put in a set"):
        capture_module(Net(_in_a_set), (torch.randn(3, 8),))


def _counting(net: Net, x: Tensor, flag: Any, mask: Any) -> Tensor:
    net.count += 1
    return net.l(x)  # type: ignore[no-any-return]  # a module's call is Any


class Wrapped(torch.Tensor):
    """A tensor that keeps codes in place of its values, as quantizing libraries make them."""

    @staticmethod
    def __new__(cls, codes: Tensor) -> Wrapped:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]  # torch keeps it private
            cls, codes.shape, dtype=torch.float32
        )

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> Wrapped:
        return Wrapped(inner["codes"])

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares no types
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return cls(args[0].codes) if func is torch.ops.aten.detach.default else NotImplemented


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_what_is_quantized_already_is_named() -> None:
    from torch.ao.nn.quantized.dynamic import Linear

    net = nn.Sequential(nn.Linear(8, 8))
    net.add_module("inner", nn.Sequential(Linear(8, 4)))
    with pytest.raises(UsageError, match=r"the module 'inner.0' is a .*Linear: quantized already"):
        capture_module(net, (torch.randn(2, 8),))
    codes = Wrapped(torch.zeros(8, 8, dtype=torch.int8))
    net[0].weight = nn.Parameter(codes, requires_grad=False)
    del net.inner
    with pytest.raises(UsageError, match=r"the weight '0.weight' is a .*Wrapped: quantized"):
        capture_module(net, (torch.randn(2, 8),))


def test_hidden_state_is_refused() -> None:
    with pytest.raises(UnsupportedGraphError, match="writes to the buffer 'count'"):
        capture_module(Net(_counting), (torch.randn(2, 8),))


def test_archive_in_train_mode_is_refused() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)).train()
    exported = torch.export.export(net, (torch.randn(3, 8),))
    with pytest.raises(UnsupportedGraphError, match="eval mode"):
        program_from_exported(exported)


def test_no_tensor_output_is_refused() -> None:
    net = Net(lambda n, x, flag, mask: None)
    with pytest.raises(UnsupportedGraphError, match="returns no tensor"):
        capture_module(net, (torch.randn(2, 8),))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            (torch.randn(2, 9),),
            r"example inputs \(float32\[2, 9\]\).*cannot be multiplied.*Give inputs",
        ),
        ((torch.randn(2, 8),) * 9, "do not fit Net.forward: too many"),
        ({"y": torch.randn(2, 8)}, "do not fit Net.forward"),
        ({"x": 3}, "hold no tensor"),
        ("x", "example inputs are a str"),
    ],
)
def test_wrong_example_inputs(example: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){message}"):
        capture_module(Net(plain), example)


@pytest.mark.parametrize(
    ("dynamic", "message"),
    [({"z": [0]}, "no input is called 'z'"), ({"x": [2]}, "axis 2"), ({"x": [-1]}, "axis -1")],
)
def test_wrong_dynamic_axes(dynamic: dict[str, list[int]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        capture_module(Net(plain), (torch.randn(2, 8),), dynamic=dynamic)


def test_wrong_models() -> None:
    x = (torch.randn(2, 8),)
    with pytest.raises(UsageError, match="the model is a str"):
        capture_module("model", x)  # type: ignore[arg-type]  # what is refused
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        scripted = torch.jit.script(nn.Linear(8, 4))
    with pytest.raises(UsageError, match="TorchScript"):
        capture_module(scripted, x)
    with pytest.raises(UsageError, match="meta device"):
        capture_module(nn.Linear(8, 4, device="meta"), x)
    with pytest.raises(UsageError, match="has no size yet"):
        capture_module(nn.LazyLinear(4), x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_scripted_part_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), torch.jit.script(nn.Linear(8, 4)))
    with pytest.raises(UsageError, match="the module '1' is a TorchScript module"):
        capture_module(model, (torch.randn(2, 8),))


def test_a_sparse_weight_is_refused() -> None:
    model = nn.Linear(8, 4)
    model.weight = nn.Parameter(model.weight.detach().to_sparse())
    with pytest.raises(UsageError, match=r"the weight 'weight' is sparse.*to_dense"):
        capture_module(model, (torch.randn(2, 8),))


def test_a_write_to_a_parameter_is_refused() -> None:
    """An embedding with max_norm shortens its own rows as it looks them up."""
    with pytest.raises(UnsupportedGraphError, match="writes to the parameter 'weight'"):
        capture_module(nn.Embedding(9, 4, max_norm=1.0), (torch.tensor([[1, 2]]),))
