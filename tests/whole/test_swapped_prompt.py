"""A model of images and text: `generate` with exported parts in its place, and awqc's own loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from awqc.huggingface.carried import cache_argument
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating import Generating
from awqc.huggingface.prompted_parts import PromptedBundle, capture_prompted
from awqc.huggingface.samples import Sizes
from awqc.huggingface.tasks import find_task
from awqc.recording.near import near
from awqc.runtimes.image_text import ImageText
from awqc.whole.folder_files import write_layout
from awqc.whole.swapped_prompt import swapped_prompt
from awqc.whole.ways import PROMPT
from benchmarks.folder_models import MODELS
from tests.whole.exported import export_parts

pytestmark = pytest.mark.slow
Exported = tuple[PromptedBundle, Path]


@pytest.fixture(scope="module", params=["llava", "llava_next", "qwen2_vl"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The float parts of a model, and the folder that they are exported to.

    The second puts rows of its own between those of an image, whose size it goes by; of the third
    positions follow the layout of an image.
    """
    if request.param == "qwen2_vl":
        pytest.importorskip("torchvision")
    return export(f"image-text-to-text/{request.param}", tmp_path_factory.mktemp(request.param))


def export(name: str, path: Path) -> Exported:
    MODELS[name].save(path / "model")
    folder = HFFolder.at(path / "model")
    task = find_task(folder.config(), "image-text-to-text", where=str(path))
    parts = capture_prompted(Generating.load(folder, task))
    places = export_parts(parts.bundle, path)
    (path / "out").mkdir()
    write_layout(places, folder, path / "out", lambda models, to: PROMPT.write(parts, models, to))
    return parts, path / "out"


def test_exported_parts_generate_what_the_model_does(exported: Exported) -> None:
    parts, out = exported
    generating = parts.generating
    sizes = Sizes(image=(70, 90), words=5)
    sample = generating.processor.maker().sample(np.random.default_rng(3), sizes)
    inputs = generating.inputs([sample])
    wanted = generating.generate(inputs, 12, 12)[0].tolist()  # nothing ends the text
    compiled = ImageText(out)
    with swapped_prompt(parts, compiled, inputs) as left:
        assert "pixel_values" not in left
        assert generating.generate(left, 12, 12)[0].tolist() == wanted
    assert generating.generate(inputs, 12, 12)[0].tolist() == wanted  # with its own parts again
    assert parts.merge.token not in wanted[inputs["input_ids"].shape[1] :]  # which has no row

    compiled.settings = replace(
        compiled.settings, suppressed=tuple(compiled.settings.ends), ends=frozenset()
    )
    feeds = {name: value.numpy() for name, value in inputs.items()}
    assert list(compiled.tokens(feeds, 12)) == wanted[inputs["input_ids"].shape[1] :]


def test_a_token_that_is_made_stands_for_no_image(exported: Exported) -> None:
    """Whichever it is: models of random weights make that of images too."""
    parts, out = exported
    generating, token = parts.generating, parts.merge.token
    sizes = Sizes(image=(70, 90), words=5)
    sample = generating.processor.maker().sample(np.random.default_rng(3), sizes)
    inputs, made = generating.inputs([sample]), torch.tensor([[token]])
    name = cache_argument(generating.model)
    with torch.no_grad():
        first = generating.model(**inputs, use_cache=True)
        mask = torch.ones(1, inputs["input_ids"].shape[1] + 1, dtype=torch.long)
        then = generating.model(input_ids=made, attention_mask=mask, **{name: first[1]})
    compiled = ImageText(out)
    tokens = inputs["input_ids"].numpy()
    feeds = {name: value.numpy() for name, value in inputs.items()}
    _, states = compiled.step(tokens, feeds, {})
    outputs, _ = compiled.step(np.concatenate([tokens, made.numpy()], axis=1), {}, states)
    assert near(torch.from_numpy(outputs["logits"].numpy()), then.logits, 1e-4)


def test_a_part_that_generate_loops_around_is_replaced(tmp_path: Path) -> None:
    """As of BLIP-2, whose own `generate` gives rows to that of the decoder inside."""
    parts, out = export("image-text-to-text/blip-2", tmp_path)
    assert parts.looped == "language_model"
    generating = parts.generating
    sample = generating.processor.maker().sample(np.random.default_rng(3), Sizes(words=5))
    inputs = generating.inputs([sample])
    wanted = generating.generate(inputs, 12, 12)[0].tolist()
    with swapped_prompt(parts, ImageText(out), inputs) as left:
        assert generating.generate(left, 12, 12)[0].tolist() == wanted
