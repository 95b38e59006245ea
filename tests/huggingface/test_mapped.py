"""Weights in half precision: they stay in their file, and the model is that of a float32 load."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from awqc.executor.segments import cut
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.mapped import main_dtype, map_each, stored_tensors
from awqc.huggingface.tokens import token_batch
from awqc.machine.narrow import Narrow
from awqc.passes.pipeline import parse_pipeline
from awqc.report.content import stored_bytes
from tests.passes.test_in_segments import GPTQ
from tests.tiny_language_models import DECODERS, VOCABULARY, save_decoder


def saved(kind: str, folder: Path, dtype: torch.dtype, **changes: Any) -> None:
    save_decoder(kind, folder, **changes).to(dtype).save_pretrained(folder)


def values(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: value.detach() for name, value in named}


@pytest.mark.parametrize("kind", DECODERS)
def test_a_model_in_bfloat16_is_the_one_that_float32_loads(kind: str, tmp_path: Path) -> None:
    """Weights, and the tables that a model computes for itself, which bfloat16 would round."""
    saved(kind, tmp_path, torch.bfloat16)
    model, _ = HFFolder.at(tmp_path).model(AutoModelForCausalLM)
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    found, expected = values(model), values(wanted)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
    parameters = dict(model.named_parameters())
    assert all(isinstance(value, Narrow) for value in parameters.values())
    ids = torch.arange(6).reshape(2, 3)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, wanted(input_ids=ids).logits)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    saved("llama", tmp_path, torch.float16, tie_word_embeddings=True)
    model, _ = HFFolder.at(tmp_path).model(AutoModelForCausalLM)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert isinstance(model.lm_head.weight, Narrow)


def test_tensors_of_several_dtypes_are_read_as_they_are(tmp_path: Path) -> None:
    """What is wider in the file than the rest keeps what it holds."""
    from safetensors.torch import load_file, save_file

    saved("llama", tmp_path, torch.bfloat16)
    path, fine = tmp_path / "model.safetensors", torch.rand(VOCABULARY, 32)
    tensors = load_file(path)
    assert "lm_head.weight" in tensors
    save_file({**tensors, "lm_head.weight": fine}, path, metadata={"format": "pt"})
    assert main_dtype(tmp_path) is torch.bfloat16
    model, _ = HFFolder.at(tmp_path).model(AutoModelForCausalLM)
    assert torch.equal(model.lm_head.weight, fine)
    assert not isinstance(model.lm_head.weight, Narrow)
    assert isinstance(model.model.embed_tokens.weight, Narrow)


def test_a_tensor_that_differs_from_the_file_stays(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    module = nn.Linear(4, 3).to(torch.bfloat16)
    save_file({k: v.clone() for k, v in module.state_dict().items()}, tmp_path / "a.safetensors")
    other = torch.zeros(3, 4, dtype=torch.bfloat16)
    module.weight.data = other
    assert map_each(module, tmp_path) == 1
    assert torch.equal(module.weight, other.float())


def test_places_in_a_file_are_those_of_its_header(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).half(),
        "c": torch.randn(2, 2).bfloat16(),
        "ids": torch.arange(4),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    found = dict(stored_tensors(tmp_path / "x.safetensors"))
    assert found.keys() == {"a", "b", "c"}
    for name, stored in found.items():
        assert stored.dtype == tensors[name].dtype
        assert torch.equal(stored.map(), tensors[name])


def test_a_compile_of_bfloat16_gives_the_codes_of_the_same_values_in_float32(
    tmp_path: Path,
) -> None:
    """Segment by segment, with weights that are widened only while they are read."""
    saved("llama", tmp_path / "half", torch.bfloat16, tie_word_embeddings=True)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    half.float().save_pretrained(tmp_path / "wide")
    made = []
    for name in ("half", "wide"):
        program = load_folder(tmp_path / name)
        ids = torch.randint(VOCABULARY, (4, 6), generator=torch.Generator().manual_seed(0))
        batches = [token_batch(program, rows) for rows in ids.split(1)]
        parse_pipeline(GPTQ).run(program, batches, cut=partial(cut, smallest=1))
        made.append(program)
    one, other = (program.findings.quantized for program in made)
    assert len(one) > 10
    assert one.keys() == other.keys()
    for weight, twin in zip(one.values(), other.values(), strict=True):
        for role, tensor in weight.tensors.items():
            assert torch.equal(tensor, twin.tensors[role])
    kept = made[0].parameters().values()
    assert not any(isinstance(value, Narrow) and value.ndim > 1 for value in kept)


def test_the_size_of_the_original_is_that_of_its_checkpoint(tmp_path: Path) -> None:
    saved("llama", tmp_path, torch.bfloat16)
    program = load_folder(tmp_path)
    weights = sum(value.numel() for value in program.graph_module.parameters())
    buffers = sum(value.nbytes for value in program.graph_module.buffers())
    assert 0 <= stored_bytes(program) - 2 * weights <= buffers
