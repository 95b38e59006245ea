"""Each rewrite of canonicalize keeps the outputs and leaves the regular form behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from awqc.capture.module import capture_module
from awqc.passes.base import Change
from awqc.passes.canonicalize import Canonicalize
from awqc.program import Program

aten = torch.ops.aten


def canonical(model: nn.Module, *inputs: Tensor) -> tuple[Program, list[Change]]:
    """The program after canonicalize, which must not have moved an output."""
    torch.manual_seed(0)
    program = capture_module(model.eval(), inputs)
    before = program.run(program.example)
    changes = Canonicalize().apply(program)
    for old, new in zip(before, program.run(program.example), strict=True):
        torch.testing.assert_close(new, old, atol=1e-5, rtol=1e-4)
    assert Canonicalize().apply(program) == []
    return program, changes


def targets(program: Program) -> list[object]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


class Apply(nn.Module):
    """A function of the input and some parameters."""

    def __init__(self, function: object, **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.function(self, x)  # type: ignore[operator]  # a function as an attribute, which mypy takes for a module
        return out


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x @ m.w,
        lambda m, x: torch.addmm(m.b, x, m.w),
        lambda m, x: torch.einsum("bk,kn->bn", x, m.w),
        lambda m, x: functional.linear(x, m.w.t()),
    ],
)
def test_products_with_a_matrix_become_linear(function: object) -> None:
    model = Apply(function, w=torch.randn(8, 6), b=torch.randn(6))
    program, _ = canonical(model, torch.randn(3, 8))
    assert targets(program) == [aten.linear.default]
    assert program.weight("w").shape == (6, 8)


def test_an_einsum_with_a_vector_makes_no_axis() -> None:
    model = Apply(lambda m, x: torch.einsum("bk,k->b", x, m.w), w=torch.randn(8))
    program, _ = canonical(model, x := torch.randn(3, 8))
    (found,) = program.run(program.example)
    torch.testing.assert_close(found, model(x), rtol=1e-5, atol=1e-6)


def test_a_matrix_that_is_read_twice_keeps_its_first_form() -> None:
    model = Apply(lambda m, x: (x @ m.w) @ m.w.t(), w=torch.randn(8, 6))
    program, _ = canonical(model, torch.randn(3, 8))
    assert targets(program) == [aten.linear.default] * 2


def test_expressions_of_constants_are_computed_once() -> None:
    model = Apply(
        lambda m, x: functional.linear(x, m.w + m.up @ m.down) * (1 + m.g),
        w=torch.randn(6, 8),
        up=torch.randn(6, 2),
        down=torch.randn(2, 8),
        g=torch.randn(6),
    )
    program, changes = canonical(model, torch.randn(3, 8))
    assert targets(program) == [aten.linear.default, aten.mul.Tensor]
    assert set(program.parameters()) == {"w", "g"}
    assert changes


def test_parts_of_a_split_weight_stay_apart() -> None:
    def halves(m: Apply, x: Tensor) -> Tensor:
        first, second = torch.split(torch.as_tensor(m.w), [2, 4])
        return torch.cat([functional.linear(x, second), functional.linear(x, first)], -1)

    program, _ = canonical(Apply(halves, w=torch.randn(6, 8)), torch.randn(3, 8))
    assert len(program.parameters()) == 2


def test_weight_norm_becomes_a_weight() -> None:
    model = torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))
    program, _ = canonical(model, torch.randn(3, 8))
    assert targets(program) == [aten.linear.default]


@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_folds_into_the_convolution(bias: bool) -> None:
    norm = nn.BatchNorm2d(6)
    assert norm.running_mean is not None
    torch.nn.init.normal_(norm.running_mean)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, bias=bias), norm, nn.Dropout())
    program, _ = canonical(model, torch.randn(2, 3, 5, 5))
    assert targets(program) == [aten.conv2d.default]


def test_batch_norm_is_a_product_and_a_sum_where_the_convolution_is_read_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            out: Tensor = self.norm(y) + y
            return out

    program, _ = canonical(Twice(), torch.randn(2, 3, 5))
    assert aten.batch_norm.default not in targets(program)
    assert {aten.mul.Tensor, aten.add.Tensor} <= set(targets(program))


def test_norm_without_weight_gets_one() -> None:
    model = nn.Sequential(nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 4))
    program, _ = canonical(model, torch.randn(3, 8))
    assert "layer_norm.weight" in program.parameters()


def test_one_tensor_under_two_names_is_read_once() -> None:
    weight = torch.randn(8, 8)
    model = Apply(lambda m, x: functional.linear(functional.linear(x, weight), weight))
    program, _ = canonical(model, torch.randn(3, 8))
    assert len(program.parameters()) == 1


def test_batched_product_is_one_linear_a_matrix() -> None:
    model = Apply(lambda m, x: torch.bmm(x, m.w), w=torch.randn(3, 8, 6))
    program, _ = canonical(model, torch.randn(3, 5, 8))
    assert targets(program).count(aten.linear.default) == 3


class Experts(nn.Module):
    """Routes each row to one of three experts, by a grouped product over sorted rows."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 3)
        self.weight = nn.Parameter(torch.randn(3, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(-1)
        order = chosen.argsort()
        ends = torch.histc(chosen.float(), 3, 0, 2).cumsum(0).to(torch.int32)
        made = torch._grouped_mm(x[order].bfloat16(), self.weight.bfloat16(), ends)
        return made.float()[order.argsort()]


def test_grouped_product_is_one_linear_an_expert() -> None:
    torch.manual_seed(0)
    program = capture_module(Experts().eval(), (torch.randn(10, 16),))
    before = program.run(program.example)[0]
    Canonicalize().apply(program)
    assert targets(program).count(aten.linear.default) == 4
    assert aten.histc.default not in targets(program)
    after = program.run(program.example)[0]
    assert float((after - before).abs().max()) <= 0.02 * float(before.abs().max())


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ij,...jk->...ik", [(2, 5, 3, 4), (5, 4, 6)]),
        ("ij,jk", [(3, 4), (4, 5)]),
        ("i...j,...j", [(3, 2, 4), (2, 4)]),
        ("bi,ij,bj->b", [(3, 4), (4, 5), (3, 5)]),
        ("tao,taio,ta->ti", [(3, 2, 4), (3, 2, 5, 4), (3, 2)]),
        ("bijk,bk->ib", [(2, 3, 4, 5), (2, 5)]),
        ("bij->jb", [(2, 3, 4)]),
        ("ab,cd->ad", [(2, 3), (4, 5)]),
    ],
)
def test_any_einsum_becomes_products(equation: str, shapes: list[tuple[int, ...]]) -> None:
    class Net(nn.Module):
        def forward(self, *values: Tensor) -> Tensor:
            return torch.einsum(equation, *values)

    values = tuple(torch.randn(shape) for shape in shapes)
    program = capture_module(Net(), values)
    Canonicalize().apply(program)
    assert aten.einsum.default not in targets(program)
    (found,) = program.run(program.example)
    torch.testing.assert_close(found, torch.einsum(equation, *values), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "equation",
    ["bihd,bjhd->bhij", "bhij,bjhd->bihd", "bid,bjd->ijb", "bi,bi->b", "bihd,bhd->bdih",
     "bi,bj->bij", "bihd,bihd->bhd"],
)  # fmt: skip
def test_einsum_of_two_activations_becomes_a_product(equation: str) -> None:
    sizes = {"b": 2, "i": 3, "j": 4, "h": 5, "d": 6}
    first, second = (
        torch.randn([sizes[c] for c in term]) for term in equation.partition("->")[0].split(",")
    )

    class Einsum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.einsum(equation, x, y)

    program, _ = canonical(Einsum(), first, second)
    assert aten.einsum.default not in targets(program)
    found = program.run(program.example)[0]
    assert torch.allclose(found, torch.einsum(equation, first, second), atol=1e-5)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, -1])
