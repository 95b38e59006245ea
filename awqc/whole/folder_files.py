"""The folder of a model of several graphs, as Optimum and transformers.js take it.

::

    encoder_model.onnx  decoder_model_merged.onnx     QDQ form, for every runtime; or
    vision_encoder.onnx  embed_tokens.onnx  decoder_model_merged.onnx
    ort/                                              the same in onnxruntime's own form
    config.json, tokenizer and processor files
    parts/encoder/, cross/, decoder/                  report, recipe and other forms of each part
    report.json                                       of the whole
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from awqc.artifacts.copying import copy_tree
from awqc.artifacts.fixed_images import HEIGHT, WIDTH
from awqc.artifacts.json_files import Object, read_json
from awqc.artifacts.names import (
    EMBED_MODEL,
    ENCODER_MODEL,
    MERGED_MODEL,
    MODEL,
    REPORT,
    TUNED,
    VISION_MODEL,
)
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.generating_parts import CROSS, DECODER, ENCODER
from awqc.huggingface.prompted_parts import DECODER as READER
from awqc.huggingface.prompted_parts import EMBED, VISION
from awqc.huggingface.runner_files import write_processing
from awqc.runtimes.session_settings import ACCURACY_LEVEL, SETTINGS

PARTS = "parts"
IMAGES = "images"
"""What the report says of the one size of images that the model takes."""
GENERATION = "generation_config.json"

Models = Mapping[str, Path]
"""The model of each part."""


def write_layout(
    parts: Mapping[str, Path],
    origin: HFFolder,
    folder: Path,
    write: Callable[[Models, Path], None],
) -> None:
    """Write the folder out of those of ``parts``, which stay as they are.

    ``write`` puts the models of one form into a folder, under the names that runners know.

    Raises:
        ExportError: a file cannot be written.
    """
    both = Path(), Path(TUNED)
    places = [
        place for place in both if all((path / place / MODEL).is_file() for path in parts.values())
    ]
    for place in {Path(), *places} if places else ():  # awqc runs the folder itself in any case
        (folder / place).mkdir(exist_ok=True)
        write_processing(origin, folder / place)
    for place in places:
        models = {name: path / place / MODEL for name, path in parts.items()}
        target = folder / place
        write(models, target)
        settings = [path.with_name(SETTINGS) for path in models.values()]
        (target / SETTINGS).write_text(_together(settings), encoding="utf-8")
    for name, path in parts.items():
        copy_tree(path, folder / PARTS / name, ignore=_models(path))


def write_encoder_decoder(
    models: Models,
    target: Path,
    settings: Mapping[str, Any] | None = None,
    told: Mapping[str, str] | None = None,
) -> None:
    """Write an encoder, and a decoder with its first call in it.

    ``settings`` are added to the file that says how it generates; ``told`` is what a runner must
    know, for the metadata of the encoder.
    """
    from awqc.export.merged import merge_decoder, save_as

    if settings:
        file = target / GENERATION
        said = read_json(file) if file.is_file() else {}
        file.write_text(json.dumps({**said, **settings}, indent=2) + "\n", encoding="utf-8")

    save_as(models[ENCODER], target / ENCODER_MODEL, dict(told or {}))
    merge_decoder(models.get(CROSS), models[DECODER], target / MERGED_MODEL)


def write_image_text(models: Models, target: Path, told: Mapping[str, str]) -> None:
    """Write what makes rows of images and of tokens, and the decoder that reads both.

    ``told`` is what a runner must know, for the metadata of the first.
    """
    from awqc.export.merged import save_as

    save_as(models[VISION], target / VISION_MODEL, dict(told))
    save_as(models[EMBED], target / EMBED_MODEL)
    save_as(models[READER], target / MERGED_MODEL)


def write_whole_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``report`` as report.json."""
    text = json.dumps(report, indent=2, allow_nan=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def fixed_size(folder: Path) -> tuple[int, int] | None:
    """Height and width of the images that the model in ``folder`` takes; None: it takes any.

    Raises:
        UsageError: its report is damaged.
    """
    if not (folder / REPORT).is_file():
        return None
    report = Object.of(folder / REPORT)
    if IMAGES not in report.content:
        return None
    images = report.inside(IMAGES)
    return images.get(HEIGHT, int), images.get(WIDTH, int)


def _models(path: Path) -> Any:
    """What of a part's folder stands at the top of the whole."""

    def ignored(where: str, names: list[str]) -> list[str]:
        top = Path(where) == path
        return [n for n in names if top and (n.startswith(MODEL) or n in (TUNED, SETTINGS))]

    return ignored


def _together(files: list[Path]) -> str:
    """The settings of several models as those of one: of accuracy levels the most exact."""
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    levels = [c["config"][ACCURACY_LEVEL] for c in contents if ACCURACY_LEVEL in c["config"]]
    config = {ACCURACY_LEVEL: min(levels, key=int)} if levels else {}
    providers: dict[str, Any] = {}
    for each in contents:
        providers |= each["providers"]
    return json.dumps({"config": config, "providers": providers}, indent=2) + "\n"
