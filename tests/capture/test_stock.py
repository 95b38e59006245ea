"""A pickle of stock layers runs nothing through what hangs on them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from awqc.capture.identifiers import why_no_name
from awqc.capture.pickled import load_module
from awqc.capture.stock import check_stock
from awqc.errors import UsageError
from awqc.sources.source import load_program

MARKER = "owned"
PAYLOAD = f'0"); getattr(__import__("os"), "mkdir")("{MARKER}"); getattr(self, "0'
"""A name that ends the string in which torch's generated code puts it."""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


def refuse(module: nn.Module, *parts: str) -> None:
    torch.save(module, "model.pt")
    with pytest.raises(UsageError) as caught:
        load_module(Path("model.pt"), trust=False)
    for part in parts:
        assert part in str(caught.value)


def rename(module: nn.Module, old: str, new: str) -> None:
    module._modules = {new if key == old else key: m for key, m in module._modules.items()}


def test_code_in_a_name_does_not_run() -> None:
    """With trust neither: the names that awqc lets torch write can hold none."""
    module = net()
    rename(module, "2", PAYLOAD)
    torch.save(module, "model.pt")
    with pytest.raises(UsageError, match="neither an identifier nor a number"):
        load_program("model.pt")
    x = torch.randn(2, 8)
    program = load_program("model.pt", example=(x,), trust_pickle=True)
    torch.testing.assert_close(program.run({"input": x})[0], module(x))
    assert not Path(MARKER).exists()
    with suppress(FileExistsError):  # It runs more than once.
        torch.export.export(module, (x,)).module()(x)
    assert Path(MARKER).exists(), "the payload does not work: the test above shows nothing"


NAMES = {
    PAYLOAD: "neither an identifier nor a number",
    "a;b": "neither an identifier nor a number",
    "a b": "neither an identifier nor a number",
    "a.b": "neither an identifier nor a number",
    "": "neither an identifier nor a number",
    "x\x1b[31m": "neither an identifier nor a number",
    "x\n": "neither an identifier nor a number",
    "١": "neither an identifier nor a number",  # a digit, of another script
    "ﬁt": "read by Python as another name",  # a ligature
    "class": "a word of Python's own",
    "None": "a word of Python's own",
    "__class__": "begins with two underscores",
    "__import__": "begins with two underscores",
    "forward": "hides Sequential.forward",
    "_modules": "it uses twice",
    "training": "it uses twice",
    "T_destination": "hides Sequential.T_destination",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_more_than_names_are_refused(name: str) -> None:
    module = net()
    rename(module, "0", name)
    refuse(module, "the model has the name", NAMES[name])
    inner = nn.Sequential(nn.Sequential(nn.Linear(4, 4)))
    rename(inner[0], "0", name)
    refuse(inner, "the module '0' has the name", NAMES[name])


@pytest.mark.parametrize("held", ["_parameters", "_buffers", "__dict__"])
def test_names_of_weights_buffers_and_attributes_are_checked_too(held: str) -> None:
    for name in (PAYLOAD, "forward", "__class__"):
        module = net()
        getattr(module[2], held)[name] = nn.Parameter(torch.ones(2))
        refuse(module, "the module '2'", repr(name)[:20])


def test_names_are_identifiers_and_numbers() -> None:
    for name in ("weight", "0", "12", "q_proj", "größe", "_w", "λ", "match", "print"):
        assert why_no_name(name) is None
    assert why_no_name(3) == "is a int; a string is needed"
    module = net()
    rename(module, "0", "x\x1b[2J" + "y" * 1000)
    torch.save(module, "model.pt")
    with pytest.raises(UsageError) as caught:
        load_module(Path("model.pt"), trust=False)
    assert "'x\\x1b[2J" in str(caught.value)
    assert len(str(caught.value)) < 500


def method(module: nn.Sequential) -> None:
    module[2].__dict__["forward"] = functional.relu


def compiled_call(module: nn.Sequential) -> None:
    module[0].__dict__["_compiled_call_impl"] = functional.relu


def hook(module: nn.Sequential) -> None:
    module[0].register_forward_hook(functional.relu)  # type: ignore[arg-type]  # no hook has this form


def tensor_hook(module: nn.Sequential) -> None:
    weight = module[0].weight
    assert isinstance(weight, Tensor)
    weight._backward_hooks = {0: functional.relu}


def hooks_of_another_kind(module: nn.Sequential) -> None:
    module[0]._forward_hooks = [functional.relu]  # type: ignore[assignment]  # what stock layers do not hold


def cycle(module: nn.Sequential) -> None:
    module._modules["3"] = module


def list_in_itself(module: nn.Sequential) -> None:
    steps: list[Any] = [[]]
    steps[0].append(steps)
    module.steps = steps  # type: ignore[assignment]  # what a module may not hold


def class_as_attribute(module: nn.Sequential) -> None:
    module.kind = nn.Linear  # type: ignore[assignment]  # what stock layers do not hold


def module_in_a_list(module: nn.Sequential) -> None:
    module.more = [nn.Linear(2, 2)]  # type: ignore[assignment]  # what stock layers do not hold


def function_elsewhere(module: nn.Sequential) -> None:
    module.__dict__["act"] = functional.relu


def tensor_as_module(module: nn.Sequential) -> None:
    module._modules["1"] = torch.ones(2)  # type: ignore[assignment]  # what stock layers do not hold


def no_dict(module: nn.Sequential) -> None:
    module[0].__dict__["_parameters"] = [1]


def shadowed_tensor_method(module: nn.Sequential) -> None:
    module[0].weight.__dict__["numel"] = functional.relu


def too_deep(module: nn.Sequential) -> None:
    for _ in range(120):
        module._modules["2"] = nn.Sequential(module._modules["2"])  # type: ignore[arg-type]  # there is a module of that name


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (method, "'forward' hides Linear.forward"),
        (compiled_call, "'_compiled_call_impl'"),
        (hook, "'_forward_hooks' is a hook"),
        (tensor_hook, "'weight' has a hook"),
        (hooks_of_another_kind, "'_forward_hooks' is a hook"),
        (cycle, "the module '3' lies in itself"),
        (list_in_itself, "'steps' lies in itself"),
        (class_as_attribute, "'kind' is or holds a builtins.type"),
        (module_in_a_list, "'more' is or holds a torch.nn.modules.linear.Linear"),
        (function_elsewhere, "'act' is or holds a builtins.function"),
        (tensor_as_module, "the module '1' is a Tensor"),
        (no_dict, "has _parameters of the type list"),
        (shadowed_tensor_method, "has the attribute 'numel'"),
        (too_deep, "lies too deep"),
    ],
)
def test_what_stock_layers_do_not_hold_is_refused(
    change: Callable[[nn.Sequential], None], found: str
) -> None:
    module = net()
    change(module)
    with pytest.raises(UsageError, match=r"^model\.pt: ") as caught:
        check_stock(module, Path("model.pt"), [functional.relu])
    assert found in str(caught.value)


