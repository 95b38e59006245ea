"""`generate` with exported parts in place of the model's own, and awqc's own loop beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating import Generating
from awqc.huggingface.generating_parts import GeneratingBundle, capture_parts
from awqc.huggingface.samples import Sizes
from awqc.huggingface.tasks import find_task
from awqc.runtimes.encoder_decoder import EncoderDecoder
from awqc.runtimes.text_of import TextOf
from awqc.whole.folder_files import write_encoder_decoder, write_layout
from awqc.whole.swapped import swapped
from benchmarks.folder_models import MODELS
from tests.whole.exported import export_parts

pytestmark = pytest.mark.slow
LANGUAGES = {
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 5, "<|de|>": 6},
    "task_to_id": {"transcribe": 7, "translate": 8},
    "no_timestamps_token_id": 9,
    "return_timestamps": False,
}
"""A model that is asked for the language before it generates."""
CASES = {
    "text": ("text2text-generation/t5", {}),
    "speech in any language": ("automatic-speech-recognition/whisper", LANGUAGES),
    "an image": ("image-to-text/vision-encoder-decoder", {}),
    "an image and a text": ("image-text-to-text/florence2", {}),
}


def made(case: str, path: Path) -> tuple[GeneratingBundle, Path]:
    """The float parts of a model, and the folder that they are exported to."""
    name, generation = CASES[case]
    MODELS[name].save(path / "model")
    config = path / "model" / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **generation}))
    folder = HFFolder.at(path / "model")
    task = find_task(folder.config(), None, where=str(path))
    parts = capture_parts(Generating.load(folder, task))
    places = export_parts(parts.bundle, path)
    (path / "out").mkdir()
    write_layout(places, folder, path / "out", write_encoder_decoder)
    return parts, path / "out"


@pytest.mark.parametrize("case", CASES)
def test_exported_parts_generate_what_the_model_does(case: str, tmp_path: Path) -> None:
    parts, out = made(case, tmp_path)
    generating = parts.generating
    sizes = Sizes(image=(70, 90), seconds=0.7, words=5)
    sample = generating.processor.maker().sample(np.random.default_rng(3), sizes)
    inputs = generating.inputs([sample])
    wanted = generating.generate(inputs, 12, 12)[0].tolist()  # nothing ends the text
    with swapped(parts, EncoderDecoder(out), inputs):
        assert generating.generate(inputs, 12, 12)[0].tolist() == wanted
    assert generating.generate(inputs, 12, 12)[0].tolist() == wanted  # with its own parts again

    text = TextOf(out)
    text.settings = replace(text.settings, suppressed=tuple(text.settings.ends))
    feeds = {name: value.numpy() for name, value in inputs.items()}
    own = list(text.tokens(feeds, max_new_tokens=12))
    assert len(own) == 12
    assert own[:11] == wanted[-12:-1]  # the last one may be forced to end
