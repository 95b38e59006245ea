"""``session.json`` sets what is known to be harmless, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import awqc
from awqc.bench.models import open_onnx
from awqc.errors import UsageError
from awqc.runtimes.generate import TextGenerator
from awqc.runtimes.session_file import open_session
from awqc.runtimes.session_settings import CONFIG, OPTIONS, SETTINGS, Settings, read_settings
from tests.tiny import inputs, model
from tests.tiny_language_models import save_tokenizer

WRITES = "session.collect_node_memory_stats_to_file"
"""A setting by which onnxruntime writes the file that it names."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("settings") / "out"
    awqc.compile(
        model("mlp"), (inputs("mlp"),), formats=("onnx",), provider="cpu", output_dir=target,
        effort="fast",
    )  # fmt: skip
    return target


@pytest.fixture
def folder(compiled: Path, tmp_path: Path) -> Path:
    """A copy, whose settings a test may change."""
    (tmp_path / "model.onnx").write_bytes((compiled / "model.onnx").read_bytes())
    return tmp_path


def write(folder: Path, content: Any) -> Path:
    (folder / SETTINGS).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "model.onnx"


def generator(folder: Path) -> TextGenerator:
    save_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    return TextGenerator(folder)


READERS: dict[str, Callable[[Path], object]] = {
    "load": lambda folder: awqc.load(folder, "cpu"),
    "generate": generator,
    "bench": lambda folder: open_onnx(folder / "model.onnx", "cpu", 1),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_it_names_is_not_overwritten(folder: Path, reader: str) -> None:
    victim = folder / "victim"
    victim.write_text("precious")
    path = write(folder, {"config": {WRITES: victim.name}})
    with pytest.raises(UsageError, match=rf"session\.json: config has the key '{WRITES}'"):
        READERS[reader](folder)
    assert victim.read_text() == "precious"
    session = open_session(path, "cpu", Settings({WRITES: victim.name}))
    session.run(None, {"input": inputs("mlp").numpy()})
    assert victim.read_text() != "precious", "nothing is written: the test above shows nothing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"config": {"session.optimized_model_filepath": "x"}}, "optimized_model_filepath"),
        ({"config": {"session.model_external_initializers_file_folder_path": "/"}}, "known are"),
        ({"config": {"ep.context_file_path": "x"}}, "ep.context_file_path"),
        ({"providers": {"cuda": {"config": {WRITES: "x"}}}}, "providers, cuda, config has the key"),
        ({"providers": {"cuda": {"options": {"ep_library_path": "x.so"}}}}, "ep_library_path"),
        ({"providers": {"cpu": {"options": {"use_arena": "1"}}}}, "cpu, options has the key"),
        ({"providers": {"OpenVINO": {}}}, "providers has the key 'OpenVINO'"),
        ({"optimized_model_filepath": "x"}, "the file has the key"),
        ({"config": {"session.set_denormal_as_zero": "x"}}, "is 'x'; it can be 0, 1"),
        ({"config": {"session.set_denormal_as_zero": 1.0}}, "is 1.0; it can be"),
        ({"config": {"session.set_denormal_as_zero": ["1"]}}, "it can be"),
        ({"config": {"session.qdq_matmulnbits_accuracy_level": 5}}, "0, 1, 2, 3, 4"),
        ({"config": {"a\x1b[2J": "1"}}, r"'a\\x1b\[2J'"),
        ({"config": []}, "config is a list; an object is needed"),
        ({"providers": {"cuda": 1}}, "providers, cuda is a int"),
        ([], "no file of session settings"),
        ("{", "no file of session settings"),
        ("[" * 100_000, "no file of session settings"),
    ],
)
def test_what_is_not_known_is_refused(folder: Path, content: Any, message: str) -> None:
    path = write(folder, content)
    for provider in OPTIONS:
        with pytest.raises(UsageError, match=message):
            read_settings(path, provider)


def test_what_is_known_is_taken(folder: Path) -> None:
    every = {key: values[-1] for key, values in CONFIG.items()}
    options = {key: values[0] for key, values in OPTIONS["cuda"].items()}
    path = write(folder, {"config": every, "providers": {"cuda": {"options": options}}})
    assert read_settings(path, "cpu") == Settings(every)
    assert read_settings(path, "cuda") == Settings(every, options)
    (result,) = awqc.load(folder, "cpu").run({"input": inputs("mlp")})
    (folder / SETTINGS).unlink()
    (expected,) = awqc.load(folder, "cpu", 4).run({"input": inputs("mlp")})
    torch.testing.assert_close(result, expected, rtol=0, atol=0.05)  # other kernels
    write(folder, {"config": {"session.set_denormal_as_zero": True}})
    assert read_settings(path, "cpu") == Settings({"session.set_denormal_as_zero": "1"})