def noted() -> nn.Sequential:
    module = net()
    module.note = "any text; of {any} kind"  # type: ignore[assignment]  # what stock layers do not hold
    module.classes = {"names": ["a b", "c"], "sizes": (1, 2.0, None)}  # type: ignore[assignment]  # as above
    module[0].weight.__dict__["rank"] = 3
    module.register_buffer("mean", torch.zeros(2), persistent=False)
    return module


@pytest.mark.parametrize(
    "module",
    [
        noted(),
        nn.LSTM(2, 3, bidirectional=True),
        nn.GRUCell(2, 2),
        nn.Transformer(4, 2, 1, 1, activation="gelu", batch_first=True),
        nn.TransformerEncoderLayer(4, 2, activation=nn.SiLU()),
        nn.TransformerDecoderLayer(4, 2, activation=functional.mish),
        nn.MultiheadAttention(4, 2, add_bias_kv=True),
        nn.Conv2d(1, 1, 3, padding="same", padding_mode="reflect"),
        nn.SyncBatchNorm(2),
        nn.ModuleDict({"a": nn.ParameterDict({"b": torch.zeros(1)}), "größe": nn.PReLU()}),
        nn.ParameterList([torch.zeros(1)]),
        nn.AdaptiveLogSoftmaxWithLoss(4, 8, [2]),
        nn.Unflatten(1, (2, 2)),
        nn.CrossEntropyLoss(torch.ones(2)),
        nn.Sequential(nn.EmbeddingBag(3, 2), nn.RMSNorm(3), nn.Upsample(scale_factor=2)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_stock_layers_load(module: nn.Module) -> None:
    torch.save(module, "model.pt")
    loaded = load_module(Path("model.pt"), trust=False)
    state, expected = loaded.state_dict(), module.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_module_is_looked_at_once() -> None:
    module = net()
    for _ in range(60):
        module = nn.Sequential(module, module)  # 2**60 paths
    torch.save(module, "model.pt")
    assert sum(1 for _ in load_module(Path("model.pt"), trust=False).modules()) == 4 + 60
