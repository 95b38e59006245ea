"""What MODEL may be, how each kind is recognised, and what is refused."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

from awqc.artifacts.manifest import MANIFEST, manifest_text
from awqc.errors import AwqcError, CaptureError, UsageError
from awqc.sources.source import load_program


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("user_"):
            del sys.modules[name]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


def check_refused(model: str | Path, *parts: str, kind: type[AwqcError] = UsageError) -> None:
    with pytest.raises(kind) as caught:
        load_program(model)
    for part in parts:
        assert part in str(caught.value)


def test_stock_modules_load_without_trust() -> None:
    net = mlp().eval()
    torch.save(net, "mlp.bin")
    program = load_program("mlp.bin")
    assert program.name == "mlp"
    assert [str(spec) for spec in program.inputs] == ["input=float32[batch,8]"]
    x = torch.randn(5, 8)
    torch.testing.assert_close(program.run({"input": x})[0], net(x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 1),
        nn.TransformerEncoderLayer(8, 2, activation="gelu", batch_first=True),
        nn.TransformerEncoderLayer(8, 2, activation=nn.functional.silu, batch_first=True),
    ],
)
def test_stock_layers_with_activation_functions(layer: nn.Module) -> None:
    torch.save(layer, "layer.pt")
    program = load_program("layer.pt", inputs=["src=float32[batch,seq,8]"])
    assert program.inputs[0].shape == ("batch", "seq", 8)


USER_CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(8, 4)
    def forward(self, x):
        return self.l(x)

def make():
    return Net()

def make_pair():
    return Net(), (torch.randn(3, 8),)

def make_wrong():
    return 3

def make_error():
    raise ValueError("no such weights")

number = 3
"""


def write_code(name: str, code: str = USER_CODE) -> None:
    Path(f"{name}.py").write_text(code)


def save_user_net(name: str) -> None:
    write_code(name)
    sys.path.insert(0, str(Path.cwd()))
    try:
        torch.save(__import__(name).Net(), "net.pt")
    finally:
        sys.path.pop(0)
        del sys.modules[name]


def test_other_classes_need_trust() -> None:
    save_user_net("user_trust")
    check_refused("net.pt", "user_trust.Net", "trust_pickle=True", "running code")
    assert load_program("net.pt", trust_pickle=True).inputs[0].shape == ("batch", 8)


def test_a_graph_module_needs_trust() -> None:
    torch.save(torch.fx.symbolic_trace(mlp()), "graph.pt")
    check_refused("graph.pt", "reduce_graph_module", "trust_pickle=True")
    assert load_program("graph.pt", trust_pickle=True).inputs[0].shape == ("batch", 8)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('owned', 'w').close()",)


def test_code_in_a_pickle_does_not_run() -> None:
    torch.save({"x": Evil()}, "evil.pt")
    check_refused("evil.pt", "builtins.exec", "trust_pickle=True")
    torch.save({"x": Evil()}, "old.pt", _use_new_zipfile_serialization=False)
    check_refused("old.pt", "exec", "trust_pickle=True")
    assert not Path("owned").exists()


def test_class_that_cannot_be_imported_is_named() -> None:
    save_user_net("user_gone")
    Path("user_gone.py").unlink()
    with pytest.raises(CaptureError, match=r"'user_gone'.*PYTHONPATH"):
        load_program("net.pt", trust_pickle=True)
    write_code("user_gone", "")
    with pytest.raises(CaptureError, match=r"'user_gone' .* has no 'Net'"):
        load_program("net.pt", trust_pickle=True)


def test_old_pickle_format_is_told_apart() -> None:
    torch.save(mlp(), "old.pt", _use_new_zipfile_serialization=False)
    check_refused("old.pt", "old format", "trust_pickle=True")


def test_archive_brings_inputs_and_dynamic_shapes() -> None:
    net, x = mlp(), torch.randn(3, 8)
    dynamic = {"input": {0: torch.export.Dim("n", min=1, max=99)}}
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=dynamic), "net.zip")
    program = load_program("net.zip")
    assert [str(spec) for spec in program.inputs] == ["input=float32[batch,8]"]
    torch.testing.assert_close(program.example["input"], x)
    with pytest.raises(UsageError, match="inputs does not apply"):
        load_program("net.zip", inputs=["input=float32[2,8]"])


def test_archive_with_pickled_objects_needs_trust() -> None:
    torch.export.save(torch.export.export(mlp(), (torch.randn(3, 8),)), "net.pt2")

    evil = io.BytesIO()
    torch.save(Evil(), evil)
    with zipfile.ZipFile("net.pt2") as old, zipfile.ZipFile("evil.pt2", "w") as new:
        for name in old.namelist():
            swap = name.endswith("sample_inputs/model.pt")
            new.writestr(name, evil.getvalue() if swap else old.read(name))
    check_refused("evil.pt2", "sample_inputs/model.pt", "trust_pickle=True")
    assert not Path("owned").exists()


