"""Each row of SECURITY.md: a file with a payload, the command that opens it, and a control.

The payload makes the folder ``ran``. Without trust it must not be there; with trust, or in the
library that awqc reads the file with, it is: otherwise the test would show nothing.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import awqc
from awqc.cli import run
from awqc.runtimes.session_file import open_session
from awqc.runtimes.session_settings import Settings
from tests.tiny_language_models import VOCABULARY, save_encoder, save_tokenizer

PAGE = (Path(__file__).parent.parent / "SECURITY.md").read_text()
MARKER = "ran"
OWN_CODE = f"""
import os
os.makedirs({MARKER!r}, exist_ok=True)
from transformers import BertConfig
class C(BertConfig):
    model_type = "nobody"
"""
F = TypeVar("F", bound=Callable[..., object])
COVERED: set[str] = set()
ELSEWHERE = {
    "torch.export archive": "tests/pt2/test_read.py",
    "diffusers folder": "tests/huggingface/test_diffusion.py",
    "recipe": "tests/artifacts/test_recipe_codes.py",
    "what a killed compile kept": "tests/artifacts/test_tensor_trees.py",
}
"""Rows whose tests lie with what they test; the page links them."""


def row(name: str) -> Callable[[F], F]:
    """Marks the test of the row whose first cell begins with ``name``."""
    COVERED.add(name)
    return lambda function: function


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (MARKER,)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled folder."""
    target = tmp_path_factory.mktemp("security") / "out"
    awqc.compile(net(), (torch.randn(4, 8),), effort="fast", provider="cpu", output_dir=target)
    return target


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def ran() -> bool:
    """Whether the payload ran since the last call."""
    found = Path(MARKER).exists()
    if found:
        Path(MARKER).rmdir()
    return found


def copy(folder: Path, *names: str) -> Path:
    """The files ``names`` of ``folder``, in a folder of this test's own."""
    made = Path("copied")
    made.mkdir()
    for name in names:
        (made / name).write_bytes((folder / name).read_bytes())
    return made


def test_every_row_has_a_test() -> None:
    table = PAGE.partition("|---|")[2].partition("\n\n")[0].splitlines()[1:]
    cells = [line.strip("| ").split(" | ")[0].replace("`", "") for line in table]
    assert len(cells) == 18
    for name in cells:
        found = [known for known in (*COVERED, *ELSEWHERE) if name.startswith(known)]
        assert len(found) == 1, name
    links = re.findall(r"\]\((\S+?)\)", PAGE)
    assert set(ELSEWHERE.values()) <= set(links)
    for file in links:
        assert (Path(__file__).parent.parent / file).is_file()


def pickled_call() -> nn.Module:
    module = net()
    module.note = Payload()  # type: ignore[assignment]  # what a module may not hold
    return module


def code_in_a_name() -> nn.Module:
    module = net()
    name = f'0"); getattr(__import__("os"), "mkdir")("{MARKER}"); getattr(self, "0'
    module._modules = {"0": module[0], "1": module[1], name: module[2]}
    return module


@row("pickled module")
@pytest.mark.parametrize(("make", "runs"), [(pickled_call, True), (code_in_a_name, False)])
@pytest.mark.parametrize("command", ["compile", "explain", "diff", "verify", "bench"])
def test_a_pickled_module(
    make: Callable[[], nn.Module], runs: bool, command: str, compiled: Path
) -> None:
    """Code in a name does not run where the file is trusted either; test_stock proves it could."""
    torch.save(make(), "model.pt")
    arguments = {
        "diff": ["diff", "model.pt", "model.pt"],
        "verify": ["verify", str(compiled), "--against", "model.pt", "--provider", "cpu"],
        "bench": ["bench", str(compiled), "--against", "model.pt", "--provider", "cpu"],
    }.get(command, [command, "model.pt"])
    assert run(arguments) == 2
    assert not ran()
    if command == "explain":
        run([*arguments, "--trust-pickle"])
        assert ran() is runs


@row("package.module:factory")
def test_a_factory_is_run_since_it_is_named() -> None:
    Path("own_factory.py").write_text(
        f"import os\nos.mkdir({MARKER!r})\n"
        "from torch import nn\ndef make(): return nn.Linear(8, 4)\n"
    )
    assert run(["explain", "own_factory:make"]) == 0
    assert ran()
    del sys.modules["own_factory"]
    torch.save(net(), "own_factory:make")
    assert run(["explain", "own_factory:make"]) == 0, "a file of that name is a file"
    assert not ran()


@row("path/to/file.py:factory")
def test_a_file_with_a_factory_is_run_since_it_is_named() -> None:
    Path("own").mkdir()
    Path("own/net.py").write_text(
        f"import os\nos.mkdir({MARKER!r})\n"
        "from torch import nn\ndef make(): return nn.Linear(8, 4)\n"
    )
    assert run(["explain", "own/net.py"]) == 2, "a file that names no function is not run"
    assert not ran()
    assert run(["explain", "own/net.py:make"]) == 0
    assert ran()


