"""The files beside a model's ONNX by which other runners take the folder as it is.

onnxruntime-genai reads ``genai_config.json`` and the tokenizer; Optimum reads
``config.json`` and finds inputs and outputs by their names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from awqc.artifacts.json_files import read_json
from awqc.errors import UsageError
from awqc.huggingface.config_values import context_length
from awqc.huggingface.folder import TOKENIZER_CONFIG, HFFolder
from awqc.huggingface.genai import GENAI_CONFIG, genai_config, runs_in_genai
from awqc.huggingface.processor import PROCESSOR_FILES
from awqc.huggingface.sentence_files import copy_sentence_files
from awqc.program import Program

COPIED = ("config.json", "generation_config.json")
PROCESSING_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "spiece.model",
    *PROCESSOR_FILES,
)
TOKENIZED = ("input_ids", "token_type_ids", "attention_mask")
"""Inputs that tokenizers make, in their order."""


def write_runner_files(
    program: Program, folder: HFFolder, target: Path, told: Mapping[str, str] | None = None
) -> list[Path]:
    """Write configuration and tokenizer files into ``target``, beside ``model.onnx``.

    The model's own files are copied where there are any, else written by transformers (as
    for GGUF), those of its processor too. A folder without a tokenizer gives a folder without
    one. ``told`` are metadata of the model. Returns what was written, by name.
    """
    before = set(target.iterdir())
    config = folder.config()
    tokenizer = write_model_files(program, folder, target, config)
    if runs_in_genai(program):
        made = genai_config(program, config, tokenizer, told)
        (target / GENAI_CONFIG).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return sorted(set(target.iterdir()) - before)


def write_model_files(program: Program, folder: HFFolder, target: Path, config: Any) -> Any:
    """Write ``config``, tokenizer and processor into ``target``; returns the tokenizer, if any."""
    tokenizer = write_processing(folder, target, config)
    if "input_ids" in program.example:
        _describe_tokenizer(program, config, target / TOKENIZER_CONFIG)
    return tokenizer


def write_processing(folder: HFFolder, target: Path, config: Any = None) -> Any:
    """Write the configuration and what makes inputs; returns the tokenizer, if there is one."""
    (folder.config() if config is None else config).save_pretrained(target)
    tokenizer = _tokenizer(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(target)
    if folder.gguf_file is None:
        for pattern in (*COPIED, *PROCESSING_FILES):
            for file in folder.path.glob(pattern):
                if file.is_file():
                    shutil.copyfile(file, target / file.name)
        copy_sentence_files(folder.path, target)
    _name_tokenizer(target / TOKENIZER_CONFIG)
    return tokenizer


def _name_tokenizer(path: Path) -> None:
    """Give the tokenizer's general class the name that releases of transformers before 5 know."""
    content = read_json(path) if path.is_file() else {}
    if content.get("tokenizer_class") == "TokenizersBackend":
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
        _write_json(content, path)


def _describe_tokenizer(program: Program, config: Any, path: Path) -> None:
    """Let the tokenizer give what the model takes, as much of it as the model takes.

    By itself the general class would give ``token_type_ids`` too, which a runner refuses to hand to
    a model without that input. Runners that cut texts read the length here.
    """
    if path.is_file():
        content = read_json(path)
        taken = {spec.name for spec in program.inputs}
        content["model_input_names"] = [name for name in TOKENIZED if name in taken]
        longest = content.get("model_max_length")
        if (limit := context_length(config)) and not (
            isinstance(longest, int) and 0 < longest <= limit
        ):
            content["model_max_length"] = limit
        _write_json(content, path)


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _tokenizer(folder: HFFolder) -> Any:
    try:
        return folder.tokenizer()
    except UsageError:
        return None
