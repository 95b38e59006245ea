"""Encoder-decoders as graphs that are found in what `generate` calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from awqc.errors import CaptureError
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating import Generating
from awqc.huggingface.generating_parts import GeneratingBundle, capture_parts
from awqc.huggingface.generating_run import Recorded
from awqc.huggingface.samples import Sizes
from awqc.huggingface.tasks import find_task
from benchmarks.folder_models import MODELS, Saved

SPEECH = "automatic-speech-recognition/whisper"
CACHED = [f"past_key_values.0.{side}.{part}" for side in ("encoder", "decoder")
          for part in ("key", "value")]  # fmt: skip


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], GeneratingBundle]:
    made: dict[str, GeneratingBundle] = {}

    def capture(name: str) -> GeneratingBundle:
        if name not in made:
            path = tmp_path_factory.mktemp("models") / "model"
            MODELS[name].save(path)
            folder = HFFolder.at(path)
            task = find_task(folder.config(), None, where=str(path))
            made[name] = capture_parts(Generating.load(folder, task))
        return made[name]

    return capture


@pytest.mark.parametrize(
    "name",
    [
        "text2text-generation/t5",
        pytest.param("text2text-generation/encoder-decoder", marks=pytest.mark.slow),
        # asked for the logits of the last token only
        pytest.param("text2text-generation/t5gemma", marks=pytest.mark.slow),
        pytest.param(SPEECH, marks=pytest.mark.slow),
        pytest.param("image-to-text/vision-encoder-decoder", marks=pytest.mark.slow),
    ],
)
def test_the_parts_in_their_wiring_are_the_model(
    name: str, captured: Callable[[str], GeneratingBundle]
) -> None:
    """The logits of all tokens of a run, at another size than the examples'."""
    parts = captured(name)
    generating = parts.generating
    sizes = Sizes(image=(70, 90), seconds=0.7, words=5)
    sample = generating.processor.maker().sample(np.random.default_rng(5), sizes)
    inputs = generating.inputs([sample])
    read, wanted = parts.follow(inputs, 7).trace
    batch = {f"{part}.{name}": x for part, own in read.items() for name, x in own.items()}
    again, made = parts.bundle.trace(batch)
    assert made.keys() == wanted.keys()
    for name, value in made.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-5)
    for name, value in again["decoder"].items():
        torch.testing.assert_close(value, read["decoder"][name], rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        logits = generating.model(**inputs, decoder_input_ids=batch["decoder.input_ids"]).logits
    torch.testing.assert_close(made["decoder.logits"], logits, rtol=1e-3, atol=1e-5)


def test_names_are_those_that_runners_know(captured: Callable[[str], GeneratingBundle]) -> None:
    parts = captured("text2text-generation/t5").bundle.parts
    assert {str(spec) for spec in parts["encoder"].inputs} == {
        "input_ids=int64[batch,sequence]", "attention_mask=int64[batch,sequence]",
    }  # fmt: skip
    assert [str(spec) for spec in parts["cross"].inputs] == [
        "encoder_hidden_states=float32[batch,source,32]"
    ]
    decoder = parts["decoder"]
    names = [spec.name for spec in decoder.inputs]
    assert {"input_ids", "encoder_attention_mask", *CACHED} <= set(names)
    shapes = {spec.name: spec.shape for spec in decoder.inputs}
    assert shapes["input_ids"] == ("batch", "sequence")
    assert shapes[CACHED[0]] == ("batch", 4, "source", 8)
    assert shapes[CACHED[2]] == ("batch", 4, "past", 8)
    assert decoder.head_outputs == ("logits",)
    assert decoder.states[0] == (CACHED[2], "present.0.decoder.key")


def test_weights_of_the_parts_are_those_of_the_model_once(
    captured: Callable[[str], GeneratingBundle],
) -> None:
    """What makes keys and values of the encoder's states is in no other part."""
    bundle = captured("text2text-generation/t5").bundle
    cross = set(bundle.parts["cross"].parameters())
    assert cross
    assert all("EncDecAttention" in name for name in cross)
    assert not cross & set(bundle.parts["decoder"].parameters())
    assert bundle.shared()["encoder"] == {"embed_tokens.weight": "decoder.lm_head.weight"}


def test_a_configuration_without_a_cache_is_given_one(tmp_path: Path) -> None:
    """As those of models that were trained and saved often are."""
    MODELS["text2text-generation/t5"].save(tmp_path)
    folder = HFFolder.at(tmp_path)
    task = find_task(folder.config(), None, where="t5")
    generating = Generating.load(folder, task)
    generating.model.config.use_cache = generating.model.generation_config.use_cache = False
    sample = generating.processor.maker().sample(np.random.default_rng(5))
    calls = generating.record(generating.inputs([sample]), 3).calls
    assert len(Recorded.of(calls, "t5").loop.states) == 4


def test_one_graph_is_asked_of_an_encoder_decoder(tmp_path: Path) -> None:
    MODELS["text2text-generation/t5"].save(tmp_path)
    with pytest.raises(CaptureError, match="is several graphs"):
        load_folder(tmp_path)


def test_a_decoder_that_reads_one_token_at_a_time_is_refused(tmp_path: Path) -> None:
    """Behind a past, that is; one graph has to read any number of tokens behind any other."""
    config = {
        "vocab_size": 128, "hidden_size": 32, "num_encoder_layers": 1, "num_decoder_layers": 1,
        "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }  # fmt: skip
    Saved("prophetnet", "AutoModelForSeq2SeqLM", config, "", {}, tokenizer=True).save(tmp_path)
    folder = HFFolder.at(tmp_path)
    generating = Generating.load(folder, find_task(folder.config(), None, where="model"))
    message = "does not read 3 tokens at once behind 5 others.*only supported.*of length 1"
    with pytest.raises(CaptureError, match=message):
        capture_parts(generating)


def test_a_run_of_one_module_is_no_encoder_and_decoder() -> None:
    class Alone(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x + 1

    from awqc.recording.outermost import record_outermost

    model = Alone()
    calls = record_outermost(model, lambda: [model(torch.zeros(2)) for _ in range(3)])
    with pytest.raises(CaptureError, match="one encoder and one decoder are needed"):
        Recorded.of(calls, "model")