@row("weights for a factory")
@pytest.mark.parametrize("command", ["compile", "explain", "verify", "bench"])
def test_weights_for_a_factory(command: str, compiled: Path) -> None:
    Path("net.py").write_text("from torch import nn\ndef make(): return nn.Linear(8, 4)\n")
    content = {"state_dict": nn.Linear(8, 4).state_dict(), "callbacks": Payload()}
    torch.save(content, "last.ckpt")
    arguments = {
        "verify": ["verify", str(compiled), "--against", "net.py:make", "--provider", "cpu"],
        "bench": ["bench", str(compiled), "--against", "net.py:make", "--provider", "cpu"],
    }.get(command, [command, "net.py:make"])
    arguments += ["--weights", "last.ckpt"]
    assert run(arguments) == 2
    assert not ran()
    if command == "explain":
        assert run([*arguments, "--trust-pickle"]) == 0
        assert ran()


@pytest.fixture
def folder() -> Path:
    """A Hugging Face folder."""
    made = Path("folder")
    save_encoder("bert", made)
    save_tokenizer(made)
    return made


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def in_terminal(*command: str) -> int:
    """Run ``command`` on a terminal whose user types y, y, y; returns the exit code."""
    master, slave = pty.openpty()
    os.write(master, b"y\n" * 20)
    done = subprocess.run(
        [sys.executable, *command],
        stdin=slave, capture_output=True, timeout=120, check=False,
        env={**os.environ, "HF_MODULES_CACHE": str(Path("cache").absolute())},
    )  # fmt: skip
    os.close(master)
    os.close(slave)
    return done.returncode


@pytest.mark.slow
@row("Hugging Face folder")
def test_a_hugging_face_folder_does_not_ask(folder: Path) -> None:
    change(folder / "config.json", model_type="nobody", auto_map={"AutoConfig": "own.C"})
    (folder / "own.py").write_text(OWN_CODE)
    assert in_terminal("-m", "awqc", "explain", str(folder)) == 2
    assert not ran()
    code = f"import transformers; transformers.AutoConfig.from_pretrained({str(folder)!r})"
    in_terminal("-c", code)
    assert ran(), "transformers does not ask: the test above shows nothing"
    in_terminal("-m", "awqc", "explain", str(folder), "--trust-remote-code")
    assert ran()


def test_standard_input_may_be_closed(folder: Path) -> None:
    change(folder / "config.json", model_type="nobody", auto_map={"AutoConfig": "own.C"})
    shell = f"{sys.executable} -m awqc explain folder 0<&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--trust-remote-code" in done.stderr


@row("adapter folder")
@pytest.mark.parametrize("command", ["compile", "explain", "verify", "bench"])
def test_an_adapter(command: str, compiled: Path, folder: Path) -> None:
    Path("lora").mkdir()
    Path("own_module.py").write_text(f"import os\nos.mkdir({MARKER!r})\nclass Net: pass\n")
    mapping = {"base_model_class": "Net", "parent_library": "own_module"}
    config = {"peft_type": "LORA", "auto_mapping": mapping, "base_model_name_or_path": "folder"}
    Path("lora/adapter_config.json").write_text(json.dumps(config))
    torch.save({"a": Payload()}, "lora/adapter_model.bin")
    for model in (["folder", "--adapter", "lora"], ["lora"]):
        arguments = {
            "verify": ["verify", str(compiled), "--against", *model, "--provider", "cpu"],
            "bench": ["bench", str(compiled), "--against", *model, "--provider", "cpu"],
        }.get(command, [command, *model])
        assert run(arguments) != 0
        assert not ran()
    change(folder / "config.json", auto_map={"AutoConfig": "own.C"}, model_type="nobody")
    (folder / "own.py").write_text(OWN_CODE)
    assert run(["explain", "lora", "--trust-remote-code"]) == 2
    assert not ran(), "code of a base that a file names"
    torch.load("lora/adapter_model.bin", weights_only=False)
    assert ran(), "the payload runs where the file is trusted"


@row("weights of a Hugging Face folder")
@pytest.mark.parametrize("command", ["explain", "eval"])
def test_weights_that_are_a_pickle(folder: Path, command: str) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"pooler.dense.weight": Payload()}, folder / "pytorch_model.bin")
    Path("text.txt").write_text("w4 w5")
    more = ["--text", "text.txt"] if command == "eval" else []
    for trust in ([], ["--trust-remote-code"]):
        assert run([command, str(folder), *more, *trust]) == 1
        assert not ran()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert ran()


@row("GGUF file")
def test_a_gguf_file_is_read_by_its_content() -> None:
    Path("model.gguf").write_bytes(b"GGUF" + bytes(64))
    assert run(["explain", "model.gguf"]) == 1
    torch.save(Payload(), "model.gguf")
    assert run(["explain", "model.gguf"]) == 2
    assert not ran()
    torch.load("model.gguf", weights_only=False)
    assert ran()


