"""What a good archive gives, and that an evil one runs nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from awqc.capture.archive import load_archive
from awqc.errors import CaptureError, UsageError
from awqc.machine.process import quiet_libraries, undisturbed
from awqc.pt2.read import read_program, read_weights
from awqc.sources.source import load_program
from tests.pt2.attacks import (
    ATTACKS,
    CODE,
    MARK,
    MODEL,
    Attack,
    edit,
    example,
    good,
    guard,
    write,
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, on the path, with a module that archives try to import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("evil_module.py").write_text(CODE)
    yield
    sys.modules.pop("evil_module", None)


def run_as_torch_does(path: Path, calls: bool) -> None:
    """Load, and call, with torch alone; what fails afterwards does not matter."""
    args, kwargs = example()
    try:
        with undisturbed(), quiet_libraries():
            module = torch.export.load(path).module()
            if calls:
                module(*args, **kwargs)
    except Exception:  # noqa: BLE001 - the attack has run by then, or the test fails
        pass


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_code_in_an_archive_does_not_run(attack: Attack) -> None:
    path = attack.write(Path("evil.pt2"))
    with pytest.raises(UsageError, match=r"evil\.pt2: the archive holds .*trust_pickle=True"):
        load_program(path)
    assert not Path(MARK).exists()
    # The control: it is no attack if torch does not fall for it.
    run_as_torch_does(path, attack.calls)
    assert Path(MARK).exists()


def test_who_trusts_gets_torch_s_own_loader() -> None:
    path = ATTACKS["pickled inputs"].write(Path("evil.pt2"))
    with pytest.raises(CaptureError):
        load_archive(path, trust=True)
    assert Path(MARK).exists()


def test_guards_are_left_behind() -> None:
    """They are source code; what they check, awqc's own inputs tell."""
    files = good()
    guard(files)
    path = write(Path("guarded.pt2"), files)
    args, kwargs = example()
    load_archive(path, trust=False).module()(*args, **kwargs)
    load_program(path)
    assert not Path(MARK).exists()
    run_as_torch_does(path, calls=True)
    assert Path(MARK).exists()


def check_as_torch(path: Path, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The same graph, signature, sizes and results as torch's own loader gives."""
    found = read_program(path)
    with quiet_libraries():
        wanted = torch.export.load(path)
    assert [_line(n) for n in found.graph.nodes] == [_line(n) for n in wanted.graph.nodes]
    assert found.graph_signature == wanted.graph_signature
    assert str(found.range_constraints) == str(wanted.range_constraints)
    assert found.call_spec == wanted.call_spec
    assert list(found.state_dict) == list(wanted.state_dict)
    for name, tensor in wanted.state_dict.items():
        again = found.state_dict[name]
        assert type(again) is type(tensor)
        assert again.stride() == tensor.stride()
        # torch lets a buffer in a parameter's memory require a gradient; it was saved without.
        assert again.requires_grad == (tensor.requires_grad and isinstance(tensor, nn.Parameter))
        assert torch.equal(again, tensor)
    modules = [program.module(check_guards=False) for program in (found, wanted)]
    torch.testing.assert_close(*(m(*args, **kwargs) for m in modules), rtol=0, atol=0)


def _line(node: torch.fx.Node) -> str:
    value = node.meta.get("val")
    size = getattr(value, "shape", value)
    return f"{node.format_node()} {size} {list(node.meta.get('nn_module_stack', {}).values())}"


def test_a_good_archive_is_read_as_torch_reads_it() -> None:
    args, kwargs = example()
    check_as_torch(write(Path("good.pt2"), good()), args, kwargs)


class Cond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,))
        return out


class Sizes(nn.Module):
    """Sizes from Max, Mod, FloorDiv, and a size that values decide."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = x.shape[0]
        half = torch.cat([x, x])[: max(n // 2, n % 3)]
        return half.reshape(-1, 2), x.nonzero().float() / (n + 1.5)


class Tied(nn.Module):
    """Weights that share memory, a transposed one, an empty one, a bool and a bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.none: Tensor
        self.part: Tensor
        self.mask: Tensor
        self.turned: Tensor
        self.coarse: Tensor
        self.register_buffer("turned", torch.arange(12.0).reshape(2, 6).T)
        self.register_buffer("part", self.a.weight.data[1:3, 2:])
        self.register_buffer("none", torch.empty(0, 4))
        self.register_buffer("mask", torch.tensor([True, False] * 3))
        self.register_buffer("coarse", torch.ones(6, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.b(self.a(x)) * self.mask + self.coarse.float()
        return [y @ self.turned, self.part.sum() + y, self.none]


@pytest.mark.parametrize("net", [Cond(), Sizes(), Tied()], ids=lambda net: type(net).__name__)
def test_graphs_sizes_and_shared_weights(net: nn.Module) -> None:
    x = torch.randn(8, 6)
    with quiet_libraries():
        axes = ({0: torch.export.Dim.AUTO},) if isinstance(net, Sizes) else None
        exported = torch.export.export(net, (x,), dynamic_shapes=axes)
        torch.export.save(exported, "net.pt2")
    check_as_torch(Path("net.pt2"), (x,), {})


def test_weights_that_were_one_stay_one() -> None:
    with quiet_libraries():
        torch.export.save(torch.export.export(Tied(), (torch.randn(8, 6),)), "net.pt2")
    weights = read_weights(Path("net.pt2"))
    places = {name: w.untyped_storage().data_ptr() for name, w in weights.items()}
    assert places["a.weight"] == places["b.weight"] == places["part"] != places["turned"]


def test_extra_files_are_no_obstacle() -> None:
    net = nn.Linear(4, 4)
    with quiet_libraries():
        exported = torch.export.export(net, (torch.ones(1, 4),))
        torch.export.save(exported, "net.pt2", extra_files={"notes.txt": "hello"})
    assert load_program(Path("net.pt2")).inputs[0].shape[-1] == 4


def test_an_archive_of_another_schema_says_so() -> None:
    files = good()
    edit(files, MODEL, lambda content: content["schema_version"].update(major=99))
    with pytest.raises(CaptureError, match="another version of torch"):
        load_program(write(Path("new.pt2"), files))