@pytest.mark.parametrize("form", ["matrix", "offsets", "ends"])
def test_bags_become_lookups(form: str, padding: int | None, mode: str) -> None:
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(11, 8, mode=mode, padding_idx=padding, include_last_offset=form == "ends")
    ids, offsets = torch.randint(0, 11, (5, 4)), None
    if form == "matrix":
        ids[1] = 10
    else:
        ids = ids.flatten()
        ids[7:9] = 10
        offsets = torch.tensor([0, 3, 3, 7, 9, *([20] if form == "ends" else [])])
    weights = torch.rand_like(ids, dtype=torch.float32) if mode == "sum" else None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = bag

        def forward(self, ids: Tensor, offsets: Any = None, weights: Any = None) -> Tensor:
            out: Tensor = self.bag(ids, offsets, weights)
            return out

    every = {"ids": ids, "offsets": offsets, "weights": weights}
    given = {name: value for name, value in every.items() if value is not None}
    program = capture_module(Net(), given)
    Canonicalize().apply(program)
    assert aten.embedding_bag.padding_idx not in targets(program)
    (found,) = program.run(program.example)
    torch.testing.assert_close(found, Net()(**given), rtol=1e-5, atol=1e-6)


class Steps(nn.Module):
    """A recurrent cell, step by step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0], 6)
        state: Any = (zeros, zeros) if isinstance(self.cell, nn.LSTMCell) else zeros
        for step in range(3):
            state = self.cell(x[:, step], state)
        made: Tensor = state[0] if isinstance(state, tuple) else state
        return made


CELLS: dict[str, Callable[[], nn.Module]] = {
    "gru": lambda: nn.GRUCell(4, 6),
    "gru without bias": lambda: nn.GRUCell(4, 6, bias=False),
    "lstm": lambda: nn.LSTMCell(4, 6),
    "tanh": lambda: nn.RNNCell(4, 6),
    "relu": lambda: nn.RNNCell(4, 6, nonlinearity="relu"),
}


@pytest.mark.parametrize("kind", CELLS)
def test_cells_become_products_for_any_batch(kind: str) -> None:
    torch.manual_seed(0)
    model = Steps(CELLS[kind]())
    program = capture_module(model, (torch.randn(2, 3, 4),))
    Canonicalize().apply(program)
    program.tidy()
    assert targets(program).count(aten.linear.default) == 6
    assert not any("cell" in str(target) for target in targets(program))
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(program.run({"x": x})[0], model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_kernels_of_each_sample_become_products_for_any_batch(bias: bool) -> None:
    class Own(nn.Module):
        """Convolves each sample with a kernel made for it."""

        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.shift = nn.Linear(4, 6 * 3 * 9), nn.Linear(4, 6)

        def forward(self, x: Tensor, style: Tensor) -> Tensor:
            kernels = self.kernel(style).view(-1, 3, 3, 3)
            shift = self.shift(style).flatten() if bias else None
            groups = x.reshape(1, -1, *x.shape[2:])
            made = nn.functional.conv2d(
                groups, kernels, shift, stride=(2, 1), padding=(1, 2), groups=x.shape[0]
            )
            return made.view(x.shape[0], 6, *made.shape[2:])

    torch.manual_seed(0)
    model = Own()
    program = capture_module(model, (torch.randn(2, 3, 8, 7), torch.randn(2, 4)))
    Canonicalize().apply(program)
    program.tidy()
    assert aten.conv2d.default not in targets(program)
    batch = {"x": torch.randn(5, 3, 8, 7), "style": torch.randn(5, 4)}
    torch.testing.assert_close(program.run(batch)[0], model(**batch), rtol=1e-4, atol=1e-5)


def test_operations_go_by_one_name() -> None:
    model = Apply(
        lambda m, x: torch.divide(torch.multiply(torch.absolute(x), m.w), 2), w=torch.ones(8)
    )
    program, _ = canonical(model, torch.randn(2, 8))
    assert targets(program) == [aten.abs.default, aten.mul.Tensor, aten.div.Tensor]


class LowRank(nn.Module):
    """A weight and what was learned beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 6)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base.weight + 0.5 * self.up.weight @ self.down.weight
        return nn.functional.linear(x, weight, self.base.bias)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight.tril()


