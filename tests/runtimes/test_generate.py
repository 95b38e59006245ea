"""Text generation in onnxruntime, against the model that transformers loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from awqc.artifacts.names import MODEL, TUNED
from awqc.errors import UsageError
from awqc.export.onnx import export_onnx
from awqc.export.ort import export_ort
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.runner_files import write_runner_files
from awqc.passes.canonicalize import Canonicalize
from awqc.runtimes.generate import TextGenerator, choose, generate
from awqc.runtimes.ort_model import OrtModel
from tests.tiny_language_models import VOCABULARY, save_decoder, save_tokenizer

PROMPT = "w9 w17 w30"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float decoder, exported; its source lies in ``source``."""
    target = tmp_path_factory.mktemp("exported")
    source = target / "source"
    save_decoder("llama", source, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    save_tokenizer(source)
    program = load_folder(source)
    Canonicalize().apply(program)
    program.tidy()
    export_onnx(program, target / "model.onnx")
    write_runner_files(program, HFFolder.at(source), target)
    return target


def test_greedy_tokens_are_those_of_transformers(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    generator = TextGenerator(folder)
    ids = generator.encode(PROMPT)
    tokens = list(generator.tokens(ids, max_new_tokens=20))
    model = AutoModelForCausalLM.from_pretrained(folder / "source")
    whole = torch.tensor([ids])
    for _ in range(20):
        with torch.no_grad():
            best = model(input_ids=whole).logits[:, -1:].argmax(-1)
        whole = torch.cat([whole, best], dim=1)
    expected = whole[0, len(ids) :].tolist()
    assert tokens == expected[: expected.index(2) if 2 in expected else None]
    assert generator.speed.prompt_tokens == 3
    assert generator.speed.new_tokens == len(tokens)
    assert "tokens/s" in str(generator.speed)


@pytest.mark.parametrize("count", [1, 4, 5, 13])
def test_a_long_prompt_is_read_in_chunks(
    count: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = TextGenerator(folder)
    ids = [4 + 7 * place % 100 for place in range(count)]
    wanted = list(generator.tokens(ids, max_new_tokens=12))
    monkeypatch.setattr("awqc.runtimes.generate.CHUNK", 4)
    sizes: list[int] = []
    step = generator._model.step

    def counting(values: dict[str, Any]) -> Any:
        sizes.append(values["input_ids"].shape()[1])
        return step(values)

    monkeypatch.setattr(generator._model, "step", counting)
    assert list(generator.tokens(ids, max_new_tokens=12)) == wanted
    chunks = -(-count // 4)
    assert (sum(sizes[:chunks]), max(sizes[:chunks])) == (count, min(4, count))
    assert set(sizes[chunks:]) <= {1}
    assert generator.speed.prompt_tokens == count


def test_a_fused_decoder_gives_the_same_tokens_with_its_cache_in_place(
    folder: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / TUNED
    tuned.mkdir()
    export_ort(folder / MODEL, tuned / MODEL)
    for name in ("config.json", "genai_config.json", "tokenizer.json"):
        shutil.copy(folder / name, tmp_path / name)
    fused, plain = TextGenerator(tmp_path), TextGenerator(folder)
    assert fused._model.shares_cache
    assert not plain._model.shares_cache
    ids = list(range(3, 20))
    wanted = list(plain.tokens(ids, max_new_tokens=30))
    assert list(fused.tokens(ids, max_new_tokens=30)) == wanted


def test_rows_behind_a_past_are_read_one_by_one(folder: Path, tmp_path: Path) -> None:
    export_ort(folder / MODEL, tmp_path / MODEL)
    plain, fused = OrtModel(folder / MODEL), OrtModel(tmp_path / MODEL)
    rng = np.random.default_rng(0)
    sizes = {"batch": 3, "sequence": 2, "past": 4, "past + sequence": 6}
    feeds: dict[str, Any] = {}
    for spec in plain.inputs:
        shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
        if spec.dtype == "float32":
            feeds[spec.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            feeds[spec.name] = rng.integers(1, 9, shape)
    feeds["attention_mask"][:] = 1
    feeds["attention_mask"][0, :2] = 0
    for wanted, found in zip(plain.run(feeds), fused.run(feeds), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_text_is_streamed_and_sampling_is_seeded(folder: Path) -> None:
    first = list(generate(folder, PROMPT, max_new_tokens=8, temperature=5.0, seed=1))
    assert len(first) > 1
    assert first == list(generate(folder, PROMPT, max_new_tokens=8, temperature=5.0, seed=1))
    assert first != list(generate(folder, PROMPT, max_new_tokens=8, temperature=5.0, seed=2))


def test_generation_ends_at_the_context(folder: Path) -> None:
    generator = TextGenerator(folder)
    ids = [5] * 60
    tokens = list(generator.tokens(ids, max_new_tokens=100, temperature=9.0))
    assert generator.speed.ended in ("context", "eos")
    assert len(tokens) <= 5


def test_temperature_draws_from_the_softmax() -> None:
    rng = np.random.default_rng(0)
    logits = np.log(np.array([0.7, 0.2, 0.1], dtype=np.float32))
    drawn = np.bincount([choose(logits, 1.0, rng) for _ in range(4000)]) / 4000
    np.testing.assert_allclose(drawn, [0.7, 0.2, 0.1], atol=0.03)
    assert choose(logits, 0.0, rng) == 0


def test_torch_is_not_imported(folder: Path) -> None:
    code = (
        "import sys, awqc\n"
        f"text = ''.join(awqc.generate({str(folder)!r}, {PROMPT!r}, max_new_tokens=3))\n"
        "assert text\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_folder_describes_itself_to_other_runners(folder: Path) -> None:
    config = json.loads((folder / "genai_config.json").read_text())["model"]
    assert config["type"] == "decoder"
    assert config["context_length"] == 64
    assert config["vocab_size"] == VOCABULARY
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 0)
    decoder = config["decoder"]
    assert (decoder["head_size"], decoder["num_key_value_heads"]) == (8, 2)
    assert (decoder["num_attention_heads"], decoder["num_hidden_layers"]) == (4, 2)
    names = {value % 1 if "%d" in value else value for value in decoder["inputs"].values()}
    assert names <= {spec.name for spec in TextGenerator(folder)._model.inputs}
    assert (folder / "config.json").is_file()
    assert (folder / "tokenizer.json").is_file()
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_bad_arguments_and_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    generator = TextGenerator(folder)
    with pytest.raises(UsageError, match="the prompt is empty"):
        list(generator.stream(""))
    with pytest.raises(UsageError, match="max_new_tokens is 0"):
        list(generator.stream(PROMPT, max_new_tokens=0))
    with pytest.raises(UsageError, match="temperature is -1"):
        list(generator.stream(PROMPT, temperature=-1))
    with pytest.raises(UsageError, match="the prompt has 65 tokens; the model looks at 64"):
        list(generator.stream("w9 " * 65))
    with pytest.raises(UsageError, match=r"there is no tokenizer\.json"):
        TextGenerator(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="is no tokenizer"):
        TextGenerator(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with pytest.raises(UsageError, match=r"there is no model\.onnx"):
        TextGenerator(tmp_path)