TEMPLATES = {
    "python": "{{ cycler.__init__.__globals__.os.mkdir('" + MARKER + "') }}",
    "endless": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "large": "{{ 'a' * 10 ** 10 }}",
}


@row("chat template")
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("awqc.data.chat.SECONDS", 1)
    change(folder / "tokenizer_config.json", chat_template=TEMPLATES[name])
    Path("chats.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "w4"}]}))
    assert run(["compile", str(folder), "--calib", "chats.jsonl", "-o", "out"]) == 1
    assert not Path("out").exists()
    assert not ran()
    if name == "python":
        from jinja2 import Environment

        Environment().from_string(TEMPLATES[name]).render()
        assert ran()


def evil_npz() -> str:
    np.savez("data.npz", input=np.array([Payload()], dtype=object))
    return "data.npz"


def evil_pt() -> str:
    torch.save({"input": Payload()}, "data.pt")
    return "data.pt"


@row("calibration data")
@pytest.mark.parametrize("make", [evil_npz, evil_pt])
@pytest.mark.parametrize("command", ["compile", "verify"])
def test_calibration_data(make: Callable[[], str], command: str, compiled: Path) -> None:
    torch.save(net(), "model.pt")
    file = make()
    target = "model.pt" if command == "compile" else str(compiled)
    assert run([command, target, "--calib", file]) == 1
    assert not ran()
    if file.endswith(".npz"):
        np.load(file, allow_pickle=True)["input"]
    else:
        torch.load(file, weights_only=False)
    assert ran()


@row("statistics")
def test_statistics_that_are_a_pickle() -> None:
    torch.save(net(), "model.pt")
    torch.save(Payload(), "stats.pt")
    before = Path("stats.pt").read_bytes()
    assert run(["compile", "model.pt", "--stats", "stats.pt", "-o", "out"]) in (1, 2)
    assert not ran()
    assert Path("stats.pt").read_bytes() == before
    torch.load("stats.pt", weights_only=False)
    assert ran()


@row("ONNX model")
@pytest.mark.parametrize("location", ["../secret", "{here}/secret"])
def test_an_onnx_model(compiled: Path, location: str) -> None:
    folder = copy(compiled, "model.onnx", "model.pt2", "report.json")
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].domain = "somebody.else"
    model.opset_import.append(onnx.helper.make_opsetid("somebody.else", 1))
    onnx.save(model, folder / "model.onnx")
    assert run(["verify", str(folder), "--provider", "cpu"]) == 1
    options = ort.SessionOptions()
    with pytest.raises(Exception, match=r"no\.such"):
        options.register_custom_ops_library("no.such")  # only a program can name a library

    save_file({"x": torch.zeros(64)}, "secret")
    elsewhere = onnx.TensorProto.EXTERNAL
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=elsewhere)
    for key, value in (("location", location.format(here=Path.cwd())), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    model = onnx.load(compiled / "model.onnx")
    model.graph.initializer.append(tensor)
    model.graph.node.append(onnx.helper.make_node("Identity", ["w"], ["secret"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("secret", 1, [2]))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert run(["verify", str(folder), "--provider", "cpu"]) == 1


@row("session.json")
@pytest.mark.parametrize("command", ["generate", "bench"])
def test_session_settings_do_not_overwrite_files(compiled: Path, command: str) -> None:
    folder = copy(compiled, "model.onnx")
    save_tokenizer(folder, words=VOCABULARY)
    victim = folder / "victim"
    victim.write_text("precious")
    config = {"session.collect_node_memory_stats_to_file": "victim"}
    (folder / "session.json").write_text(json.dumps({"config": config}))
    assert run([command, str(folder), *(["w4"] if command == "generate" else [])]) == 2
    assert victim.read_text() == "precious"
    session = open_session(folder / "model.onnx", "cpu", Settings(config))
    session.run(None, {"input": np.zeros((1, 8), dtype=np.float32)})
    assert victim.read_text() != "precious"


@row("names in any file")
def test_names_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold]\x1b[2J\u202e.pt"
    Path(name).write_bytes(b"nonsense")
    assert run(["explain", name]) == 2
    err = capsys.readouterr().err
    assert "[bold]\\u001b[2J\\u202e.pt" in err
    assert "\x1b" not in err


def test_processes_do_not_import_from_the_working_directory(compiled: Path) -> None:
    Path("json.py").write_text(f"import os\nos.mkdir({MARKER!r})\n")
    assert run(["bench", str(compiled), "--turns", "1", "--provider", "cpu"]) == 0
    assert not ran()
    subprocess.run([sys.executable, "-m", "awqc.bench.worker"], capture_output=True, check=False)
    assert ran(), "a process imports nothing from there anyway: the test above shows nothing"
