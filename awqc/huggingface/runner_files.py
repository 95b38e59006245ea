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
from awqc.huggingface.config_values import config_value, context_length
from awqc.huggingface.folder import TOKENIZER_CONFIG, HFFolder
from awqc.huggingface.processor import PROCESSOR_FILES
from awqc.huggingface.sentence_files import copy_sentence_files
from awqc.kv_cache import (
    CONV,
    KEY,
    MASK,
    PAST,
    PLACES,
    POSITIONS,
    RECURRENT,
    SHARED_CACHE,
    VALUE,
    named_state,
    past_name,
    present_name,
)
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
GENAI = "genai_config.json"
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
        (target / GENAI).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
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


def runs_in_genai(program: Program) -> bool:
    """Whether onnxruntime-genai has words for what ``program`` carries.

    It knows keys and values, what a convolution has still to see, and the state of a recurrence; no
    decoder without keys and values, and no convolutions in layers that have these, unless there is
    a recurrence.
    """
    each = list(state_layers(program).values())
    carried = {part for parts in each for part in parts}
    plain = RECURRENT in carried or all(parts in ({KEY, VALUE}, {CONV}) for parts in each)
    return {KEY, VALUE} <= carried <= {KEY, VALUE, CONV, RECURRENT} and plain


def state_layers(program: Program) -> dict[int, set[str]]:
    """What each layer carries that carries anything."""
    found: dict[int, set[str]] = {}
    for name, _ in program.states:
        layer, part = named_state(name)
        found.setdefault(layer, set()).add(part)
    return found


def genai_config(
    program: Program,
    config: Any,
    tokenizer: Any = None,
    told: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of ``genai_config.json`` for a program with a cache.

    ``told`` are metadata of the model: whether it counts positions itself, and whether its past and
    present may be one buffer. Sizes come from the graph; the type is genai's general ``decoder``,
    whatever the model. Tokens that are no words of the model are left out: genai refuses the folder
    for them.
    """
    shapes = {spec.name: spec.shape for spec in program.inputs}
    keys = [name for name in shapes if name.startswith(PAST) and name.endswith(f".{KEY}")]
    _, heads, _, width = shapes[keys[0]]
    layers = state_layers(program)
    carried = {part for parts in layers.values() for part in parts}
    counted: dict[str, Any] = {"num_hidden_layers": len(keys)}
    if carried > {KEY, VALUE}:
        counted["num_hidden_layers"] = max(layers) + 1
    if carried == {KEY, VALUE, CONV}:  # states of recurrences are found by their names
        counted["layer_types"] = [
            "conv" if layers[layer] == {CONV} else "full_attention" for layer in sorted(layers)
        ]
    told = told or {}
    taken = ("input_ids", MASK, *(() if told.get(PLACES) == "1" else (POSITIONS,)))
    names = {name: name for name in taken if name in shapes}
    limit = context_length(config) or 2048
    words = config_value(config, "vocab_size")
    ids = {
        key: _within(_token_id(key, config, tokenizer), words)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    if ids["pad_token_id"] is None:
        end = ids["eos_token_id"]
        ids["pad_token_id"] = end[0] if isinstance(end, list) else end
    return {
        "model": {
            "type": "decoder",
            "context_length": limit,
            "vocab_size": words,
            **{key: value for key, value in ids.items() if value is not None},
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "head_size": width,
                "hidden_size": config_value(config, "hidden_size"),
                "num_attention_heads": config_value(config, "num_attention_heads") or heads,
                "num_key_value_heads": heads,
                **counted,
                "inputs": names
                | {f"past_{part}_names": past_name("%d", part) for part in sorted(carried)},
                "outputs": {"logits": program.outputs[0]}
                | {f"present_{part}_names": present_name("%d", part) for part in sorted(carried)},
            },
        },
        "search": {
            "do_sample": False,
            "max_length": limit,
            "num_beams": 1,
            "past_present_share_buffer": told.get(SHARED_CACHE) == "1",
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
    }


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


def _within(token: Any, words: int) -> Any:
    """``token``, or those of a list of them, that a model of ``words`` words can make, if any."""
    if isinstance(token, list):
        return [each for each in token if each < words] or None
    return token if token is not None and token < words else None


def _token_id(key: str, config: Any, tokenizer: Any) -> Any:
    value = config_value(config, key)
    return getattr(tokenizer, key, None) if value is None else value


def _tokenizer(folder: HFFolder) -> Any:
    try:
        return folder.tokenizer()
    except UsageError:
        return None