def test_factories() -> None:
    write_code("user_code")
    assert load_program("user_code:make").name == "user_code"
    assert load_program("user_code:make_pair").inputs[0].shape == ("batch", 8)
    assert load_program("user_code:Net").inputs[0].name == "x"
    check_refused("user_code:nothing", "has no 'nothing'")
    check_refused("user_code:number", "is a int", "function")
    check_refused("user_code:make_wrong", "returned a int", "(module, example_inputs)")
    check_refused("user_absent:make", "no Python module 'user_absent'", "PYTHONPATH")
    check_refused("user_code:make_error", "no such weights", "user_code.py:", kind=CaptureError)
    write_code("user_broken", "import user_absent_too")
    check_refused("user_broken:make", "user_absent_too", kind=CaptureError)


def test_state_dicts_and_checkpoints_say_what_to_do() -> None:
    torch.save(mlp().state_dict(), "weights.pth")
    check_refused("weights.pth", "bare state dict (4 tensors", "package.module:factory")
    torch.save({"model": mlp(), "epoch": 3}, "checkpoint.pt")
    check_refused("checkpoint.pt", "entry 'model' is the model")
    torch.save({"weights": mlp().state_dict(), "epoch": 3}, "checkpoint.pt")
    check_refused("checkpoint.pt", "'weights', 'epoch'", "package.module:factory")
    torch.save(torch.zeros(3), "tensor.pt")
    check_refused("tensor.pt", "single tensor")
    save_file({"w": torch.zeros(3)}, "weights.safetensors")
    check_refused("weights.safetensors", "safetensors", "package.module:factory")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_told_apart() -> None:
    torch.jit.save(torch.jit.script(mlp()), "script.pt")  # type: ignore[no-untyped-call]  # torch declares no types
    check_refused("script.pt", "TorchScript", "package.module:factory")


@pytest.mark.parametrize("name", ["model.onnx", "model.pt"])
def test_onnx_is_told_apart(name: str) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph), name)
    check_refused(name, "ONNX file", "torch.export archive")


def test_other_files_are_refused() -> None:
    np.savez("data.npz", x=np.zeros(3))
    check_refused("data.npz", "give it as calib")
    Path("empty.pt").touch()
    check_refused("empty.pt", "empty")
    Path("noise.pt").write_bytes(b"\x01\x02\x03 noise")
    check_refused("noise.pt", "no model that awqc knows")
    write_code("net")
    check_refused("net.py", "net.py:factory")
    check_refused("absent.pt", "no such file or folder")
    Path("folder").mkdir()
    check_refused("folder", "no config.json")
    Path("folder", MANIFEST).write_text(manifest_text({}))
    check_refused("folder", "is what awqc compile wrote", "Give the model that it was made of")


def no_utf8(archive: bytes) -> bytes:
    """The first name in the archive's directory is said to be UTF-8, and is none."""
    start = archive.index(b"PK\x01\x02")
    made = bytearray(archive)
    made[start + 9] |= 8
    made[start + 46] = 0xF7
    return bytes(made)


def test_damaged_files() -> None:
    torch.save(mlp(), "net.pt")
    content = Path("net.pt").read_bytes()
    Path("short.pt").write_bytes(content[:-200])
    check_refused("short.pt", "cut short")
    torch.save(mlp().state_dict(), "old.pt", _use_new_zipfile_serialization=False)
    Path("short_old.pt").write_bytes(Path("old.pt").read_bytes()[:100])
    check_refused("short_old.pt", "damaged", kind=CaptureError)
    torch.export.save(torch.export.export(mlp(), (torch.randn(3, 8),)), "net.pt2")
    archive = Path("net.pt2").read_bytes()
    Path("bad.pt2").write_bytes(re.sub(rb"graph_module", b"graph_nodule", archive))
    check_refused("bad.pt2", "damaged", kind=CaptureError)
    Path("name.pt2").write_bytes(no_utf8(archive))
    check_refused("name.pt2", "damaged", kind=CaptureError)


def test_unreadable_file() -> None:
    Path("loop.pt").symlink_to("loop.pt")
    check_refused("loop.pt", "loop.pt")


def test_inputs_from_calibration_arrays() -> None:
    write_code(
        "user_two",
        "from torch import nn\n"
        "class Two(nn.Bilinear):\n"
        "    def forward(self, a, b): return super().forward(a, b)\n"
        "def make(): return Two(8, 6, 4)\n",
    )
    arrays = {"a": torch.randn(9, 8), "b": torch.randn(9, 6)}
    program = load_program("user_two:make", calib=arrays)
    assert [str(s) for s in program.inputs] == ["a=float32[batch,8]", "b=float32[batch,6]"]
    check_refused("user_two:make", "inputs=['a=float32[batch,64]', 'b=float32[batch,64]']")


def test_a_folder_of_an_adapter_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    check_refused(tmp_path, "holds an adapter", "merge_and_unload")
