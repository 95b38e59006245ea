"""Weights in files of their own, given to what a factory makes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import awqc
from awqc.cli import run
from awqc.errors import AwqcError, CaptureError, UsageError
from awqc.sources.source import load_program, load_source

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden=6, out=4):
        super().__init__()
        self.a = nn.Linear(8, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.b = nn.Linear(hidden, out)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).relu())

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 6)
        self.head = nn.Linear(6, 8, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.table(ids))

class Stubborn(Net):
    def load_state_dict(self, *args, **kwargs):
        raise KeyError("not like this")
"""


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("user_net.py").write_text(CODE)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "user_" in name:
            del sys.modules[name]


def trained(hidden: int = 6, factory: str = "Net") -> nn.Module:
    """A module with weights that no factory makes."""
    torch.manual_seed(7)
    module = load_source(f"user_net.py:{factory}").module if hidden == 6 else _wide(hidden)
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)
    return module.eval()


def _wide(hidden: int) -> nn.Module:
    sys.path.insert(0, ".")
    try:
        made: nn.Module = __import__("user_net").Net(hidden)
    finally:
        sys.path.pop(0)
    return made


def loaded(weights: str, model: str = "user_net.py:Net", **how: Any) -> Any:
    return load_program(model, weights=weights, **how)


def refused(weights: str, *parts: str, kind: type[AwqcError] = UsageError, **how: Any) -> None:
    with pytest.raises(kind) as caught:
        loaded(weights, **how)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "form", ["safetensors", "state dict", "old pickle", "checkpoint", "prefix"]
)
def test_the_weights_of_every_form_are_those_that_compute(form: str) -> None:
    net = trained()
    state = net.state_dict()
    if form == "safetensors":
        save_file(state, "w")
    elif form == "state dict":
        torch.save(state, "w")
    elif form == "old pickle":
        torch.save(state, "w", _use_new_zipfile_serialization=False)
    elif form == "checkpoint":
        torch.save({"epoch": 3, "optimizer": {"state": {}}, "model": state}, "w")
    else:
        torch.save({f"module.{name}": value for name, value in state.items()}, "w")
    program = loaded("w")
    x = torch.randn(5, 8)
    torch.testing.assert_close(program.run({"x": x})[0], net(x))
    assert Path("w") in program.files
    assert program.notes == ()


def test_half_precision_is_read_into_the_models_own_dtype() -> None:
    net = trained().bfloat16()
    save_file(net.state_dict(), "w")
    program = loaded("w")
    x = torch.randn(5, 8)
    torch.testing.assert_close(program.run({"x": x})[0], net.float()(x))


def test_a_lightning_checkpoint_says_how_its_class_is_made() -> None:
    net = trained(hidden=10)
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    content = {
        "epoch": 3, "pytorch-lightning_version": "2.5", "callbacks": {}, "lr_schedulers": [],
        "state_dict": {**state, "loss.weight": torch.ones(4)},
        "hyper_parameters": {"hidden": 10, "learning_rate": 0.1},
    }  # fmt: skip
    torch.save(content, "last.ckpt")
    program = loaded("last.ckpt")
    x = torch.randn(5, 8)
    torch.testing.assert_close(program.run({"x": x})[0], net(x))
    (note,) = program.notes
    assert "under 'net.' are used; 1 others are not (loss.weight)" in note


def test_a_tied_tensor_may_be_there_once() -> None:
    tied = trained(factory="Tied")
    save_file({"table.weight": tied.state_dict()["table.weight"]}, "w")
    program = loaded("w", "user_net.py:Tied", inputs=["ids=int64[batch,seq]"])
    ids = torch.randint(8, (2, 3))
    torch.testing.assert_close(program.run({"ids": ids})[0], tied(ids))


def test_weights_that_do_not_fit_are_named() -> None:
    state = trained().state_dict()
    torch.save({name: v for name, v in state.items() if name != "b.bias"}, "w")
    refused("w", "w: 1 tensors of Net are missing (b.bias)")
    torch.save({**state, "c.weight": torch.ones(1)}, "w")
    refused("w", "no place for 1 tensors (c.weight)")
    torch.save({"other": torch.ones(3)}, "w")
    refused("w", "8 tensors of Net are missing", "it holds instead other")
    torch.save(trained(hidden=10).state_dict(), "w")
    refused("w", "a.weight", "[10, 8]", "[6, 8]", "other arguments")
    torch.save({"model": state, "ema": state}, "w")
    refused("w", "'ema' and 'model'", "fit equally")
    torch.save(state, "w")
    with pytest.raises(CaptureError, match=r"Stubborn\.load_state_dict failed: KeyError"):
        loaded("w", "user_net.py:Stubborn")


def test_files_that_hold_no_weights_are_refused() -> None:
    refused("absent", "absent: there is no such file of weights")
    Path("w").write_bytes(b"\x01\x02 noise")
    refused("w", "holds no weights")
    Path("w").touch()
    Path("w").write_bytes(b"")
    refused("w", "holds no weights")
    torch.save({"epoch": 3, "step": 4}, "w")
    refused("w", "none of its entries ('epoch', 'step') is a state dict")
    torch.save(torch.ones(3), "w")
    refused("w", "holds a Tensor")
    torch.save(nn.Linear(8, 4), "w")
    refused("w", "torch.nn.modules.linear.Linear", "trust_pickle=True")
    refused("w", "is a whole module; give it as MODEL", trust_pickle=True)
    torch.save(trained().state_dict(), "w")
    Path("w").write_bytes(Path("w").read_bytes()[:-300])
    refused("w", "could not be loaded", kind=CaptureError)
    save_file(trained().state_dict(), "s")
    Path("s").write_bytes(Path("s").read_bytes()[:-8])
    refused("s", "safetensors file is damaged", kind=CaptureError)


def test_what_is_no_tensor_needs_trust() -> None:
    torch.save({"state_dict": trained().state_dict(), "callbacks": Payload()}, "w")
    refused("w", "wants posix.mkdir in", "weights.pt")
    assert not Path("ran").exists()
    loaded("w", trust_pickle=True)
    assert Path("ran").exists()


def test_weights_are_for_factories() -> None:
    torch.save(nn.Linear(8, 4), "model.pt")
    torch.save(trained().state_dict(), "w")
    with pytest.raises(UsageError, match="other models bring their own weights"):
        loaded("w", "model.pt")
    with pytest.raises(UsageError, match="weights is for a path; load it into the module"):
        awqc.compile(nn.Linear(8, 4), (torch.ones(2, 8),), weights="w")


def test_the_command_takes_them_and_verifies_against_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file(trained().state_dict(), "w.safetensors")
    how = ["--weights", "w.safetensors"]
    assert run(["compile", "user_net.py:Net", *how, "-o", "out", "--bits", "8"]) == 0
    capsys.readouterr()
    arguments = ["verify", "out", "--against", "user_net.py:Net", "--json"]
    assert run([*arguments, *how]) == 0
    assert json.loads(capsys.readouterr().out)["original"]["cosine"] > 0.999
    assert run(arguments) == 1, "the factory's own weights are others"
    assert run(["compile", "user_net.py:Net", *how, "-o", "."]) == 2, "the folder holds the weights"
