"""What decoders carry beside keys and values, and that it is tried before it is believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import DynamicIndexedLayer, DynamicLayer

from awqc.compiler import compile_graph
from awqc.errors import CaptureError
from awqc.graph.recurrence import OPERATION
from awqc.huggingface import kernel_forms
from awqc.huggingface.capture import load_folder
from awqc.huggingface.carried import cache_shapes, filled_cache, no_past, reading, state_of
from awqc.huggingface.tokens import token_batch
from awqc.runtimes.generate import TextGenerator
from awqc.runtimes.onnxruntime import EXACT
from tests.huggingface.test_language_models import EXPORT_TOLERANCE
from tests.tiny_language_models import save_decoder, save_tokenizer

KINDS = {
    "lfm2": {(0, "conv"): (32, 3), (1, "key"): (2, None, 8), (1, "value"): (2, None, 8)},
    "qwen3_5_text": {
        (0, "conv"): (96, 4), (0, "recurrent"): (4, 8, 16), (1, "key"): (2, None, 16),
        (1, "value"): (2, None, 16),
    },
    "mamba": {(0, "conv"): (48, 4), (0, "recurrent"): (48, 4)},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_found_by_running_a_token(kind: str, tmp_path: Path) -> None:
    assert cache_shapes(save_decoder(kind, tmp_path), kind) == KINDS[kind]


def test_a_cache_is_read_from_and_never_written_into(tmp_path: Path) -> None:
    model = save_decoder("qwen3_5_text", tmp_path)
    states = no_past(cache_shapes(model, "here"), 2)
    cache = filled_cache(model, states)
    with torch.no_grad(), reading(model, cache):
        model(input_ids=torch.tensor([[1, 2, 3], [4, 5, 6]]), cache=cache)
    assert all(not state.any() for state in states.values())
    made = {state: state_of(cache, state) for state in states}
    assert all(tensor.any() for tensor in made.values())
    assert made[0, "conv"].shape == states[0, "conv"].shape
    assert made[1, "key"].shape[2] == 3


class Compressed(DynamicLayer):
    """A layer of a class of its own, which may keep more than keys and values."""


def test_what_is_not_known_to_be_carried_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_decoder("llama", tmp_path)
    monkeypatch.setitem(cache_utils.DYNAMIC_LAYER_TYPE_MAPPING, "full_attention", Compressed)
    with pytest.raises(CaptureError, match=r"layer 0 carries a Compressed .*feature-extraction"):
        cache_shapes(model, "here")


def test_positions_beside_an_indexer_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_decoder("deepseek_v32", tmp_path)
    positions = torch.zeros(1, 1, 1)
    monkeypatch.setattr(DynamicIndexedLayer, "indexer_position_ids", property(
        lambda self: positions, lambda self, value: None), raising=False)  # fmt: skip
    with pytest.raises(CaptureError, match="layer 0 carries positions of its indexer"):
        cache_shapes(model, "here")


def damaged(form: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A form whose state fades."""

    def compute(given: Any, handed: Any) -> tuple[Tensor, Tensor]:
        made, left = form(given, handed)
        return made, left * 0.9

    return compute


def test_a_loop_that_is_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_decoder("qwen3_5_text", tmp_path)
    forms = {names: damaged(form) for names, form in kernel_forms.FORMS.items()}
    monkeypatch.setattr(kernel_forms, "FORMS", forms)
    with pytest.raises(
        CaptureError, match=r"conv, recurrent.*a way of its own.*feature-extraction"
    ):
        cache_shapes(model, "here")


def test_functions_are_the_models_own_again(tmp_path: Path) -> None:
    from transformers.models.qwen3_5 import modeling_qwen3_5 as code

    model = save_decoder("qwen3_5_text", tmp_path)
    before = dict(vars(code))
    cache_shapes(model, "here")
    assert vars(code) == before


def test_a_recurrent_decoder_goes_from_its_folder_to_text(tmp_path: Path) -> None:
    """A hybrid in onnxruntime's own form: its states lie in buffers that take turns."""
    source = tmp_path / "source"
    save_decoder("qwen3_5_text", source)
    save_tokenizer(source)
    program = load_folder(source)
    assert [node.target for node in program.graph.nodes].count(OPERATION) == 1
    assert ("past_recurrent.0", "present_recurrent.0") in program.states
    compiled = compile_graph(
        program, group_size=16, formats=("onnx", "ort", "pt2"), num_samples=6, provider="cpu",
        output_dir=tmp_path / "out",
    )  # fmt: skip
    for found in compiled.report["verify"]["comparisons"]:
        assert found["exact"]["rel"] < EXPORT_TOLERANCE
    fused = compiled.report["verify"]["ort"]["fused"]
    assert (fused["LinearAttention"], fused["GroupQueryAttention"]) == (1, 1)
    generator = TextGenerator(compiled.folder, level=EXACT)
    assert generator._model.shares_cache
    ids = [9, 17, 30, 5]
    text = torch.tensor([ids])
    for _ in range(12):
        logits = program.run(token_batch(program, text))[0]
        text = torch.cat([text, logits[:, -1:].argmax(-1)], 1)
    wanted = text[0, len(ids) :].tolist()
    wanted = wanted[: wanted.index(2)] if 2 in wanted else wanted
    assert list(generator.tokens(ids, max_new_tokens=12)) == wanted