def _parametrized() -> nn.Module:
    linear = nn.Linear(8, 8)
    torch.nn.utils.parametrize.register_parametrization(linear, "weight", Doubled())
    return linear


WRAPPED: dict[str, Callable[[], Any]] = {
    "low rank": LowRank,
    "weight norm": lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 6)),
    "spectral norm": lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6)),
    "parametrized": _parametrized,
    "data parallel": lambda: nn.DataParallel(nn.Linear(8, 6)),
    "compiled": lambda: torch.compile(nn.Linear(8, 6)),
    "compiled inside": lambda: nn.Sequential(cast(nn.Module, torch.compile(nn.Linear(8, 6)))),
    "old weight norm": lambda: torch.nn.utils.weight_norm(nn.Linear(8, 6)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(8, 6), "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("kind", list(WRAPPED))
def test_one_weight_whatever_it_is_wrapped_in(kind: str) -> None:
    model, x = WRAPPED[kind]().eval(), torch.randn(4, 8)
    program, _ = canonical(model, x)
    assert targets(program) == [aten.linear.default]
    plain = _innermost(model)
    assert torch.allclose(program.run(program.example)[0], plain(x), atol=1e-5)


def _innermost(model: nn.Module) -> nn.Module:
    """What a wrapper holds: running a compiled module would compile it."""
    for name in ("module", "_orig_mod", "0"):
        if name in model._modules:
            return _innermost(model.get_submodule(name))
    return model


def test_a_squeeze_of_an_axis_that_is_not_one_is_dropped() -> None:
    """Torch leaves the tensor as it is; ONNX refuses it."""
    program, changes = canonical(
        Apply(lambda m, x: (x @ m.w).squeeze(1), w=torch.randn(4, 3)), torch.randn(2, 5, 4)
    )
    assert aten.squeeze.dim not in targets(program)
    assert any("returns" in change.what for change in changes)
    program, _ = canonical(
        Apply(lambda m, x: (x @ m.w).squeeze(1), w=torch.randn(4, 3)), torch.randn(2, 1, 4)
    )
    assert aten.squeeze.dim in targets(program)
