"""What configurations say: nested ones, and those of rotary embeddings that change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import awqc
from awqc.compiler import compile_graph
from awqc.errors import UsageError
from awqc.huggingface.capture import load_folder
from awqc.huggingface.config_values import (
    check_complete,
    config_value,
    context_length,
    fewest_places,
)
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.genai import genai_config
from awqc.huggingface.tokens import token_batch
from tests.tiny_language_models import DECODERS, VOCABULARY, save_decoder, save_tokenizer

TEXT = {**DECODERS["gemma3_text"], "vocab_size": VOCABULARY, "eos_token_id": 2}
EYE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
       "intermediate_size": 16, "image_size": 28, "patch_size": 14}  # fmt: skip
SWITCH = 16
CHANGING: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4, "original_max_position_embeddings": SWITCH, "factor": 4.0,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
}  # fmt: skip


def nested(kind: str = "gemma3") -> Any:
    from transformers import AutoConfig

    more = {"vision_config": EYE} if kind == "gemma3" else {}
    return AutoConfig.for_model(kind, text_config=dict(TEXT), **more)


def save_nested(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(nested()).eval()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


@pytest.mark.parametrize("kind", ["gemma3", "llama4", "mllama", "fuyu", "gemma3n", "qwen3_5"])
def test_a_nested_configuration_says_what_a_plain_one_does(kind: str) -> None:
    config = nested(kind)
    check_complete(config, "here")
    assert config_value(config, "vocab_size") == VOCABULARY
    assert config_value(config, "hidden_size") == 32
    assert context_length(config) == 64


def test_a_number_that_is_missing_is_named_before_any_work() -> None:
    from transformers import BltConfig

    config = BltConfig()
    with pytest.raises(UsageError, match=r"config.json has no hidden_size, .* Add it"):
        check_complete(config, "here")


def test_a_nested_decoder_is_captured_and_described(tmp_path: Path) -> None:
    original = save_nested(tmp_path)
    program = load_folder(tmp_path)
    ids = torch.randint(VOCABULARY, (2, 9))
    with torch.no_grad():
        wanted = original(input_ids=ids).logits
    torch.testing.assert_close(program.run(token_batch(program, ids))[0], wanted, atol=2e-6, rtol=0)
    described = genai_config(program, HFFolder.at(tmp_path).config())["model"]
    assert (described["vocab_size"], described["context_length"]) == (VOCABULARY, 64)
    assert described["eos_token_id"] == 2
    sizes = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_size")
    assert [described["decoder"][key] for key in sizes] == [32, 4, 1, 8]


@pytest.mark.slow
def test_a_nested_decoder_compiles_whole(tmp_path: Path) -> None:
    save_nested(tmp_path)
    (tmp_path / "text.txt").write_text(" ".join(f"w{4 + index * 7 % 120}" for index in range(200)))
    result = awqc.compile(
        tmp_path, calib=tmp_path / "text.txt", seq_len=8, num_samples=4, effort="fast",
        formats="onnx", provider="cpu", bits=8,
    )  # fmt: skip
    described = json.loads((result.folder / "genai_config.json").read_text())
    assert described["model"]["decoder"]["hidden_size"] == 32


@pytest.mark.parametrize("kind", CHANGING)
def test_rotary_embeddings_that_change_hold_below_the_switch(kind: str, tmp_path: Path) -> None:
    original = save_decoder(
        "phi3" if kind == "longrope" else "llama", tmp_path, rope_parameters=CHANGING[kind],
        max_position_embeddings=64 if kind == "longrope" else SWITCH, eos_token_id=2,
        **({"original_max_position_embeddings": SWITCH} if kind == "longrope" else {}),
    )  # fmt: skip
    program = load_folder(tmp_path)
    (note,) = program.notes
    assert f"holds for at most {SWITCH} tokens" in note
    ids = torch.randint(3, VOCABULARY, (2, SWITCH))
    with torch.no_grad():
        wanted = original(input_ids=ids).logits
    torch.testing.assert_close(program.run(token_batch(program, ids))[0], wanted, atol=2e-6, rtol=0)
    config = HFFolder.at(tmp_path).config()
    assert context_length(config) == SWITCH
    described = genai_config(program, config)
    assert described["model"]["context_length"] == described["search"]["max_length"] == SWITCH


def test_tokens_that_are_no_words_of_the_model_are_left_out(tmp_path: Path) -> None:
    """onnxruntime-genai refuses a folder that names them; the other tokens stay."""
    save_decoder("llama", tmp_path, eos_token_id=[2, VOCABULARY + 7], bos_token_id=VOCABULARY)
    program = load_folder(tmp_path)
    described = genai_config(program, HFFolder.at(tmp_path).config())["model"]
    assert described["eos_token_id"] == [2]
    assert "bos_token_id" not in described
    assert described["pad_token_id"] == 2


def test_a_cache_that_stays_in_its_buffer_is_told_where_it_does(tmp_path: Path) -> None:
    """In the fused form, and not in the portable one beside it."""
    save_decoder("llama", tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    compile_graph(
        load_folder(tmp_path / "model"), output_dir=tmp_path / "out", effort="fast",
        formats="onnx,ort", max_loss=float("inf"),
    )  # fmt: skip
    for form, shared in (("", False), ("ort", True)):
        described = json.loads((tmp_path / "out" / form / "genai_config.json").read_text())
        assert described["search"]["past_present_share_buffer"] is shared


def test_tables_of_positions_are_known_by_whatever_they_are_called() -> None:
    from transformers import AutoConfig

    spoken = AutoConfig.for_model("speecht5", max_text_positions=48, max_speech_positions=90)
    assert fewest_places(spoken) == 48
    assert context_length(spoken) is None
    assert fewest_places(AutoConfig.for_model("resnet")) is None
