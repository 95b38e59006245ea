"""A Hugging Face folder runs nothing of its own, and asks nobody, unless it is trusted."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from awqc.errors import AwqcError, CaptureError, UsageError
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.trust import nothing_to_read
from tests.tiny_language_models import VOCABULARY, save_decoder, save_tokenizer

CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class C(LlamaConfig):
    model_type = "nobody"
class M(LlamaForCausalLM):
    config_class = C
class T(PreTrainedTokenizerFast):
    pass
"""
CLASSES = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}


class Willing(io.StringIO):
    """Standard input of somebody who says yes to everything."""

    asked = 0

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]  # text, not bytes
        self.asked += 1
        return "y\n"


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Willing:
    """Answers "y"; code of folders goes into a cache of the test's own."""
    answers = Willing()
    monkeypatch.setattr(sys, "stdin", answers)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(
        transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache")
    )
    return answers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A decoder with a tokenizer and code that leaves the file ``ran``."""
    made = tmp_path / "folder"
    save_decoder("llama", made)
    save_tokenizer(made)
    (made / "own.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    return made


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def ran(folder: Path) -> bool:
    marker = folder.parent / "ran"
    found = marker.exists()
    marker.unlink(missing_ok=True)
    return found


def load(folder: Path, trust: bool = False) -> None:
    source = HFFolder.at(folder, trust_remote_code=trust)
    source.config()
    source.model(transformers.AutoModelForCausalLM)
    source.tokenizer(VOCABULARY)


def own_model(folder: Path) -> None:
    change(folder / "config.json", model_type="nobody", auto_map=CLASSES)


def own_model_of_a_known_type(folder: Path) -> None:
    change(folder / "config.json", auto_map=CLASSES)


def own_tokenizer(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="T",
           auto_map={"AutoTokenizer": [None, "own.T"]})  # fmt: skip


def own_tokenizer_of_a_known_class(folder: Path) -> None:
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.T"]})


@pytest.mark.parametrize("make", [own_model, own_tokenizer])
def test_code_of_the_folder_is_refused(
    make: Callable[[Path], None], folder: Path, stdin: Willing
) -> None:
    make(folder)
    with pytest.raises(UsageError, match=r"Python code of its own.*trust_remote_code=True"):
        load(folder)
    assert not ran(folder)
    assert stdin.asked == 0
    auto = transformers.AutoConfig if make is own_model else transformers.AutoTokenizer
    auto.from_pretrained(folder)
    assert stdin.asked, "transformers does not ask: the test above shows nothing"
    assert ran(folder)


@pytest.mark.parametrize("make", [own_model_of_a_known_type, own_tokenizer_of_a_known_class])
def test_what_transformers_has_itself_is_taken_from_there(
    make: Callable[[Path], None], folder: Path, stdin: Willing
) -> None:
    make(folder)
    load(folder)
    assert not ran(folder)
    assert stdin.asked == 0
    HFFolder(folder, trust_remote_code=True).config()
    HFFolder(folder, trust_remote_code=True).tokenizer()
    assert ran(folder), "the code does not run when it is trusted: this shows nothing"


def test_with_trust_the_code_runs(folder: Path, stdin: Willing) -> None:
    own_model(folder)
    load(folder, trust=True)
    assert ran(folder)
    assert stdin.asked == 0


def own_part(folder: Path) -> None:
    change(folder / "config.json", text_config={"model_type": "llama", "auto_map": CLASSES})


def own_part_in_a_list(folder: Path) -> None:
    change(folder / "config.json", parts=[{"auto_map": {}}])


def kernels(folder: Path) -> None:
    change(folder / "config.json", attn_implementation="somebody/kernels")


def kernels_of_a_part(folder: Path) -> None:
    change(folder / "config.json", text_config={"_attn_implementation": "somebody/kernels"})


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')


def tokenizer_class(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="AutoModelForCausalLM")


def tokenizer_class_in_config(folder: Path) -> None:
    change(folder / "config.json", tokenizer_class="Trainer")


def tokenizer_class_is_no_name(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class=["a"])


def weights_elsewhere(folder: Path) -> None:
    change(folder / "config.json", transformers_weights="../other/model.safetensors")


def backbone_elsewhere(folder: Path) -> None:
    change(folder / "config.json", vision_config={"backbone": str(folder.parent)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (weights_elsewhere, "transformers_weights in config.json is .*not in the folder"),
        (backbone_elsewhere, "backbone in vision_config of config.json is .*not in the folder"),
        (own_part, "auto_map in text_config of config.json"),
        (own_part_in_a_list, "auto_map in parts of config.json"),
        (kernels, "attn_implementation in config.json is 'somebody/kernels'"),
        (kernels_of_a_part, "_attn_implementation in text_config of config.json"),
        (adapter, "holds an adapter"),
        (tokenizer_class, "'AutoModelForCausalLM', which is no tokenizer"),
        (tokenizer_class_in_config, "tokenizer_class in config.json is 'Trainer'"),
        (tokenizer_class_is_no_name, r"\['a'\], which is no tokenizer"),
    ],
)
def test_what_lies_elsewhere_is_not_fetched(
    make: Callable[[Path], None], message: str, folder: Path, stdin: Willing
) -> None:
    make(folder)
    with pytest.raises(UsageError, match=message):
        load(folder)
    assert stdin.asked == 0


def test_custom_generation_code_does_not_run(folder: Path, stdin: Willing) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text((folder / "own.py").read_text())
    load(folder)
    assert not ran(folder)
    assert stdin.asked == 0


def test_no_model_hub_is_reached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: asked.append(args))
    elsewhere = {"model_type": "detr", "backbone": "somebody/else", "use_timm_backbone": False}
    (folder / "config.json").write_text(json.dumps(elsewhere))
    with pytest.raises(CaptureError, match="the configuration could not be read"):
        HFFolder.at(folder).config()
    assert not asked
    with suppress(Exception):  # Whatever a hub raises that is not there.
        transformers.AutoConfig.from_pretrained(folder)
    assert asked, "transformers asks nobody: this shows nothing"


KINDS = [
    ("model_type", []), ("model_type", {}), ("architectures", [{}]), ("architectures", [["a"]]),
    ("architectures", {"a": 1}), ("architectures", 3), ("id2label", [1]), ("vocab_size", "many"),
    ("is_encoder_decoder", "no"), ("auto_map", ["own.C"]), ("hidden_size", {}),
    ("text_config", {"model_type": []}), ("parts", [{"architectures": [1]}]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), KINDS, ids=str)
def test_values_of_other_types_are_named(key: str, value: object, folder: Path) -> None:
    change(folder / "config.json", **{key: value})
    with pytest.raises(UsageError, match=r"config\.json: .* is a .*; .* is needed"):
        HFFolder.at(folder)
    with pytest.raises(UsageError, match=r"config\.json: .* is a .*; .* is needed"):
        HFFolder(folder).config()  # as of a folder that was compiled


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("trust", [False, True])
def test_a_checkpoint_that_is_a_pickle_runs_nothing(folder: Path, trust: bool) -> None:
    (folder / "model.safetensors").unlink()
    weights, marker = folder / "pytorch_model.bin", folder.parent / "ran"
    torch.save({"model.norm.weight": Evil(marker)}, weights)
    with pytest.raises(CaptureError, match="could not be loaded"):
        load(folder, trust)
    assert not marker.exists()
    torch.load(weights, weights_only=False)
    assert marker.exists(), "the payload does not work: the test above shows nothing"


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "a/../../model.safetensors", "/etc/passwd", "C:\\x", "C:x", "..\\x",
     "\\\\host\\share\\x", "", 3],
)  # fmt: skip
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "other.index.json"])
def test_shards_lie_in_the_folder(shard: str | int, index: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": {"w": shard}}))
    with pytest.raises(UsageError, match=r"is not in the folder|no map from names to files"):
        HFFolder.at(folder)


def test_standard_input_comes_back(stdin: Willing) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with nothing_to_read():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with nothing_to_read():
        thread.start()
        inside.wait(10)
        with nothing_to_read(), pytest.raises(EOFError):
            input()
    assert sys.stdin is not stdin
    leave.set()
    thread.join()
    assert sys.stdin is stdin


def test_errors_give_standard_input_back(folder: Path, stdin: Willing) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": []}')
    with pytest.raises(AwqcError):
        HFFolder(folder).config()
    assert sys.stdin is stdin
