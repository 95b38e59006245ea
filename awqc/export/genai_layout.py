"""A compiled folder of a model that transcribes, as onnxruntime-genai looks for files.

::

    encoder_model.onnx           encoder.onnx, with keys and values of its states
    decoder_model_merged.onnx    decoder.onnx
    session.json                 session_options in genai_config.json
    processor_config.json        audio_processor_config.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from awqc.artifacts.json_files import read_json
from awqc.artifacts.names import ENCODER_MODEL, MERGED_MODEL, TUNED
from awqc.export.preprocessors import read_preprocessor
from awqc.export.unmerged import unmerge
from awqc.huggingface.folder import HFFolder
from awqc.huggingface.genai import GENAI_CONFIG
from awqc.huggingface.genai_speech import AUDIO_PROCESSOR, Shapes, audio_processor, speech_config
from awqc.runtimes.session_settings import SETTINGS

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


def arrange_for_genai(folder: Path) -> None:
    """Arrange ``folder``, which is as a compile writes it; of two forms that of onnxruntime."""
    tuned = folder / TUNED
    place = tuned if tuned.is_dir() else folder
    unmerge(place / ENCODER_MODEL, place / MERGED_MODEL, (folder / ENCODER, folder / DECODER))
    settings = read_json(place / SETTINGS)["config"]
    for name in (ENCODER_MODEL, MERGED_MODEL):
        for old in (folder / name, folder / f"{name}.data"):
            old.unlink(missing_ok=True)
    (folder / SETTINGS).unlink(missing_ok=True)
    shutil.rmtree(tuned, ignore_errors=True)
    audio, made = _tensors(folder / ENCODER)
    read, _ = _tensors(folder / DECODER)
    config = HFFolder(folder).config()
    encoder = ENCODER, next(iter(audio)), made
    _write(speech_config(config, encoder, (DECODER, read), settings), folder / GENAI_CONFIG)
    made_of = audio_processor(read_preprocessor(folder) or {})
    if made_of is not None:
        _write(made_of, folder / AUDIO_PROCESSOR)


def _tensors(model: Path) -> tuple[Shapes, Shapes]:
    """Shapes of what a model reads and makes, by name."""
    graph = onnx.load(model, load_external_data=False).graph
    read, made = (
        {value.name: _shape(value) for value in values} for values in (graph.input, graph.output)
    )
    return read, made


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def _write(content: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
